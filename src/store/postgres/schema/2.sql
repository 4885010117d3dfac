-- What is due is found by these, in their order, however many logins there are.
CREATE INDEX IF NOT EXISTS login_access_expiry ON feishu_refresh.login
    (COALESCE(app_id, ''), COALESCE(service, ''),
     COALESCE(access_expires_at, '-infinity'), COALESCE(refreshed_at, '-infinity'))
    WHERE state = 'live' AND retry_at IS NULL;
CREATE INDEX IF NOT EXISTS login_refresh_expiry ON feishu_refresh.login
    (COALESCE(app_id, ''), COALESCE(service, ''),
     COALESCE(refresh_expires_at, '-infinity'), COALESCE(refreshed_at, '-infinity'))
    WHERE state = 'live' AND retry_at IS NULL;
CREATE INDEX IF NOT EXISTS login_refreshed ON feishu_refresh.login
    (COALESCE(app_id, ''), COALESCE(service, ''), COALESCE(refreshed_at, '-infinity'))
    WHERE state = 'live' AND retry_at IS NULL;
CREATE INDEX IF NOT EXISTS login_retry ON feishu_refresh.login
    (COALESCE(app_id, ''), COALESCE(service, ''), retry_at)
    WHERE state = 'live' AND retry_at IS NOT NULL;

ALTER TABLE feishu_refresh.pace ADD COLUMN IF NOT EXISTS held_until timestamptz;
COMMENT ON COLUMN feishu_refresh.pace.held_until IS 'Until when the server wants no request of this app';

COMMENT ON COLUMN feishu_refresh.login.failures IS 'Failures since the last token came';
COMMENT ON COLUMN feishu_refresh.login.retry_at IS 'When --all tries a login again that failed';

UPDATE feishu_refresh.meta SET version = 2;
