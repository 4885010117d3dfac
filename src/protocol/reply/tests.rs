//! How a reply is judged, whatever its form.

use super::super::{Api, Credentials, Grant, Response};
use super::*;

fn reply(api: Api, status: u16, body: &str) -> Reply {
    let grant = Grant {
        refresh_token: "refresh-1".into(),
        credentials: Credentials::AppToken("app-1".into()),
        scope: None,
    };
    let response = Response {
        status,
        headers: Vec::new(),
        body: body.as_bytes().to_vec(),
        ..Response::default()
    };
    api.refresh_reply(&grant, &response)
}

fn rotation(api: Api, body: &str) -> Rotation {
    match reply(api, 200, body) {
        Reply::Rotated(rotation) => rotation,
        Reply::Refused(refusal) => unreachable!("{body}: {}", refusal.message),
    }
}

fn refusal(api: Api, status: u16, body: &str) -> Refusal {
    match reply(api, status, body) {
        Reply::Refused(refusal) => refusal,
        Reply::Rotated(_) => unreachable!("{body} brings nothing"),
    }
}

fn shown(token: Option<&SecretString>) -> Option<&str> {
    token.map(ExposeSecret::expose_secret)
}

#[test]
fn without_a_code_the_status_decides() {
    for (status, verdict, maybe_spent, says) in [
        (200, Verdict::Temporary, true, "not the token endpoint's"),
        (302, Verdict::Unexpected, false, "a redirect"),
        (403, Verdict::Unexpected, false, "not the token endpoint's"),
        (408, Verdict::Temporary, false, "asks for a retry"),
        (425, Verdict::Temporary, false, "asks for a retry"),
        (429, Verdict::RateLimit, false, "too many requests"),
        (503, Verdict::Temporary, true, "failed"),
        (600, Verdict::Unexpected, false, "not the token endpoint's"),
    ] {
        let refused = refusal(Api::V1, status, "<html>");
        assert_eq!(refused.verdict, verdict, "{status}");
        assert_eq!(refused.maybe_spent, maybe_spent, "{status}");
        assert!(refused.message.contains(says), "{}", refused.message);
        let passes = verdict != Verdict::Unexpected;
        assert_eq!(refused.is_passing(), passes, "{status}");
        assert!(refused.is_answer);
    }
}

#[test]
fn a_reply_that_says_neither_yes_nor_no_keeps_its_words() {
    let unsaid = refusal(Api::V1, 200, r#"{"msg":"busy"}"#);
    assert_eq!(unsaid.verdict, Verdict::Unusable);
    let message = "HTTP 200: the reply says neither success nor failure: busy";
    assert_eq!(unsaid.message, message);
    let failed = refusal(Api::V1, 503, r#"{"msg":"busy"}"#);
    assert_eq!(failed.verdict, Verdict::Temporary);
    let message = "HTTP 503: the server or a proxy before it failed: busy";
    assert_eq!(failed.message, message);
}

#[test]
fn tokens_are_taken_from_the_wrong_place_only_where_the_right_one_has_none() {
    let own = r#""data":{"access_token":"a","refresh_token":"r"}"#;
    let other = r#""access_token":"x","refresh_token":"y""#;
    let both = rotation(Api::V1, &format!(r#"{{"code":0,{other},{own}}}"#));
    assert_eq!(shown(both.refresh_token.as_ref()), Some("r"));
    assert!(both.flaws.is_empty());
    let wrong = rotation(Api::V1, &format!(r#"{{"code":0,{other}}}"#));
    assert_eq!(shown(wrong.refresh_token.as_ref()), Some("y"));
    assert_eq!(wrong.flaws, ["its tokens are in the wrong place"]);
}

#[test]
fn either_token_of_a_success_is_kept_though_no_yes_stands_there() {
    for token in [r#""refresh_token":"r""#, r#""access_token":"a""#] {
        let body = format!(r#"{{"data":{{{token}}}}}"#);
        let flaws = rotation(Api::V1, &body).flaws;
        assert_eq!(flaws[0], "it does not say success as documented", "{body}");
        let failed = refusal(Api::V1, 500, &body);
        assert_eq!(failed.verdict, Verdict::Temporary, "{body}");
    }
}

#[test]
fn a_torn_reply_counts_only_as_a_success() {
    let torn = r#"{"code":0,"data":{"access_token":"a","refresh_token":"r""#;
    let salvaged = rotation(Api::V1, torn);
    assert_eq!(shown(salvaged.refresh_token.as_ref()), Some("r"));
    assert_eq!(salvaged.flaws, ["it is not whole"]);
    assert_eq!(refusal(Api::V1, 502, torn).verdict, Verdict::Temporary);
}

#[test]
fn one_bad_field_spoils_no_other() {
    let flaws = |fields: &str| {
        let pair = r#""access_token":"a","refresh_token":"r""#;
        let rotation = rotation(
            Api::Oidc,
            &format!(r#"{{"code":0,"data":{{{pair}{fields}}}}}"#),
        );
        assert_eq!(shown(rotation.refresh_token.as_ref()), Some("r"));
        (rotation.flaws, rotation.expires_in, rotation.scope)
    };
    let no_number = "its expires_in is not a number of seconds";
    let no_list = "its scope is not a list";
    for (fields, expected) in [
        ("", (vec![], None, None)),
        (r#","expires_in":null,"scope":null"#, (vec![], None, None)),
        (
            r#","expires_in":3162240000"#,
            (vec![], Some(3_162_240_000), None),
        ),
        (r#","expires_in":3162240001"#, (vec![no_number], None, None)),
        (r#","expires_in":-1"#, (vec![no_number], None, None)),
        (r#","scope":" ""#, (vec![], None, None)),
        (
            r#","scope":" a b ""#,
            (vec![], None, Some("a b".to_owned())),
        ),
        (r#","scope":"a\u0007b""#, (vec![no_list], None, None)),
        (r#","scope":["a"]"#, (vec![no_list], None, None)),
    ] {
        assert_eq!(flaws(fields), expected, "{fields}");
    }
}

#[test]
fn a_refresh_token_that_no_run_would_take_from_a_file_is_unread() {
    let flaw = "its refresh_token is not a token";
    for (value, kept, is_unread, flaws) in [
        (r#""r""#, Some("r"), false, vec![]),
        (r#""""#, None, false, vec![]),
        (r#""r é""#, None, true, vec![flaw]),
        (r#""\"r""#, None, true, vec![flaw]),
        (r#""r\n""#, None, true, vec![flaw]),
        (r#""r\u0000s""#, None, true, vec![flaw]),
        (r#"{"value":"r"}"#, None, true, vec![flaw]),
        ("17", None, true, vec![flaw]),
    ] {
        let data = format!(r#"{{"access_token":"a","refresh_token":{value}}}"#);
        let rotation = rotation(Api::V1, &format!(r#"{{"code":0,"data":{data}}}"#));
        assert_eq!(shown(rotation.refresh_token.as_ref()), kept, "{value}");
        assert_eq!(rotation.is_unread, is_unread, "{value}");
        assert_eq!(rotation.flaws, flaws, "{value}");
    }
}
