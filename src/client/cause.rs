//! Why a request had no reply: transient causes are retried, all others need a person.

/// The cause of a failure, as far as it decides what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A transient cause.
    Passing,
    /// The request contains something that cannot be sent.
    Unsendable,
    /// The server's certificate is not valid.
    Untrusted,
    /// It is not valid at this time, by this machine's clock.
    OutOfTime,
    /// It is marked as a CA certificate.
    MadeForCa,
    /// The proxy requires a user and password, or refused these.
    ProxyLogin,
}
