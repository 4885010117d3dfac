//! What cannot work is not sent (P13): a refusal by the server would say less than the reason given here.
//!
//! Checks tokens that a person may have mixed up: those from outside, and those in a login that has spent none yet. A
//! token's beginning means something only at the vendors' own endpoints.

use secrecy::{ExposeSecret, SecretString};

use super::key;
use super::plan::AppProof;
use super::view::View;
use crate::error::{Error, Hint, Result};
use crate::protocol::{Api, Shape};

/// Why a token cannot be what it was given as.
struct WrongForm {
    is: &'static str,
    hint: Hint,
}

const PLACEHOLDER: WrongForm = WrongForm {
    is: "is a placeholder",
    hint: Hint::fixed("replace it by the real one", "请换成真实的值"),
};
const JSON: WrongForm = WrongForm {
    is: "is JSON",
    hint: Hint::fixed(
        "give only the token, the text between the quotes",
        "请只提供令牌本身，即引号内的文本",
    ),
};
const SWAPPED: WrongForm = WrongForm {
    is: "is an app_access_token, and the app_access_token a refresh token: they are swapped",
    hint: Hint::fixed(
        "-a takes the app_access_token, -r the refresh token (ur- or eyJ)",
        "-a 对应 app_access_token，-r 对应 refresh_token（以 ur- 或 eyJ 开头）",
    ),
};
const USER_TOKEN: WrongForm = WrongForm {
    is: "is a user access token",
    hint: Hint::fixed(
        "a refresh token begins with ur- or eyJ: take the reply's other token",
        "refresh_token 以 ur- 或 eyJ 开头：请取返回结果中的另一个令牌",
    ),
};
const APP_TOKEN: WrongForm = WrongForm {
    is: "is an app's or a tenant's access token",
    hint: Hint::fixed(
        "a refresh token begins with ur- or eyJ, and comes from a user's consent: feishu-refresh login",
        "refresh_token 以 ur- 或 eyJ 开头，由用户授权获得：feishu-refresh login",
    ),
};
const NO_APP_TOKEN: WrongForm = WrongForm {
    is: "is a user's token",
    hint: Hint::fixed(
        "an app_access_token begins with t- or a-; with app_id and app_secret the program fetches it",
        "app_access_token 以 t- 或 a- 开头；提供 app_id 与 app_secret 即可由本程序自行获取",
    ),
};
const NOT_OF_115: WrongForm = WrongForm {
    is: "is a Feishu token, and its api is 115",
    hint: Hint::fixed(
        "omit --api 115, or give 115's own refresh token",
        "请去掉 --api 115，或提供 115 的 refresh_token",
    ),
};

impl View<'_> {
    /// Refuses what cannot be a refresh token.
    pub(super) fn check_refresh_token(&self, token: &SecretString) -> Result<()> {
        if !self.is_first() && self.new_token().is_none() {
            return Ok(());
        }
        let reason = match Shape::of(token.expose_secret()) {
            Shape::Placeholder => PLACEHOLDER,
            Shape::Json => JSON,
            Shape::Other => return Ok(()),
            _ if !self.is_at_vendors_endpoint()? => return Ok(()),
            _ if self.api() == Api::Open115 => NOT_OF_115,
            Shape::AppToken if self.has_users_token_for_apps() => SWAPPED,
            Shape::AppToken => APP_TOKEN,
            Shape::UserToken => USER_TOKEN,
            Shape::RefreshToken | Shape::Signed => return Ok(()),
        };
        Err(self.wrong_form(key::REFRESH_TOKEN, reason))
    }

    /// Refuses what cannot identify an app.
    pub(super) fn check_app_token(&self, app: &AppProof) -> Result<()> {
        let AppProof::Token { token, .. } = app else {
            return Ok(());
        };
        if !self.is_first() && self.given().app_access_token.is_none() {
            return Ok(());
        }
        let reason = match Shape::of(token.expose_secret()) {
            Shape::Placeholder => PLACEHOLDER,
            Shape::Json => JSON,
            Shape::RefreshToken | Shape::UserToken => NO_APP_TOKEN,
            Shape::AppToken | Shape::Signed | Shape::Other => return Ok(()),
        };
        Err(self.wrong_form(key::APP_ACCESS_TOKEN, reason))
    }

    /// Whether a person put the tokens there: none has been spent yet.
    fn is_first(&self) -> bool {
        self.profile().pair.spent.is_empty()
    }

    fn has_users_token_for_apps(&self) -> bool {
        let own = self.profile().app_access_token.as_ref();
        let token = self.given().app_access_token.or(own);
        let shape = token.map(|token| Shape::of(token.expose_secret()));
        matches!(shape, Some(Shape::RefreshToken | Shape::Signed))
    }

    /// Whether tokens there begin as the vendors' do.
    fn is_at_vendors_endpoint(&self) -> Result<bool> {
        if !matches!(self.api(), Api::V2 | Api::V3) {
            return Ok(true);
        }
        let address = self.endpoint()?.address;
        Ok(address.vendor().is_some() && !address.is_whole())
    }

    fn wrong_form(&self, key: &str, reason: WrongForm) -> Error {
        let message = format!("{}: the {key} {}", self.login(), reason.is);
        Error::config(message).with_hint(reason.hint)
    }
}
