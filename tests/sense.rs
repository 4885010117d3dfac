//! What cannot work is not sent (P13).

use crate::harness::Scene;

#[test]
fn what_cannot_be_a_refresh_token_is_not_sent() {
    let scene = Scene::new();
    let (app, refresh) = (scene.server.app_token(), scene.server.refresh_token());
    let url = scene.server.base_url();
    let before = scene.text();
    for (arguments, says) in [
        (vec!["-a", &refresh, "-r", &app], "they are swapped"),
        (
            vec!["-a", &app, "-r", "u-Q7JWnaIM_kRChuLfreHmp"],
            "the refresh_token is a user access token",
        ),
        (
            vec!["-a", &app, "-r", "t-7f1b8e560"],
            "the refresh_token is an app's or a tenant's access token",
        ),
        (
            vec!["-a", &refresh],
            "the app_access_token is a user's token",
        ),
        (
            vec!["-a", &app, "-r", "YOUR_REFRESH_TOKEN"],
            "the refresh_token is a placeholder",
        ),
        (
            vec!["-a", &app, "-r", "<refresh_token>"],
            "the refresh_token is a placeholder",
        ),
        (
            vec!["-a", &app, "-r", "xxx"],
            "the refresh_token is a placeholder",
        ),
        (
            vec!["-a", "your-app-token", "-r", &refresh],
            "the app_access_token is a placeholder",
        ),
        (vec!["-r", r#"{"refresh_token":"ur-1"}"#], "JSON"),
        (vec!["-r", "ur-1\nur-2"], "lines"),
        (
            vec!["--api", "115", "-r", &refresh],
            "is a Feishu token, and its api is 115",
        ),
        (
            vec!["--api", "115", "-r", "eyJhbGciOiJFUzI1NiIs"],
            "is a Feishu token, and its api is 115",
        ),
    ] {
        // An existing one, and one that a first run would create.
        for file in [&before[..], ""] {
            if file.is_empty() && !arguments.contains(&"-r") {
                continue;
            }
            scene.write(file);
            let run = scene.run([&["--base-url", &url][..], &arguments].concat());
            run.assert_failed(3, says);
            assert!(run.stderr.contains("nothing was sent"), "{}", run.stderr);
            assert_eq!(scene.text(), file);
        }
    }
    // The same in a file that has spent none yet.
    for value in [
        "xxx",
        "<refresh_token>",
        "YOUR_REFRESH_TOKEN",
        "u-1",
        "{\"a\":1}",
    ] {
        let token = before.lines().last().unwrap();
        scene.write(before.replace(token, &format!("refresh_token = {value}")));
        let run = scene.run::<&str>([]);
        run.assert_failed(3, "the refresh_token ");
    }
    assert!(scene.server.requests().is_empty());
}

/// What a server has given is sent, whatever it looks like; and so is what another system gives.
#[test]
fn what_only_looks_odd_is_sent() {
    let scene = Scene::without_file();
    let odd = ["token", "xxx", "u-1"];
    for token in odd {
        // It has spent one before: the server gave this one.
        scene.write(scene.server.profile("TOKEN", "v1").replace(
            "refresh_token = ",
            &format!("refresh_token_spent = 0123456789abcdef\nrefresh_token = {token}\n; "),
        ));
        scene.run::<&str>([]).assert_failed(4, "(code 20026");
    }
    for (api, token) in [("v2", "u-1"), ("v3", "t-1"), ("115", "yours")] {
        let section = scene.server.profile("TOKEN", api);
        scene.write(section.replace("refresh_token = ", &format!("refresh_token = {token}\n; ")));
        assert_eq!(scene.run::<&str>([]).code, 4);
    }
}
