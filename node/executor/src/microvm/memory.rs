//! Memory of the host's process that is lent to a guest.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::ptr::NonNull;

use super::abi::PAGE_BYTES;

/// A range of the process's address space. Unmapped when dropped.
///
/// A guest may write into it at any moment of its run, so nothing here hands out references: bytes are copied in and
/// out. The host only looks while the guest does not run, which the owner of the vCPU sees to.
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the value alone, and its methods that write take `&mut self`.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Zeroes, of which only what is touched costs memory.
    pub(super) fn zeroed(length: u64) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let mapping = Self::map(length, libc::PROT_READ | libc::PROT_WRITE, flags, -1)?;
        // One page touched is one page of memory used: a guest with a few kilobytes should not cost megabytes.
        mapping.advise(0, mapping.length, libc::MADV_NOHUGEPAGE)?;
        // A crash dump of the node must not hold what its tenants computed.
        mapping.advise(0, mapping.length, libc::MADV_DONTDUMP)?;
        // Nor a process that the node starts.
        mapping.advise(0, mapping.length, libc::MADV_DONTFORK)?;
        Ok(mapping)
    }

    /// A file in memory, read-only also for the host.
    pub(super) fn read_only(file: &File, length: u64) -> io::Result<Self> {
        Self::map(length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd())
    }

    fn map(length: u64, protection: i32, flags: i32, fd: i32) -> io::Result<Self> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address of the system's choice touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { start, length })
    }

    pub(super) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    pub(super) fn length(&self) -> u64 {
        self.length as u64
    }

    /// The pointer to a range, if all of it is in the mapping.
    fn range(&self, offset: u64, length: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(length)?;
        // SAFETY: the offset is within the mapping.
        (end <= self.length).then(|| unsafe { self.start.as_ptr().add(offset) })
    }

    fn checked(&self, offset: u64, length: usize) -> *mut u8 {
        self.range(offset, length).unwrap_or_else(|| panic!("{length} bytes at {offset:#x} are outside of a mapping"))
    }

    /// Copies bytes out.
    ///
    /// # Panics
    /// The range is not in the mapping: ranges come from the layout, never from a guest.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) {
        let from = self.checked(offset, bytes.len());
        // SAFETY: the range is in the mapping, and the guest does not run meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copies bytes in. Panics like [`read`](Self::read).
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let to = self.checked(offset, bytes.len());
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Overwrites a range with zeroes, keeping its pages. Panics like [`read`](Self::read).
    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        let length = usize::try_from(length).expect("a range in the address space");
        let to = self.checked(offset, length);
        // SAFETY: as above.
        unsafe { std::ptr::write_bytes(to, 0, length) }
    }

    /// Gives pages back to the system: they read as zeroes and use no memory. Panics like [`read`](Self::read).
    pub(super) fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).expect("a range in the address space");
        self.advise(offset, length, libc::MADV_DONTNEED)
    }

    /// Lets nobody, not even the guest, touch a range, or lets them again. Panics like [`read`](Self::read).
    pub(super) fn forbid(&mut self, offset: u64, length: u64, forbidden: bool) -> io::Result<()> {
        let length = usize::try_from(length).expect("a range in the address space");
        let protection = if forbidden { libc::PROT_NONE } else { libc::PROT_READ | libc::PROT_WRITE };
        let start = self.checked(offset, length);
        // SAFETY: the range is ours.
        match unsafe { libc::mprotect(start.cast(), length, protection) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn advise(&self, offset: u64, length: usize, advice: i32) -> io::Result<()> {
        let start = self.checked(offset, length);
        // SAFETY: the range is ours, and none of the advice used here makes it invalid.
        match unsafe { libc::madvise(start.cast(), length, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever used it (a VM) was dropped before.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// A file that lives in memory only, with these bytes, which nobody can change any more.
pub(super) fn sealed_file(bytes: &[u8]) -> io::Result<File> {
    use std::io::Write as _;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a string that ends with a zero byte.
    let fd = unsafe { libc::memfd_create(c"tarn-microvm-image".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: sealing a descriptor of our own.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Rounds up to whole pages.
pub(super) const fn whole_pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_of_a_mapping_is_never_touched() {
        let mapping = Mapping::zeroed(2 * PAGE_BYTES).unwrap();
        assert!(mapping.range(2 * PAGE_BYTES, 0).is_some());
        assert!(mapping.range(2 * PAGE_BYTES, 1).is_none());
        assert!(mapping.range(u64::MAX, 2).is_none());
        assert!(mapping.range(1, usize::MAX).is_none());
    }

    #[test]
    fn discarded_pages_read_as_zeroes() {
        let mut mapping = Mapping::zeroed(2 * PAGE_BYTES).unwrap();
        mapping.write(PAGE_BYTES, b"secret");
        mapping.discard(PAGE_BYTES, PAGE_BYTES).unwrap();
        let mut bytes = [1; 6];
        mapping.read(PAGE_BYTES, &mut bytes);
        assert_eq!(bytes, [0; 6]);
    }

    #[test]
    fn a_sealed_file_cannot_be_written() {
        use std::os::unix::fs::FileExt as _;
        let file = sealed_file(b"code").unwrap();
        assert!(file.write_at(b"evil", 0).is_err());
        assert!(file.set_len(0).is_err());
    }
}
