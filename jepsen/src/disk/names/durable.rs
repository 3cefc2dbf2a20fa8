//! Which names a power cut would leave, and what they keep alive.

use std::ffi::{OsStr, OsString};

use super::{Answer, Body, Names, Promise, ROOT};

impl Names {
    /// A file was synced: what that promises for names.
    pub(in crate::disk) fn file_synced(&mut self) -> Answer<()> {
        match self.promise {
            Promise::Posix => Ok(()),
            Promise::Journal => self.sync_all(),
        }
    }

    /// A folder was synced.
    pub(in crate::disk) fn folder_synced(&mut self, id: u64) -> Answer<()> {
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
    pub(in crate::disk) fn sync_all(&mut self) -> Answer<()> {
        self.renames.clear();
        for id in self.changed.clone() {
            // A folder may have gone together with the one that was settled before it.
            let names: Vec<OsString> = self.folder(id).map(|folder| folder.unsynced.keys().cloned().collect()).unwrap_or_default();
            for name in names {
                self.settle((id, name))?;
            }
        }
        Ok(())
    }

    /// Takes all names back to what is durable, and returns how many changed.
    pub(in crate::disk) fn cut(&mut self) -> u64 {
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
        let unnamed: Vec<u64> = self.nodes.iter().filter(|(_, node)| node.links == 0).map(|(id, _)| *id).collect();
        for id in unnamed {
            let _ = self.collect(id);
        }
    }

    /// Lets go of a node that has no name, now or after a power cut, and that nobody has open.
    pub(in crate::disk) fn collect(&mut self, id: u64) -> Answer<()> {
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
    pub(super) fn note(&mut self, folder: u64, name: &OsStr) -> Answer<()> {
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

    pub(super) fn note_rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Answer<()> {
        self.note(from.0, from.1)?;
        self.note(to.0, to.1)?;
        self.renames.push([(from.0, from.1.to_owned()), (to.0, to.1.to_owned())]);
        Ok(())
    }

    /// What a name stands for now is durable.
    pub(super) fn settle(&mut self, (folder, name): (u64, OsString)) -> Answer<()> {
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
}
