//! Unix: Linux, macOS and their kin.

pub(crate) mod files;
pub(crate) mod machine;
pub(crate) mod programs;
pub(crate) mod signals;

// Only Linux reserves space without writing it, mounts files, and reports attributes by statx.
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as kernel;
#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(not(target_os = "linux"))]
use other as kernel;
