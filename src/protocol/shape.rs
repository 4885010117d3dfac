//! What kind of token a text looks like: the vendors begin each kind differently.
//!
//! From the samples in the vendors' pages: `ur-` refresh tokens of v1, `u-` user tokens of v1, `t-` and
//! `a-` tokens of an app or a tenant, `eyJ` signed tokens of v2 and v3.

/// The kind of token that a text may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A refresh token of v1 and oidc.
    RefreshToken,
    /// A user's access token of v1 and oidc.
    UserToken,
    /// An app's or a tenant's access token.
    AppToken,
    /// A token of v2 or v3.
    Signed,
    /// A placeholder from a document or an example.
    Placeholder,
    Json,
    Other,
}

impl Shape {
    pub(crate) fn of(text: &str) -> Self {
        match text {
            _ if is_placeholder(text) => Shape::Placeholder,
            _ if text.starts_with(['{', '[']) => Shape::Json,
            _ if text.starts_with("ur-") => Shape::RefreshToken,
            _ if text.starts_with("u-") => Shape::UserToken,
            _ if text.starts_with("t-") || text.starts_with("a-") => Shape::AppToken,
            _ if text.starts_with("eyJ") => Shape::Signed,
            _ => Shape::Other,
        }
    }
}

/// Placeholders for a token in examples, as a whole value; in lower case, with `_` for `-`.
const PLACEHOLDERS: [&str; 13] = [
    "token",
    "refresh_token",
    "access_token",
    "user_access_token",
    "app_access_token",
    "tenant_access_token",
    "changeme",
    "change_me",
    "placeholder",
    "todo",
    "null",
    "none",
    "undefined",
];

fn is_placeholder(text: &str) -> bool {
    let plain = text.to_ascii_lowercase().replace('-', "_");
    let is_in = |open: &str, close: &str| plain.starts_with(open) && plain.ends_with(close);
    // As a sample of one kind: `ur-xxx`.
    let mut rest = ["ur_", "u_", "t_", "a_", "eyj"].into_iter();
    let rest = rest.find_map(|head| plain.strip_prefix(head));
    let is_blank =
        |text: &str| text.len() >= 3 && text.bytes().all(|byte| matches!(byte, b'x' | b'*' | b'.'));
    PLACEHOLDERS.contains(&plain.as_str())
        || plain.starts_with("your_")
        || is_in("<", ">")
        || is_in("${", "}")
        || is_in("%", "%")
        || is_in("{{", "}}")
        || is_blank(&plain)
        || rest.is_some_and(is_blank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_known_by_how_it_begins() {
        for (text, shape) in [
            ("ur-oQ0mMq6MCcueAv0pwx2f", Shape::RefreshToken),
            ("u-Q7JWnaIM_kRChuLfreHmp", Shape::UserToken),
            ("t-7f1b8e560", Shape::AppToken),
            ("a-6U1SbDiM6XIH2DcTCPyeub", Shape::AppToken),
            ("eyJhbGciOiJFUzI1NiIs", Shape::Signed),
            (r#"{"refresh_token":"ur-1"}"#, Shape::Json),
            (r#"["ur-1"]"#, Shape::Json),
            ("xxxy", Shape::Other),
            ("8f0c2a6e4b1d", Shape::Other),
            ("yours", Shape::Other),
            ("token-1", Shape::Other),
        ] {
            assert_eq!(Shape::of(text), shape, "{text}");
        }
    }

    #[test]
    fn a_placeholder_is_one_as_a_whole() {
        for text in [
            "YOUR_REFRESH_TOKEN",
            "your-app-access-token",
            "<refresh_token>",
            "xxx",
            "XXXXXXXX",
            "ur-xxx",
            "u-***",
            "...",
            "REFRESH_TOKEN",
            "${REFRESH_TOKEN}",
            "%REFRESH_TOKEN%",
            "{{refresh_token}}",
            "changeme",
            "null",
        ] {
            assert_eq!(Shape::of(text), Shape::Placeholder, "{text}");
        }
    }
}
