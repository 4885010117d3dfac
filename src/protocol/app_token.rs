//! The `app_access_token` that v1 and oidc require, obtained with app id and secret.
//!
//! From the vendor's pages on `auth/v3/app_access_token`: one endpoint for apps built by the company itself, one for
//! apps from the store, which send an `app_ticket`, too. The reply is flat. While more than half an hour is left, the
//! server gives the same token again.

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::grant::App;
use super::json;
use super::message::{Request, Response};
use super::reply::{Field, Refusal, seconds, secret};

/// What a success reply holds.
pub(crate) struct Granted {
    pub(crate) token: SecretString,
    /// Its lifetime in seconds, at most 7200, if the reply gives it.
    pub(crate) expires_in: Option<u64>,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the protocol's own names")]
struct AppTokenBody<'a> {
    app_id: &'a str,
    app_secret: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_ticket: Option<&'a str>,
}

/// The request for a token of this app.
pub(crate) fn request(app: &App) -> Request {
    let body = AppTokenBody {
        app_id: &app.id,
        app_secret: app.secret.expose_secret(),
        app_ticket: app.ticket.as_ref().map(ExposeSecret::expose_secret),
    };
    let path = match app.ticket {
        None => "/open-apis/auth/v3/app_access_token/internal",
        Some(_) => "/open-apis/auth/v3/app_access_token",
    };
    Request::json(path, &body)
}

/// What the reply to that request means. No refusal can have spent a refresh token.
pub(crate) fn reply(app: &App, response: &Response) -> Result<Granted, Refusal> {
    let secrets = &app.secrets();
    let refusal = |refusal: Refusal| Refusal {
        maybe_spent: false,
        ..refusal
    };
    let text = json::text(&response.body);
    let Some(body) = json::fields(&text) else {
        return Err(refusal(Refusal::by_status(response, secrets)));
    };
    let message = json::words(&body, &["msg", "message"]);
    let code = json::integer_in(&body, "code");
    if let Some(code) = code.filter(|code| *code != 0) {
        return Err(refusal(Refusal::by_code(response, secrets, code, &message)));
    }
    // A token with odd characters cannot go into a header.
    let Field::Good(token) = secret(&body, "app_access_token") else {
        return Err(refusal(Refusal::unusable(response, secrets, &message)));
    };
    let expires_in = match seconds(&body, "expire") {
        Field::Good(seconds) | Field::Odd(seconds) => Some(seconds),
        Field::Bad | Field::Missing => None,
    };
    Ok(Granted { token, expires_in })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn app(ticket: Option<&str>) -> App {
        App {
            id: "cli_1".to_owned(),
            secret: "secret-of-cli-1".into(),
            ticket: ticket.map(SecretString::from),
        }
    }

    fn answer(status: u16, body: &str) -> Result<Granted, Refusal> {
        let response = Response {
            status,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
            ..Response::default()
        };
        reply(&app(None), &response)
    }

    #[test]
    fn a_ticket_chooses_the_endpoint() {
        let own = request(&app(None));
        assert_eq!(own.path, "/open-apis/auth/v3/app_access_token/internal");
        assert_eq!(
            own.body.expose_secret(),
            r#"{"app_id":"cli_1","app_secret":"secret-of-cli-1"}"#
        );
        let store = request(&app(Some("ticket-1")));
        assert_eq!(store.path, "/open-apis/auth/v3/app_access_token");
        assert_eq!(
            store.body.expose_secret(),
            r#"{"app_id":"cli_1","app_secret":"secret-of-cli-1","app_ticket":"ticket-1"}"#
        );
    }

    #[test]
    fn a_reply_gives_a_token_or_a_reason() {
        let body = r#"{"code":0,"msg":"ok","app_access_token":"a-1","expire":7140,"tenant_access_token":"t-1"}"#;
        let granted = answer(200, body).ok().unwrap();
        assert_eq!(granted.token.expose_secret(), "a-1");
        assert_eq!(granted.expires_in, Some(7140));
        for (status, body, verdict) in [
            (
                200,
                r#"{"code":10014,"msg":"app secret invalid"}"#,
                Verdict::Config,
            ),
            (
                200,
                r#"{"code":20050,"msg":"System error"}"#,
                Verdict::Temporary,
            ),
            (
                400,
                r#"{"code":99991400,"msg":"too many"}"#,
                Verdict::RateLimit,
            ),
            (200, r#"{"code":0}"#, Verdict::Unusable),
            (
                200,
                r#"{"code":0,"app_access_token":"a 1"}"#,
                Verdict::Unusable,
            ),
            (
                200,
                r#"{"code":0,"app_access_token":"a\n1"}"#,
                Verdict::Unusable,
            ),
            (200, "<html>", Verdict::Temporary),
            (502, "", Verdict::Temporary),
            (404, "{}", Verdict::Unexpected),
        ] {
            let refusal = answer(status, body).err().unwrap();
            assert_eq!(refusal.verdict, verdict, "{body}");
            assert!(!refusal.maybe_spent, "{body}");
        }
    }
}
