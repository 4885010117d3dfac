//! Addresses that secrets may be sent to, and which of them are a vendor's own.
//!
//! Promises:
//! - An address is HTTPS, or plain HTTP on this machine, and holds no secret itself (P10).
//! - It is accepted as people write it, and compared by its meaning, not by its spelling.

use std::fmt;
use std::net::IpAddr;

use url::Url;

use crate::error::{Error, Hint, Result};

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    url: Url,
    /// Whether it is an endpoint's whole address, not that of a service with endpoints below it.
    is_whole: bool,
}

/// A vendor's service, by its hosts: see the vendors' pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vendor {
    Feishu,
    Lark,
    Open115,
}

impl Vendor {
    const ALL: [Vendor; 3] = [Vendor::Feishu, Vendor::Lark, Vendor::Open115];

    /// Scheme and host of its API.
    pub(crate) fn home(self) -> &'static str {
        match self {
            Vendor::Feishu => "https://open.feishu.cn",
            Vendor::Lark => "https://open.larksuite.com",
            Vendor::Open115 => "https://passportapi.115.com",
        }
    }

    /// Scheme and host of its consent pages; none if it has none that this program can use.
    pub(crate) fn accounts(self) -> Option<&'static str> {
        match self {
            Vendor::Feishu => Some("https://accounts.feishu.cn"),
            Vendor::Lark => Some("https://accounts.larksuite.com"),
            Vendor::Open115 => None,
        }
    }
}

impl Address {
    /// A service's address, as people write it: with `/open-apis`, a slash, a port or quotes that do not matter. `name`
    /// is what messages call it.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if secrets must not be sent there, or it is not an address.
    pub(crate) fn of_service(name: &str, text: &str) -> Result<Self> {
        let mut url = checked(name, text)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(name, "has a query or a fragment"));
        }
        let mut path = url.path().trim_end_matches('/').to_owned();
        let open_apis = path.len().saturating_sub("/open-apis".len());
        if path
            .get(open_apis..)
            .is_some_and(|end| end.eq_ignore_ascii_case("/open-apis"))
        {
            path.truncate(open_apis);
        }
        url.set_path(path.trim_end_matches('/'));
        Ok(Address {
            url,
            is_whole: false,
        })
    }

    /// An endpoint's whole address.
    ///
    /// # Errors
    /// As [`Address::of_service`].
    pub(crate) fn of_endpoint(name: &str, text: &str) -> Result<Self> {
        let url = checked(name, text)?;
        if url.fragment().is_some() {
            return Err(wrong(name, "has a fragment"));
        }
        Ok(Address {
            url,
            is_whole: true,
        })
    }

    /// Where a request with this path goes.
    pub(crate) fn join(&self, path: &str) -> String {
        if self.is_whole {
            return self.url.to_string();
        }
        format!("{}{path}", self.url.as_str().trim_end_matches('/'))
    }

    /// The same without a query, which may hold a key.
    pub(crate) fn without_query(&self, path: &str) -> String {
        let whole = self.join(path);
        let end = whole.find('?').unwrap_or(whole.len());
        whole[..end].to_owned()
    }

    /// As it goes into a request, without the path.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// The host's name, for messages.
    pub(crate) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    pub(crate) fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or_default()
    }

    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.url)
    }

    /// Whether it is an endpoint's whole address.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The vendor, if it is a vendor's API or consent page host.
    pub(crate) fn vendor(&self) -> Option<Vendor> {
        Vendor::ALL.into_iter().find(|vendor| {
            let hosts = [Some(vendor.home()), vendor.accounts()];
            hosts.into_iter().flatten().any(|host| self.is_at(host))
        })
    }

    fn is_at(&self, host: &str) -> bool {
        // A default port is left out, and a path begins with a slash.
        let rest = self.url.as_str().strip_prefix(host);
        rest.is_some_and(|rest| rest.starts_with('/'))
    }
}

/// In its shortest form.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.without_query(""))
    }
}

/// The address is not repeated: it may hold a password.
fn wrong(name: &str, what: &str) -> Error {
    Error::config(format!("the {name} {what}")).with_hint(Hint::fixed(
        "an address looks like https://open.feishu.cn; plain http is for loopback addresses only",
        "地址形如 https://open.feishu.cn；明文 http 仅限本机回环地址",
    ))
}

fn checked(name: &str, text: &str) -> Result<Url> {
    let text = text.trim().trim_matches(['"', '\'']).trim();
    let wrong = |what: &str| wrong(name, what);
    let mut url = Url::parse(text).map_err(|error| wrong(&format!("is not a URL: {error}")))?;
    if !url.has_host() {
        return Err(wrong("names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("holds a user name or password"));
    }
    // A name may end in the root's dot, which does not matter.
    if let Some(bare) = url.domain().and_then(|host| host.strip_suffix('.'))
        && !bare.is_empty()
    {
        let bare = bare.to_owned();
        url.set_host(Some(&bare))
            .map_err(|error| wrong(&format!("is not a URL: {error}")))?;
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err(wrong("would send secrets unencrypted")),
        _ => Err(wrong("begins with neither https:// nor http://")),
    }
}

/// Whether an address is this machine's own.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn service(text: &str) -> Result<Address> {
        Address::of_service("base URL", text)
    }

    #[test]
    fn a_service_is_taken_as_people_write_it() {
        for text in [
            "https://open.feishu.cn",
            "https://open.feishu.cn/",
            "https://open.feishu.cn/open-apis",
            "https://open.feishu.cn/open-apis/",
            "https://open.feishu.cn//Open-APIs//",
            "HTTPS://OPEN.FEISHU.CN:443",
            " \"https://open.feishu.cn\" ",
            "'https://open.feishu.cn/open-apis'",
            "https://open.feishu.cn.",
        ] {
            let address = service(text).unwrap();
            assert_eq!(address.to_string(), Vendor::Feishu.home(), "{text}");
            assert_eq!(address.vendor(), Some(Vendor::Feishu), "{text}");
            assert_eq!(address.join("/x"), "https://open.feishu.cn/x", "{text}");
        }
        let below = service("http://localhost:8080/feishu/open-apis/").unwrap();
        assert_eq!(below.join("/x"), "http://localhost:8080/feishu/x");
        assert_eq!(
            service("https://a.b/my-open-apis").unwrap().join("/x"),
            "https://a.b/my-open-apis/x"
        );
    }

    #[test]
    fn a_vendors_host_is_known_by_its_origin() {
        let vendor = |text| service(text).unwrap().vendor();
        assert_eq!(vendor("https://accounts.larksuite.com"), Some(Vendor::Lark));
        assert_eq!(
            vendor("https://passportapi.115.com/"),
            Some(Vendor::Open115)
        );
        assert_eq!(vendor("https://open.feishu.cn/x"), Some(Vendor::Feishu));
        for other in [
            "https://open.feishu.cn.evil",
            "https://open.feishu.cn:8443",
            "https://feishu.cn",
            "http://127.0.0.1",
        ] {
            assert_eq!(vendor(other), None, "{other}");
        }
    }

    #[test]
    fn an_endpoint_is_left_as_it_is() {
        let text = "https://a.b/oauth/token/?tenant=1";
        let address = Address::of_endpoint("token URL", text).unwrap();
        assert_eq!(address.join("/oauth/v3/token"), text);
        // A query may hold a key.
        assert_eq!(address.to_string(), "https://a.b/oauth/token/");
    }

    #[test]
    fn secrets_go_nowhere_in_the_open() {
        for (text, why) in [
            ("open.feishu.cn", "is not a URL"),
            ("https://", "is not a URL"),
            ("http://open.feishu.cn", "unencrypted"),
            ("ftp://open.feishu.cn", "neither https"),
            ("https://me:word@a.b", "a user name or password"),
            ("https://a.b/?x=1", "a query"),
            ("mailto:a@b", "names no host"),
        ] {
            let error = service(text).err().unwrap().to_string();
            assert!(error.contains(why) && !error.contains("word@"), "{error}");
        }
    }
}
