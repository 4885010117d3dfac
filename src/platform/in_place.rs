//! Files that must be written in place.

/// Why a file cannot be replaced by renaming another over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "no system but Linux knows them all")]
pub(crate) enum InPlaceReason {
    /// Something is mounted on the file itself.
    MountPoint,
    /// The file or its folder must not be changed: it is immutable, append-only or read-only.
    Immutable,
    /// The file has other names, which would keep the old text.
    HardLinks,
    /// The file has access rights beyond owner, group and mode, which a new file would lack.
    AccessList,
    /// The file is open but gone from its folder: a mounted file that was replaced on the host.
    Replaced,
}
