//! Lists of scopes.

/// Gives a refresh token its successor: without it, the next reply brings none (v2).
pub(crate) const OFFLINE_ACCESS: &str = "offline_access";

/// A list of scopes as v2 takes it: each once, with [`OFFLINE_ACCESS`]. None if a scope
/// has a character that RFC 6749 (3.3) does not allow, or if there is none.
pub(crate) fn scope(asked: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
    let mut scopes: Vec<&str> = Vec::new();
    for scope in asked.split_ascii_whitespace() {
        if !scope.chars().all(is_allowed) {
            return None;
        }
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    if scopes.is_empty() {
        return None;
    }
    if !scopes.contains(&OFFLINE_ACCESS) {
        scopes.push(OFFLINE_ACCESS);
    }
    Some(scopes.join(" "))
}

/// Whether a list of scopes contains all of another.
pub(crate) fn covers(list: &str, other: &str) -> bool {
    let mut others = other.split_whitespace();
    others.all(|scope| list.split_whitespace().any(|known| known == scope))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_scope_holds_each_name_once_and_offline_access() {
        let list = |asked| scope(asked).unwrap();
        assert_eq!(list("a"), "a offline_access");
        assert_eq!(list(" b  a\tb "), "b a offline_access");
        assert_eq!(list("offline_access a:b.c"), "offline_access a:b.c");
        for wrong in ["", "  ", "a\"b", "a\\b", "ä", "a\u{1b}b"] {
            assert_eq!(scope(wrong), None, "{wrong:?}");
        }
        assert!(covers("a b", " b a") && covers("a b", "") && covers("a b", "a"));
        assert!(!covers("a", "a b") && !covers("", "a"));
    }
}
