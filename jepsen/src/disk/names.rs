//! Folders and the names in them: as processes see them, and as the disk has them.
//!
//! Names live in memory alone. Each folder has the names that processes see, and for each name that changed since the folder was synced, what
//! a power cut would put there instead. What such a name stands for is kept, even if nothing else names it any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{Errno, RenameFlags};

use super::content::Content;

/// The top folder.
pub(super) const ROOT: u64 = 1;
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
pub(super) struct Node {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) changed: SystemTime,
    /// Of folders and links; a file's content knows its own.
    pub(super) modified: SystemTime,
    pub(super) body: Body,
    /// Names that processes see.
    pub(super) links: u32,
    /// Names that a power cut would bring back.
    remembered: u32,
    /// The folder and the name it got last.
    home: (u64, OsString),
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Body {
    File(Arc<Content>),
    Folder(Folder),
    Symlink(PathBuf),
}

/// The names in a folder.
#[derive(Debug, Default)]
pub(super) struct Folder {
    pub(super) entries: BTreeMap<OsString, u64>,
    unsynced: BTreeMap<OsString, Option<u64>>,
}

/// Who makes a node, and with which permissions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maker {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// All names of one disk.
#[derive(Debug)]
pub(super) struct Names {
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
    pub(super) fn new(promise: Promise, root: Maker) -> Self {
        let mut names = Self {
            nodes: HashMap::new(),
            next: ROOT + 1,
            promise,
            changed: BTreeSet::new(),
            renames: Vec::new(),
            freed: 0,
        };
        let mut node = Node::new(Body::Folder(Folder::default()), root, (ROOT, OsString::new()));
        node.links = 1;
        names.nodes.insert(ROOT, node);
        names
    }

    pub(super) fn node(&self, id: u64) -> Answer<&Node> {
        self.nodes.get(&id).ok_or(Errno::ESTALE)
    }

    pub(super) fn node_mut(&mut self, id: u64) -> Answer<&mut Node> {
        self.nodes.get_mut(&id).ok_or(Errno::ESTALE)
    }

    pub(super) fn content(&self, id: u64) -> Answer<Arc<Content>> {
        match &self.node(id)?.body {
            Body::File(content) => Ok(Arc::clone(content)),
            Body::Folder(_) => Err(Errno::EISDIR),
            Body::Symlink(_) => Err(Errno::EINVAL),
        }
    }

    pub(super) fn folder(&self, id: u64) -> Answer<&Folder> {
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

    pub(super) fn lookup(&self, folder: u64, name: &OsStr) -> Answer<u64> {
        self.folder(folder)?.entries.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// The folder that has this folder.
    pub(super) fn parent(&self, id: u64) -> Answer<u64> {
        Ok(self.node(id)?.home.0)
    }

    /// Where a node is, from the top.
    pub(super) fn path(&self, id: u64) -> PathBuf {
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
    pub(super) fn leaves(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        self.walk(ROOT, Path::new(""), &mut |path, id, node| {
            if !matches!(node.body, Body::Folder(_)) {
                found.push((path.to_owned(), id));
            }
        });
        found
    }

    /// Shows everything below a folder, folders before what is in them.
    pub(super) fn walk(&self, folder: u64, at: &Path, show: &mut impl FnMut(&Path, u64, &Node)) {
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
    pub(super) fn contents(&self) -> Vec<(u64, Arc<Content>)> {
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
    pub(super) fn unsynced(&self) -> u64 {
        let differ = |folder: &Folder| {
            folder
                .unsynced
                .iter()
                .filter(|(name, durable)| folder.entries.get(*name) != durable.as_ref())
                .count() as u64
        };
        self.changed
            .iter()
            .filter_map(|id| self.folder(*id).ok())
            .map(differ)
            .sum()
    }

    /// The space that became free since this was asked for last, in bytes.
    pub(super) fn take_freed(&mut self) -> u64 {
        std::mem::take(&mut self.freed)
    }

    /// The number that the next new node will have.
    pub(super) fn next_id(&self) -> u64 {
        self.next
    }

    pub(super) fn create(&mut self, folder: u64, name: &OsStr, body: Body, maker: Maker) -> Answer<u64> {
        self.check_new(folder, name)?;
        self.note(folder, name)?;
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, Node::new(body, maker, (folder, name.to_owned())));
        self.enter(folder, name, id)?;
        Ok(id)
    }

    /// Adds a node that the disk already had.
    pub(super) fn adopt(&mut self, folder: u64, name: &OsStr, body: Body, maker: Maker) -> Answer<u64> {
        let id = self.create(folder, name, body, maker)?;
        self.settle((folder, name.to_owned()))?;
        Ok(id)
    }

    pub(super) fn link(&mut self, id: u64, folder: u64, name: &OsStr) -> Answer<()> {
        self.check_new(folder, name)?;
        if matches!(self.node(id)?.body, Body::Folder(_)) {
            return Err(Errno::EPERM);
        }
        self.note(folder, name)?;
        self.enter(folder, name, id)
    }

    pub(super) fn unlink(&mut self, folder: u64, name: &OsStr) -> Answer<()> {
        let id = self.lookup(folder, name)?;
        if matches!(self.node(id)?.body, Body::Folder(_)) {
            return Err(Errno::EISDIR);
        }
        self.remove(folder, name)
    }

    pub(super) fn remove_folder(&mut self, folder: u64, name: &OsStr) -> Answer<()> {
        let id = self.lookup(folder, name)?;
        if !self.folder(id)?.entries.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.remove(folder, name)
    }

    pub(super) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), flags: RenameFlags) -> Answer<()> {
        let id = self.lookup(from.0, from.1)?;
        let target = self.lookup(to.0, to.1).ok();
        check_name(to.1)?;
        if flags.contains(RenameFlags::RENAME_NOREPLACE) && target.is_some() {
            return Err(Errno::EEXIST);
        }
        self.check_not_inside(id, to.0)?;
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            let other = target.ok_or(Errno::ENOENT)?;
            self.check_not_inside(other, from.0)?;
            self.note_rename(from, to)?;
            self.leave(from)?;
            self.leave(to)?;
            self.enter(from.0, from.1, other)?;
            return self.enter(to.0, to.1, id);
        }
        if target == Some(id) {
            return Ok(());
        }
        if let Some(target) = target {
            self.check_replaceable(id, target)?;
        }
        self.note_rename(from, to)?;
        if target.is_some() {
            self.leave(to)?;
        }
        self.leave(from)?;
        self.enter(to.0, to.1, id)?;
        target.map_or(Ok(()), |target| self.collect(target))
    }

    /// A file was synced: what that promises for names.
    pub(super) fn file_synced(&mut self) -> Answer<()> {
        match self.promise {
            Promise::Posix => Ok(()),
            Promise::Journal => self.sync_all(),
        }
    }

    /// A folder was synced.
    pub(super) fn folder_synced(&mut self, id: u64) -> Answer<()> {
        if self.promise == Promise::Journal {
            return self.sync_all();
        }
        let names: Vec<OsString> = self.folder(id)?.unsynced.keys().cloned().collect();
        let mut due: Vec<(u64, OsString)> = names.into_iter().map(|name| (id, name)).collect();
        while let Some(name) = due.pop() {
            let touches = |rename: &[(u64, OsString); 2]| rename.contains(&name);
            due.extend(self.renames.extract_if(.., |rename| touches(rename)).flatten());
            self.settle(name)?;
        }
        Ok(())
    }

    /// Makes all names durable.
    pub(super) fn sync_all(&mut self) -> Answer<()> {
        self.renames.clear();
        for id in self.changed.clone() {
            // A folder may have gone together with the one that was settled before it.
            let names: Vec<OsString> = self
                .folder(id)
                .map(|folder| folder.unsynced.keys().cloned().collect())
                .unwrap_or_default();
            for name in names {
                self.settle((id, name))?;
            }
        }
        Ok(())
    }

    /// Takes all names back to what is durable, and returns how many changed.
    pub(super) fn cut(&mut self) -> u64 {
        let mut lost = 0;
        for id in std::mem::take(&mut self.changed) {
            let Ok(folder) = self.folder_mut(id) else { continue };
            for (name, durable) in std::mem::take(&mut folder.unsynced) {
                if folder.entries.get(&name).copied() == durable {
                    continue;
                }
                lost += 1;
                match durable {
                    Some(id) => folder.entries.insert(name, id),
                    None => folder.entries.remove(&name),
                };
            }
        }
        self.renames.clear();
        self.recount();
        lost
    }

    /// Counts links and finds homes again, and lets go of what nothing names.
    fn recount(&mut self) {
        for (id, node) in &mut self.nodes {
            node.links = u32::from(*id == ROOT);
            node.remembered = 0;
        }
        let mut folders = vec![ROOT];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = self.folder(folder).map(|folder| folder.entries.clone()) else {
                continue;
            };
            for (name, id) in entries {
                let Some(node) = self.nodes.get_mut(&id) else { continue };
                if matches!(node.body, Body::Folder(_)) {
                    if node.links > 0 {
                        // A folder that a cut left in two places stays in the first.
                        let _ = self.folder_mut(folder).map(|folder| folder.entries.remove(&name));
                        continue;
                    }
                    folders.push(id);
                }
                node.links += 1;
                node.home = (folder, name);
            }
        }
        let unnamed: Vec<u64> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.links == 0)
            .map(|(id, _)| *id)
            .collect();
        for id in unnamed {
            let _ = self.collect(id);
        }
    }

    /// Lets go of a node that has no name, now or after a power cut, and that nobody has open.
    pub(super) fn collect(&mut self, id: u64) -> Answer<()> {
        let Ok(node) = self.node(id) else { return Ok(()) };
        let held = matches!(&node.body, Body::File(content) if content.is_open());
        if node.links > 0 || node.remembered > 0 || held {
            return Ok(());
        }
        self.changed.remove(&id);
        match self.nodes.remove(&id).expect("the node was just seen").body {
            Body::File(content) => {
                self.freed += content.facts().allocated;
                std::fs::remove_file(content.path())?;
            }
            Body::Folder(folder) => {
                for durable in folder.unsynced.into_values().flatten() {
                    self.release(durable)?;
                }
            }
            Body::Symlink(_) => {}
        }
        Ok(())
    }

    /// Remembers what a name stands for on the disk, before it changes.
    fn note(&mut self, folder: u64, name: &OsStr) -> Answer<()> {
        let names = self.folder_mut(folder)?;
        if names.unsynced.contains_key(name) {
            return Ok(());
        }
        let durable = names.entries.get(name).copied();
        names.unsynced.insert(name.to_owned(), durable);
        self.changed.insert(folder);
        if let Some(id) = durable {
            self.node_mut(id)?.remembered += 1;
        }
        Ok(())
    }

    fn note_rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Answer<()> {
        self.note(from.0, from.1)?;
        self.note(to.0, to.1)?;
        self.renames
            .push([(from.0, from.1.to_owned()), (to.0, to.1.to_owned())]);
        Ok(())
    }

    /// What a name stands for now is durable.
    fn settle(&mut self, (folder, name): (u64, OsString)) -> Answer<()> {
        let Ok(names) = self.folder_mut(folder) else {
            return Ok(());
        };
        let durable = names.unsynced.remove(&name).flatten();
        if names.unsynced.is_empty() {
            self.changed.remove(&folder);
        }
        durable.map_or(Ok(()), |id| self.release(id))
    }

    /// One name less would bring this node back.
    fn release(&mut self, id: u64) -> Answer<()> {
        if let Ok(node) = self.node_mut(id) {
            node.remembered = node.remembered.saturating_sub(1);
        }
        self.collect(id)
    }

    fn enter(&mut self, folder: u64, name: &OsStr, id: u64) -> Answer<()> {
        self.folder_mut(folder)?.entries.insert(name.to_owned(), id);
        self.touch(folder)?;
        let node = self.node_mut(id)?;
        node.links += 1;
        node.changed = SystemTime::now();
        node.home = (folder, name.to_owned());
        Ok(())
    }

    /// Takes a name away without letting go of the node.
    fn leave(&mut self, (folder, name): (u64, &OsStr)) -> Answer<()> {
        let id = self.folder_mut(folder)?.entries.remove(name).ok_or(Errno::ENOENT)?;
        self.touch(folder)?;
        let node = self.node_mut(id)?;
        node.links -= 1;
        node.changed = SystemTime::now();
        Ok(())
    }

    fn remove(&mut self, folder: u64, name: &OsStr) -> Answer<()> {
        let id = self.lookup(folder, name)?;
        self.note(folder, name)?;
        self.leave((folder, name))?;
        self.collect(id)
    }

    fn touch(&mut self, folder: u64) -> Answer<()> {
        let now = SystemTime::now();
        let node = self.node_mut(folder)?;
        (node.changed, node.modified) = (now, now);
        Ok(())
    }

    fn check_new(&self, folder: u64, name: &OsStr) -> Answer<()> {
        check_name(name)?;
        if self.node(folder)?.links == 0 {
            return Err(Errno::ENOENT);
        }
        match self.folder(folder)?.entries.contains_key(name) {
            true => Err(Errno::EEXIST),
            false => Ok(()),
        }
    }

    fn check_replaceable(&self, id: u64, target: u64) -> Answer<()> {
        match (&self.node(id)?.body, &self.node(target)?.body) {
            (Body::Folder(_), Body::Folder(old)) if old.entries.is_empty() => Ok(()),
            (Body::Folder(_), Body::Folder(_)) => Err(Errno::ENOTEMPTY),
            (Body::Folder(_), _) => Err(Errno::ENOTDIR),
            (_, Body::Folder(_)) => Err(Errno::EISDIR),
            _ => Ok(()),
        }
    }

    /// A folder cannot move into itself.
    fn check_not_inside(&self, id: u64, mut folder: u64) -> Answer<()> {
        while folder != ROOT {
            if folder == id {
                return Err(Errno::EINVAL);
            }
            folder = self.parent(folder)?;
        }
        Ok(())
    }
}

impl Node {
    fn new(body: Body, maker: Maker, home: (u64, OsString)) -> Self {
        let now = SystemTime::now();
        Self {
            mode: maker.mode & 0o7777,
            uid: maker.uid,
            gid: maker.gid,
            changed: now,
            modified: now,
            body,
            links: 0,
            remembered: 0,
            home,
        }
    }
}

fn check_name(name: &OsStr) -> Answer<()> {
    if name.len() > NAME_MAX {
        Err(Errno::ENAMETOOLONG)
    } else {
        Ok(())
    }
}

/// The backing file of a node.
pub(super) fn backing_file(objects: &Path, id: u64) -> PathBuf {
    objects.join(format!("{id:08}"))
}

/// An error number as an error that the harness shows.
pub(super) fn sentence(errno: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.code())
}
