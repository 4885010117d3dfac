//! The words for a login that failed: what happened, what became of the consent, what to do next.

use std::time::Duration;

use crate::client::Client;
use crate::error::{Error, Hint, Kind, Result, ServerAnswer};
use crate::profile::LoginPlan;
use crate::protocol::consent::Denial;
use crate::protocol::{Refusal, Rotation};
use crate::refresh::failure;
use crate::token::Tokens;

/// The error for a reply with something wrong in it, if there is.
pub(super) fn flawed(plan: &LoginPlan, rotation: &Rotation) -> Option<Error> {
    let flaws = rotation.flaws.join(", ");
    if flaws.is_empty() {
        return None;
    }
    let subject = &plan.subject;
    let saved = if rotation.refresh_token.is_some() {
        "the pair it gave was saved"
    } else {
        "nothing of it was saved"
    };
    let message = format!("{subject}: a reply that says yes, but {flaws}; {saved}");
    let error = Error::new(Kind::Unexpected, message);
    Some(error.with_hint(Hint::fixed(
        "run feishu-refresh: a refresh brings a whole pair",
        "请运行 feishu-refresh：刷新后即可得到完整的令牌",
    )))
}

/// Refuses tokens that are no pair.
pub(super) fn check_whole(plan: &LoginPlan, tokens: &Tokens) -> Result<()> {
    let subject = &plan.subject;
    if tokens.refresh_token.is_none() {
        let message =
            format!("{subject}: the consent brought no refresh token; nothing was changed");
        return Err(Error::config(message).with_hint(Hint::fixed(
            "give the app the scope offline_access, turn on refreshing in its security settings, publish a version, and log in again",
            "请为应用开通 offline_access 权限，在安全设置中打开刷新开关并发布版本，然后重新登录",
        )));
    }
    Ok(())
}

/// The error for a refusal. `lost_before` says whether an earlier request may have brought a pair
/// that did not arrive.
pub(super) fn refused(
    client: &Client,
    plan: &LoginPlan,
    refusal: Refusal,
    lost_before: bool,
) -> Error {
    let kind = failure::kind(refusal.verdict);
    let maybe_lost = lost_before || refusal.maybe_spent;
    // With nothing but its name, a grant that is refused is taken for a refresh token.
    let is_told = kind != Kind::Reauthorize || refusal.code.is_some();
    let hint = refusal.hint.filter(|_| !maybe_lost && is_told);
    let hint = hint.cloned().unwrap_or(Hint::fixed(
        "log in again: what a consent gives works once, for a few minutes",
        "请重新登录：授权结果仅数分钟内有效，且仅可使用一次",
    ));
    let fate = if maybe_lost {
        "a reply may have been lost, and the consent used up"
    } else {
        "no login was saved"
    };
    let what = &refusal.message;
    let server = failure::server_text(refusal.code, refusal.log_id.as_deref());
    let message = format!(
        "{}: {}: {what}{server}; {fate}",
        plan.subject,
        client.host()
    );
    Error::new(kind, message)
        .with_hint(hint)
        .with_server(ServerAnswer {
            code: refusal.code,
            log_id: refusal.log_id,
        })
}

/// The error for a consent that was refused, or could not be given.
pub(crate) fn denied(denial: &Denial) -> Error {
    let what = if denial.is_refusal() {
        "the consent was refused"
    } else {
        "the consent ended in an error"
    };
    let message = format!("{what} ({}); nothing was changed", denial.words);
    let hint = denial.hint.cloned().unwrap_or(Hint::fixed(
        "read what the server says; then log in again: feishu-refresh login",
        "请查看服务器返回的信息，然后重新登录：feishu-refresh login",
    ));
    Error::new(failure::kind(denial.verdict), message).with_hint(hint)
}

/// The error for a consent that did not come.
pub(crate) fn too_late(wait: Duration) -> Error {
    let message = format!(
        "no consent came within {} s; nothing was changed",
        wait.as_secs_f64()
    );
    Error::temporary(message).with_hint(Hint::fixed(
        "log in again, or wait longer with --wait: feishu-refresh login",
        "请重新登录，或用 --wait 延长等待时间：feishu-refresh login",
    ))
}
