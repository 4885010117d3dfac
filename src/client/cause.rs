//! Why a request had no reply: what may pass is tried again, anything else needs a person.

/// What is behind a failure, as far as it decides what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// What may pass.
    Passing,
    /// The request has what cannot be sent.
    Unsendable,
    /// The server's certificate is not good.
    Untrusted,
    /// It is not good at this time, by this machine's clock.
    OutOfTime,
    /// It is marked as a CA's own.
    MadeForCa,
    /// The proxy lets nobody through without a user and password, or not with these.
    ProxyLogin,
}
