//! One disk: its names, its files, who has them open, and what is wrong with it. Knows nothing of how requests arrive.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use fuser::{Errno, FileType};
use nix::fcntl::{FallocateFlags, fallocate};

use super::beneath::Beneath;
use super::content::Content;
use super::faults::{Faults, Operation};
use super::names::{Body, Maker, Names, backing_file};

type Answer<T> = Result<T, Errno>;

/// A disk's whole state.
#[derive(Debug)]
pub(super) struct Volume {
    /// Where the files' bytes are.
    objects: PathBuf,
    names: Mutex<Names>,
    handles: RwLock<HashMap<u64, Arc<Handle>>>,
    next_handle: AtomicU64,
    /// Numbers writes.
    serial: AtomicU64,
    closed: AtomicBool,
    /// Held by whoever opens a file or changes names, and alone by whoever cuts the power.
    power: RwLock<()>,
    pub(super) faults: Faults,
    pub(super) beneath: Beneath,
}

/// What a process has open.
#[derive(Debug)]
pub(super) enum Handle {
    File(OpenFile),
    /// The names as they were when the folder was opened.
    Folder(Vec<(OsString, u64, FileType)>),
}

/// An open file.
#[derive(Debug)]
pub(super) struct OpenFile {
    id: u64,
    content: Arc<Content>,
    /// Where it was when it was opened.
    path: PathBuf,
    /// Each write is synced before it returns.
    synchronous: bool,
}

/// New attributes; `None` leaves the old one.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) modified: Option<SystemTime>,
}

impl Volume {
    pub(super) fn new(objects: PathBuf, names: Names) -> Self {
        Self {
            objects,
            names: Mutex::new(names),
            handles: RwLock::default(),
            next_handle: AtomicU64::new(1),
            serial: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            power: RwLock::default(),
            faults: Faults::default(),
            beneath: Beneath::default(),
        }
    }

    pub(super) fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().expect("nobody panics while holding the names")
    }

    pub(super) fn objects(&self) -> &Path {
        &self.objects
    }

    /// From now on everything fails: the disk is being taken away.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Keeps everybody from opening files and changing names until the guard is dropped.
    pub(super) fn without_power(&self) -> RwLockWriteGuard<'_, ()> {
        self.power.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn powered(&self) -> RwLockReadGuard<'_, ()> {
        self.power.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many files are open.
    pub(super) fn files_open(&self) -> usize {
        let handles = self.handles.read().expect("nobody panics while holding the handles");
        handles.values().filter(|handle| matches!(***handle, Handle::File(_))).count()
    }

    pub(super) fn open(&self, id: u64, flags: i32) -> Answer<u64> {
        self.check_there()?;
        let _powered = self.powered();
        let names = self.names();
        let content = names.content(id)?;
        let path = names.path(id);
        self.beneath.answered(format_args!("opening {}", path.display()), content.open())?;
        drop(names);
        Ok(self.hold(Handle::File(OpenFile { id, content, path, synchronous: flags & libc::O_DSYNC != 0 })))
    }

    pub(super) fn create(&self, folder: u64, name: &OsStr, maker: Maker) -> Answer<u64> {
        self.check_there()?;
        self.check_room()?;
        let _powered = self.powered();
        let mut names = self.names();
        // Asked first, so that no backing file is made for a name that is taken.
        match names.lookup(folder, name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(error) if error.code() == Errno::ENOENT.code() => {}
            Err(error) => return Err(error),
        }
        let path = backing_file(&self.objects, names.next_id());
        let created = Content::create(path);
        let content = Arc::new(self.beneath.answered(format_args!("creating {}", name.display()), created)?);
        names.create(folder, name, Body::File(Arc::clone(&content)), maker).inspect_err(|_| {
            let _ = std::fs::remove_file(content.path());
        })
    }

    pub(super) fn make(&self, folder: u64, name: &OsStr, body: Body, maker: Maker) -> Answer<u64> {
        self.check_there()?;
        self.check_room()?;
        let _powered = self.powered();
        self.names().create(folder, name, body, maker)
    }

    /// Changes names, and frees the space of what nothing names any more.
    pub(super) fn change_names<T>(&self, change: impl FnOnce(&mut Names) -> Answer<T>) -> Answer<T> {
        self.check_there()?;
        let _powered = self.powered();
        let mut names = self.names();
        let answer = change(&mut names);
        self.faults.give_room(names.take_freed());
        // Names are kept in memory: what fails like a disk is the removal of a backing file.
        answer.or_else(|error| match error.code() {
            code @ (libc::EIO | libc::EROFS | libc::ENOSPC) => {
                let failed = Err(io::Error::from_raw_os_error(code));
                self.beneath.answered(format_args!("removing a file"), failed)
            }
            _ => Err(error),
        })
    }

    pub(super) fn open_folder(&self, id: u64) -> Answer<u64> {
        self.check_there()?;
        let names = self.names();
        let mut listing = vec![(".".into(), id, FileType::Directory), ("..".into(), names.parent(id)?, FileType::Directory)];
        for (name, id) in &names.folder(id)?.entries {
            listing.push((name.clone(), *id, kind(&names.node(*id)?.body)));
        }
        drop(names);
        Ok(self.hold(Handle::Folder(listing)))
    }

    pub(super) fn handle(&self, handle: u64) -> Answer<Arc<Handle>> {
        self.check_there()?;
        let handles = self.handles.read().expect("nobody panics while holding the handles");
        handles.get(&handle).cloned().ok_or(Errno::EBADF)
    }

    pub(super) fn release(&self, handle: u64) {
        let released = self.handles.write().expect("nobody panics while holding the handles").remove(&handle);
        if let Some(Handle::File(file)) = released.as_deref()
            && file.content.close()
        {
            let _ = self.change_names(|names| names.collect(file.id));
        }
    }

    pub(super) fn read(&self, handle: u64, at: u64, len: u32) -> Answer<Vec<u8>> {
        let handle = self.handle(handle)?;
        let file = handle.file()?;
        self.faults.wait(Operation::Read);
        if self.faults.fails(Operation::Read, &file.path) {
            return Err(Errno::EIO);
        }
        let read = file.content.read(at, len as usize);
        self.beneath.answered(format_args!("reading {}", file.path.display()), read)
    }

    /// Writes as much as there is room for, and returns how much that was.
    pub(super) fn write(&self, handle: u64, at: u64, data: &[u8]) -> Answer<u32> {
        let handle = self.handle(handle)?;
        let file = handle.file()?;
        self.faults.wait(Operation::Write);
        if self.faults.fails(Operation::Write, &file.path) {
            return Err(Errno::EIO);
        }
        let end = at + data.len() as u64;
        let granted = self.claim(&file.content, end);
        if granted <= at && !data.is_empty() {
            return Err(Errno::ENOSPC);
        }
        let data = &data[..usize::try_from(granted - at).unwrap_or(usize::MAX).min(data.len())];
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let written = file.content.write(serial, at, data);
        self.beneath.answered(format_args!("writing {}", file.path.display()), written)?;
        if file.synchronous {
            self.sync_file(file)?;
        }
        u32::try_from(data.len()).map_err(|_| Errno::EINVAL)
    }

    pub(super) fn sync(&self, handle: u64) -> Answer<()> {
        self.sync_file(self.handle(handle)?.file()?)
    }

    fn sync_file(&self, file: &OpenFile) -> Answer<()> {
        self.faults.wait(Operation::Sync);
        if self.faults.fails(Operation::Sync, &file.path) {
            file.content.fail_sync();
            return Err(Errno::EIO);
        }
        if self.faults.lies() {
            return Ok(());
        }
        file.content.sync();
        self.change_names(Names::file_synced)
    }

    pub(super) fn sync_folder(&self, id: u64) -> Answer<()> {
        self.faults.wait(Operation::Sync);
        let path = self.names().path(id);
        if self.faults.fails(Operation::Sync, &path) {
            return Err(Errno::EIO);
        }
        if self.faults.lies() {
            return Ok(());
        }
        self.change_names(|names| names.folder_synced(id))
    }

    pub(super) fn allocate(&self, handle: u64, at: u64, len: u64, mode: i32) -> Answer<()> {
        let handle = self.handle(handle)?;
        let file = handle.file()?;
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
        let end = at + len;
        let keep_size = mode.contains(FallocateFlags::FALLOC_FL_KEEP_SIZE);
        if (mode - FallocateFlags::FALLOC_FL_KEEP_SIZE).is_empty() {
            if self.claim(&file.content, end) < end {
                return Err(Errno::ENOSPC);
            }
            let (at, len) = (offset(at)?, offset(len)?);
            let reserve = |backing: Arc<File>| fallocate(&*backing, FallocateFlags::FALLOC_FL_KEEP_SIZE, at, len);
            let reserved = file.content.backing().and_then(|backing| Ok(reserve(backing)?));
            self.beneath.answered(format_args!("reserving {}", file.path.display()), reserved)?;
            file.content.reserve(end);
            return self.grow(file, end, keep_size);
        }
        let zeroing = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_ZERO_RANGE;
        if !(mode - FallocateFlags::FALLOC_FL_KEEP_SIZE - zeroing).is_empty() {
            return Err(Errno::EOPNOTSUPP);
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let zeroed = file.content.zero(serial, at..end);
        self.beneath.answered(format_args!("writing {}", file.path.display()), zeroed)?;
        self.grow(file, end, keep_size)
    }

    /// Makes a file as long as what was reserved in it, if it is to be and is not.
    fn grow(&self, file: &OpenFile, end: u64, keep_size: bool) -> Answer<()> {
        if keep_size || end <= file.content.facts().size {
            return Ok(());
        }
        let grown = file.content.resize(end);
        self.beneath.answered(format_args!("resizing {}", file.path.display()), grown)
    }

    /// The backing file of what is open here, to ask it where it has data.
    pub(super) fn backing(&self, handle: u64) -> Answer<Arc<File>> {
        let handle = self.handle(handle)?;
        let file = handle.file()?;
        self.beneath.answered(format_args!("opening {}", file.path.display()), file.content.backing())
    }

    pub(super) fn change(&self, id: u64, change: &Change) -> Answer<()> {
        self.check_there()?;
        if let Some(size) = change.size {
            self.resize(id, size)?;
        }
        let mut names = self.names();
        let node = names.node_mut(id)?;
        node.mode = change.mode.map_or(node.mode, |mode| mode & 0o7777);
        node.uid = change.uid.unwrap_or(node.uid);
        node.gid = change.gid.unwrap_or(node.gid);
        node.changed = SystemTime::now();
        if let Some(time) = change.modified {
            match &node.body {
                Body::File(content) => content.set_modified(time),
                _ => node.modified = time,
            }
        }
        Ok(())
    }

    fn resize(&self, id: u64, size: u64) -> Answer<()> {
        let _powered = self.powered();
        let (content, path) = {
            let names = self.names();
            (names.content(id)?, names.path(id))
        };
        if self.faults.fails(Operation::Write, &path) {
            return Err(Errno::EIO);
        }
        let before = content.facts().allocated;
        self.beneath.answered(format_args!("resizing {}", path.display()), content.resize(size))?;
        self.faults.give_room(before.saturating_sub(content.facts().allocated));
        Ok(())
    }

    /// How far a file may be written, up to `end`: takes the room that this needs.
    fn claim(&self, content: &Content, end: u64) -> u64 {
        let has = content.reach(0);
        if end <= has {
            return end;
        }
        has + self.faults.take_room(end - has)
    }

    fn check_room(&self) -> Answer<()> {
        match self.faults.room() {
            Some(0) => {
                self.faults.strike();
                Err(Errno::ENOSPC)
            }
            _ => Ok(()),
        }
    }

    fn check_there(&self) -> Answer<()> {
        if self.closed.load(Ordering::Acquire) { Err(Errno::EIO) } else { Ok(()) }
    }

    fn hold(&self, handle: Handle) -> u64 {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let mut handles = self.handles.write().expect("nobody panics while holding the handles");
        handles.insert(number, Arc::new(handle));
        number
    }
}

impl Handle {
    pub(super) fn file(&self) -> Answer<&OpenFile> {
        match self {
            Self::File(file) => Ok(file),
            Self::Folder(_) => Err(Errno::EISDIR),
        }
    }
}

fn offset(at: u64) -> Answer<i64> {
    i64::try_from(at).map_err(|_| Errno::EFBIG)
}

/// The kind of a node, as listings show it.
pub(super) fn kind(body: &Body) -> FileType {
    match body {
        Body::File(_) => FileType::RegularFile,
        Body::Folder(_) => FileType::Directory,
        Body::Symlink(_) => FileType::Symlink,
    }
}
