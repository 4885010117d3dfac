//! Named points at which a test can make a run fail: `FEISHU_REFRESH_FAIL=after-write=abort`, with
//! `error`, `panic` or `abort`, several with commas. Compiled only with the feature `fail-points`,
//! which only this package's own tests turn on.

/// Fails here if the environment asks for it.
macro_rules! fail_point {
    ($name:literal) => {
        #[cfg(feature = "fail-points")]
        if crate::fail::is_asked($name) {
            return Err(crate::fail::Injected::injected($name));
        }
    };
}

#[cfg(feature = "fail-points")]
mod armed {
    use std::{env, io, process};

    use crate::error::{Error, Kind};

    /// An error that a point can be asked for.
    pub(crate) trait Injected {
        fn injected(name: &str) -> Self;
    }

    impl Injected for io::Error {
        fn injected(name: &str) -> Self {
            io::Error::other(format!("fail point {name}"))
        }
    }

    impl Injected for Error {
        fn injected(name: &str) -> Self {
            Error::new(Kind::Unexpected, format!("fail point {name}"))
        }
    }

    impl Injected for crate::client::SendError {
        fn injected(name: &str) -> Self {
            crate::client::SendError {
                message: format!("fail point {name}"),
                maybe_sent: true,
                untrusted: false,
                partial: None,
            }
        }
    }

    /// Whether a point is asked to return its error; the harsher requests do not return.
    #[expect(clippy::panic, reason = "what the test asked for")]
    pub(crate) fn is_asked(name: &str) -> bool {
        let asked = env::var("FEISHU_REFRESH_FAIL").unwrap_or_default();
        let mut points = asked.split(',').filter_map(|point| point.split_once('='));
        match points
            .find(|(point, _)| *point == name)
            .map(|(_, action)| action)
        {
            Some("error") => true,
            Some("panic") => panic!("fail point {name}"),
            Some("abort") => process::abort(),
            _ => false,
        }
    }
}

#[cfg(feature = "fail-points")]
pub(crate) use armed::{Injected, is_asked};
