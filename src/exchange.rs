//! One request and its result, reported in the log.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use crate::client::{Cause, Client, SendError};
use crate::error::Hint;
use crate::protocol::{PROXY_LOGIN, Refusal, Reply, Request, Response, Secrets, Verdict};

/// The result of a request for a pair.
pub(crate) struct Judged {
    pub(crate) reply: Reply,
    /// The whole reply, if it may hold the only copy of a pair that was not found in it.
    pub(crate) unread: Option<Vec<u8>>,
}

/// Sends a request for a pair, and judges the reply, or the part of it that came.
pub(crate) async fn judged(
    client: &Client,
    request: &Request,
    secrets: &Secrets<'_>,
    judge: impl Fn(&Response) -> Reply,
) -> Judged {
    let (reply, body) = match send(client, request, secrets).await {
        Ok(response) => (judge(&response), response.packed.unwrap_or(response.body)),
        Err(lost) => match lost.partial.as_ref().map(judge) {
            // Enough arrived to hold the next refresh token.
            Some(Reply::Rotated(rotation)) if rotation.refresh_token.is_some() => {
                (Reply::Rotated(rotation), Vec::new())
            }
            _ => (Reply::Refused(no_reply(lost, secrets)), Vec::new()),
        },
    };
    if let Reply::Rotated(rotation) = &reply
        && let Some(other) = &rotation.other_type
    {
        let host = client.host();
        log::warn!(
            "{host}: issues tokens of type {other}, not Bearer: a plain call with one may fail"
        );
    }
    let unread = Some(body).filter(|body| reply.is_unread() && !body.is_empty());
    Judged { reply, unread }
}

/// Sends a request once, and reports what came back.
pub(crate) async fn send(
    client: &Client,
    request: &Request,
    secrets: &Secrets<'_>,
) -> Result<Response, SendError> {
    let (started, sent_at) = (Instant::now(), Timestamp::now());
    log::info!("POST {}{}", client.shown(request), client.via());
    let result = client.send(request).await;
    let response = match &result {
        Ok(response) => Some(response),
        Err(error) => error.partial.as_ref(),
    };
    if let Some(response) = response {
        let took = started.elapsed().as_millis();
        let log_id = response.log_id(secrets);
        let log_id = log_id.as_deref().unwrap_or("none");
        log::info!("HTTP {} after {took} ms, log id {log_id}", response.status);
        warn_of_clock(client, response.clock_off(sent_at, Timestamp::now()));
    }
    result
}

/// Clocks may differ by this much without a warning: no expiry is read that closely.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// Expiries are written by this machine's clock. Warns once per host.
fn warn_of_clock(client: &Client, off: SignedDuration) {
    if off.abs() > CLOCK_TOLERANCE && client.is_first_warning() {
        let minutes = off.abs().as_mins();
        let direction = if off.is_positive() {
            "behind"
        } else {
            "ahead of"
        };
        log::warn!(
            "this machine's clock is {minutes} min {direction} that of {}: check it, expiries are counted by it",
            client.host()
        );
    }
}

static UNTRUSTED: Hint = Hint::fixed(
    "if the issuer is a company's own, trust it with --ca-cert or in the system's store; a wrong name must be fixed on the server",
    "若是公司自有 CA 签发，请用 --ca-cert 指定或加入系统证书库；域名不符需由服务器方修正",
);
static OUT_OF_TIME: Hint = Hint::fixed(
    "check this machine's clock first: date; if it is right, the server must renew its certificate",
    "请先用 date 检查本机时钟；若时钟无误，需由服务器方更换证书",
);
static MADE_FOR_CA: Hint = Hint::fixed(
    "give the server a certificate of its own, and name that with --ca-cert: openssl req -x509 -newkey rsa:2048 -nodes -days 365 -keyout key.pem -out cert.pem -subj /CN=HOST -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:HOST (for an address, IP:ADDRESS)",
    "请为服务器另行签发证书，并用 --ca-cert 指定：openssl req -x509 -newkey rsa:2048 -nodes -days 365 -keyout key.pem -out cert.pem -subj /CN=HOST -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:HOST（若为 IP 地址，则用 IP:ADDRESS）",
);
static UNSENDABLE: Hint = Hint::fixed(
    "look for line breaks and other control characters in app_access_token, app_id and app_secret",
    "请检查 app_access_token、app_id 和 app_secret 中是否有换行等控制字符",
);
static UNREACHED: Hint = Hint::fixed(
    "check the network, the address and any proxy, then run again",
    "请检查网络、服务地址和代理，然后重试",
);

impl SendError {
    fn verdict(&self) -> Verdict {
        match self.cause {
            Cause::Passing => Verdict::Temporary,
            _ => Verdict::Config,
        }
    }

    fn hint(&self) -> Option<&'static Hint> {
        match self.cause {
            Cause::Passing if self.maybe_sent => None,
            Cause::Passing => Some(&UNREACHED),
            Cause::Untrusted => Some(&UNTRUSTED),
            Cause::OutOfTime => Some(&OUT_OF_TIME),
            Cause::MadeForCa => Some(&MADE_FOR_CA),
            Cause::ProxyLogin => Some(&PROXY_LOGIN),
            Cause::Unsendable => Some(&UNSENDABLE),
        }
    }
}

/// What the lack of a complete reply means.
pub(crate) fn no_reply(error: SendError, secrets: &Secrets<'_>) -> Refusal {
    let partial = error.partial.as_ref();
    Refusal {
        is_answer: false,
        verdict: error.verdict(),
        code: None,
        hint: error.hint(),
        log_id: partial.and_then(|response| response.log_id(secrets)),
        wait: None,
        is_of_one_login: false,
        is_of_dead_token: false,
        maybe_spent: error.maybe_sent,
        message: error.message,
    }
}
