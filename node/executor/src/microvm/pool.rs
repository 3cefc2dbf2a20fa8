//! Machines that are initialised and wait for a job.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use kvm_ioctls::{Cap, Kvm};

use super::image::Image;
use super::leash::{Leash, Stop, prepare_signal};
use super::machine::{Machine, Template};
use crate::ExecutionError;

/// How long an image may take to get ready. It takes milliseconds.
const BOOT_TIME: Duration = Duration::from_secs(20);

/// The largest image file, in bytes: what its region has room for, and some for symbols.
const IMAGE_FILE_BYTES_MAX: u64 = 64 << 20;

/// Machines that wait, and the template for more.
pub(super) struct Pool {
    template: Arc<Template>,
    idle: Mutex<Vec<Machine>>,
    /// How many may wait.
    idle_max: usize,
}

impl Pool {
    /// Boots the image once and starts `idle_max` machines from what it became.
    pub(super) fn start(image: &Path, memory_bytes: u64, idle_max: usize) -> Result<Self, ExecutionError> {
        let kvm = open_kvm()?;
        let image = read_image(image, memory_bytes)?;
        prepare_signal().map_err(ExecutionError::broken)?;
        let template = boot(kvm, image).map_err(|error| ExecutionError::GuestImageUnavailable { detail: error.to_string() })?;
        let pool = Self { template, idle: Mutex::default(), idle_max };
        for _ in 0..idle_max {
            let machine = pool.template.spawn().map_err(no_machine)?;
            pool.lock().push(machine);
        }
        Ok(pool)
    }

    /// A machine that is initialised: one that waited, or a new one.
    pub(super) fn take(&self) -> Result<Machine, ExecutionError> {
        let idle = self.lock().pop();
        match idle {
            Some(machine) => Ok(machine),
            None => self.template.spawn().map_err(no_machine),
        }
    }

    /// Puts a machine back that ended its job in an orderly way, reset; otherwise puts a new one in its place.
    pub(super) fn put(&self, machine: Machine, orderly: bool) {
        if self.lock().len() >= self.idle_max {
            return;
        }
        match self.renew(machine, orderly) {
            Ok(machine) => self.lock().push(machine),
            // The next attempt starts a machine itself, and reports it if that fails.
            Err(error) => tracing::warn!(%error, "cannot put a micro-VM back into the pool"),
        }
    }

    fn renew(&self, mut machine: Machine, orderly: bool) -> io::Result<Machine> {
        if orderly {
            match machine.reset() {
                Ok(()) => return Ok(machine),
                Err(error) => tracing::warn!(%error, "a micro-VM cannot be reset: starting another one"),
            }
        }
        drop(machine);
        self.template.spawn()
    }

    /// How many machines wait.
    pub(super) fn idle(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Machine>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_machine(error: io::Error) -> ExecutionError {
    ExecutionError::ResourceExhausted { detail: format!("a micro-VM cannot be started: {error}") }
}

fn open_kvm() -> Result<Kvm, ExecutionError> {
    let unavailable = |detail: String| ExecutionError::KvmUnavailable { detail };
    let kvm = Kvm::new().map_err(|error| unavailable(format!("/dev/kvm cannot be opened: {error}")))?;
    for (cap, name) in
        [(Cap::ImmediateExit, "immediate exit"), (Cap::ReadonlyMem, "read-only memory"), (Cap::Xcrs, "extended control registers")]
    {
        if !kvm.check_extension(cap) {
            return Err(unavailable(format!("/dev/kvm does not offer {name}")));
        }
    }
    Ok(kvm)
}

fn read_image(path: &Path, memory_bytes: u64) -> Result<Image, ExecutionError> {
    let unavailable = |detail: String| ExecutionError::GuestImageUnavailable { detail: format!("{}: {detail}", path.display()) };
    let size = fs::metadata(path).map_err(|error| unavailable(error.to_string()))?.len();
    if size > IMAGE_FILE_BYTES_MAX {
        return Err(unavailable(format!("it has {size} bytes, which is no guest image")));
    }
    let elf = fs::read(path).map_err(|error| unavailable(error.to_string()))?;
    Image::load(&elf, memory_bytes).map_err(|error| unavailable(error.to_string()))
}

/// Boots the image, and gives up when it does not get ready.
fn boot(kvm: Kvm, image: Image) -> io::Result<Arc<Template>> {
    let leash = Leash::default();
    let (done, over) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let leash = &leash;
        scope.spawn(move || {
            if over.recv_timeout(BOOT_TIME) == Err(mpsc::RecvTimeoutError::Timeout) {
                leash.stop(Stop::TimeOver);
            }
        });
        // Dropped when the boot is over, however it ends.
        let _done = done;
        Template::boot(kvm, image, leash)
    })
}
