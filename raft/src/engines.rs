//! Opens the two engines of a node: the log and the state.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tarn_storage::{Engine, Keyspace, Profile, RocksEngine, RocksOptions};

use crate::log_store;
use crate::state_machine::RAFT;

pub(crate) fn open_log(path: &Path) -> Result<Arc<dyn Engine>, io::Error> {
    open(path, log_store::KEYSPACES, Profile::Log)
}

pub(crate) fn open_state(path: &Path) -> Result<Arc<dyn Engine>, io::Error> {
    open(path, &[tarn_machine::STATE, RAFT], Profile::State)
}

fn open(path: &Path, keyspaces: &[Keyspace], profile: Profile) -> Result<Arc<dyn Engine>, io::Error> {
    let engine = RocksEngine::open(path, RocksOptions { keyspaces, profile }).map_err(io::Error::other)?;
    Ok(Arc::new(engine))
}
