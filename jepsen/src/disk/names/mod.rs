//! Folders and the names in them: as processes see them, and as the disk has them.
//!
//! Names live in memory alone. Each folder has the names that processes see, and for each name that changed since the folder was synced, what
//! a power cut would put there instead. What such a name stands for is kept, even if nothing else names it any more.

mod change;
mod durable;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use fuser::Errno;

use crate::disk::content::Content;

/// The top folder.
pub(in crate::disk) const ROOT: u64 = 1;
/// The longest name, in bytes.
const NAME_MAX: usize = 255;

/// When a changed name survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Promise {
    /// Once its folder was synced, as POSIX has it, and no earlier. The two names of a rename survive together.
    #[default]
    Posix,
    /// Once any file or folder was synced, since all changes of names are committed in order, as ext4's journal does.
    Journal,
}

/// A file, folder or symbolic link.
#[derive(Debug)]
pub(in crate::disk) struct Node {
    pub(in crate::disk) mode: u32,
    pub(in crate::disk) uid: u32,
    pub(in crate::disk) gid: u32,
    pub(in crate::disk) changed: SystemTime,
    /// Of folders and links; a file's content knows its own.
    pub(in crate::disk) modified: SystemTime,
    pub(in crate::disk) body: Body,
    /// Names that processes see.
    pub(in crate::disk) links: u32,
    /// Names that a power cut would bring back.
    remembered: u32,
    /// The folder and the name it got last.
    home: (u64, OsString),
}

/// What a node is.
#[derive(Debug)]
pub(in crate::disk) enum Body {
    File(Arc<Content>),
    Folder(Folder),
    Symlink(PathBuf),
}

/// The names in a folder.
#[derive(Debug, Default)]
pub(in crate::disk) struct Folder {
    pub(in crate::disk) entries: BTreeMap<OsString, u64>,
    unsynced: BTreeMap<OsString, Option<u64>>,
}

/// Who makes a node, and with which permissions.
#[derive(Debug, Clone, Copy)]
pub(in crate::disk) struct Maker {
    pub(in crate::disk) mode: u32,
    pub(in crate::disk) uid: u32,
    pub(in crate::disk) gid: u32,
}

/// All names of one disk.
#[derive(Debug)]
pub(in crate::disk) struct Names {
    nodes: HashMap<u64, Node>,
    next: u64,
    promise: Promise,
    /// Folders with names that changed since they were synced.
    changed: BTreeSet<u64>,
    /// The two names of each rename.
    renames: Vec<[(u64, OsString); 2]>,
    /// Space of files that were let go of, until it is asked for.
    freed: u64,
}

type Answer<T> = Result<T, Errno>;

impl Names {
    pub(in crate::disk) fn new(promise: Promise, root: Maker) -> Self {
        let mut names = Self { nodes: HashMap::new(), next: ROOT + 1, promise, changed: BTreeSet::new(), renames: Vec::new(), freed: 0 };
        let mut node = Node::new(Body::Folder(Folder::default()), root, (ROOT, OsString::new()));
        node.links = 1;
        names.nodes.insert(ROOT, node);
        names
    }

    pub(in crate::disk) fn node(&self, id: u64) -> Answer<&Node> {
        self.nodes.get(&id).ok_or(Errno::ESTALE)
    }

    pub(in crate::disk) fn node_mut(&mut self, id: u64) -> Answer<&mut Node> {
        self.nodes.get_mut(&id).ok_or(Errno::ESTALE)
    }

    pub(in crate::disk) fn content(&self, id: u64) -> Answer<Arc<Content>> {
        match &self.node(id)?.body {
            Body::File(content) => Ok(Arc::clone(content)),
            Body::Folder(_) => Err(Errno::EISDIR),
            Body::Symlink(_) => Err(Errno::EINVAL),
        }
    }

    pub(in crate::disk) fn folder(&self, id: u64) -> Answer<&Folder> {
        match &self.node(id)?.body {
            Body::Folder(folder) => Ok(folder),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn folder_mut(&mut self, id: u64) -> Answer<&mut Folder> {
        match &mut self.node_mut(id)?.body {
            Body::Folder(folder) => Ok(folder),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(in crate::disk) fn lookup(&self, folder: u64, name: &OsStr) -> Answer<u64> {
        self.folder(folder)?.entries.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// The folder that has this folder.
    pub(in crate::disk) fn parent(&self, id: u64) -> Answer<u64> {
        Ok(self.node(id)?.home.0)
    }

    /// Where a node is, from the top.
    pub(in crate::disk) fn path(&self, id: u64) -> PathBuf {
        let mut steps = Vec::new();
        let mut at = id;
        while at != ROOT {
            let Some(node) = self.nodes.get(&at) else { break };
            steps.push(node.home.1.clone());
            at = node.home.0;
        }
        steps.iter().rev().collect()
    }

    /// All files and links below the top, with their paths, in their order.
    pub(in crate::disk) fn leaves(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        self.walk(ROOT, Path::new(""), &mut |path, id, node| {
            if !matches!(node.body, Body::Folder(_)) {
                found.push((path.to_owned(), id));
            }
        });
        found
    }

    /// Shows everything below a folder, folders before what is in them.
    pub(in crate::disk) fn walk(&self, folder: u64, at: &Path, show: &mut impl FnMut(&Path, u64, &Node)) {
        let Ok(entries) = self.folder(folder).map(|folder| &folder.entries) else {
            return;
        };
        for (name, id) in entries {
            if let Ok(node) = self.node(*id) {
                let path = at.join(name);
                show(&path, *id, node);
                if matches!(node.body, Body::Folder(_)) {
                    self.walk(*id, &path, show);
                }
            }
        }
    }

    /// All files, those too that only a power cut would bring back.
    pub(in crate::disk) fn contents(&self) -> Vec<(u64, Arc<Content>)> {
        let mut contents: Vec<(u64, Arc<Content>)> = self
            .nodes
            .iter()
            .filter_map(|(id, node)| match &node.body {
                Body::File(content) => Some((*id, Arc::clone(content))),
                _ => None,
            })
            .collect();
        contents.sort_unstable_by_key(|(id, _)| *id);
        contents
    }

    /// How many names differ from what is durable.
    pub(in crate::disk) fn unsynced(&self) -> u64 {
        let differ =
            |folder: &Folder| folder.unsynced.iter().filter(|(name, durable)| folder.entries.get(*name) != durable.as_ref()).count() as u64;
        self.changed.iter().filter_map(|id| self.folder(*id).ok()).map(differ).sum()
    }

    /// The space that became free since this was asked for last, in bytes.
    pub(in crate::disk) fn take_freed(&mut self) -> u64 {
        std::mem::take(&mut self.freed)
    }

    /// The number that the next new node will have.
    pub(in crate::disk) fn next_id(&self) -> u64 {
        self.next
    }
}

impl Node {
    fn new(body: Body, maker: Maker, home: (u64, OsString)) -> Self {
        let now = SystemTime::now();
        Self { mode: maker.mode & 0o7777, uid: maker.uid, gid: maker.gid, changed: now, modified: now, body, links: 0, remembered: 0, home }
    }
}

/// The backing file of a node.
pub(in crate::disk) fn backing_file(objects: &Path, id: u64) -> PathBuf {
    objects.join(format!("{id:08}"))
}

/// An error number as an error that the harness shows.
pub(in crate::disk) fn sentence(errno: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.code())
}
