//! The one table of the servers' codes: what each means for the run, and what a person can do.
//!
//! Codes are looked up whatever the endpoint. One that is not here is shown with its message and
//! log id, and nothing is concluded from it.

use crate::error::Hint;

/// What a refusal means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// This refresh token or this user is refused for good.
    Reauthorize,
    /// Something that was configured is wrong.
    Config,
    /// The `app_access_token` is bad; the refresh token was not looked at.
    AppToken,
    /// It may work when tried again.
    Temporary,
    /// Too many requests; it works after a wait.
    RateLimit,
    /// The reply has the right form but says neither yes nor no: asking again may tell.
    Unusable,
    /// Nothing here explains it.
    Unexpected,
}

/// What the table says of a code.
pub(super) struct Code {
    codes: &'static [i64],
    pub(super) verdict: Verdict,
    pub(super) hint: Hint,
}

/// The entry of a code; none if no document names it.
pub(super) fn look_up(code: i64) -> Option<&'static Code> {
    TABLE.iter().find(|entry| entry.codes.contains(&code))
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
    }
}

use Verdict::{AppToken, Config, RateLimit, Reauthorize, Temporary};

/// From the error tables of "refresh `user_access_token`" (v1) and of the common errors of the
/// open platform.
static TABLE: &[Code] = &[
    code(
        &[20001],
        Config,
        "the server calls the request incomplete: check that both tokens were copied whole",
        "服务器认为请求缺少参数或参数有误：请检查两个令牌是否复制完整",
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
        "the user does not exist any more: get a new refresh token with a valid account",
        "用户不存在：请换用有效帐号重新授权，获取新的 refresh_token",
    ),
    code(
        &[20009],
        Config,
        "the tenant has not installed the app: ask its administrator to install it",
        "租户未安装该应用：请联系租户管理员安装",
    ),
    code(
        &[
            20014, 99_991_661, 99_991_663, 99_991_664, 99_991_668, 99_991_671,
        ],
        AppToken,
        "app_access_token lives two hours at most: get a new one and give it with -a or in the file",
        "app_access_token 最长有效两小时：请重新获取，用 -a 传入或写入配置文件",
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
        "the refresh token belongs to another app than app_access_token: use tokens of one app",
        "refresh_token 与 app_access_token 不属于同一个应用：请使用同一应用的令牌",
    ),
    code(
        &[20025],
        Config,
        "the server misses app_id or app_secret: check how app_access_token was obtained",
        "缺少 app_id 或 app_secret：请检查 app_access_token 的获取方式",
    ),
    code(
        &[20026],
        Reauthorize,
        "the refresh token is expired, spent or not a v1 token: authorise again in a browser to get a new one",
        "refresh_token 已过期、已被使用或不是 v1 令牌：请在浏览器中重新授权以获取新的令牌",
    ),
    code(
        &[20028],
        Config,
        "the app id is not valid: check the app that app_access_token was obtained for",
        "app_id 无效：请检查 app_access_token 所属的应用",
    ),
    code(
        &[20050],
        Temporary,
        "the server failed: run again, and tell support the log id if it goes on",
        "服务器内部错误：请重试；若持续出现，请将 log id 提供给技术支持",
    ),
    code(
        &[99_991_400],
        RateLimit,
        "too many requests in a short time: run again after a minute",
        "请求过于频繁，触发频率限制：请一分钟后重试",
    ),
    code(
        &[99_991_543],
        Config,
        "app id or app secret is wrong: check them in the developer console",
        "app_id 或 app_secret 有误：请在开发者后台核对",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_stands_twice_and_every_hint_has_two_languages() {
        let mut seen = Vec::new();
        for entry in TABLE {
            for code in entry.codes {
                assert!(!seen.contains(code), "{code} stands twice");
                seen.push(*code);
            }
            assert!(entry.hint.english.is_ascii(), "{}", entry.hint.english);
            assert!(!entry.hint.chinese.is_ascii(), "{}", entry.hint.chinese);
        }
    }
}
