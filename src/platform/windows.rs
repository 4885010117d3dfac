//! Windows.

pub(crate) mod files;
pub(crate) mod machine;
pub(crate) mod programs;
pub(crate) mod signals;
