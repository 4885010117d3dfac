//! Messages for a failed refresh: what happened, what happened to the token, what to do next.

use crate::client::Client;
use crate::error::{Error, Hint, Kind, ServerAnswer};
use crate::profile::RefreshPlan;
use crate::protocol::{Authentication, Refusal, Rotation, Verdict};
use crate::store::KeptReply;

const AGAIN: Hint = Hint::fixed("run again later", "请稍后重试");
const SOON: Hint = Hint::fixed(
    "run again soon: if the server then calls the token spent, log in again: feishu-refresh login",
    "请尽快重试：若届时提示令牌已被使用，请重新登录：feishu-refresh login",
);
const CONSENT: Hint = Hint::fixed(
    "log in again: feishu-refresh login (115: get a new refresh token as its documents say)",
    "请重新登录：feishu-refresh login（115：请按其文档重新获取 refresh_token）",
);
/// For a token that is refused where there was no file before.
pub(super) const FRESH_DISK: Hint = Hint::fixed(
    "there was no file here: an earlier run may have spent this token on another disk, and saved the next one there (docs/recipes.md, GitHub Actions); if it is lost, log in again: feishu-refresh login",
    "此处原本没有配置文件：可能先前的运行已在其他磁盘上使用了此令牌，并把新令牌保存在那里（见 docs/recipes.md 的 GitHub Actions 一节）；若已丢失，请重新登录：feishu-refresh login",
);
const STANDARD_CONSENT: Hint = Hint::fixed(
    "get a new refresh token as this server's documents say, and give it once with -r (with a store: in a file, by store import); if another host, or a secret restored at each start, holds this one too, the live one is there",
    "请按该服务器的文档重新获取 refresh_token，并用 -r 传入一次（使用数据库时：写入文件后用 store import 移入）；若其他主机或每次启动时恢复的密钥也持有此令牌，有效的令牌在那里",
);
const NOT_THIS_APP: Hint = Hint::fixed(
    "even a fresh app_access_token is refused: check that app_id and app_secret belong to the same app and service as the refresh token",
    "刚获取的 app_access_token 也被拒绝：请核对 app_id 与 app_secret 是否与 refresh_token 属于同一应用与同一服务",
);
const SAVED: Hint = Hint::fixed(
    "run again; if it persists, check the address and any proxy on the way to it",
    "请重试；若持续出现，请检查服务地址及途中的代理",
);
const LOOK: Hint = Hint::fixed(
    "check the address and any proxy on the way to it",
    "请检查服务地址及途中的代理",
);

const UNKNOWN_CODE: Hint = Hint::fixed(
    "undocumented code: follow the server's message, and give its support the log id",
    "文档中没有这个错误码：请以服务器返回的信息为准，并将 log id 提供给技术支持",
);

/// What happened to the token.
const NO_CHANGE: &str = "the refusal changed no saved token";
const LOST: &str = "a reply may have been lost, and the refresh token spent";

/// The error for a final refusal. `lost_before` says whether an earlier attempt may have
/// spent the token without our seeing the reply.
pub(super) fn refused(
    client: &Client,
    plan: &RefreshPlan,
    refusal: Refusal,
    lost_before: bool,
) -> Error {
    let kind = kind(refusal.verdict);
    let maybe_lost = lost_before || refusal.maybe_spent;
    let (fate, hint) = match kind {
        _ if refusal.verdict == Verdict::Unusable => ("the refresh token may be spent", LOOK),
        Kind::Reauthorize if lost_before => (
            "an earlier attempt got no usable reply: if it spent the token, its successor is lost",
            CONSENT,
        ),
        Kind::Reauthorize => (NO_CHANGE, CONSENT),
        Kind::Temporary if maybe_lost => (LOST, SOON),
        Kind::Temporary => ("the refresh token was not spent", AGAIN),
        _ if maybe_lost => (LOST, LOOK),
        Kind::Config => ("the refresh token was not spent", LOOK),
        _ if refusal.code.is_some() => (NO_CHANGE, UNKNOWN_CODE),
        _ => (NO_CHANGE, LOOK),
    };
    let own = match refusal.verdict {
        // This program cannot ask for its consent.
        Verdict::Reauthorize if plan.address.is_whole() => Some(STANDARD_CONSENT),
        // A lost reply matters more than the server's code.
        Verdict::Reauthorize if lost_before => None,
        Verdict::Temporary | Verdict::RateLimit if maybe_lost => None,
        Verdict::AppToken if plan.app.renewable().is_some() => Some(NOT_THIS_APP),
        // The table's advice is for endpoints that take one.
        Verdict::AppToken if plan.api.authentication() != Authentication::AppToken => None,
        _ => refusal.hint.cloned(),
    };
    let is_of_dead_token = refusal.is_of_dead_token;
    let error = error(client, plan, refusal, fate)
        .with_hint(own.unwrap_or(hint))
        .of_dead_token(is_of_dead_token);
    if maybe_lost {
        error.with_doubt()
    } else {
        error
    }
}

/// The error for an `app_access_token` that could not be fetched.
pub(super) fn no_app_token(client: &Client, plan: &RefreshPlan, mut refusal: Refusal) -> Error {
    let hint = match refusal.verdict {
        // No user or refresh token was involved, and no app token sent.
        Verdict::Reauthorize | Verdict::AppToken => {
            refusal.verdict = Verdict::Config;
            LOOK
        }
        _ if kind(refusal.verdict) == Kind::Temporary => refusal.hint.cloned().unwrap_or(AGAIN),
        _ => refusal.hint.cloned().unwrap_or(LOOK),
    };
    refusal.message = format!("cannot fetch an app_access_token: {}", refusal.message);
    error(client, plan, refusal, "the refresh token was not sent").with_hint(hint)
}

/// What a verdict means for the run.
pub(crate) fn kind(verdict: Verdict) -> Kind {
    match verdict {
        Verdict::Reauthorize => Kind::Reauthorize,
        Verdict::Config | Verdict::AppToken => Kind::Config,
        Verdict::Temporary | Verdict::RateLimit => Kind::Temporary,
        Verdict::Unusable | Verdict::Unexpected => Kind::Unexpected,
    }
}

fn error(client: &Client, plan: &RefreshPlan, refusal: Refusal, fate: &str) -> Error {
    let what = &refusal.message;
    let wait = match refusal.wait {
        Some(wait) => format!("; it asks to wait {} s", wait.as_secs()),
        None => String::new(),
    };
    let server = server_text(refusal.code, refusal.log_id.as_deref());
    let (subject, host) = (&plan.subject, client.host());
    let message = format!("{subject}: {host}: {what}{server}{wait}; {fate}");
    Error::new(kind(refusal.verdict), message).with_server(ServerAnswer {
        code: refusal.code,
        log_id: refusal.log_id,
    })
}

/// An error after an earlier attempt may have spent the token.
pub(super) fn after_lost_reply(error: &Error) -> Error {
    let message =
        format!("{error}; a reply may have been lost before, and the refresh token spent");
    let told = Error::new(error.kind(), message)
        .with_hint(SOON)
        .with_doubt();
    match error.server() {
        Some(server) => told.with_server(server.clone()),
        None => told,
    }
}

/// The error for a success reply with a flaw, if it has one.
pub(super) fn flawed(client: &Client, plan: &RefreshPlan, rotation: &Rotation) -> Option<Error> {
    if rotation.flaws.is_empty() {
        return None;
    }
    let saved = match (&rotation.refresh_token, &rotation.access_token) {
        _ if rotation.is_unread => "the refresh token it gave cannot be saved as one",
        (Some(_), _) => "the refresh token it gave was saved",
        (None, Some(_)) => "the access token it gave was saved, the old refresh token stays",
        (None, None) => "nothing of it was saved",
    };
    let flaws = rotation.flaws.join(", ");
    let server = server_text(None, rotation.log_id.as_deref());
    let message = format!(
        "{}: {}: a success reply, but {flaws}{server}; {saved}",
        plan.subject,
        client.host()
    );
    let answer = ServerAnswer {
        code: None,
        log_id: rotation.log_id.clone(),
    };
    let hint = match rotation.refresh_token {
        Some(_) => SAVED,
        None => LOOK,
    };
    Some(
        Error::new(Kind::Unexpected, message)
            .with_hint(hint)
            .with_server(answer),
    )
}

/// The same error, with the place where the reply was kept.
pub(crate) fn naming(error: &Error, kept: KeptReply) -> Error {
    let message = format!("{error}; the reply is kept in {}", kept.path.display());
    let server = error.server().cloned().unwrap_or_default();
    Error::new(error.kind(), message)
        .with_server(server)
        .with_doubt()
        .with_hint(kept.hint)
}

/// Code and log id, as a message shows them.
pub(crate) fn server_text(code: Option<i64>, log_id: Option<&str>) -> String {
    match (code, log_id) {
        (Some(code), Some(id)) => format!(" (code {code}, log id {id})"),
        (Some(code), None) => format!(" (code {code})"),
        (None, Some(id)) => format!(" (log id {id})"),
        (None, None) => String::new(),
    }
}
