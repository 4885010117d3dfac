//! Consent on another device (RFC 8628): a link and a short code for the user, and polite polling.
//!
//! Experimental: the vendor's public documents do not describe it; this follows its own command-line tool. A poll is
//! judged by `error`, and by a code only if there is no `error`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};

use super::api::Api;
use super::codes;
use super::consent::Denial;
use super::grant::App;
use super::json;
use super::message::{Request, Response};
use super::oauth;
use super::reply::{
    self, BodyMeaning, Field, Refusal, Reply, ReplyBody, ReplyForm, seconds, secret,
};
use super::secrets::Secrets;

/// Defaults for what the reply does not say, in seconds.
const EXPIRES_IN: u64 = 240;
const INTERVAL: u64 = 5;

const PATH: &str = "/oauth/v1/device_authorization";

/// What the user is shown, and how to poll for the answer.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) device_code: SecretString,
    pub(crate) user_code: String,
    /// The page to open; with the code in it, if the server gives such a link.
    pub(crate) page: String,
    /// Seconds.
    pub(crate) expires_in: u64,
    /// Seconds between two polls.
    pub(crate) interval: u64,
}

/// The request for a prompt; it goes to the accounts service.
pub(crate) fn request(app: &App, scope: &str) -> Request {
    let fields = [("client_id", app.id.as_str()), ("scope", scope)];
    Request {
        authorization: Some(format!("Basic {}", credentials(app)).into()),
        ..Request::form(PATH, &fields)
    }
}

/// The same where the header does not arrive: the secret goes only into the form, as authenticating in two ways at once
/// is refused (20070).
pub(crate) fn request_without_header(app: &App, scope: &str) -> Request {
    let fields = [
        ("client_id", app.id.as_str()),
        ("client_secret", app.secret.expose_secret()),
        ("scope", scope),
    ];
    Request::form(PATH, &fields)
}

/// Whether a server reports the header as missing from a request that had it: a proxy may have removed it.
pub(crate) fn misses_header(response: &Response) -> bool {
    let text = json::text(&response.body);
    let body = json::fields(&text).unwrap_or_default();
    let error = json::words(&body, &["error"]);
    let words = json::words(&body, &["error_description", "msg", "message"]).to_lowercase();
    let names = |names: &[&str]| names.iter().any(|name| words.contains(name));
    ["invalid_client", "invalid_request"].contains(&error.as_str())
        && (names(&["authorization"])
            || names(&["client_secret"])
                && names(&["missing", "lack", "require", "must", "need", "empty", "no "]))
}

/// Id and secret as in HTTP basic authentication (RFC 7617).
fn credentials(app: &App) -> String {
    STANDARD.encode(format!("{}:{}", app.id, app.secret.expose_secret()))
}

/// The values of that request that must not be shown.
pub(crate) fn secrets(app: &App) -> Secrets<'_> {
    let mut secrets = app.secrets();
    secrets.add_text(credentials(app));
    secrets
}

/// What the reply to that request means.
pub(crate) fn prompt(app: &App, response: &Response) -> Result<Prompt, Refusal> {
    let secrets = &secrets(app);
    let text = json::text(&response.body);
    let Some(body) = json::fields(&text) else {
        return Err(Refusal::by_status(response, secrets));
    };
    let words = |name| json::words(&body, &[name]);
    let Field::Good(device_code) = secret(&body, "device_code") else {
        return Err(refusal(&body, response, secrets));
    };
    let page = [
        words("verification_uri_complete"),
        words("verification_uri"),
    ];
    let page = page
        .into_iter()
        .find(|page| page.starts_with("https://") || page.starts_with("http://"));
    let number = |name, otherwise| match seconds(&body, name) {
        Field::Good(seconds) if seconds > 0 => seconds,
        _ => otherwise,
    };
    match page {
        Some(page) if !words("user_code").is_empty() => Ok(Prompt {
            device_code,
            user_code: secrets.clean(&words("user_code"), 40),
            page: secrets.clean(&page, 2000),
            expires_in: number("expires_in", EXPIRES_IN),
            interval: number("interval", INTERVAL),
        }),
        _ => Err(Refusal::unusable(response, secrets, "")),
    }
}

fn refusal(body: &json::Fields<'_>, response: &Response, secrets: &Secrets<'_>) -> Refusal {
    let message = json::words(body, &["error_description", "msg", "message", "error"]);
    match json::integer_in(body, "code").filter(|code| *code != 0) {
        Some(code) => Refusal::by_code(response, secrets, code, &message),
        None => match codes::look_up_consent_error(&json::words(body, &["error"])) {
            Some(entry) => Refusal::by_entry(response, secrets, Some(entry), &message),
            None => Refusal::unusable(response, secrets, &message),
        },
    }
}

/// What a device sends to get a pair.
#[derive(Debug)]
pub(crate) struct DeviceGrant {
    pub(crate) app: App,
    pub(crate) device_code: SecretString,
}

/// What an answer to a poll means.
#[derive(Debug)]
pub(crate) enum Polled {
    /// The user has not answered yet.
    Pending,
    /// The same, and polls came too often.
    SlowDown,
    Denied(Denial),
    Expired,
    Ended(Box<Reply>),
}

impl DeviceGrant {
    /// The request that asks for the pair, at v2 or v3.
    pub(crate) fn request(&self, api: Api) -> Request {
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", self.device_code.expose_secret()),
            ("client_id", &self.app.id),
            ("client_secret", self.app.secret.expose_secret()),
        ];
        oauth::request(api, &fields)
    }

    /// The values that must not be shown.
    pub(crate) fn secrets(&self) -> Secrets<'_> {
        let mut secrets = self.app.secrets();
        secrets.add(&self.device_code);
        secrets
    }

    /// What the reply to that request means.
    pub(crate) fn polled(&self, response: &Response) -> Polled {
        let text = json::text(&response.body);
        let body = json::fields(&text).unwrap_or_default();
        let error = json::words(&body, &["error"]);
        match error.as_str() {
            "authorization_pending" => Polled::Pending,
            "" if json::integer_in(&body, "code") == Some(codes::STILL_AWAITED) => Polled::Pending,
            "slow_down" => Polled::SlowDown,
            "access_denied" => {
                let description = json::words(&body, &["error_description"]);
                Polled::Denied(Denial::new(&error, &description, &self.secrets()))
            }
            "expired_token" => Polled::Expired,
            _ => Polled::Ended(Box::new(reply::judged(response, &self.secrets(), &FORM))),
        }
    }
}

const FORM: ReplyForm = ReplyForm {
    judge,
    ..oauth::FORM
};

/// As v2, but the error name takes precedence over its code.
fn judge(body: &ReplyBody<'_>) -> BodyMeaning {
    let error = json::words(&body.fields, &["error"]);
    match codes::look_up_consent_error(&error) {
        Some(entry) => {
            let words = json::words(
                &body.fields,
                &["error_description", "msg", "message", "error"],
            );
            BodyMeaning::Error(entry, words)
        }
        None => (oauth::FORM.judge)(body),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn app() -> App {
        App {
            id: "cli_1".to_owned(),
            secret: "secret-of-cli-1".into(),
            ticket: None,
        }
    }

    fn answer(status: u16, body: &str) -> Response {
        Response {
            status,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
            ..Response::default()
        }
    }

    fn prompted(body: &str) -> Prompt {
        prompt(&app(), &answer(200, body)).ok().unwrap()
    }

    #[test]
    fn the_app_is_shown_in_the_header() {
        let request = request(&app(), "a offline_access");
        let header = request.authorization.unwrap();
        assert_eq!(header.expose_secret(), "Basic Y2xpXzE6c2VjcmV0LW9mLWNsaS0x");
        let body = request.body.expose_secret();
        assert_eq!(body, "client_id=cli_1&scope=a+offline_access");
    }

    #[test]
    fn a_header_that_did_not_arrive_is_told_from_a_secret_that_is_wrong() {
        let request = request_without_header(&app(), "a offline_access");
        assert!(request.authorization.is_none());
        let body = request.body.expose_secret();
        let expected = "client_id=cli_1&client_secret=secret-of-cli-1&scope=a+offline_access";
        assert_eq!(body, expected);
        for (error, words, misses) in [
            (
                "invalid_request",
                "missing required parameter: client_secret",
                true,
            ),
            (
                "invalid_client",
                "the Authorization header is missing",
                true,
            ),
            ("invalid_client", "The client secret is invalid.", false),
            ("invalid_client", "", false),
            ("invalid_scope", "client_secret", false),
        ] {
            let body =
                format!(r#"{{"code":20001,"error":"{error}","error_description":"{words}"}}"#);
            assert_eq!(
                misses_header(&answer(400, &body)),
                misses,
                "{error}: {words}"
            );
        }
        assert!(!misses_header(&answer(400, "<html>client_secret")));
    }

    /// RFC 8628, section 3.2.
    #[test]
    fn the_reply_of_the_document() {
        let body = r#"{
            "device_code": "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS",
            "user_code": "WDJB-MJHT",
            "verification_uri": "https://example.com/device",
            "verification_uri_complete": "https://example.com/device?user_code=WDJB-MJHT",
            "expires_in": 1800,
            "interval": 7
        }"#;
        let given = prompted(body);
        let code = given.device_code.expose_secret();
        assert_eq!(code, "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS");
        assert_eq!(given.user_code, "WDJB-MJHT");
        assert_eq!(given.page, "https://example.com/device?user_code=WDJB-MJHT");
        assert_eq!((given.expires_in, given.interval), (1800, 7));
    }

    #[test]
    fn what_a_prompt_leaves_out_is_assumed() {
        let least = r#""device_code":"d","user_code":"u","verification_uri":"http://a.b/c""#;
        for times in ["", r#","expires_in":0,"interval":0"#, r#","interval":"x""#] {
            let given = prompted(&format!("{{{least}{times}}}"));
            assert_eq!(given.page, "http://a.b/c");
            assert_eq!((given.expires_in, given.interval), (240, 5), "{times}");
        }
    }

    #[test]
    fn a_prompt_without_what_the_user_needs_is_none() {
        let page = r#""verification_uri":"https://a.b""#;
        for (status, body, verdict) in [
            (
                200,
                r#""device_code":"d","user_code":"u""#,
                Verdict::Unusable,
            ),
            (
                200,
                r#""device_code":"d","user_code":"u","verification_uri":"ftp://a.b""#,
                Verdict::Unusable,
            ),
            (
                200,
                &format!(r#""device_code":"d",{page}"#),
                Verdict::Unusable,
            ),
            (
                200,
                &format!(r#""device_code":"d","user_code":"",{page}"#),
                Verdict::Unusable,
            ),
            (
                200,
                &format!(r#""user_code":"u",{page}"#),
                Verdict::Unusable,
            ),
            (200, r#""code":0,"error":"invalid_client""#, Verdict::Config),
            (400, r#""error":"invalid_scope""#, Verdict::Config),
            (
                200,
                r#""code":20048,"error":"invalid_scope_or_so""#,
                Verdict::Config,
            ),
            (400, r#""error":"no_such_error""#, Verdict::Unexpected),
        ] {
            let refusal = prompt(&app(), &answer(status, &format!("{{{body}}}")));
            assert_eq!(refusal.err().unwrap().verdict, verdict, "{body}");
        }
        let page = prompt(&app(), &answer(502, "<html>")).err().unwrap();
        assert_eq!(page.verdict, Verdict::Temporary);
    }

    #[test]
    fn the_apps_secret_is_masked_in_both_forms() {
        let words = "secret-of-cli-1 Y2xpXzE6c2VjcmV0LW9mLWNsaS0x";
        let body = format!(r#"{{"error":"invalid_client","error_description":"{words}"}}"#);
        let refusal = prompt(&app(), &answer(400, &body)).err().unwrap();
        assert_eq!(refusal.message, "*** ***");
    }

    #[test]
    fn a_poll_is_judged_by_its_error() {
        let grant = DeviceGrant {
            app: app(),
            device_code: "device-code".into(),
        };
        let polled = |status, body: &str| grant.polled(&answer(status, body));
        let error = |error: &str| polled(400, &format!(r#"{{"error":"{error}","code":20026}}"#));
        assert!(matches!(error("authorization_pending"), Polled::Pending));
        for status in [200, 400] {
            let by_code = polled(status, r#"{"code":20080,"msg":"pending"}"#);
            assert!(matches!(by_code, Polled::Pending));
        }
        assert!(matches!(error("slow_down"), Polled::SlowDown));
        assert!(matches!(error("access_denied"), Polled::Denied(_)));
        assert!(matches!(error("expired_token"), Polled::Expired));
        let refusal = |polled| match polled {
            Polled::Ended(reply) => match *reply {
                Reply::Refused(refusal) => refusal,
                Reply::Rotated(_) => unreachable!("it says no"),
            },
            other => unreachable!("{other:?} is no end"),
        };
        // The error name takes precedence over a code, but a code says more than an unknown name.
        let by_name = refusal(error("invalid_client"));
        assert_eq!((by_name.code, by_name.verdict), (None, Verdict::Config));
        let by_code = refusal(error("no_such_error"));
        assert_eq!(by_code.code, Some(20026));
        let body =
            r#"{"error":"invalid_grant","error_description":"no device-code, no secret-of-cli-1"}"#;
        assert_eq!(refusal(polled(400, body)).message, "no ***, no ***");
        let pair = r#"{"access_token":"a","refresh_token":"r"}"#;
        let Polled::Ended(reply) = polled(200, pair) else {
            unreachable!("it brings a pair");
        };
        assert!(matches!(*reply, Reply::Rotated(_)));
    }
}
