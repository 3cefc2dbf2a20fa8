//! A plain folder becomes a disk, and the disk a plain folder again.
//!
//! While it is a disk, the folder has nothing but the bytes of each file, under numbers in `.objects`.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use super::content::Content;
use super::names::{Body, Folder, Maker, Names, Node, Promise, ROOT, backing_file, sentence};

const OBJECTS: &str = ".objects";

/// Where the files' bytes of a disk are.
pub(super) fn objects(backing: &Path) -> PathBuf {
    backing.join(OBJECTS)
}

/// Takes a folder's files over. All of it counts as durable.
pub(super) fn adopt(backing: &Path, promise: Promise) -> Result<Names> {
    let objects = objects(backing);
    let metadata = fs::metadata(backing).with_context(|| format!("{} cannot be read", backing.display()))?;
    ensure!(!objects.exists(), "{} is in use as a disk, or was when its harness was killed: its names are lost", backing.display());
    DirBuilder::new().mode(0o700).create(&objects)?;
    let mut names = Names::new(promise, maker(&metadata));
    let mut links = HashMap::new();
    take_over(&mut names, ROOT, backing, &objects, &mut links)?;
    Ok(names)
}

fn take_over(names: &mut Names, folder: u64, at: &Path, objects: &Path, links: &mut HashMap<u64, u64>) -> Result<()> {
    for entry in fs::read_dir(at)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if path == objects {
            continue;
        }
        let metadata = fs::symlink_metadata(&path)?;
        let maker = maker(&metadata);
        if metadata.is_dir() {
            let id = names.adopt(folder, &name, Body::Folder(Folder::default()), maker).map_err(sentence)?;
            take_over(names, id, &path, objects, links)?;
            fs::remove_dir(&path)?;
        } else if metadata.is_symlink() {
            let body = Body::Symlink(fs::read_link(&path)?);
            names.adopt(folder, &name, body, maker).map_err(sentence)?;
            fs::remove_file(&path)?;
        } else if let Some(id) = links.get(&metadata.ino()) {
            names.link(*id, folder, &name).map_err(sentence)?;
            names.sync_all().map_err(sentence)?;
            fs::remove_file(&path)?;
        } else {
            ensure!(metadata.is_file(), "{} is neither file nor folder", path.display());
            let object = backing_file(objects, names.next_id());
            fs::rename(&path, &object)?;
            let body = Body::File(Arc::new(Content::adopt(object)?));
            let id = names.adopt(folder, &name, body, maker).map_err(sentence)?;
            links.insert(metadata.ino(), id);
        }
    }
    Ok(())
}

/// Gives all files their names back, as processes saw them last.
pub(super) fn hand_back(names: &Names, backing: &Path) -> Result<()> {
    let mut done = Ok(());
    names.walk(ROOT, backing, &mut |path, _, node| {
        if done.is_ok() {
            done = put_back(path, node).with_context(|| format!("{} cannot be made again", path.display()));
        }
    });
    done?;
    fs::remove_dir_all(objects(backing))?;
    Ok(())
}

fn put_back(path: &Path, node: &Node) -> io::Result<()> {
    match &node.body {
        Body::Folder(_) => fs::create_dir(path)?,
        Body::Symlink(target) => return symlink(target, path),
        Body::File(content) => fs::hard_link(content.path(), path)?,
    }
    chown(path, Some(node.uid), Some(node.gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(node.mode))
}

fn maker(metadata: &fs::Metadata) -> Maker {
    Maker { mode: metadata.mode(), uid: metadata.uid(), gid: metadata.gid() }
}
