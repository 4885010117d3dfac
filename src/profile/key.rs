//! The names of a login's values, in a file and in messages.

use crate::protocol::Api;

pub(crate) const API: &str = "api";
pub(crate) const BASE_URL: &str = "base_url";
pub(crate) const ACCOUNTS_URL: &str = "accounts_url";
pub(crate) const TOKEN_URL: &str = "token_url";
pub(crate) const APP_ID: &str = "app_id";
pub(crate) const APP_SECRET: &str = "app_secret";
pub(crate) const APP_TICKET: &str = "app_ticket";
pub(crate) const APP_ACCESS_TOKEN: &str = "app_access_token";
pub(crate) const APP_EXPIRES_AT: &str = "app_access_token_expires_at";
pub(crate) const SCOPE: &str = "scope";
pub(crate) const REDIRECT_URI: &str = "redirect_uri";
pub(crate) const REFRESH_TOKEN: &str = "refresh_token";
pub(crate) const REFRESH_EXPIRES_AT: &str = "refresh_token_expires_at";
pub(crate) const REFRESH_SPENT: &str = "refresh_token_spent";

/// The access token's key: 115 calls it otherwise.
pub(crate) fn access_token(api: Api) -> &'static str {
    match api {
        Api::Open115 => "access_token",
        _ => "user_access_token",
    }
}

/// The key of its expiry.
pub(crate) fn access_expires_at(api: Api) -> &'static str {
    match api {
        Api::Open115 => "access_token_expires_at",
        _ => "user_access_token_expires_at",
    }
}
