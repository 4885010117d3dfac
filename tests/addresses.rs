//! Where requests go, and whose secrets go there.

use crate::harness::{Run, Scene, value_in};
use crate::sandbox::{APP_ID, APP_SECRET, Fault, STANDARD_PATH, V3_PATH};

/// Runs with these variables.
fn run_with(scene: &Scene, arguments: &[&str], variables: &[(&str, &str)]) -> Run {
    let mut program = scene.program();
    program.args(arguments).envs(variables.iter().copied());
    Run::of(program.output().unwrap())
}

/// A checked-out file with the vendor's own base URL, and somebody else's address.
#[test]
fn a_host_that_only_the_file_names_gets_no_secret_from_outside() {
    let scene = Scene::without_file();
    let there = scene.server.base_url();
    let endpoint = format!("{there}{STANDARD_PATH}");
    let refused = "secrets from flags or environment are not sent to http://127.0.0.1:";
    let secrets: [&[(&str, &str)]; 3] = [
        &[("FEISHU_APP_SECRET", APP_SECRET)],
        &[("FEISHU_REFRESH_TOKEN", "r-from-outside")],
        &[
            ("FEISHU_REFRESH_TOKEN", "eyJ-from-outside"),
            ("FEISHU_APP_SECRET", APP_SECRET),
        ],
    ];
    for (address, option) in [
        (format!("accounts_url = {there}\n"), "--accounts-url"),
        (format!("token_url = {endpoint}\n"), "--token-url"),
        (format!("base_url = {there}\n"), "--base-url"),
        (
            format!("base_url = https://open.feishu.cn\naccounts_url = {there}\n"),
            "--accounts-url",
        ),
        (
            format!("base_url = https://open.feishu.cn\ntoken_url = {endpoint}\n"),
            "--token-url",
        ),
    ] {
        for is_shared in [false, true] {
            let own = "api = v3\nrefresh_token = r-1\n";
            let app = format!("app_id = {APP_ID}\n");
            scene.write(if is_shared {
                format!("[ID]\n{app}{address}[TOKEN]\n{own}")
            } else {
                format!("[TOKEN]\n{app}{address}{own}")
            });
            for variables in secrets {
                let mut variables = variables.to_vec();
                if !variables
                    .iter()
                    .any(|(name, _)| *name == "FEISHU_APP_SECRET")
                {
                    scene.write(scene.text().replace("app_id", "app_secret = s\napp_id"));
                }
                variables.push(("LANG", "en_US"));
                let run = run_with(&scene, &[], &variables);
                run.assert_failed(3, refused);
                assert!(run.stderr.contains(option), "{address}: {}", run.stderr);
            }
        }
    }
    assert!(scene.server.requests().is_empty());
}

/// A login by device sends the app's secret to the consent host.
#[test]
fn a_login_by_device_shows_no_secret_to_an_accounts_host_that_only_the_file_names() {
    let scene = Scene::without_file();
    let there = scene.server.base_url();
    let secret = [("FEISHU_APP_SECRET", APP_SECRET)];
    let file = format!(
        "[ID]\napp_id = {APP_ID}\nbase_url = https://open.feishu.cn\naccounts_url = {there}\n"
    );
    scene.write(&file);
    for way in [
        &["login", "--device"][..],
        &["login", "--device", "--api", "v2"],
    ] {
        run_with(&scene, way, &secret).assert_failed(3, "are not sent to http://127.0.0.1:");
    }
    assert!(scene.server.requests().is_empty());
    // Named from outside, it may have it; and so may it have what the file itself holds.
    let named = ["login", "--device", "--accounts-url", &there];
    assert_eq!(run_with(&scene, &named, &secret).code, 0);
    assert_eq!(scene.value("api"), "v3");
    scene.write(file.replace("app_id", &format!("app_secret = {APP_SECRET}\napp_id")));
    assert_eq!(scene.run(["login", "--device"]).code, 0);
    scene.assert_sound();
}

#[test]
fn a_host_is_taken_as_people_write_it() {
    let scene = Scene::without_file();
    let own = "app_id = a\napp_secret = s\nrefresh_token = r-1\n";
    for url in [
        "https://open.feishu.cn",
        "https://open.feishu.cn/",
        "https://open.feishu.cn/open-apis",
        "https://open.feishu.cn/open-apis/",
        "https://open.feishu.cn:443",
        "HTTPS://Open.Feishu.CN/open-apis",
        "\"https://open.feishu.cn\"",
        "'https://open.feishu.cn/'",
    ] {
        // A vendor's host is the vendor's in any spelling: it may have what comes from outside, and
        // its v3 is at the accounts' host.
        for (api, host) in [("v1", "open.feishu.cn"), ("v3", "accounts.feishu.cn")] {
            scene.write(format!("[TOKEN]\nbase_url = {url}\napi = {api}\n{own}"));
            for variables in [
                &[("FEISHU_APP_SECRET", "s")][..],
                &[("FEISHU_BASE_URL", url)],
            ] {
                let seen = scene.seen_by_proxy(&[], variables);
                assert!(
                    seen.contains(&format!("CONNECT {host}:443 ")),
                    "{url}: {seen}"
                );
            }
        }
    }
    // The same for a private server, including a slash.
    scene.write(scene.server.profile("TOKEN", "v1"));
    let base_url = scene.server.base_url().replace("http", "HTTP") + "/open-apis/";
    scene.run(["--base-url", &base_url]).token();
    scene.assert_sound();
}

#[test]
fn v3_goes_to_the_accounts_host_that_was_named() {
    let scene = Scene::without_file();
    let there = scene.server.base_url();
    let section = scene.server.profile("TOKEN", "v3");
    let base = format!("base_url = {there}\n");
    for (address, arguments, variables) in [
        (base.clone(), &[][..], &[][..]),
        (
            format!("base_url = https://open.feishu.cn\naccounts_url = {there}\n"),
            &[],
            &[],
        ),
        (format!("accounts_url = {there}/\n"), &[], &[]),
        (String::new(), &["--accounts-url", &there], &[]),
        (
            String::new(),
            &[],
            &[("FEISHU_ACCOUNTS_URL", there.as_str())],
        ),
    ] {
        scene.write(section.replace(&base, &address));
        let token = scene.server.refresh_token_for("v3");
        let old = scene.value("refresh_token");
        scene.write(scene.text().replace(&old, &token));
        run_with(&scene, arguments, variables).token();
        let last = scene.server.requests().pop().unwrap();
        assert_eq!(last.path, V3_PATH, "{address}");
        scene.assert_sound();
    }
}

#[test]
fn the_endpoint_is_as_the_tokens_form_shows_where_nobody_says() {
    let scene = Scene::without_file();
    let base_url = scene.server.base_url();
    for (of, at_feishu, written) in [
        ("v1", true, None),
        ("v2", false, Some("v2")),
        ("v3", true, Some("v3")),
    ] {
        let section = scene
            .server
            .profile("TOKEN", of)
            .replace(&format!("api = {of}\n"), "");
        let feishu = format!("base_url = https://open.feishu.cn\naccounts_url = {base_url}\n");
        if at_feishu && of == "v3" {
            scene.write(section.replace(&format!("base_url = {base_url}\n"), &feishu));
        } else {
            scene.write(section);
        }
        for _ in 0..2 {
            scene.run::<&str>([]).token();
            let api = scene.text().contains("api = ").then(|| scene.value("api"));
            assert_eq!(api.as_deref(), written, "{of}");
            scene.assert_sound();
        }
    }
    // A first run without a file, from flags alone.
    let scene = Scene::without_file();
    let token = scene.server.refresh_token_for("v2");
    let app = ["--app-id", APP_ID, "--app-secret", APP_SECRET];
    let base_url = scene.server.base_url();
    scene
        .run([&["-r", &token, "--base-url", &base_url][..], &app].concat())
        .token();
    assert_eq!(scene.value("api"), "v2");
    // A token of v2 may be refreshed with v3.
    scene
        .run([&["--api", "v3", "--base-url", &base_url][..], &app].concat())
        .token();
    assert_eq!(scene.value("api"), "v3");
    scene.assert_sound();
}

/// RFC 6749: a form, at its own address, with a secret or without.
#[test]
fn a_standard_server_is_refreshed_at_its_own_address() {
    let scene = Scene::without_file();
    let url = format!("{}{STANDARD_PATH}", scene.server.base_url());
    for (name, in_file, arguments, variables) in [
        ("file", format!("token_url = {url}\n"), &[][..], &[][..]),
        ("flag", String::new(), &["--token-url", url.as_str()], &[]),
        (
            "variable",
            String::new(),
            &[],
            &[("FEISHU_TOKEN_URL", url.as_str())],
        ),
    ] {
        for secret in [true, false] {
            let token = scene.server.refresh_token_for("v2");
            let secret_line = if secret {
                format!("app_secret = {APP_SECRET}\n")
            } else {
                String::new()
            };
            scene.write(format!(
                "[TOKEN]\n{in_file}app_id = {APP_ID}\n{secret_line}refresh_token = {token}\n"
            ));
            run_with(&scene, arguments, variables).token();
            let last = scene.server.requests().pop().unwrap();
            assert_eq!(last.path, STANDARD_PATH);
            assert_eq!(last.body.contains("client_secret="), secret, "{name}");
            assert!(
                last.body.starts_with("grant_type=refresh_token&client_id="),
                "{}",
                last.body
            );
            assert!(
                !scene.text().contains("refresh_token_expires_at"),
                "{}",
                scene.text()
            );
            // Once more, with the pair that it gave.
            run_with(&scene, arguments, variables).token();
            scene.assert_sound();
        }
    }
    // Its errors are judged only by their name.
    scene
        .server
        .fail_next(Fault::reply(400, r#"{"error":"invalid_grant"}"#));
    scene
        .run(["--token-url", &url])
        .assert_failed(4, "invalid_grant");
    // It has its own consent.
    let run = scene.run(["login", "--token-url", &url, "--app-secret", APP_SECRET]);
    run.assert_failed(3, "a standard server's consent is not asked for here");
    assert!(run.stderr.contains(" -r"), "{}", run.stderr);
    // What does not belong to a standard server is not sent there.
    for api in ["v1", "oidc", "115"] {
        let run = scene.run(["--token-url", &url, "--api", api]);
        run.assert_failed(3, "a token_url is for standard servers");
    }
    let text = scene.text();
    assert!(scene.server.is_live(&value_in(&text, "refresh_token")));
}

/// A shared `token_url` applies to logins that do not name another system.
#[test]
fn a_shared_token_url_is_for_every_login_that_says_no_other_api() {
    let scene = Scene::without_file();
    let there = scene.server.base_url();
    let shared = format!(
        "[ID]\ntoken_url = {there}{STANDARD_PATH}?key=K3Y\napp_id = {APP_ID}\napp_secret = {APP_SECRET}\n"
    );
    for (api, path) in [
        ("", STANDARD_PATH),
        ("api = v2\n", STANDARD_PATH),
        ("api = v3\n", STANDARD_PATH),
        (
            "api = oidc\n",
            "/open-apis/authen/v1/oidc/refresh_access_token",
        ),
        ("api = 115\n", "/open/refreshToken"),
    ] {
        let of = api.trim().strip_prefix("api = ").unwrap_or("v2");
        let token = scene.server.refresh_token_for(of);
        scene.write(format!(
            "{shared}[TOKEN]\n{api}base_url = {there}\nrefresh_token = {token}\n"
        ));
        let run = scene.run(["-v"]);
        run.token();
        let last = scene.server.requests().pop().unwrap();
        assert!(last.path.starts_with(path), "{api}: {}", last.path);
        assert_eq!(last.path.contains("key=K3Y"), path == STANDARD_PATH);
        // A possible key is not logged.
        assert!(!run.stderr.contains("K3Y"), "{}", run.stderr);
        scene.assert_sound();
    }
    // It has its own consent, whatever api the section has.
    for api in ["", "api = v2\n"] {
        scene.write(format!(
            "{shared}[TOKEN]\n{api}base_url = {there}\naccounts_url = {there}\n"
        ));
        scene
            .run(["login"])
            .assert_failed(3, "a standard server's consent is not asked for here");
    }
    // Also for a public client, which has no secret to be asked for.
    scene.write(format!(
        "[TOKEN]\ntoken_url = {there}{STANDARD_PATH}\napp_id = a\n"
    ));
    let run = scene.run(["login"]);
    run.assert_failed(3, "a standard server's consent is not asked for here");
    assert!(run.stderr.contains("with -r"), "{}", run.stderr);
    // The advice for a dead token there is not a login here.
    scene.write(format!("{shared}[TOKEN]\nrefresh_token = gone\n"));
    let run = scene.run::<&str>([]);
    run.assert_failed(4, "invalid_grant");
    assert!(
        run.stderr.contains("give it once with -r"),
        "{}",
        run.stderr
    );
    assert!(
        !run.stderr.contains("feishu-refresh login"),
        "{}",
        run.stderr
    );
}

#[test]
fn an_endpoint_that_the_tokens_form_would_not_show_is_written() {
    let scene = Scene::new();
    // A private v1 server whose tokens look like those of v2.
    let text = scene.text();
    scene.server.fail_next(Fault::Alter(Box::new(|reply| {
        reply["data"]["refresh_token"] = "eyJ-looks-like-v2".into();
    })));
    scene.run::<&str>([]).token();
    assert_eq!(scene.value("api"), "v1");
    assert!(!text.contains("api = "));
}

#[test]
fn a_host_that_was_named_from_outside_may_have_what_comes_from_outside() {
    let scene = Scene::without_file();
    let there = scene.server.base_url();
    let token = scene.server.refresh_token_for("v3");
    scene.write(format!(
        "[TOKEN]\napi = v3\naccounts_url = {there}/\napp_id = {APP_ID}\nrefresh_token = {token}\n"
    ));
    let secret = [("FEISHU_APP_SECRET", APP_SECRET)];
    run_with(&scene, &[], &secret).assert_failed(3, "are not sent to http://127.0.0.1:");
    run_with(&scene, &["--base-url", &there], &secret).token();
    scene.assert_sound();
}
