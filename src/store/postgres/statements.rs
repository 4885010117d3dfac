//! The statements that a run executes.
//!
//! Promises:
//! - Each is complete, and committed by itself: no transaction is open during any other wait.
//! - Repeating one has no further effect on a login: a run that lost the answer repeats it.
//! - A save is on the server's disk, even if the server is set to answer earlier.

use tokio_postgres::types::{ToSql, Type};

/// A parameter and its type.
pub(super) type Parameter<'p> = (&'p (dyn ToSql + Sync), Type);

/// A text as a parameter.
pub(super) fn text(value: &(dyn ToSql + Sync)) -> Parameter<'_> {
    (value, Type::TEXT)
}

/// A timestamp as a parameter.
#[expect(clippy::ref_option, reason = "a parameter is a reference to the whole")]
pub(super) fn moment(value: &Option<jiff::Timestamp>) -> Parameter<'_> {
    (value, Type::TIMESTAMPTZ)
}

/// A number of seconds as a parameter.
#[expect(clippy::ref_option, reason = "a parameter is a reference to the whole")]
pub(super) fn seconds(value: &Option<f64>) -> Parameter<'_> {
    (value, Type::FLOAT8)
}

/// Texts as a parameter.
pub(super) fn texts(value: &Vec<String>) -> Parameter<'_> {
    (value, Type::TEXT_ARRAY)
}

/// A boolean as a parameter.
pub(super) fn flag(value: &bool) -> Parameter<'_> {
    (value, Type::BOOL)
}

/// When a failing login is retried, by its earlier failures: later each time, at most after a day.
macro_rules! next_try {
    () => {
        "now() + least(interval '1 day', interval '1 minute' * power(2, least(failures, 11)))"
    };
}

/// All columns of a row, without its app's.
macro_rules! own_columns {
    () => {
        "l.name, l.state, l.api, l.base_url, l.accounts_url, l.token_url, l.app_id, l.service, l.scope, \
         l.app_access_token AS own_app_access_token, \
         l.app_access_token_expires_at AS own_app_access_token_expires_at, \
         l.access_token, l.access_expires_at, l.refresh_token, l.refresh_expires_at, \
         l.refresh_fingerprint, l.previous_fingerprint, l.older_fingerprints, \
         l.lease_id, l.lease_holder, l.lease_until, l.lease_until > now() AS is_leased, \
         l.sent_by, l.sent_at, \
         l.unanswered_fingerprint, l.unanswered_by, l.unanswered_at, l.refused_at, l.refusal, "
    };
}

/// All columns of a row, and its app's.
macro_rules! columns {
    () => {
        concat!(
            own_columns!(),
            "(SELECT a.app_secret FROM feishu_refresh.app a \
               WHERE (a.app_id, a.service) = (l.app_id, l.service)) AS app_secret, \
             (SELECT a.app_ticket FROM feishu_refresh.app a \
               WHERE (a.app_id, a.service) = (l.app_id, l.service)) AS app_ticket, \
             (SELECT a.app_access_token FROM feishu_refresh.app a \
               WHERE (a.app_id, a.service) = (l.app_id, l.service)) AS app_access_token, \
             (SELECT a.app_access_token_expires_at FROM feishu_refresh.app a \
               WHERE (a.app_id, a.service) = (l.app_id, l.service)) AS app_access_token_expires_at"
        )
    };
}

/// Makes this transaction's commit wait at least for the server's own disk, and never lowers the setting. As part of
/// what a statement returns, it takes effect before the commit.
macro_rules! durably {
    () => {
        ", CASE WHEN current_setting('synchronous_commit') = 'off' \
         THEN set_config('synchronous_commit', 'on', true) END"
    };
}

/// The changes of a lease to a row: the run, where it is, when it ends, whether it is for a consent.
macro_rules! lease {
    ($run:literal, $holder:literal, $end:expr, $is_for_login:literal) => {
        concat!(
            "unanswered_fingerprint = CASE WHEN lease_id <> ",
            $run,
            " AND sent_fingerprint IS NOT NULL \
               THEN sent_fingerprint ELSE unanswered_fingerprint END, \
             unanswered_by = CASE WHEN lease_id <> ",
            $run,
            " AND sent_fingerprint IS NOT NULL \
               THEN sent_by ELSE unanswered_by END, \
             unanswered_at = CASE WHEN lease_id <> ",
            $run,
            " AND sent_fingerprint IS NOT NULL \
               THEN sent_at ELSE unanswered_at END, \
             sent_fingerprint = CASE WHEN ",
            $is_for_login,
            " THEN NULL ELSE refresh_fingerprint END, \
             sent_by = CASE WHEN ",
            $is_for_login,
            " THEN sent_by ELSE ",
            $holder,
            " END, \
             sent_at = CASE WHEN ",
            $is_for_login,
            " THEN sent_at ELSE now() END, \
             lease_id = ",
            $run,
            ", lease_holder = ",
            $holder,
            ", lease_until = ",
            $end,
            ", \
             generation = generation + 1 "
        )
    };
}

// It uses the fragments above.
mod many;
pub(super) use many::*;

pub(super) const LOOK: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM feishu_refresh.login l WHERE name = $1"
);

/// Logins ordered by name: $1 the name that they come after, $2 how many.
pub(super) const LOOK_AT_SOME: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM feishu_refresh.login l WHERE state <> 'empty' AND ($1 IS NULL OR name > $1) \
     ORDER BY name LIMIT $2"
);

/// How many logins are in which state. $1 seconds, within which a refresh token ends.
pub(super) const COUNTS: &str = "SELECT count(*), \
       count(*) FILTER (WHERE state = 'live' AND access_expires_at > now()), \
       count(*) FILTER (WHERE state = 'live' AND COALESCE(access_expires_at <= now(), true) \
         AND COALESCE(refresh_expires_at > now(), true)), \
       count(*) FILTER (WHERE state = 'live' AND refresh_expires_at > now() \
         AND refresh_expires_at <= now() + make_interval(secs => $1)), \
       count(*) FILTER (WHERE state = 'live' AND refresh_expires_at <= now()), \
       count(*) FILTER (WHERE state = 'live' AND retry_at > now()), \
       count(*) FILTER (WHERE state = 'refused'), \
       count(*) FILTER (WHERE state = 'held') \
     FROM feishu_refresh.login WHERE state <> 'empty'";

/// An empty row for a new login.
pub(super) const MAKE_PLACE: &str =
    "INSERT INTO feishu_refresh.login (name) VALUES ($1) ON CONFLICT DO NOTHING";

/// Takes the lease, or extends it. $1 name, $2 the run, $3 where it is, $4 seconds, $5 whether it is for
/// a consent, $6 the token that the row must hold, if that matters.
pub(super) const CLAIM: &str = concat!(
    "UPDATE feishu_refresh.login l SET ",
    lease!("$2", "$3", "now() + make_interval(secs => $4)", "$5"),
    "WHERE name = $1 AND (lease_id IS NULL OR lease_id = $2 OR lease_until IS NULL OR lease_until <= now()) \
       AND ($5 OR state IN ('live', 'refused')) \
       AND ($6 IS NULL OR refresh_fingerprint IS NOT DISTINCT FROM $6) \
     RETURNING ",
    columns!(),
    durably!()
);

/// Releases leases: $1 names, $2 the run, $3 whether the result of the token that it sent is unknown, $4 whether it
/// failed, so that it is not retried at once.
pub(super) const RELEASE: &str = concat!(
    "UPDATE feishu_refresh.login SET \
       unanswered_fingerprint = CASE WHEN $3 THEN sent_fingerprint ELSE unanswered_fingerprint END, \
       unanswered_by = CASE WHEN $3 THEN sent_by ELSE unanswered_by END, \
       unanswered_at = CASE WHEN $3 THEN sent_at ELSE unanswered_at END, \
       lease_id = NULL, lease_holder = NULL, lease_until = NULL, sent_fingerprint = NULL, \
       failures = CASE WHEN $4 AND COALESCE(retry_at <= now(), true) THEN failures + 1 ELSE failures END, \
       retry_at = CASE WHEN $4 AND COALESCE(retry_at <= now(), true) THEN ",
    next_try!(),
    " ELSE retry_at END \
     WHERE name = ANY ($1) AND lease_id = $2"
);

/// Saves a successor. The predecessor in the row is the fence. A lease for the predecessor ends with it, whoever has
/// it: it belongs to a run that died, or whose request can only be refused. $1 name, $2 predecessor, $3 successor, $4
/// the run, $5 refresh token, $6 its end, $7 whether to set that, $8 access token, $9 its end, $10 scope, $11 whether
/// to set that, $12 api.
pub(super) const SAVE: &str = concat!(
    "UPDATE feishu_refresh.login l SET \
       api = $12, \
       access_token = COALESCE($8, access_token), \
       access_expires_at = CASE WHEN $8 IS NULL THEN access_expires_at ELSE $9 END, \
       scope = CASE WHEN $8 IS NOT NULL AND $11 THEN $10 ELSE scope END, \
       refresh_token = $5, refresh_fingerprint = $3, \
       refresh_expires_at = CASE WHEN $7 THEN $6 ELSE refresh_expires_at END, \
       previous_fingerprint = CASE WHEN $3 = $2 THEN previous_fingerprint ELSE $2 END, \
       older_fingerprints = CASE WHEN $3 = $2 OR previous_fingerprint IS NULL THEN older_fingerprints \
         ELSE (ARRAY[previous_fingerprint] || older_fingerprints)[1:16] END, \
       refreshed_at = now(), \
       state = CASE state WHEN 'refused' THEN 'live' ELSE state END, \
       refused_at = NULL, refusal = NULL, failures = 0, retry_at = NULL, \
       lease_holder = CASE WHEN lease_id = $4 OR sent_fingerprint = $2 THEN NULL ELSE lease_holder END, \
       lease_until = CASE WHEN lease_id = $4 OR sent_fingerprint = $2 THEN NULL ELSE lease_until END, \
       lease_id = CASE WHEN lease_id = $4 OR sent_fingerprint = $2 THEN NULL ELSE lease_id END, \
       sent_fingerprint = NULL \
     WHERE name = $1 AND refresh_fingerprint = $2 AND ($3 <> $2 OR lease_id = $4) \
     RETURNING 1",
    durably!()
);

/// Saves what a consent brought, replacing whatever is there; but not again over its own successor: $1 name, $2 its
/// token, $3 refresh token, $4 its end, $5 access token, $6 its end, $7 scope, $8 api, $9 base URL, $10 accounts URL,
/// $11 token URL, $12 app id, $13 service, $14 whether to replace only $15.
pub(super) const SAVE_LOGIN: &str = concat!(
    "INSERT INTO feishu_refresh.login AS l \
       (name, refresh_fingerprint, refresh_token, refresh_expires_at, access_token, access_expires_at, \
        scope, api, base_url, accounts_url, token_url, app_id, service, state, refreshed_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'live', now()) \
     ON CONFLICT (name) DO UPDATE SET \
       refresh_token = $3, refresh_fingerprint = $2, refresh_expires_at = $4, \
       access_token = $5, access_expires_at = $6, scope = $7, api = $8, \
       base_url = $9, accounts_url = $10, token_url = $11, app_id = $12, service = $13, \
       app_access_token = NULL, app_access_token_expires_at = NULL, \
       state = 'live', refreshed_at = now(), \
       previous_fingerprint = NULL, older_fingerprints = '{}', \
       refused_at = NULL, refusal = NULL, failures = 0, retry_at = NULL, \
       lease_id = NULL, lease_holder = NULL, lease_until = NULL, sent_fingerprint = NULL \
     WHERE NOT COALESCE($2 = l.previous_fingerprint OR $2 = ANY (l.older_fingerprints), false) \
       AND (NOT $14 OR l.refresh_fingerprint IS NOT DISTINCT FROM $15) \
     RETURNING 1",
    durably!()
);

/// Notes a refusal, if the row still holds the refused token: $1 name, $2 that token, $3 whether it is dead, $4 the
/// message.
pub(super) const NOTE_REFUSAL: &str = concat!(
    "UPDATE feishu_refresh.login SET \
       state = CASE WHEN $3 AND state = 'live' THEN 'refused' ELSE state END, \
       refused_at = now(), refusal = $4, failures = failures + 1, retry_at = ",
    next_try!(),
    " WHERE name = $1 AND refresh_fingerprint = $2 RETURNING 1"
);

/// An app with its secrets, replacing those that were there: $1 id, $2 service, $3 secret, $4 ticket.
pub(super) const SAVE_APP: &str = "INSERT INTO feishu_refresh.app AS a \
       (app_id, service, app_secret, app_ticket) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (app_id, service) DO UPDATE SET \
       app_secret = COALESCE($3, a.app_secret), app_ticket = COALESCE($4, a.app_ticket)";

/// Whether an app and its pace may be added; adds nothing.
pub(super) const MAY_ADD_APP: [&str; 2] = [
    "INSERT INTO feishu_refresh.app (app_id, service) SELECT '', '' WHERE false",
    "INSERT INTO feishu_refresh.pace (app_id, service) SELECT '', '' WHERE false",
];

/// The same as [`SAVE_APP`], but existing secrets stay.
pub(super) const ADD_APP: &str = "INSERT INTO feishu_refresh.app AS a \
       (app_id, service, app_secret, app_ticket) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (app_id, service) DO UPDATE SET \
       app_secret = COALESCE(a.app_secret, $3), app_ticket = COALESCE(a.app_ticket, $4)";

/// A login from a file, held back: $1 to $13 as for [`SAVE_LOGIN`], $14 whether its token may be spent, $15 who says
/// so, $16 the tokens that the file knows as its own, $17 and $18 an app token, $19 and $20 its predecessors, the
/// latest separately. Replaces another only if that is held back, and one of those; and never adds one that has another
/// name here.
pub(super) const HOLD: &str = concat!(
    "INSERT INTO feishu_refresh.login AS l \
       (name, refresh_fingerprint, refresh_token, refresh_expires_at, access_token, access_expires_at, \
        scope, api, base_url, accounts_url, token_url, app_id, service, \
        app_access_token, app_access_token_expires_at, previous_fingerprint, older_fingerprints, state, \
        unanswered_fingerprint, unanswered_by, unanswered_at) \
     SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $17, $18, $19, $20, 'held', \
       CASE WHEN $14 THEN $2 END, CASE WHEN $14 THEN $15 END, CASE WHEN $14 THEN now() END \
     WHERE NOT EXISTS (SELECT FROM feishu_refresh.login o \
       WHERE o.name <> $1 AND COALESCE(o.refresh_fingerprint = $2 \
         OR o.previous_fingerprint = $2 OR $2 = ANY (o.older_fingerprints), false)) \
     ON CONFLICT (name) DO UPDATE SET \
       refresh_token = $3, refresh_fingerprint = $2, refresh_expires_at = $4, \
       access_token = $5, access_expires_at = $6, scope = $7, api = $8, \
       base_url = $9, accounts_url = $10, token_url = $11, app_id = $12, service = $13, \
       app_access_token = $17, app_access_token_expires_at = $18, \
       previous_fingerprint = $19, older_fingerprints = $20, \
       state = 'held', unanswered_fingerprint = EXCLUDED.unanswered_fingerprint, \
       unanswered_by = EXCLUDED.unanswered_by, unanswered_at = EXCLUDED.unanswered_at \
     WHERE l.state = 'empty' AND (l.lease_until IS NULL OR l.lease_until <= now()) \
       OR l.state = 'held' AND l.refresh_fingerprint = ANY ($16) \
     RETURNING 1",
    durably!()
);

/// Frees a login that was held back: $1 name, $2 the tokens that it can have.
pub(super) const FREE: &str = concat!(
    "UPDATE feishu_refresh.login SET state = 'live' \
     WHERE name = $1 AND state = 'held' AND refresh_fingerprint = ANY ($2) RETURNING 1",
    durably!()
);

/// Which tokens a row knows, without its secrets: $1 name, $2 a token that it may have, or have spent.
pub(super) const LOOK_AT_TOKENS: &str = "\
    SELECT state, refresh_fingerprint, \
      COALESCE($2 = previous_fingerprint OR $2 = ANY (older_fingerprints), false) \
    FROM feishu_refresh.login WHERE name = $1";

/// The ids of all keys that something is sealed with.
pub(super) const KEY_IDS: &str = "\
    SELECT DISTINCT split_part(refresh_token, '.', 1) FROM feishu_refresh.login \
      WHERE refresh_token IS NOT NULL \
    UNION SELECT DISTINCT split_part(app_secret, '.', 1) FROM feishu_refresh.app \
      WHERE app_secret IS NOT NULL";

/// The pace of a new app: $1 id, $2 service.
pub(super) const SAVE_PACE: &str =
    "INSERT INTO feishu_refresh.pace (app_id, service) VALUES ($1, $2) ON CONFLICT DO NOTHING";

/// An app token that a run fetched: $1 id, $2 service, $3 token, $4 its end.
pub(super) const SAVE_APP_TOKEN: &str = "UPDATE feishu_refresh.app SET \
       app_access_token = $3, app_access_token_expires_at = $4 \
     WHERE app_id = $1 AND service = $2";
