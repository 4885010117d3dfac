//! Consent on another device (RFC 8628): a link and a short code for the user, and polite asking.
//!
//! Experimental: the vendor's public documents do not describe it; this is as its own command-line
//! tool does it. Polling is judged by `error` alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::reply::{self, Body, Field, Form, Refusal, Reply, Said, seconds, secret};
use super::{App, Request, Response, Secrets, codes, feishu_v2, json};

/// What is assumed where the reply does not say it, in seconds.
const EXPIRES_IN: u64 = 240;
const INTERVAL: u64 = 5;

/// What the user is shown, and how the answer is asked for.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) device_code: SecretString,
    pub(crate) user_code: String,
    /// The page to open; with the code in it, if the server gives such a link.
    pub(crate) page: String,
    /// Seconds.
    pub(crate) expires_in: u64,
    /// Seconds between two questions.
    pub(crate) interval: u64,
}

/// The request for a prompt; it goes to the accounts service.
pub(crate) fn request(app: &App, scope: &str) -> Request {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("client_id", &app.id)
        .append_pair("scope", scope);
    Request {
        path: "/oauth/v1/device_authorization",
        authorization: Some(format!("Basic {}", credentials(app)).into()),
        content_type: "application/x-www-form-urlencoded",
        body: form.finish().into(),
    }
}

/// Id and secret as HTTP's own header shows them (RFC 7617).
fn credentials(app: &App) -> String {
    STANDARD.encode(format!("{}:{}", app.id, app.secret.expose_secret()))
}

/// What must not be shown of that request.
pub(crate) fn secrets(app: &App) -> Secrets<'_> {
    let mut secrets = app.secrets();
    secrets.0.push(credentials(app).into());
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
        None => match codes::look_up_error(&json::words(body, &["error"])) {
            Some(entry) => Refusal::by_entry(response, secrets, Some(entry), &message),
            None => Refusal::unusable(response, secrets, &message),
        },
    }
}

/// What a device shows to be given a pair.
#[derive(Debug)]
pub(crate) struct DeviceGrant {
    pub(crate) app: App,
    pub(crate) device_code: SecretString,
}

#[derive(Serialize)]
struct Asked<'a> {
    grant_type: &'static str,
    device_code: &'a str,
    client_id: &'a str,
    client_secret: &'a str,
}

/// What an answer to a poll means.
#[derive(Debug)]
pub(crate) enum Polled {
    /// The user has not answered yet.
    Pending,
    /// The same, and this was asked too often.
    SlowDown,
    Denied,
    Expired,
    Ended(Box<Reply>),
}

impl DeviceGrant {
    /// The request that asks for the pair.
    pub(crate) fn request(&self) -> Request {
        let body = Asked {
            grant_type: "urn:ietf:params:oauth:grant-type:device_code",
            device_code: self.device_code.expose_secret(),
            client_id: &self.app.id,
            client_secret: self.app.secret.expose_secret(),
        };
        Request::json(feishu_v2::PATH, &body)
    }

    /// What must not be shown.
    pub(crate) fn secrets(&self) -> Secrets<'_> {
        let mut secrets = self.app.secrets();
        secrets.add(&self.device_code);
        secrets
    }

    /// What the reply to that request means.
    pub(crate) fn polled(&self, response: &Response) -> Polled {
        let text = json::text(&response.body);
        let error = json::fields(&text).map(|body| json::words(&body, &["error"]));
        match error.as_deref() {
            Some("authorization_pending") => Polled::Pending,
            Some("slow_down") => Polled::SlowDown,
            Some("access_denied") => Polled::Denied,
            Some("expired_token") => Polled::Expired,
            _ => Polled::Ended(Box::new(reply::judged(response, &self.secrets(), &FORM))),
        }
    }
}

const FORM: Form = Form {
    judge,
    ..feishu_v2::FORM
};

/// As v2, but by the name of the error before its code.
fn judge(body: &Body<'_>) -> Said {
    let error = json::words(&body.fields, &["error"]);
    match codes::look_up_error(&error) {
        Some(entry) => {
            let words = json::words(
                &body.fields,
                &["error_description", "msg", "message", "error"],
            );
            Said::Error(entry, words)
        }
        None => (feishu_v2::FORM.judge)(body),
    }
}
