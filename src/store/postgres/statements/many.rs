//! The statements of a run over many logins: due logins, their claims, and the pace of each app.

/// When a run began that has been running for $1 seconds, by the database's clock.
pub(in super::super) const BEGAN: &str = "SELECT clock_timestamp() - make_interval(secs => $1)";

/// A way of being due: its condition, and the order in which an index has the logins. $1 seconds that an access token
/// must be valid to be left out, $2 the same for a refresh token, $3 when this run began.
struct DueRule {
    is_due: &'static str,
    order: &'static str,
}

const BY_ACCESS_TOKEN: DueRule = DueRule {
    is_due: "retry_at IS NULL \
        AND COALESCE(access_expires_at, '-infinity') < now() + make_interval(secs => $1)",
    order: "COALESCE(access_expires_at, '-infinity')",
};
const BY_REFRESH_TOKEN: DueRule = DueRule {
    is_due: "retry_at IS NULL \
        AND COALESCE(refresh_expires_at, '-infinity') < now() + make_interval(secs => $2)",
    order: "COALESCE(refresh_expires_at, '-infinity')",
};
const BY_AGE: DueRule = DueRule {
    is_due: "retry_at IS NULL",
    order: "COALESCE(refreshed_at, '-infinity')",
};
const AGAIN: DueRule = DueRule {
    is_due: "retry_at <= now() AND ($1 IS NULL AND $2 IS NULL \
        OR COALESCE(access_expires_at, '-infinity') < now() + make_interval(secs => $1) \
        OR COALESCE(refresh_expires_at, '-infinity') < now() + make_interval(secs => $2))",
    order: "retry_at",
};

/// The statements that a run over many logins repeats.
pub(in super::super) struct ManyStatements {
    /// Which apps have logins that are due, how many of them up to $4, the seconds until the app's next free slot, and
    /// the seconds that the server wants no requests: $1 to $6 as for the logins.
    pub(in super::super) due_apps: String,
    /// Takes slots of an app, and leases as many of its logins as are due, until the last slot and some time more. $1
    /// to $6 as for the logins, $7 and $8 the app, $9 where the run is, $10 the seconds of a lease beyond the slots,
    /// $11 the seconds between two slots, none for no slots, $12 how many seconds long the queue may be. Always returns
    /// one row: without a login if none is available.
    pub(in super::super) claim_due: String,
    /// The name of a due login that is sealed with a key that the run does not have: $1 to $6 as for the logins.
    pub(in super::super) foreign: String,
}

impl ManyStatements {
    /// The statements for logins that are due by these rules, and sealed with one of these keys.
    pub(in super::super) fn new(
        by_access_token: bool,
        by_refresh_token: bool,
        key_ids: &[&str],
    ) -> Self {
        let mut rules = Vec::new();
        // An expired refresh token costs more than an expired access token.
        rules.extend(by_refresh_token.then_some(BY_REFRESH_TOKEN));
        rules.extend(by_access_token.then_some(BY_ACCESS_TOKEN));
        if rules.is_empty() {
            rules.push(BY_AGE);
        }
        rules.push(AGAIN);
        let app = "COALESCE(a.app_id, '')";
        let service = "COALESCE(a.service, '')";
        let is_foreign = format!(
            "COALESCE(left(refresh_token, 9) ~ '^[0-9a-f]{{8}}[.]$' \
               AND left(refresh_token, 8) <> ALL ('{{{}}}'), false)",
            key_ids.join(",")
        );
        let due = due(
            &rules,
            [app, service],
            &format!(" AND NOT {is_foreign}"),
            "",
        );
        let foreign = self::due(&rules, [app, service], &format!(" AND {is_foreign}"), "");
        let foreign = format!(
            "SELECT foreign_logins.name \
             FROM (SELECT app_id, service FROM feishu_refresh.app UNION ALL SELECT NULL, NULL) a \
             CROSS JOIN LATERAL ({foreign}) AS foreign_logins LIMIT 1"
        );
        let due_apps = format!(
            "SELECT {app}, {service}, due.logins, \
               EXTRACT(epoch FROM greatest(p.next_slot, p.held_until) - clock_timestamp())::float8, \
               EXTRACT(epoch FROM p.held_until - clock_timestamp())::float8 \
             FROM (SELECT app_id, service FROM feishu_refresh.app UNION ALL SELECT NULL, NULL) a \
             LEFT JOIN feishu_refresh.pace p ON (p.app_id, p.service) = (a.app_id, a.service) \
             CROSS JOIN LATERAL (SELECT count(*) AS logins FROM ({due}) AS some_logins) AS due \
             WHERE due.logins > 0 ORDER BY random()"
        );
        let also = format!(" AND NOT {is_foreign} AND ($11 IS NULL OR EXISTS (SELECT FROM turn))");
        let due = self::due(&rules, ["$7", "$8"], &also, "FOR UPDATE SKIP LOCKED");
        let lease = lease!(
            "$5",
            "$9",
            "COALESCE((SELECT ends FROM turn), now()) + make_interval(secs => $10)",
            "false"
        );
        let claim_due = format!(
            "WITH turn AS (UPDATE feishu_refresh.pace \
               SET next_slot = greatest(next_slot, held_until, clock_timestamp()) + make_interval(secs => $11 * $4) \
               WHERE (app_id, service) = (SELECT app_id, service FROM feishu_refresh.pace \
                   WHERE app_id = $7 AND service = $8 AND $11 IS NOT NULL FOR UPDATE SKIP LOCKED) \
                 AND greatest(next_slot, held_until) < clock_timestamp() + make_interval(secs => $12) \
               RETURNING next_slot AS ends), \
             due AS ({due}), \
             claimed AS (UPDATE feishu_refresh.login l SET {lease} \
               FROM due WHERE l.name = due.name RETURNING l.*) \
             SELECT t.ends, EXTRACT(epoch FROM t.ends - clock_timestamp())::float8, {OWN_COLUMNS} \
               a.app_secret, a.app_ticket, a.app_access_token, a.app_access_token_expires_at{DURABLY} \
             FROM (SELECT (SELECT ends FROM turn) AS ends) t LEFT JOIN claimed l ON true \
             LEFT JOIN feishu_refresh.app a ON a.app_id = $7 AND a.service = $8"
        );
        ManyStatements {
            due_apps,
            claim_due,
            foreign,
        }
    }
}

const OWN_COLUMNS: &str = own_columns!();
const DURABLY: &str = durably!();

/// The names of an app's due logins. $1 to $3 as for a way, $4 how many are wanted, $5 the run, $6 its logins in
/// progress. Each part reads one index, from its beginning to the first that is not due. A lease of this run that it
/// does not know about is from a claim whose answer was lost.
fn due(rules: &[DueRule], [app, service]: [&str; 2], also: &str, lock: &str) -> String {
    let part = |DueRule { is_due, order }: &DueRule| {
        format!(
            "SELECT name FROM (SELECT name FROM feishu_refresh.login \
               WHERE COALESCE(app_id, '') = {app} AND COALESCE(service, '') = {service} AND state = 'live' \
                 AND (lease_until IS NULL OR lease_until <= now() OR lease_id = $5) AND name <> ALL ($6) \
                 AND COALESCE(refreshed_at, '-infinity') < $3 AND {is_due}{also} \
               ORDER BY {order} LIMIT $4 {lock}) AS part"
        )
    };
    let parts: Vec<String> = rules.iter().map(part).collect();
    format!(
        "SELECT name FROM ({}) AS parts LIMIT $4",
        parts.join(" UNION ALL ")
    )
}

/// Returns unused slots, if no other run has taken any since: $1 app, $2 service, $3 where they end, $4 their seconds.
pub(in super::super) const GIVE_SLOTS_BACK: &str = "UPDATE feishu_refresh.pace \
       SET next_slot = next_slot - make_interval(secs => $4) \
     WHERE app_id = $1 AND service = $2 AND next_slot = $3";

/// Takes one slot, and returns in how many seconds it is, and how many seconds the server wants no requests for the
/// app: $1 app, $2 service, $3 the seconds to the next.
pub(in super::super) const TAKE_SLOT: &str = "UPDATE feishu_refresh.pace \
       SET next_slot = greatest(next_slot, held_until, clock_timestamp()) + make_interval(secs => $3) \
     WHERE app_id = $1 AND service = $2 \
     RETURNING EXTRACT(epoch FROM next_slot - clock_timestamp())::float8 - $3, \
       EXTRACT(epoch FROM held_until - clock_timestamp())::float8";

/// Lets an app have no slots for a while: $1 app, $2 service, $3 seconds.
pub(in super::super) const HOLD_SLOTS: &str = "UPDATE feishu_refresh.pace \
       SET held_until = greatest(held_until, clock_timestamp() + make_interval(secs => $3)) \
     WHERE app_id = $1 AND service = $2";
