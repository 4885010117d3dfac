//! The effects of a wrong clock, and their limits: an impossible expiry is not believed.

use jiff::{SignedDuration, Timestamp};

use crate::harness::{Scene, value_in};
use crate::sandbox::Fault;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn moment(seconds: i64) -> String {
    (Timestamp::now() + SignedDuration::from_secs(seconds)).to_string()
}

#[test]
fn an_access_token_that_cannot_live_so_long_is_refreshed() {
    for (api, believed, not) in [
        ("v1", 2 * HOUR, 4 * HOUR),
        ("oidc", 2 * HOUR, 4 * HOUR),
        // Not at Feishu's own host: up to a month.
        ("v2", 30 * DAY, 32 * DAY),
        ("v3", 30 * DAY, 32 * DAY),
        ("115", 30 * DAY, 32 * DAY),
    ] {
        for (left, is_believed) in [(believed, true), (not, false), (100 * 366 * DAY, false)] {
            let scene = Scene::without_file();
            let key = if api == "115" {
                "access_token"
            } else {
                "user_access_token"
            };
            let section = scene.server.profile("TOKEN", api);
            let saved = format!("{key} = saved\n{key}_expires_at = {}\n", moment(left));
            scene.write(section + &saved);
            let run = scene.run(["--min-ttl", "10m"]);
            assert_eq!(run.token() == "saved", is_believed, "{api} {left}");
            assert_eq!(scene.server.rotations(), usize::from(!is_believed));
        }
    }
}

/// At Feishu's and Lark's own hosts, a v2 or v3 token is valid for about two hours, too.
#[test]
fn at_the_vendors_own_hosts_no_token_lives_for_days() {
    let scene = Scene::without_file();
    for base_url in ["https://open.feishu.cn", "https://open.larksuite.com"] {
        for api in ["v2", "v3"] {
            let file = |left| {
                format!(
                    "[TOKEN]\napi = {api}\nbase_url = {base_url}\nrefresh_token = r\n\
                     user_access_token = saved\nuser_access_token_expires_at = {}\n",
                    moment(left)
                )
            };
            scene.write(file(2 * HOUR));
            assert_eq!(scene.run(["--min-ttl", "1h"]).token(), "saved");
            scene.write(file(4 * HOUR));
            scene
                .run(["--min-ttl", "1h"])
                .assert_failed(3, "no app_id, and none given");
        }
    }
}

#[test]
fn status_does_not_show_what_cannot_be_true() {
    let scene = Scene::without_file();
    let dates = |access, refresh| {
        format!(
            "user_access_token = saved\nuser_access_token_expires_at = {}\nrefresh_token_expires_at = {}\n",
            moment(access),
            moment(refresh)
        )
    };
    let section = scene.server.profile("TOKEN", "v1");
    for (access, refresh, shown) in [(HOUR, 300 * DAY, true), (DAY, 367 * DAY, false)] {
        scene.write(section.clone() + &dates(access, refresh));
        let run = scene.run(["status", "-o", "json"]);
        let result: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        for token in ["access_token", "refresh_token"] {
            let end = &result[token]["expires_at"];
            assert_eq!(end.is_string(), shown, "{result}");
        }
    }
    assert!(scene.server.requests().is_empty());
}

#[test]
fn a_clock_that_is_off_is_warned_of_and_keeps_no_token_from_being_refreshed() {
    for (minutes, says) in [
        (0, None),
        (4, None),
        (-4, None),
        (
            7,
            Some("this machine's clock is 6 min behind that of 127.0.0.1"),
        ),
        (
            -70,
            Some("this machine's clock is 69 min ahead of that of 127.0.0.1"),
        ),
        (525_600, Some("min behind that of 127.0.0.1")),
    ] {
        let scene = Scene::new();
        // A little less, so that the time meanwhile does not matter.
        let off = SignedDuration::from_secs(minutes * 60 - 20 * i64::signum(minutes));
        scene.server.fail_next(Fault::Date(off));
        scene.server.fail_next(Fault::Date(off));
        let run = scene.run::<&str>([]);
        run.token();
        assert_eq!(
            run.stderr.contains("this machine's clock"),
            says.is_some(),
            "{}",
            run.stderr
        );
        assert!(
            run.stderr.contains(says.unwrap_or_default()),
            "{}",
            run.stderr
        );
        scene.assert_sound();
    }
    // Once, however many requests there are.
    let scene = Scene::without_file();
    let logins = scene.server.profile("a", "v2") + &scene.server.profile("b", "v2");
    scene.write(logins);
    for _ in 0..2 {
        scene
            .server
            .fail_next(Fault::Date(SignedDuration::from_hours(1)));
    }
    let run = scene.run(["--all"]);
    assert_eq!(
        run.stderr.matches("this machine's clock").count(),
        1,
        "{}",
        run.stderr
    );
    assert_eq!(scene.server.rotations(), 2);
    assert!(
        scene
            .server
            .is_live(&value_in(&scene.text(), "refresh_token"))
    );
}
