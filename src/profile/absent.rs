//! The words for a login that a file does not have: those that it has come first.

use super::login_id::LoginId;
use super::snapshot::Snapshot;
use crate::error::{Error, Hint};

/// How alike two names must be, from 0 to 1, for one to be a slip of the other.
const ALIKE: f64 = 0.8;

/// So many others are named.
const MOST_NAMED: usize = 8;

impl Snapshot {
    /// The error for a section that is missing.
    pub(crate) fn no_section(&self) -> Error {
        let LoginId { store, profile } = &self.login;
        let others: Vec<String> = self.others.iter().map(|name| format!("[{name}]")).collect();
        let mut message = format!("{store} has no section [{profile}]");
        if others.is_empty() {
            return Error::config(message).with_hint(Hint::fixed(
                "check -p; for a new login: feishu-refresh login",
                "请检查 -p；如需新的登录：feishu-refresh login",
            ));
        }
        message.push_str("; it has ");
        message.push_str(&others[..others.len().min(MOST_NAMED)].join(", "));
        if others.len() > MOST_NAMED {
            message.push_str(", …");
        }
        let meant = meant(profile, &self.others);
        let (english, chinese) = match meant {
            Some(name) => (
                format!("did you mean {name}? For a new login: feishu-refresh login"),
                format!("您是否想用 {name}？如需新的登录：feishu-refresh login"),
            ),
            None => (
                "name one of these with -p; for a new login: feishu-refresh login".to_owned(),
                "请用 -p 指定其中之一；如需新的登录：feishu-refresh login".to_owned(),
            ),
        };
        Error::config(message).with_hint(Hint::naming(english, chinese))
    }
}

/// The name that was probably meant.
fn meant<'o>(name: &str, others: &'o [String]) -> Option<&'o str> {
    let name = name.to_lowercase();
    let likeness = |other: &str| strsim::jaro_winkler(&name, &other.to_lowercase());
    let alike = others.iter().map(|other| (likeness(other), other));
    let best = alike.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(likeness, _)| *likeness >= ALIKE)
        .map(|(_, other)| other.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_known_as_one() {
        let others = ["TOKEN", "third-bot", "disk"].map(str::to_owned);
        for (name, likely) in [
            ("token", Some("TOKEN")),
            ("TOKE", Some("TOKEN")),
            ("thirdbot", Some("third-bot")),
            ("my-login", None),
        ] {
            assert_eq!(meant(name, &others), likely, "{name}");
        }
        assert_eq!(meant("second", &others[..1]), None);
        assert_eq!(meant("x", &[]), None);
    }
}
