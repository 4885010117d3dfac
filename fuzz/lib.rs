//! What must hold for every reply, whatever its bytes.

use feishu_refresh::internals::{Judged, ReplyTo, judge};
use serde_json::Value;

/// A secret that each request sent, in every place where one can be.
pub const SECRET: &str = "ur-Fuzz/Secret+0123456789";

/// Judges bytes as a reply: the first picks the HTTP status, the first line is the log id, the rest is the
/// body. Nothing shown to a person may contain the secret, a control character or a whole page.
pub fn judged(reply_to: ReplyTo, input: &[u8]) -> Option<(u16, &[u8], Judged)> {
    let (picked, rest) = input.split_first()?;
    let status = [200, 400, 401, 429, 500, 503][usize::from(*picked) % 6];
    let (log_id, body) = rest.split_at(rest.iter().position(|byte| *byte == b'\n')?);
    let log_id = String::from_utf8_lossy(log_id);
    let body = &body[1..];
    let headers = [
        ("x-tt-logid", log_id.as_ref()),
        ("retry-after", log_id.as_ref()),
    ];
    let judged = judge(reply_to, status, &headers, body, SECRET);
    for shown in &judged.shown {
        assert!(!shown.contains(SECRET), "{shown:?} holds the secret");
        assert!(
            !shown.chars().any(char::is_control),
            "{shown:?} is not fit for a terminal"
        );
        assert!(shown.len() < 9000, "{} bytes are shown", shown.len());
    }
    Some((status, body, judged))
}

/// The same for the reply to a refresh. A refresh token at its documented place in a success reply must be saved,
/// whatever else the reply holds (P5).
pub fn refresh(reply_to: ReplyTo, input: &[u8], under: Option<&str>) {
    let Some((200, body, judged)) = judged(reply_to, input) else {
        return;
    };
    // Of duplicate fields, readers take one or the other.
    let text = String::from_utf8_lossy(body);
    if ["refresh_token\"", "\"code\"", "\"data\"", "\\u"]
        .iter()
        .any(|key| text.matches(key).count() > 1)
    {
        return;
    }
    let Ok(reply) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    let says_yes = reply["code"] == 0
        && reply.get("error").is_none()
        && reply.get("errno").is_none()
        && reply.get("state").is_none_or(|state| state == 1);
    let tokens = under.map_or(&reply, |key| &reply[key]);
    let is_token =
        |token: &&str| token.len() > 8 && token.bytes().all(|byte| byte.is_ascii_graphic());
    if let Some(token) = tokens["refresh_token"]
        .as_str()
        .filter(is_token)
        .filter(|_| says_yes)
    {
        assert_eq!(judged.refresh_token.as_deref(), Some(token));
    }
}
