//! What came from outside a store: checked before any store is touched.

use secrecy::{ExposeSecret, SecretString};

use super::key;
use crate::error::{Error, Hint, Result};
use crate::protocol::{Api, Authentication};
use crate::token;

/// What came from outside the store, by flag, environment or a caller's argument.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Overrides<'a> {
    pub(crate) app_access_token: Option<&'a SecretString>,
    pub(crate) refresh_token: Option<&'a SecretString>,
    pub(crate) app_id: Option<&'a str>,
    pub(crate) app_secret: Option<&'a SecretString>,
    pub(crate) app_ticket: Option<&'a SecretString>,
    pub(crate) scope: Option<&'a str>,
    pub(crate) api: Option<Api>,
    pub(crate) lark: bool,
    pub(crate) base_url: Option<&'a str>,
    pub(crate) accounts_url: Option<&'a str>,
    pub(crate) token_url: Option<&'a str>,
}

impl Overrides<'_> {
    /// The endpoint, as far as what was given shows it.
    fn api(&self) -> Api {
        match (self.api, self.refresh_token) {
            (Some(api), _) => api,
            (None, _) if self.token_url.is_some() => Api::V3,
            (None, Some(token)) => Api::of_form(token.expose_secret(), true),
            (None, None) => Api::V1,
        }
    }

    /// Whether it needs nothing from a file.
    pub(crate) fn is_enough(&self) -> bool {
        let app = self.app_id.is_some() && self.app_secret.is_some();
        let proves_app = match self.api().authentication() {
            Authentication::AppToken => self.app_access_token.is_some() || app,
            Authentication::App => app || self.token_url.is_some() && self.app_id.is_some(),
            Authentication::None => true,
        };
        self.refresh_token.is_some() && proves_app
    }

    /// What a run must give that is to make a file or a section.
    pub(crate) fn missing(&self) -> Hint {
        match self.api().authentication() {
            Authentication::AppToken => Hint::fixed(
                "check -c and -p; a run with -r, --app-id and --app-secret (or -a in place of the two) makes it, and so does feishu-refresh login",
                "请检查 -c 和 -p；用 -r、--app-id 与 --app-secret（或以 -a 代替后两者）运行一次即可创建，也可用 feishu-refresh login",
            ),
            Authentication::App => Hint::fixed(
                "check -c and -p; a run with -r, --app-id and --app-secret makes it, and so does feishu-refresh login",
                "请检查 -c 和 -p；用 -r、--app-id 与 --app-secret 运行一次即可创建，也可用 feishu-refresh login",
            ),
            Authentication::None => Hint::fixed(
                "check -c and -p; a run with -r makes it",
                "请检查 -c 和 -p；用 -r 运行一次即可创建",
            ),
        }
    }

    /// Refuses what cannot be meant, before any file is touched.
    pub(crate) fn check(&self) -> Result<()> {
        let app_id = self.app_id.map(SecretString::from);
        let values = [
            (key::APP_ACCESS_TOKEN, self.app_access_token),
            (key::REFRESH_TOKEN, self.refresh_token),
            (key::APP_ID, app_id.as_ref()),
            (key::APP_SECRET, self.app_secret),
            (key::APP_TICKET, self.app_ticket),
        ];
        values
            .into_iter()
            .try_for_each(|(name, value)| check_given(name, value))
    }
}

fn check_given(name: &str, value: Option<&SecretString>) -> Result<()> {
    match value.map(ExposeSecret::expose_secret) {
        Some("") => Err(
            Error::config(format!("the {name} given is empty")).with_hint(Hint::fixed(
                "a variable in the script that calls may be unset",
                "调用脚本中的变量可能未设置",
            )),
        ),
        _ => match value {
            Some(value) if !token::is_bare(value.expose_secret()) => {
                Err(more_than_a_token(&format!("the {name} given"), value))
            }
            _ => Ok(()),
        },
    }
}

/// The server would only call the whole invalid, as if a new consent were needed.
pub(crate) fn more_than_a_token(what: &str, value: &SecretString) -> Error {
    let text = value.expose_secret();
    let is = match text.trim_start() {
        json if json.starts_with(['{', '[']) => "is JSON, which is more than a token",
        _ if text.contains('\n') => "holds more than a token: several lines",
        _ => "holds more than a token",
    };
    Error::config(format!("{what} {is}")).with_hint(Hint::fixed(
        "remove quotes, spaces and comments around it; replace an example by the real one",
        "请去掉其前后的引号、空格和注释，或将示例换成真实的值",
    ))
}
