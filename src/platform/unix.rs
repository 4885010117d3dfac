//! Unix: Linux, macOS and their kin.

pub(crate) mod files;
pub(crate) mod machine;
pub(crate) mod programs;
pub(crate) mod signals;

// Only Linux reserves space without writing it, mounts files, and reports attributes by statx.
#[cfg(target_os = "linux")]
#[path = "unix/linux.rs"]
mod kernel;
#[cfg(not(target_os = "linux"))]
#[path = "unix/other.rs"]
mod kernel;
