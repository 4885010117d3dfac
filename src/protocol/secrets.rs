//! Keeps what was sent out of what is shown.

use std::borrow::Cow;
use std::cmp::Reverse;

use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded;

use crate::text::{printable, shortened};

/// Secrets that were sent: servers and proxies may echo them.
#[derive(Default)]
pub(crate) struct Secrets<'a>(Vec<Cow<'a, str>>);

/// Anything shorter is not a secret, and masking it would blot out half of a message.
const SHORTEST_SECRET: usize = 4;

impl<'a> FromIterator<&'a SecretString> for Secrets<'a> {
    fn from_iter<T: IntoIterator<Item = &'a SecretString>>(secrets: T) -> Self {
        let secrets = secrets.into_iter();
        Secrets(
            secrets
                .map(|secret| Cow::from(secret.expose_secret()))
                .collect(),
        )
    }
}

impl<'a> Secrets<'a> {
    pub(super) fn add(&mut self, secret: &'a SecretString) {
        self.0.push(Cow::from(secret.expose_secret()));
    }

    pub(super) fn add_text(&mut self, secret: String) {
        self.0.push(Cow::from(secret));
    }

    /// A server's text, fit to be shown.
    pub(super) fn clean(&self, text: &str, longest: usize) -> String {
        let secrets = self.0.iter().map(AsRef::as_ref);
        // No form of a secret is shorter than the secret.
        let lengths = SHORTEST_SECRET..=text.len();
        let secrets = secrets.filter(|secret: &&str| lengths.contains(&secret.len()));
        let mut forms: Vec<String> = secrets.flat_map(sent_forms).collect();
        // One secret may be part of another.
        forms.sort_by_key(|form| Reverse(form.len()));
        // Masked before it is cut, so that no half of a secret is left at the end.
        let masked = forms.iter();
        let masked = masked.fold(printable(text), |text, form| text.replace(form, "***"));
        shortened(masked.trim(), longest)
    }
}

/// A secret as JSON and headers write it, and as forms and addresses do.
fn sent_forms(secret: &str) -> [String; 3] {
    let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let mut lower = String::with_capacity(form.len());
    let mut parts = form.split('%');
    lower.push_str(parts.next().unwrap_or_default());
    for part in parts {
        // The two digits of a byte, then the rest.
        let (digits, rest) = part.split_at(part.len().min(2));
        lower.push_str(&format!("%{}{rest}", digits.to_ascii_lowercase()));
    }
    [secret.to_owned(), form, lower]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_in_every_form_they_are_sent_in() {
        let [long, part] = ["secret/part+one=two", "secret/part"].map(SecretString::from);
        let secrets: Secrets<'_> = [&part, &long].into_iter().collect();
        for text in [
            "a secret/part+one=two b",
            "a secret%2Fpart%2Bone%3Dtwo b",
            "a secret%2fpart%2bone%3dtwo b",
            "a secret/part b",
        ] {
            assert_eq!(secrets.clean(text, 100), "a *** b");
        }
    }
}
