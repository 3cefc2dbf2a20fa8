//! Where a node keeps its engines, and how it waits for the disk.
//!
//! A real node has engines on disk and threads that may block. A simulation has engines in memory and one thread for a whole cluster: there, work
//! that would block is done in place, after the simulated time that it takes.

use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use tarn_storage::{Engine, JournalEngine, Keyspace, Profile, RocksEngine, RocksOptions};
use tokio::task::JoinError;

use crate::log_store;
use crate::state_machine::RAFT;

/// What a node's data lies on.
pub trait Disk: Send + Sync + 'static {
    /// Opens the engine that lies in a directory, or makes an empty one there, with these keyspaces.
    ///
    /// # Errors
    ///
    /// The directory holds something else or something damaged, is in use, or cannot be read.
    fn open(&self, path: &Path, keyspaces: &[Keyspace], profile: Profile) -> Result<Arc<dyn Engine>, io::Error>;

    /// `None`, for a real disk: what may block runs on threads. In a simulation what to wait for before it runs in place, on the thread of the
    /// caller, as if the disk had taken that long.
    fn simulated_delay(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }
}

/// The file system of this machine: a journal for the log, RocksDB for the state.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, keyspaces: &[Keyspace], profile: Profile) -> Result<Arc<dyn Engine>, io::Error> {
        // A log stays what it was begun as, so that the build that began it can go on with it.
        if profile == Profile::Log && JournalEngine::is_for(path).map_err(io::Error::other)? {
            return Ok(Arc::new(JournalEngine::open(path, keyspaces).map_err(io::Error::other)?));
        }
        let engine = RocksEngine::open(path, RocksOptions { keyspaces, profile }).map_err(io::Error::other)?;
        Ok(Arc::new(engine))
    }
}

pub(crate) fn open_log(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn Engine>, io::Error> {
    disk.open(path, log_store::KEYSPACES, Profile::Log)
}

pub(crate) fn open_state(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn Engine>, io::Error> {
    disk.open(path, &[tarn_machine::STATE, RAFT], Profile::State)
}

/// Does work that may block on the disk away from whoever serves the network.
pub(crate) async fn blocking<T: Send + 'static>(disk: &dyn Disk, work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match disk.simulated_delay() {
        None => tokio::task::spawn_blocking(work).await,
        Some(delay) => {
            delay.await;
            Ok(work())
        }
    }
}
