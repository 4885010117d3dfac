//! The proxy that the environment names for a host.
//!
//! Promises:
//! - A proxy setting is never ignored: an invalid address is an error, not a way
//!   around the proxy. An empty variable counts as unset, a bare `host:port` as HTTP, as with curl.
//! - `NO_PROXY` means what it means to reqwest. It is not consulted for a loopback address.
//! - No message contains a proxy's user or password.

use std::env;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{Proxy, Url};

use crate::error::{Error, Hint, Result};

/// In order of precedence.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// The proxy on the way to an HTTPS address, and its host and port for messages.
///
/// # Errors
/// [`crate::Kind::Config`] if the environment names something that is not a proxy.
pub(super) fn from_environment(target: &Url) -> Result<Option<(Proxy, String)>> {
    let Some((variable, text)) = VARIABLES.into_iter().find_map(set) else {
        return Ok(None);
    };
    let exempt = ["NO_PROXY", "no_proxy"].into_iter().find_map(set);
    let exempt = exempt.map_or_else(String::new, |(_, text)| text);
    if !is_used("http://proxy", &exempt, target) {
        return Ok(None);
    }
    let wrong = |why: &str| wrong(variable, why);
    let url = checked(&text).map_err(wrong)?;
    // reqwest would bypass a proxy that it cannot parse.
    if !is_used(url.as_str(), "", target) {
        return Err(wrong("is not an address"));
    }
    let name = format!(
        "{}:{}",
        url.host_str().unwrap_or_default(),
        url.port_or_known_default().unwrap_or(1080)
    );
    let proxy = Proxy::all(url).map_err(|_| wrong("is not an address"))?;
    Ok(Some((proxy, name)))
}

/// A variable's name and value, if it is set and not empty.
fn set(name: &'static str) -> Option<(&'static str, String)> {
    let value = env::var_os(name)?.to_string_lossy().trim().to_owned();
    (!value.is_empty()).then_some((name, value))
}

/// Whether reqwest would take this proxy, with these exemptions.
fn is_used(proxy: &str, exempt: &str, target: &Url) -> bool {
    // reqwest sends nothing to an address that it cannot parse.
    let Ok(target) = target.as_str().parse() else {
        return true;
    };
    let matcher = Matcher::builder().all(proxy).no(exempt).build();
    matcher.intercept(&target).is_some()
}

/// A proxy's address, or what is wrong with it.
fn checked(text: &str) -> Result<Url, &'static str> {
    let parsed = if text.contains("://") {
        Url::parse(text)
    } else {
        Url::parse(&format!("http://{text}"))
    };
    let url = parsed.map_err(|_| "is not an address")?;
    match url.scheme() {
        "http" | "https" | "socks5" | "socks5h" => {}
        "socks4" | "socks4a" if url.username().is_empty() && url.password().is_none() => {}
        "socks4" | "socks4a" => return Err("has a user name, which cannot be sent by SOCKS 4"),
        _ => return Err("has a scheme that no proxy has"),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("names no host");
    }
    // Most likely a part of the password.
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("has more after host and port");
    }
    Ok(url)
}

/// The address is not repeated: it may hold a password.
fn wrong(variable: &str, why: &str) -> Error {
    Error::config(format!("the proxy's address in {variable} {why}")).with_hint(Hint::fixed(
        "a proxy's address looks like http://HOST:PORT or socks5h://USER:PASSWORD@HOST:PORT, with characters in a password other than letters and digits as %XX; schemes: http, https, socks4, socks4a, socks5, socks5h",
        "代理地址形如 http://HOST:PORT 或 socks5h://USER:PASSWORD@HOST:PORT，密码中的特殊字符须写作 %XX；支持 http、https、socks4、socks4a、socks5、socks5h",
    ))
}
