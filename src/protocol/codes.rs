//! The one table of the servers' codes: what each means for the run, and what a person can do.
//!
//! Codes are looked up whatever the endpoint. An unknown code is shown with its message and log id, and nothing is
//! concluded from it. Replies following RFC 6749 may name an error instead of a code: those names have a separate
//! table, after the codes.

use std::time::Duration;

use crate::error::Hint;

/// What a refusal means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// This refresh token or this user is refused for good.
    Reauthorize,
    /// Something in the configuration is wrong.
    Config,
    /// The `app_access_token` is invalid; the refresh token was not checked.
    AppToken,
    /// A retry may work.
    Temporary,
    /// Too many requests; it works after a wait.
    RateLimit,
    /// A reply with a success status that cannot be understood: it may hold what was asked for.
    Unusable,
    /// The table does not explain it.
    Unexpected,
}

/// What the table says about a code.
pub(super) struct Code {
    codes: &'static [i64],
    pub(super) verdict: Verdict,
    pub(super) hint: Hint,
    /// The minimum wait before asking again.
    pub(super) wait: Option<Duration>,
    /// Whether only this login must wait, not its whole app.
    pub(super) is_of_one_login: bool,
    /// Whether it says that the refresh token is dead, not that a user or an app is refused.
    pub(super) is_of_dead_token: bool,
}

/// For a refresh token that is invalid, expired, spent, or of the other version.
pub(super) const NOT_THIS_REFRESH_TOKEN: i64 = 20026;

/// For a consent on another device that has not been given yet.
pub(super) const STILL_AWAITED: i64 = 20080;

/// The entry of a code; none if no document names it.
pub(super) fn look_up(code: i64) -> Option<&'static Code> {
    TABLE.iter().find(|entry| entry.codes.contains(&code))
}

/// The entry of an error by its name in RFC 6749 (5.2; 4.1.2.1 for transient ones).
pub(super) fn look_up_error(name: &str) -> Option<&'static Code> {
    by_name(ERRORS, name)
}

/// The entry of an error that a consent ended in (RFC 6749, 4.1.2.1), in a browser or on another device.
pub(super) fn look_up_consent_error(name: &str) -> Option<&'static Code> {
    by_name(CONSENT_ERRORS, name).or_else(|| look_up_error(name))
}

/// Entries of errors with names instead of codes.
type CodesByName = [(&'static [&'static str], Code)];

fn by_name(table: &'static CodesByName, name: &str) -> Option<&'static Code> {
    let (_, entry) = table.iter().find(|(names, _)| names.contains(&name))?;
    Some(entry)
}

const fn code(
    codes: &'static [i64],
    verdict: Verdict,
    english: &'static str,
    chinese: &'static str,
) -> Code {
    Code {
        codes,
        verdict,
        hint: Hint::fixed(english, chinese),
        wait: None,
        is_of_one_login: false,
        is_of_dead_token: false,
    }
}

impl Code {
    const fn after(mut self, seconds: u64) -> Self {
        self.wait = Some(Duration::from_secs(seconds));
        self
    }

    const fn of_one_login(mut self) -> Self {
        self.is_of_one_login = true;
        self
    }

    const fn of_dead_token(mut self) -> Self {
        self.is_of_dead_token = true;
        self
    }
}

use Verdict::{AppToken, Config, RateLimit, Reauthorize, Temporary};

/// From the error tables of the vendors' pages on refreshing (v1, v2 and 115), and from what clients
/// have reported since.
static TABLE: &[Code] = &[
    code(
        &[20001, 20063],
        Config,
        "the server calls the request incomplete: check that the tokens were copied whole",
        "服务器认为请求缺少参数或格式有误：请检查令牌是否复制完整",
    ),
    code(
        &[20002, 10003, 10012, 10014, 99_991_543],
        Config,
        "app id or app secret is wrong: check them in the developer console; an app of Lark needs --lark",
        "app_id 或 app_secret 有误：请在开发者后台核对；Lark 的应用需加 --lark",
    ),
    code(
        &[20003, 20004, 20065],
        Reauthorize,
        "the authorisation code is unknown, expired or used: authorise again, it is valid for five minutes",
        "授权码无效、已过期或已被使用：请重新授权，授权码五分钟内有效且仅可使用一次",
    ),
    code(
        &[20007],
        Temporary,
        "the server could not make a token this time: run again",
        "服务器本次未能生成令牌：请重试",
    ),
    code(
        &[20008],
        Reauthorize,
        "the user no longer exists: get a new refresh token with a valid account",
        "用户不存在：请换用有效帐号重新授权，获取新的 refresh_token",
    ),
    code(
        &[20009],
        Config,
        "the tenant has not installed the app: ask its administrator to install it",
        "租户未安装该应用：请联系租户管理员安装",
    ),
    code(
        &[20010],
        Reauthorize,
        "the user may not use this app: have the user given access, then authorise again",
        "用户无应用使用权限：请先为用户开通，再重新授权",
    ),
    code(
        &[
            20013, 20014, 99_991_661, 99_991_663, 99_991_664, 99_991_668, 99_991_671, 99_991_677,
        ],
        AppToken,
        "app_access_token is valid for at most two hours: give app_id and app_secret, and the program fetches its own",
        "app_access_token 最长有效两小时：请提供 app_id 与 app_secret，由本程序自行获取",
    ),
    code(
        &[20021],
        Reauthorize,
        "the user has left the company: get a new refresh token with a valid account",
        "用户已离职：请换用有效帐号重新授权，获取新的 refresh_token",
    ),
    code(
        &[20022],
        Reauthorize,
        "the user is frozen: have the account unfrozen, then authorise again",
        "用户已被冻结：请先解冻帐号，再重新授权",
    ),
    code(
        &[20023],
        Reauthorize,
        "the user is not registered: finish the registration, then authorise again",
        "用户未注册：请先完成注册，再重新授权",
    ),
    code(
        &[20024],
        Config,
        "the refresh token belongs to another app: use the tokens and credentials of one app",
        "refresh_token 属于另一个应用：请使用同一应用的令牌与凭证",
    ),
    code(
        &[20025],
        Config,
        "app id or app secret is missing: check how app_access_token was obtained",
        "缺少 app_id 或 app_secret：请检查 app_access_token 的获取方式",
    ),
    code(
        &[20026],
        Reauthorize,
        "the refresh token is expired, spent or of another version of the api; if another host, or a secret restored at each start, holds it too, the live one is there: otherwise log in again: feishu-refresh login",
        "refresh_token 已过期、已被使用或属于其他版本的接口；若其他主机或每次启动时恢复的密钥也持有它，有效的令牌在那里：否则请重新登录：feishu-refresh login",
    )
    .of_dead_token(),
    code(
        &[20027],
        Config,
        "the app lacks the scope offline_access, or has not published it: add it in the developer console, publish a version, then log in again: feishu-refresh login",
        "应用未开通或未发布 offline_access 权限：请在开发者后台开通并发布版本，然后重新登录：feishu-refresh login",
    ),
    code(
        &[20028],
        Config,
        "the app id is not valid: check the app that app_access_token was obtained for",
        "app_id 无效：请检查 app_access_token 所属的应用",
    ),
    code(
        &[20029, 20071],
        Config,
        "the redirect URI is not the one that is registered with the app: make them the same",
        "redirect_uri 与应用中登记的不一致：请保持一致",
    ),
    code(
        &[20036],
        Config,
        "the server does not know this grant type: check which api the token belongs to",
        "服务器不支持该授权类型：请检查令牌所属的接口版本",
    ),
    code(
        &[20037],
        Reauthorize,
        "the refresh token has expired: log in again: feishu-refresh login",
        "refresh_token 已过期：请重新登录：feishu-refresh login",
    )
    .of_dead_token(),
    code(
        &[20038, 20073],
        Reauthorize,
        "the refresh token is spent or expired; if another host, or a secret restored at each start, holds it too, the live one is there: otherwise log in again: feishu-refresh login",
        "refresh_token 已被使用或已过期；若其他主机或每次启动时恢复的密钥也持有它，有效的令牌在那里：否则请重新登录：feishu-refresh login",
    )
    .of_dead_token(),
    code(
        &[20042, 20069],
        Config,
        "the app is disabled: have it enabled in the developer console",
        "应用未启用：请在开发者后台启用",
    ),
    code(
        &[20043],
        Config,
        "a scope that does not exist or that the app does not have: check --scope and the scopes that the app has published",
        "所请求的权限不存在或应用未开通：请检查 --scope 以及应用已发布的权限",
    ),
    code(
        &[20046],
        Config,
        "a Feishu app on Lark's host, or the other way round: check --lark and the base URL",
        "飞书应用使用了 Lark 的地址，或相反：请检查 --lark 与 base URL",
    ),
    code(
        &[20048],
        Config,
        "this service does not know the app: check the app id; an app of Lark needs --lark",
        "该服务没有此应用：请检查 app_id；Lark 的应用需加 --lark",
    ),
    code(
        &[20049],
        Reauthorize,
        "the proof key of this login does not match: authorise again",
        "PKCE 校验失败：请重新授权",
    ),
    code(
        &[20050],
        Temporary,
        "the server failed: run again, and tell support the log id if it persists",
        "服务器内部错误：请重试；若持续出现，请将 log id 提供给技术支持",
    ),
    code(
        &[20064],
        Reauthorize,
        "the refresh token was revoked or is spent; if another host, or a secret restored at each start, holds it too, the live one is there: otherwise log in again: feishu-refresh login",
        "refresh_token 已被撤销或已被使用；若其他主机或每次启动时恢复的密钥也持有它，有效的令牌在那里：否则请重新登录：feishu-refresh login",
    )
    .of_dead_token(),
    code(
        &[20066],
        Reauthorize,
        "something is wrong with the user's account: have it checked, then authorise again",
        "用户状态异常：请检查该帐号后重新授权",
    ),
    code(
        &[20067, 20068],
        Config,
        "the requested scopes repeat or go beyond what the user granted: check them",
        "所请求的权限重复，或超出用户授权范围：请检查",
    ),
    code(
        &[20070],
        Config,
        "the request authenticates the client in two ways at once: a proxy may add one",
        "请求同时使用了两种客户端认证方式：可能由中间代理附加",
    ),
    code(
        &[20072],
        Temporary,
        "the server cannot be reached at the moment: run again later",
        "服务暂不可用：请稍后重试",
    ),
    code(
        &[20074],
        Config,
        "this app may not refresh: turn the switch on in its security settings, and publish a version",
        "该应用未开启刷新功能：请在安全设置中打开开关并发布版本",
    ),
    code(
        &[STILL_AWAITED],
        Temporary,
        "the user has not consented yet: run again after that",
        "用户尚未授权：请在授权后重试",
    ),
    code(
        &[21000, 21001],
        Reauthorize,
        "the tenant's access policy blocks this user: pass its check, then authorise again",
        "被租户访问策略拦截：请先通过校验，再重新授权",
    ),
    code(
        &[99_991_662],
        Config,
        "the app is disabled in this tenant: ask its administrator to enable it",
        "应用在该租户中已停用：请联系租户管理员启用",
    ),
    code(
        &[99_991_672, 99_991_679],
        Config,
        "the app or the user's token lacks a scope: publish it with the app, then consent to it: feishu-refresh login --scope \"...\"",
        "应用或用户令牌缺少权限：请为应用开通并发布该权限，然后重新授权：feishu-refresh login --scope \"…\"",
    ),
    code(
        &[99_991_400, 1_000_004, 1_000_005],
        RateLimit,
        "too many requests in a short time: run again after a minute",
        "请求过于频繁，触发频率限制：请一分钟后重试",
    ),
    code(
        &[
            40_140_100, 40_140_101, 40_140_102, 40_140_103, 40_140_104, 40_140_105, 40_140_106,
            40_140_107, 40_140_108, 40_140_109, 40_140_110, 40_140_111, 40_140_112, 40_140_113,
            40_140_118, 40_140_122, 40_140_123, 40_140_124, 40_140_125, 40_140_126, 40_140_127,
            40_140_128, 40_140_129, 40_140_130, 40_140_131, 40_140_132, 40_140_133, 40_140_134,
            40_140_135, 40_140_136, 40_100_000,
        ],
        Config,
        "115 rejects the request, the app or the developer account: read its message",
        "115 认为请求、应用或开发者帐号有问题：请查看其返回信息",
    ),
    code(
        &[40_140_114, 40_140_115],
        Config,
        "115 cannot read the refresh token: check that it was copied whole",
        "115 无法识别 refresh_token：请检查是否复制完整",
    ),
    code(
        &[40_140_116, 40_140_119, 40_140_120, 40_140_137],
        Reauthorize,
        "the refresh token is dead for 115: withdrawn, expired or spent; if another host, or a secret restored at each start, holds it too, the live one is there: otherwise authorise again to get a new one",
        "该 refresh_token 在 115 已失效：授权已撤销、已过期或已被使用；若其他主机或每次启动时恢复的密钥也持有它，有效的令牌在那里：否则请重新授权以获取新的令牌",
    )
    .of_dead_token(),
    code(
        &[40_101_017],
        Reauthorize,
        "the authorisation was withdrawn at 115: authorise again to get a new refresh token",
        "115 的授权已被撤销：请重新授权以获取新的 refresh_token",
    ),
    code(
        &[40_140_117],
        RateLimit,
        "too many requests to 115: run again after a minute",
        "115 刷新过于频繁：请一分钟后重试",
    )
    .after(60)
    .of_one_login(),
    code(
        &[40_140_121, 40_110_000],
        Temporary,
        "115 could not refresh this time: run again",
        "115 本次刷新失败：请重试",
    ),
];

/// What a server following RFC 6749 says where Feishu's gives a code.
static ERRORS: &CodesByName = &[
    (
        &["invalid_grant"],
        code(
            &[],
            Reauthorize,
            "the refresh token is expired, spent, revoked or another app's; if another host, or a secret restored at each start, holds it too, the live one is there: otherwise log in again: feishu-refresh login",
            "refresh_token 已过期、已被使用、已被撤销或属于其他应用；若其他主机或每次启动时恢复的密钥也持有它，有效的令牌在那里：否则请重新登录：feishu-refresh login",
        )
        .of_dead_token(),
    ),
    (
        &["invalid_client", "unauthorized_client"],
        code(
            &[],
            Config,
            "the server does not accept this app: check app id and app secret, and what the app may do",
            "服务器不接受该应用：请核对 app_id 与 app_secret，以及应用的权限",
        ),
    ),
    (
        &["invalid_request", "unsupported_grant_type"],
        code(
            &[],
            Config,
            "the server does not understand the request: check the address and the api",
            "服务器无法理解该请求：请检查服务地址与 api",
        ),
    ),
    (
        &["invalid_scope"],
        code(
            &[],
            Config,
            "the requested scopes go beyond what the user granted: check them",
            "所请求的权限超出用户授权范围：请检查",
        ),
    ),
    (
        &["server_error", "temporarily_unavailable"],
        code(
            &[],
            Temporary,
            "a temporary server failure: run again later",
            "服务器暂时出错：请稍后重试",
        ),
    ),
];

/// What an error name means for a consent, where it differs from a refresh.
static CONSENT_ERRORS: &CodesByName = &[
    (
        &["access_denied"],
        code(
            &[],
            Reauthorize,
            "log in again once the user agrees",
            "请在用户同意后重新登录",
        ),
    ),
    (
        &["invalid_scope"],
        code(
            &[],
            Config,
            "a scope that does not exist or that the app does not have: check --scope and the scopes that the app has published",
            "所请求的权限不存在或应用未开通：请检查 --scope 以及应用已发布的权限",
        ),
    ),
    (
        &["unsupported_response_type"],
        code(
            &[],
            Config,
            "this service gives no authorisation codes: check the accounts URL",
            "该服务不提供授权码：请检查 accounts URL",
        ),
    ),
    (
        &["server_error", "temporarily_unavailable"],
        code(
            &[],
            Temporary,
            "a temporary server failure: log in again later",
            "服务器暂时出错：请稍后重新登录",
        ),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_stands_twice_and_every_hint_has_two_languages() {
        let mut seen = Vec::new();
        let named = ERRORS.iter().chain(CONSENT_ERRORS);
        for entry in TABLE.iter().chain(named.map(|(_, entry)| entry)) {
            for code in entry.codes {
                assert!(!seen.contains(code), "{code} stands twice");
                seen.push(*code);
            }
            assert!(entry.hint.english.is_ascii(), "{}", entry.hint.english);
            assert!(!entry.hint.chinese.is_ascii(), "{}", entry.hint.chinese);
        }
    }
}
