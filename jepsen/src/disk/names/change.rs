//! Names are made, changed and removed.

use std::ffi::OsStr;
use std::time::SystemTime;

use fuser::{Errno, RenameFlags};

use super::{Answer, Body, Maker, NAME_MAX, Names, Node, ROOT};

impl Names {
    pub(in crate::disk) fn create(&mut self, folder: u64, name: &OsStr, body: Body, maker: Maker) -> Answer<u64> {
        self.check_new(folder, name)?;
        self.note(folder, name)?;
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, Node::new(body, maker, (folder, name.to_owned())));
        self.enter(folder, name, id)?;
        Ok(id)
    }

    /// Adds a node that the disk already had.
    pub(in crate::disk) fn adopt(&mut self, folder: u64, name: &OsStr, body: Body, maker: Maker) -> Answer<u64> {
        let id = self.create(folder, name, body, maker)?;
        self.settle((folder, name.to_owned()))?;
        Ok(id)
    }

    pub(in crate::disk) fn link(&mut self, id: u64, folder: u64, name: &OsStr) -> Answer<()> {
        self.check_new(folder, name)?;
        if matches!(self.node(id)?.body, Body::Folder(_)) {
            return Err(Errno::EPERM);
        }
        self.note(folder, name)?;
        self.enter(folder, name, id)
    }

    pub(in crate::disk) fn unlink(&mut self, folder: u64, name: &OsStr) -> Answer<()> {
        let id = self.lookup(folder, name)?;
        if matches!(self.node(id)?.body, Body::Folder(_)) {
            return Err(Errno::EISDIR);
        }
        self.remove(folder, name)
    }

    pub(in crate::disk) fn remove_folder(&mut self, folder: u64, name: &OsStr) -> Answer<()> {
        let id = self.lookup(folder, name)?;
        if !self.folder(id)?.entries.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.remove(folder, name)
    }

    pub(in crate::disk) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), flags: RenameFlags) -> Answer<()> {
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

fn check_name(name: &OsStr) -> Answer<()> {
    if name.len() > NAME_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
}
