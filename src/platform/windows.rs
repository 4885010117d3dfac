//! Windows.

pub(crate) mod files;
#[cfg(feature = "postgres")]
pub(crate) mod machine;
pub(crate) mod programs;
pub(crate) mod signals;
