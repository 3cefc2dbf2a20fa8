//! A file system in user space that fails on command: full, with errors, or losing what was not synced.

/// Whether this machine can mount such a file system; if not, why.
///
/// # Errors
/// A sentence for people that says what is missing.
pub fn available() -> Result<(), String> {
    if std::path::Path::new("/dev/fuse").exists() {
        Ok(())
    } else {
        Err("/dev/fuse is missing: faults of disks are skipped".to_owned())
    }
}
