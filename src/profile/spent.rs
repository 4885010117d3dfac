//! The tokens of a login that are known to be spent, as `refresh_token_spent` lists them (P9).

use std::fmt;

use crate::token::Fingerprint;

/// How many fingerprints the list holds.
const MOST_LISTED: usize = 8;
/// How many spent tokens a successor remembers, so that an old copy of the file is known as one.
pub(super) const MOST_REMEMBERED: usize = 16;

/// Fingerprints: first those of tokens that came from outside, the one given last at the end; then that of the token
/// spent last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SpentTokens(Vec<Fingerprint>);

impl SpentTokens {
    /// Reads a list. Anything but a fingerprint is skipped.
    pub(crate) fn parse(text: &str) -> Self {
        let words = text.split_whitespace();
        SpentTokens(words.filter_map(Fingerprint::parse).collect())
    }

    /// Whether no token is known to be spent.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn lists(&self, token: Fingerprint) -> bool {
        self.0.contains(&token)
    }

    /// All fingerprints in it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Fingerprint> {
        self.0.iter().copied()
    }

    /// The list of a login that starts with this token from outside, which is spent for it.
    pub(crate) fn begun_with(sent: Fingerprint) -> Self {
        SpentTokens(vec![sent, sent])
    }

    /// The list once `sent` is spent; `given` came from outside. A token in a login without a list came from outside,
    /// too.
    pub(crate) fn after(&self, given: Option<Fingerprint>, sent: Fingerprint) -> Self {
        let outside = given.or(self.is_empty().then_some(sent));
        self.with(outside, sent)
    }

    /// The list after a consent that replaced `old` by `new`.
    pub(crate) fn after_login(&self, new: Fingerprint, old: Option<Fingerprint>) -> Self {
        let by_hand = old.filter(|_| self.is_empty());
        let latest = self.0.last().copied().or(by_hand).unwrap_or(new);
        let mut list = self.clone();
        if let Some(by_hand) = by_hand {
            list = list.with(Some(by_hand), latest);
        }
        list.with(Some(new), latest)
    }

    fn with(&self, outside: Option<Fingerprint>, latest: Fingerprint) -> Self {
        let mut list: Vec<_> = match self.0.split_last() {
            Some((_, outside)) => outside.to_vec(),
            None => Vec::new(),
        };
        if let Some(given) = outside {
            // At the end, so that one that is given again and again is never dropped.
            list.retain(|listed| *listed != given);
            list.push(given);
        }
        list.drain(..list.len().saturating_sub(MOST_LISTED - 1));
        list.push(latest);
        SpentTokens(list)
    }
}

impl fmt::Display for SpentTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.iter().map(|print| print.to_string()).collect();
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(name: u8) -> Fingerprint {
        Fingerprint::of_bytes(&[name])
    }

    fn list(names: &[u8]) -> SpentTokens {
        SpentTokens(names.iter().copied().map(print).collect())
    }

    #[test]
    fn tokens_from_outside_stay_listed() {
        // Put in by hand, then refreshed repeatedly.
        let first = SpentTokens::default().after(None, print(1));
        assert_eq!(first, list(&[1, 1]));
        assert_eq!(first.after(None, print(2)), list(&[1, 2]));
        // The same token by a flag, and another that equals the one in the file.
        assert_eq!(first.after(Some(print(1)), print(2)), list(&[1, 2]));
        let two = first.after(Some(print(2)), print(2));
        assert_eq!(two, list(&[1, 2, 2]));
        // A login keeps them, and its own token came from outside.
        assert_eq!(
            two.after_login(print(9), Some(print(3))),
            list(&[1, 2, 9, 2])
        );
        let first_login = SpentTokens::default().after_login(print(9), Some(print(1)));
        assert_eq!(first_login, list(&[1, 9, 1]));
        assert_eq!(
            SpentTokens::default().after_login(print(9), None),
            list(&[9, 9])
        );
        assert_eq!(first_login.after(None, print(9)), list(&[1, 9, 9]));
    }

    #[test]
    fn the_list_is_bounded_and_keeps_what_is_given_again() {
        let mut spent = SpentTokens::begun_with(print(0));
        for name in 1..30 {
            spent = spent.after(Some(print(0)), print(name));
            spent = spent.after(Some(print(100 + name)), print(name));
            assert!(spent.iter().count() <= MOST_LISTED);
            assert!(spent.lists(print(0)) && spent.lists(print(name)));
        }
        assert_eq!(SpentTokens::parse(&spent.to_string()), spent);
        assert_eq!(SpentTokens::parse("x 0123456789abcdef y").iter().count(), 1);
    }
}
