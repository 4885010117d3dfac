//! Secrets as the database sees them: sealed.
//!
//! Promises:
//! - AES-256-GCM under a key of the store, derived separately for each owner (a login, an app). A sealed
//!   text opens only for the owner and the column that it was sealed for: a row moved to
//!   another name is useless.
//! - A sealed text begins with its key's id, so that a wrong key can be told from a changed text.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::aead::{self, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretBox, SecretString, zeroize::Zeroize};

use crate::error::{Error, Hint, Result};
use crate::store::database::KEY_PREFIX;
use crate::token::Fingerprint;

/// The length of a key in bytes.
const KEY_LENGTH: usize = 32;

/// How many hex digits of a fingerprint tell a handful of keys apart.
const KEY_ID_LENGTH: usize = 8;

/// Separates these keys from anything else derived from the same bytes.
const PURPOSE: &[u8] = b"feishu-refresh store";

/// Whether a sealed text can begin like this.
pub(super) fn is_key_id(text: &str) -> bool {
    text.len() == KEY_ID_LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The keys of a store: the first seals, all open.
pub(crate) struct Keys(Vec<Key>);

struct Key {
    id: String,
    bytes: SecretBox<[u8; KEY_LENGTH]>,
}

/// The owner of a secret.
#[derive(Clone, Copy)]
pub(super) struct SecretOwner<'o> {
    /// The login's name, or the app's; anything else it is bound to is on further lines.
    pub(super) name: &'o str,
    /// Its column.
    pub(super) column: &'static str,
}

/// Makes a new key, as text.
///
/// # Errors
/// [`crate::Kind::Temporary`] if the system has no random numbers.
pub(crate) fn new_key() -> Result<SecretString> {
    let mut bytes = random::<KEY_LENGTH>()?;
    let key = format!("{KEY_PREFIX}{}", BASE64.encode(bytes));
    bytes.zeroize();
    Ok(key.into())
}

/// Unguessable bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Error::temporary("the system has no random numbers")),
    }
}

impl Keys {
    /// Reads keys separated by white space; lines that begin with `#` or `;` are comments.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if there is none, or something else among them.
    pub(super) fn parse(text: &SecretString) -> Result<Self> {
        let lines = text.expose_secret().lines().map(str::trim);
        let lines = lines.filter(|line| !line.starts_with(['#', ';']));
        let keys = lines.flat_map(str::split_whitespace).map(Key::parse);
        let keys: Vec<Key> = keys.collect::<Option<_>>().ok_or_else(no_key)?;
        if keys.is_empty() {
            return Err(no_key());
        }
        Ok(Keys(keys))
    }

    /// Whether one of the keys has this id.
    pub(super) fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id == id)
    }

    /// Seals a secret for its owner.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if the system has no random numbers.
    pub(super) fn seal(&self, owner: SecretOwner<'_>, secret: &SecretString) -> Result<String> {
        let key = self.0.first().ok_or_else(no_key)?;
        let nonce = random()?;
        let mut text = secret.expose_secret().as_bytes().to_vec();
        let sealing = key.derived(owner)?;
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        let sealed = sealing.seal_in_place_append_tag(nonce_used, owner.aad(), &mut text);
        sealed.map_err(|_| Error::config("a secret is too long to be sealed"))?;
        let mut whole = nonce.to_vec();
        whole.append(&mut text);
        Ok(format!("{}.{}", key.id, BASE64.encode(whole)))
    }

    /// Opens what was sealed for this owner.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if none of the keys is its key, or it was sealed for another owner.
    pub(super) fn open(&self, owner: SecretOwner<'_>, sealed: &str) -> Result<SecretString> {
        let broken = || {
            let message = format!(
                "{} of {} was not sealed for that row: it was changed or moved",
                owner.column,
                owner.shown()
            );
            Error::config(message).with_hint(Hint::fixed(
                "restore the row, or log in again: feishu-refresh login",
                "请恢复该行原来的内容，或重新登录：feishu-refresh login",
            ))
        };
        let parts = sealed.split_once('.').filter(|(id, _)| is_key_id(id));
        let (id, text) = parts.ok_or_else(broken)?;
        let mut keys = self.0.iter().filter(|key| key.id == id).peekable();
        if keys.peek().is_none() {
            return Err(self.wrong_key(owner, id));
        }
        let whole = BASE64.decode(text).map_err(|_| broken())?;
        let (nonce, text) = whole.split_at_checked(aead::NONCE_LEN).ok_or_else(broken)?;
        let open = |key: &Key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut text = text.to_vec();
            let opening = key.derived(owner).ok()?;
            let opened = opening.open_in_place(nonce, owner.aad(), &mut text).ok();
            let secret = opened.and_then(|opened| std::str::from_utf8(opened).ok());
            let secret = secret.map(SecretString::from);
            text.zeroize();
            secret
        };
        keys.find_map(open).ok_or_else(broken)
    }

    /// Whether a sealed text is sealed with one of them.
    pub(super) fn can_open(&self, sealed: &str) -> bool {
        let id = sealed.trim().split_once('.').map(|(id, _)| id);
        id.is_some_and(|id| self.has(id))
    }

    /// The ids of all keys, for messages.
    pub(super) fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|key| key.id.as_str()).collect()
    }

    fn wrong_key(&self, owner: SecretOwner<'_>, id: &str) -> Error {
        let (name, known) = (owner.shown(), self.ids().join(", "));
        let message =
            format!("{name} is sealed with the key {id}, but the given store key is {known}");
        Error::config(message).with_hint(Hint::fixed(
            "give the key that it was sealed with, in --store-key-file, FEISHU_STORE_KEY or FEISHU_STORE_KEY_FILE",
            "请用 --store-key-file、FEISHU_STORE_KEY 或 FEISHU_STORE_KEY_FILE 提供当初封存时的密钥",
        ))
    }
}

impl Key {
    fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(KEY_PREFIX)?;
        let mut decoded = BASE64.decode(encoded).ok()?;
        let bytes: Option<[u8; KEY_LENGTH]> = decoded.as_slice().try_into().ok();
        decoded.zeroize();
        let bytes = bytes?;
        let mut id = Fingerprint::of_bytes(&bytes).to_string();
        id.truncate(KEY_ID_LENGTH);
        Some(Key {
            id,
            bytes: SecretBox::new(Box::new(bytes)),
        })
    }

    /// The key for one owner.
    fn derived(&self, owner: SecretOwner<'_>) -> Result<LessSafeKey> {
        let salt = Salt::new(HKDF_SHA256, PURPOSE);
        let info = [owner.name.as_bytes()];
        let extracted = salt.extract(self.bytes.expose_secret());
        let expanded = extracted.expand(&info, &AES_256_GCM);
        let expanded = expanded.map_err(|_| Error::config("a key cannot be derived"))?;
        Ok(LessSafeKey::new(UnboundKey::from(expanded)))
    }
}

impl<'o> SecretOwner<'o> {
    /// Its name for messages: what follows a line end is only for the seal.
    fn shown(&self) -> &'o str {
        self.name.lines().next().unwrap_or_default()
    }

    fn aad(&self) -> Aad<Vec<u8>> {
        // No name contains NUL.
        Aad::from([self.name.as_bytes(), self.column.as_bytes()].join(&0))
    }
}

fn no_key() -> Error {
    Error::config("the store's key is missing or not valid").with_hint(Hint::fixed(
        "feishu-refresh store key prints a new one: keep it in a file of mode 0600, and name it with --store-key-file or FEISHU_STORE_KEY_FILE",
        "feishu-refresh store key 可生成新密钥：请存入权限为 0600 的文件，并用 --store-key-file 或 FEISHU_STORE_KEY_FILE 指定",
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const OWNER: SecretOwner<'static> = SecretOwner {
        name: "bot",
        column: "refresh_token",
    };

    fn keys(texts: &[&SecretString]) -> Keys {
        let texts: Vec<_> = texts.iter().map(|text| text.expose_secret()).collect();
        Keys::parse(&texts.join("\n").into()).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_for_its_owner_alone() {
        let key = new_key().unwrap();
        let keys = keys(&[&key]);
        let sealed = keys.seal(OWNER, &"ur-secret".into()).unwrap();
        assert!(!sealed.contains("secret"));
        assert!(sealed.starts_with(&format!("{}.", keys.0[0].id)));
        let opened = keys.open(OWNER, &sealed).unwrap();
        assert_eq!(opened.expose_secret(), "ur-secret");
        let others = [
            SecretOwner {
                name: "bo",
                ..OWNER
            },
            SecretOwner {
                column: "access_token",
                ..OWNER
            },
        ];
        for other in others {
            assert!(keys.open(other, &sealed).is_err());
        }
        // Sealing the same secret never gives the same text.
        assert_ne!(keys.seal(OWNER, &"ur-secret".into()).unwrap(), sealed);
    }

    #[test]
    fn a_changed_text_opens_for_nobody() {
        let keys = keys(&[&new_key().unwrap()]);
        let sealed = keys.seal(OWNER, &"ur-secret".into()).unwrap();
        for index in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            let last = index + 1 == sealed.len();
            // The last digit's low bits may not count.
            assert!(keys.open(OWNER, &changed).is_err() || last, "{changed}");
        }
        for text in ["", ".", "x", "....", "ur-plain"] {
            assert!(keys.open(OWNER, text).is_err());
        }
    }

    #[test]
    fn a_key_is_changed_by_putting_the_new_one_first() {
        let (old, new) = (new_key().unwrap(), new_key().unwrap());
        let before = keys(&[&old]);
        let sealed = before.seal(OWNER, &"x".into()).unwrap();
        let prepared = keys(&[&old, &new]);
        assert!(prepared.open(OWNER, &sealed).is_ok());
        let changed = keys(&[&new, &old]);
        assert!(changed.open(OWNER, &sealed).is_ok());
        let sealed = changed.seal(OWNER, &"x".into()).unwrap();
        assert!(prepared.open(OWNER, &sealed).is_ok());
        let error = before.open(OWNER, &sealed).unwrap_err().to_string();
        assert!(error.contains(&before.0[0].id) && error.contains(&changed.0[0].id));
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_shown() {
        let key = new_key().unwrap();
        let key = key.expose_secret();
        let commented = format!("# mine\n{key}\n; old\n");
        assert_eq!(Keys::parse(&commented.into()).unwrap().0.len(), 1);
        for text in ["", "# only", "secret", &key[1..], &key[..key.len() - 2]] {
            let error = Keys::parse(&text.into()).err().unwrap().to_string();
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
    }
}
