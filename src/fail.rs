//! Named points at which a test can make a run fail: `FEISHU_REFRESH_FAIL=after-write=abort`. The first pass can end in
//! `error`, `panic` or `abort`, every pass in `errors`; several points are separated by commas. Compiled only with the
//! feature `fail-points`, which only this package's own tests turn on.

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
    use std::sync::{Mutex, PoisonError};
    use std::{env, io, process};

    use crate::error::{Error, Kind};

    /// An error that a point can return.
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

    /// Whether a point is reached for the first time.
    fn is_first(name: &str) -> bool {
        static PASSED: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        let first = !passed.iter().any(|point| point == name);
        passed.push(name.to_owned());
        first
    }

    /// Whether a point is asked to return its error; the harsher modes do not return.
    #[expect(clippy::panic, reason = "what the test asked for")]
    pub(crate) fn is_asked(name: &str) -> bool {
        let asked = env::var("FEISHU_REFRESH_FAIL").unwrap_or_default();
        let mut points = asked.split(',').filter_map(|point| point.split_once('='));
        match points
            .find(|(point, _)| *point == name)
            .map(|(_, action)| action)
        {
            Some("abort") => process::abort(),
            Some("errors") => true,
            Some(action) if is_first(name) => match action {
                "panic" => panic!("fail point {name}"),
                action => action == "error",
            },
            _ => false,
        }
    }
}

#[cfg(feature = "fail-points")]
pub(crate) use armed::{Injected, is_asked};
