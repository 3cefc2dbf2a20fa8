//! A disk that a test holds in its hands.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fuser::{BackgroundSession, Config, INodeNo, Notifier, Session, SessionACL};
use rand::rngs::StdRng;

use super::cut::{self, Loss, Survival};
use super::damage::{self, Damage, Memory, Wound};
use super::faults::{IoErrors, Slowness};
use super::names::Promise;
use super::serve::Served;
use super::volume::Volume;
use super::{adopt, mount};

/// Threads that answer the kernel: a slow sync must not hold up reads.
const THREADS: usize = 4;
/// How long the kernel may take to tell that a process that has ended has closed its files.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);
/// How long the kernel may take to let go of a disk that was unmounted.
const GONE_WITHIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A file system that fails on command. Dropping it unmounts it, and its files get their names back in the backing folder.
#[derive(Debug)]
pub struct FaultyDisk {
    volume: Arc<Volume>,
    backing: PathBuf,
    point: PathBuf,
    session: Option<BackgroundSession>,
    notifier: Notifier,
    memory: Mutex<Memory>,
}

/// What a power cut would take now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unsynced {
    /// Files with unsynced data.
    pub files: u64,
    /// Names that were made, changed or removed.
    pub names: u64,
}

impl FaultyDisk {
    /// Makes a disk of a folder and mounts it, with POSIX's promise for names. The files that are in the folder are on the disk, and durable;
    /// as long as it is mounted, the folder itself has only their bytes, without their names.
    ///
    /// # Errors
    /// If [`super::available`] says no, one of the folders cannot be used, or `point` is not empty.
    pub fn mount(backing: &Path, point: &Path) -> Result<Self> {
        Self::mount_with(backing, point, Promise::Posix)
    }

    /// As [`FaultyDisk::mount`], with another promise for names.
    ///
    /// # Errors
    /// As [`FaultyDisk::mount`].
    pub fn mount_with(backing: &Path, point: &Path, promise: Promise) -> Result<Self> {
        fs::create_dir_all(backing)?;
        fs::create_dir_all(point)?;
        let (backing, point) = (backing.canonicalize()?, point.canonicalize()?);
        ensure!(!point.starts_with(&backing), "a disk cannot be mounted on its own backing folder");
        ensure!(fs::read_dir(&point)?.next().is_none(), "{} is not empty", point.display());
        let names = adopt::adopt(&backing, promise)?;
        let volume = Arc::new(Volume::new(adopt::objects(&backing), names));
        match serve(&volume, &point) {
            Ok((session, notifier)) => Ok(Self { volume, backing, point, session: Some(session), notifier, memory: Mutex::default() }),
            Err(error) => {
                let handed_back = adopt::hand_back(&volume.names(), &backing);
                Err(error.context(format!("{} cannot be mounted", point.display()))).and_then(|never: Self| handed_back.map(|()| never))
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// Takes everything that was not synced away, as a power cut does. Whoever had files open must be dead.
    ///
    /// # Errors
    /// If files are still open after some seconds, or the backing folder fails.
    pub fn lose_unsynced(&self, survival: Survival, rng: &mut StdRng) -> Result<Loss> {
        self.lose_unsynced_within(CLOSED_WITHIN, survival, rng)
    }

    pub(super) fn lose_unsynced_within(&self, within: Duration, survival: Survival, rng: &mut StdRng) -> Result<Loss> {
        wait_until(within, || self.files_open() == 0);
        let dark = self.volume.without_power();
        let open = self.files_open();
        ensure!(open == 0, "{open} files on {} are still open: is its node dead?", self.point.display());
        let loss = cut::cut(&self.volume, survival, rng)?;
        drop(dark);
        self.forget_pages();
        Ok(loss)
    }

    /// What a power cut would take now.
    pub fn unsynced(&self) -> Unsynced {
        let names = self.volume.names();
        let dirty = |content: &super::content::Content| !content.dirty().is_empty();
        Unsynced { files: names.contents().iter().filter(|(_, content)| dirty(content)).count() as u64, names: names.unsynced() }
    }

    /// Fills the disk up, or frees it again. On a full disk nothing grows and nothing new is made (`ENOSPC`); what is there can be read,
    /// overwritten and removed, and what is removed makes room.
    pub fn fill(&self, full: bool) {
        self.limit(full.then_some(0));
    }

    /// Leaves so many bytes free; a write that crosses the limit is short. `None`: no limit.
    pub fn limit(&self, free: Option<u64>) {
        self.volume.faults.set_room(free);
    }

    /// Makes operations fail with `EIO`; `None` makes it well again. A sync that fails takes what it should have made durable with it, as on
    /// Linux: a later sync succeeds, and does not make that durable.
    pub fn io_errors(&self, errors: Option<IoErrors>) {
        self.volume.faults.set_errors(errors);
        self.forget_pages();
    }

    /// Makes syncs do nothing and say that they did. A program that is right loses data on such a disk: whoever looks for lost data must find it.
    pub fn lie(&self, lying: bool) {
        self.volume.faults.set_lying(lying);
    }

    /// Makes operations take longer.
    pub fn slow(&self, slowness: Slowness) {
        self.volume.faults.set_slowness(slowness);
    }

    /// How many operations failed since the disk was mounted because it was full or had errors: a fault that nobody met proves nothing.
    pub fn struck(&self) -> u64 {
        self.volume.faults.struck()
    }

    /// Why the disk cannot be believed any more, if so: the folder beneath it failed, or nothing answers the kernel. No fault was meant to do
    /// that, so what processes made of it proves nothing.
    pub fn machine_failure(&self) -> Option<String> {
        let unserved = || {
            let session = self.session.as_ref()?;
            session.guard.is_finished().then(|| format!("{} is not served any more", self.point.display()))
        };
        self.volume.beneath.failure().or_else(unserved)
    }

    /// Copies the files that fit a pattern, for [`Damage::OldChunk`]. Returns how many.
    ///
    /// # Errors
    /// If the backing folder fails.
    pub fn remember(&self, files: &str) -> Result<usize> {
        let memory = damage::remember(&self.volume, files)?;
        let count = memory.len();
        *self.memory() = memory;
        Ok(count)
    }

    /// Forgets what was remembered.
    pub fn forget(&self) {
        self.memory().clear();
    }

    /// Damages one of the files whose path from the top fits, drawn by chance. `None` if there is none that can be damaged in this way.
    ///
    /// # Errors
    /// If the backing folder fails.
    pub fn corrupt(&self, files: &str, damage: Damage, rng: &mut StdRng) -> Result<Option<Wound>> {
        let memory = self.memory();
        let Some((wound, id)) = damage::damage(&self.volume, files, damage, &memory, rng)? else {
            return Ok(None);
        };
        drop(memory);
        let _ = self.notifier.inval_inode(INodeNo(id), 0, 0);
        Ok(Some(wound))
    }

    /// The paths from the top of the files that fit a pattern, and their sizes.
    pub fn files(&self, pattern: &str) -> Vec<(PathBuf, u64)> {
        damage::fitting(&self.volume, pattern).into_iter().map(|(path, _, content)| (path, content.facts().size)).collect()
    }

    /// How many files are open.
    pub fn files_open(&self) -> usize {
        self.volume.files_open()
    }

    /// Unmounts it at once; files that are still open fail from now on. Their names come back in the backing folder.
    ///
    /// # Errors
    /// If it cannot be unmounted, or the names cannot be made.
    pub fn unmount(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        let Some(session) = self.session.take() else {
            return Ok(());
        };
        self.volume.close();
        let unmounted = mount::unmount(&self.point);
        // While another process or mount namespace holds on to it, its threads stay; they fail every request, and end with the holders.
        wait_until(GONE_WITHIN, || session.guard.is_finished());
        adopt::hand_back(&self.volume.names(), &self.backing)?;
        unmounted.with_context(|| format!("{} cannot be unmounted", self.point.display()))
    }

    /// Has the kernel ask again for what it has in its page cache. Holds no lock: the kernel waits for requests that need them.
    fn forget_pages(&self) {
        let contents = self.volume.names().contents();
        for (id, _) in contents {
            // The kernel may well know nothing of the file.
            let _ = self.notifier.inval_inode(INodeNo(id), 0, 0);
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().expect("nobody panics while holding copies")
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            tracing::warn!("{error:#}");
        }
    }
}

fn serve(volume: &Arc<Volume>, point: &Path) -> Result<(BackgroundSession, Notifier)> {
    super::available().map_err(anyhow::Error::msg)?;
    mount::sweep().context("mounts of harnesses that were killed cannot be removed")?;
    let device = mount::mount(point)?;
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    let served = Session::from_fd(Served(Arc::clone(volume)), device.into(), SessionACL::All, config).and_then(|session| {
        let notifier = session.notifier();
        Ok((session.spawn()?, notifier))
    });
    served.or_else(|error| {
        mount::unmount(point)?;
        Err(error.into())
    })
}

fn wait_until(within: Duration, done: impl Fn() -> bool) {
    let end = Instant::now() + within;
    while !done() && Instant::now() < end {
        std::thread::sleep(LOOK_AGAIN);
    }
}
