//! One error type for callers to branch on, and the one place where a kind becomes an exit code.
//!
//! An [`Error`] says what failed, on which file or host, and whether anything was lost; its
//! [`Hint`] is separate and says what to do next, in English and in Chinese. Neither ever holds a
//! secret. The one exception is deliberate and out of the texts' reach: a pair that could not be
//! saved anywhere is in [`Error::unsaved`], because losing it would be worse.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use secrecy::SecretString;

use crate::token::Tokens;

/// What a failed run means for the person or script that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A reply or a state that nothing here explains, or an output that cannot be written.
    Unexpected,
    /// The command line cannot be read.
    Usage,
    /// Input is missing or wrong; nothing was spent.
    Config,
    /// The server refuses this refresh token or this user for good: a person must consent again.
    Reauthorize,
    /// Network, time-out, server error, rate limit, lock busy, disk full: run again later.
    Temporary,
    /// Rotated, but not saved where asked.
    Unsaved,
    /// Rotated and saved, but the command that was to run after that failed.
    Hook,
}

impl Kind {
    /// The process exit code for this kind.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Unexpected => 1,
            Kind::Usage => 2,
            Kind::Config => 3,
            Kind::Reauthorize => 4,
            Kind::Temporary => 5,
            Kind::Unsaved => 6,
            Kind::Hook => 7,
        }
    }

    /// The name that `-o json` gives this kind.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Unexpected => "unexpected",
            Kind::Usage => "usage",
            Kind::Config => "config",
            Kind::Reauthorize => "reauthorize",
            Kind::Temporary => "temporary",
            Kind::Unsaved => "unsaved",
            Kind::Hook => "hook",
        }
    }
}

/// What to do next, in two languages.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hint {
    /// The hint in English.
    pub english: Cow<'static, str>,
    /// The same hint in Chinese.
    pub chinese: Cow<'static, str>,
}

impl Hint {
    /// A hint whose two texts are known beforehand.
    pub(crate) const fn fixed(english: &'static str, chinese: &'static str) -> Self {
        Hint {
            english: Cow::Borrowed(english),
            chinese: Cow::Borrowed(chinese),
        }
    }

    /// A hint that names a file, a host or a command.
    pub(crate) fn naming(english: String, chinese: String) -> Self {
        Hint {
            english: Cow::Owned(english),
            chinese: Cow::Owned(chinese),
        }
    }
}

/// What the server said of itself in a refusal: support asks for both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerAnswer {
    /// The code in the reply's body, if there was one.
    pub code: Option<i64>,
    /// The reply's log id (`X-Tt-Logid`, else `X-Request-Id`), if there was one.
    pub log_id: Option<String>,
}

/// Why a run failed. `Display` gives only the message, in one line and without secrets.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<Box<Hint>>,
    server: Option<Box<ServerAnswer>>,
    unsaved: Option<Box<UnsavedTokens>>,
    may_have_spent: bool,
    is_of_dead_token: bool,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A pair that no file took.
#[derive(Debug)]
struct UnsavedTokens {
    tokens: Tokens,
    /// The lines that a person must put into the file.
    lines: SecretString,
}

/// Whether a disk, or what a user may have of it, is full: that passes.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What the failure means: the thing to branch on.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<&Hint> {
        self.hint.as_deref()
    }

    /// Code and log id, if it was the server that refused.
    #[must_use]
    pub fn server(&self) -> Option<&ServerAnswer> {
        self.server.as_deref()
    }

    /// The rotated pair, if no file at all could take it: whoever gets this error holds the only
    /// copy and must keep it.
    #[must_use]
    pub fn unsaved(&self) -> Option<&Tokens> {
        self.unsaved.as_ref().map(|unsaved| &unsaved.tokens)
    }

    /// Whether a reply may have been lost, and the refresh token spent.
    pub(crate) fn may_have_spent(&self) -> bool {
        self.may_have_spent
    }

    pub(crate) fn with_doubt(mut self) -> Self {
        self.may_have_spent = true;
        self
    }

    /// Whether the server says that the refresh token is dead, and not that a user or an app is refused.
    pub(crate) fn is_of_dead_token(&self) -> bool {
        self.is_of_dead_token
    }

    pub(crate) fn of_dead_token(mut self, is_of_dead_token: bool) -> Self {
        self.is_of_dead_token = is_of_dead_token;
        self
    }

    /// The same, as lines for the file.
    pub(crate) fn unsaved_lines(&self) -> Option<&SecretString> {
        self.unsaved.as_ref().map(|unsaved| &unsaved.lines)
    }

    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
            hint: None,
            server: None,
            unsaved: None,
            may_have_spent: false,
            is_of_dead_token: false,
            source: None,
        }
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Error::new(Kind::Config, message)
    }

    pub(crate) fn temporary(message: impl Into<String>) -> Self {
        Error::new(Kind::Temporary, message)
    }

    /// A failed operation on a file before anything is sent: `what` reads like "cannot read". A full disk passes, so it is
    /// temporary; anything else needs a person.
    pub(crate) fn file(what: &str, path: &Path, source: io::Error) -> Self {
        let kind = if is_full(&source) {
            Kind::Temporary
        } else {
            Kind::Config
        };
        let hint = match source.kind() {
            _ if kind == Kind::Temporary => {
                Hint::fixed("free some space, then run again", "请释放磁盘空间后重试")
            }
            io::ErrorKind::ReadOnlyFilesystem => Hint::fixed(
                "mount it writable, or name a file elsewhere with -c",
                "请以可写方式挂载，或用 -c 指定其他位置的文件",
            ),
            io::ErrorKind::PermissionDenied => Hint::fixed(
                "check as which user this runs, and that user's rights on the file and its folder",
                "请检查运行用户及其对该文件和所在目录的权限",
            ),
            io::ErrorKind::FileTooLarge => Hint::fixed(
                "raise the limit on the length of files: see ulimit -f",
                "请提高文件大小限制：参见 ulimit -f",
            ),
            _ => Hint::fixed("check the path", "请检查该路径"),
        };
        let mut error = Error::new(kind, format!("{what} {}: {source}", path.display()));
        error.source = Some(Box::new(source));
        error.with_hint(hint)
    }

    /// The same error once more, without what is behind it.
    pub(crate) fn again(&self) -> Self {
        let again = Error::new(self.kind, self.message.clone());
        match &self.hint {
            Some(hint) => again.with_hint((**hint).clone()),
            None => again,
        }
    }

    /// The same error, of a run that had sent nothing yet.
    pub(crate) fn before_sending(mut self) -> Self {
        // It says already what was done, or that an earlier run sent something.
        let is_told = ["nothing was ", " was sent"]
            .iter()
            .any(|words| self.message.contains(words));
        if !is_told && !self.may_have_spent && self.server.is_none() {
            self.message.push_str("; nothing was sent");
        }
        self
    }

    pub(crate) fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    pub(crate) fn with_hint(mut self, hint: Hint) -> Self {
        self.hint = Some(Box::new(hint));
        self
    }

    pub(crate) fn with_server(mut self, server: ServerAnswer) -> Self {
        self.server = Some(Box::new(server));
        self
    }

    pub(crate) fn with_unsaved(mut self, tokens: Tokens, lines: SecretString) -> Self {
        self.unsaved = Some(Box::new(UnsavedTokens { tokens, lines }));
        self
    }
}
