//! What a node that has joined knows of its cluster before its first start: `cluster.json` in its data directory.
//!
//! From the first start on, the log says who is in the cluster; then this file is only a hint.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tarn_raft::{NodeId, Peer};

const FILE: &str = "cluster.json";

/// The format that this build writes and reads.
const FORMAT: u32 = 1;

/// Largest file that is read: a few thousand members.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where the cluster is, as the node was told when it joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seeds {
    format: u32,
    /// The cluster.
    pub cluster_id: String,
    /// The id that the cluster gave this node.
    pub node_id: NodeId,
    /// What this node said that peers and clients dial.
    pub advertise: String,
    /// The members at that time.
    pub members: Vec<Seed>,
    /// Whether the cluster has made this node a member since.
    pub is_member: bool,
}

/// A member that can be asked for membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// Its id, which its certificate must name.
    pub node_id: NodeId,
    /// What to dial.
    pub address: String,
}

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SeedsError {
    /// The disk refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was to be done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what this build writes.
    #[error("{path} cannot be used ({reason}): run `tarn node join` again with a new token in an empty data directory")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Seeds {
    /// What a node was told when it joined.
    #[must_use]
    pub fn new(cluster_id: String, node_id: NodeId, advertise: String, members: Vec<Seed>) -> Self {
        Self { format: FORMAT, cluster_id, node_id, advertise, members, is_member: false }
    }

    /// The members to ask, this node left out.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let others = self.members.iter().filter(|seed| seed.node_id != self.node_id);
        others.map(|seed| Peer { id: seed.node_id, address: seed.address.clone() }).collect()
    }

    /// Reads the file; `None` if this node did not come by joining.
    ///
    /// # Errors
    /// [`SeedsError`].
    pub fn load(data_dir: &Path) -> Result<Option<Self>, SeedsError> {
        let path = data_dir.join(FILE);
        let malformed = |reason: String| SeedsError::Malformed { path: path.clone(), reason };
        let text = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => return Err(malformed("it is far too long".into())),
            Ok(_) => fs::read(&path).map_err(failed("read", &path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let seeds: Self = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        if seeds.format != FORMAT {
            return Err(malformed(format!("its format {} is not known to this build", seeds.format)));
        }
        Ok(Some(seeds))
    }

    /// Writes the file: there whole or not at all, and on disk when this returns.
    ///
    /// # Errors
    /// [`SeedsError::Io`].
    pub fn store(&self, data_dir: &Path) -> Result<(), SeedsError> {
        let text = serde_json::to_vec_pretty(self).expect("numbers and text can always be written as JSON");
        write_private(&data_dir.join(FILE), &text)
    }
}

/// Writes a file for its owner alone: whole or not at all, and on disk when this returns. Its directory is made if need be.
pub(super) fn write_private(path: &Path, content: &[u8]) -> Result<(), SeedsError> {
    let dir = path.parent().expect("the paths here are below a data directory");
    let write = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o600)).tempfile_in(dir)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(failed("write", path))
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SeedsError {
    let path = path.to_owned();
    move |source| SeedsError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_loaded_and_nobody_else_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Seeds::load(dir.path()).unwrap(), None);
        let members = vec![Seed { node_id: 1, address: "a:1".into() }, Seed { node_id: 4, address: "d:1".into() }];
        let seeds = Seeds::new("prod".into(), 4, "d:1".into(), members);
        let data_dir = dir.path().join("new/data");
        seeds.store(&data_dir).unwrap();
        assert_eq!(Seeds::load(&data_dir).unwrap().unwrap(), seeds);
        assert_eq!(seeds.peers(), [Peer { id: 1, address: "a:1".into() }]);
        assert_eq!(fs::metadata(data_dir.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{}", "[1]", r#"{"format":2,"cluster_id":"c","node_id":1,"advertise":"a","members":[],"is_member":false}"#] {
            fs::write(dir.path().join(FILE), text).unwrap();
            assert!(matches!(Seeds::load(dir.path()), Err(SeedsError::Malformed { .. })), "{text}");
        }
    }
}
