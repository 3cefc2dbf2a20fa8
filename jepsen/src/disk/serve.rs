//! The kernel's requests, and what they are to the volume.
//!
//! The kernel is told to remember nothing about names and attributes: they change under it when power is cut. Bytes it does keep in its page
//! cache, and asks again after each opening of a file. File locks are the kernel's own business.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    Request, TimeOrNow, WriteFlags,
};
use nix::unistd::{Whence, lseek64};

use super::names::{Body, Folder, Maker};
use super::volume::{Change, Handle, Volume, kind};

/// How long the kernel may believe what it was told.
const NEVER: Duration = Duration::ZERO;
const BLOCK: u32 = 4096;
/// The most bytes of one write.
const WRITE_MAX: u32 = 1 << 20;

/// A volume that answers the kernel.
#[derive(Debug)]
pub(super) struct Served(pub(super) Arc<Volume>);

impl Served {
    fn attributes(&self, id: u64) -> Result<FileAttr, Errno> {
        let names = self.0.names();
        let node = names.node(id)?;
        let (size, allocated, modified, links) = match &node.body {
            Body::File(content) => {
                let facts = content.facts();
                (facts.size, facts.allocated, facts.modified, node.links)
            }
            Body::Folder(_) => (u64::from(BLOCK), u64::from(BLOCK), node.modified, 2),
            Body::Symlink(target) => (target.as_os_str().len() as u64, 0, node.modified, node.links),
        };
        Ok(FileAttr {
            ino: INodeNo(id),
            size,
            blocks: allocated.div_ceil(512),
            atime: modified,
            mtime: modified,
            ctime: node.changed.max(modified),
            crtime: node.changed,
            kind: kind(&node.body),
            perm: u16::try_from(node.mode & 0o7777).expect("twelve bits fit"),
            nlink: links,
            uid: node.uid,
            gid: node.gid,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        })
    }

    fn entry(&self, id: Result<u64, Errno>, reply: ReplyEntry) {
        match id.and_then(|id| self.attributes(id)) {
            Ok(attributes) => reply.entry(&NEVER, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn attribute(&self, id: u64, done: Result<(), Errno>, reply: ReplyAttr) {
        match done.and_then(|()| self.attributes(id)) {
            Ok(attributes) => reply.attr(&NEVER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn seek(&self, handle: u64, offset: i64, whence: i32) -> Result<i64, Errno> {
        let whence = match whence {
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            _ => return Err(Errno::EINVAL),
        };
        let backing = self.0.backing(handle)?;
        let found = lseek64(&*backing, offset, whence);
        self.0.beneath.answered(format_args!("looking for data"), found.map_err(Into::into))
    }
}

fn empty(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn maker(request: &Request, mode: u32, umask: u32) -> Maker {
    Maker { mode: mode & !umask, uid: request.uid(), gid: request.gid() }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.set_max_write(WRITE_MAX);
        // Lookups and listings of one folder need not wait for each other.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let id = self.0.names().lookup(parent.0, name);
        self.entry(id, reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.attribute(ino.0, Ok(()), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let modified = mtime.map(|time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => SystemTime::now(),
        });
        let change = Change { mode, uid, gid, size, modified };
        self.attribute(ino.0, self.0.change(ino.0, &change), reply);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.0.names().node(ino.0).map(|node| &node.body) {
            Ok(Body::Symlink(target)) => reply.data(target.as_os_str().as_bytes()),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: u32, reply: ReplyEntry) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return reply.error(Errno::EPERM);
        }
        self.entry(self.0.create(parent.0, name, maker(request, mode, umask)), reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let body = Body::Folder(Folder::default());
        self.entry(self.0.make(parent.0, name, body, maker(request, mode, umask)), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let body = Body::Symlink(target.to_owned());
        self.entry(self.0.make(parent.0, name, body, maker(request, 0o777, 0)), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.0.change_names(|names| names.unlink(parent.0, name)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.0.change_names(|names| names.remove_folder(parent.0, name)), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = self.0.change_names(|names| names.rename((parent.0, name), (newparent.0, newname), flags));
        empty(renamed, reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let linked = self.0.change_names(|names| names.link(ino.0, newparent.0, newname));
        self.entry(linked.map(|()| ino.0), reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.0.open(ino.0, flags.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate) {
        let created =
            self.0.create(parent.0, name, maker(request, mode, umask)).and_then(|id| Ok((self.attributes(id)?, self.0.open(id, flags)?)));
        match created {
            Ok((attributes, handle)) => {
                reply.created(&NEVER, &attributes, Generation(0), FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, size: u32, _: OpenFlags, _: Option<LockOwner>, reply: ReplyData) {
        match self.0.read(fh.0, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.write(fh.0, offset, data) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Closing a file writes nothing here. Told so once, the kernel asks no more.
        reply.error(Errno::ENOSYS);
    }

    fn release(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, _: Option<LockOwner>, _: bool, reply: ReplyEmpty) {
        self.0.release(fh.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(self.0.sync(fh.0), reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.0.open_folder(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let handle = match self.0.handle(fh.0) {
            Ok(handle) => handle,
            Err(error) => return reply.error(error),
        };
        let Handle::Folder(listing) = &*handle else {
            return reply.error(Errno::ENOTDIR);
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (name, id, kind)) in listing.iter().enumerate().skip(from) {
            if reply.add(INodeNo(*id), at as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.0.release(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(self.0.sync_folder(ino.0), reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let backing = nix::sys::statvfs::statvfs(self.0.objects()).map_err(Into::into);
        let backing = match self.0.beneath.answered(format_args!("asking for the room left"), backing) {
            Ok(backing) => backing,
            Err(error) => return reply.error(error),
        };
        let size = backing.fragment_size();
        let free = self.0.faults.room().map_or(backing.blocks_available(), |room| room / size);
        let block = u32::try_from(size).unwrap_or(BLOCK);
        reply.statfs(backing.blocks(), free, free, backing.files(), backing.files_free(), block, 255, block);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: fuser::ReplyXattr) {
        // There are no extended attributes. Told so once, the kernel does not ask before every write whether one forbids it.
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        empty(self.0.allocate(fh.0, offset, length, mode), reply);
    }

    fn lseek(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.seek(fh.0, offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(error),
        }
    }
}
