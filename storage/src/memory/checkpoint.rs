//! Checkpoints of the memory engine: one file, so that snapshots work in simulation as they do for real.
//!
//! ```text
//! CONTENT:  for each keyspace, by name:  name length: u32 │ name │ entries: u64
//!             for each entry, by key:    key length: u32 │ key │ value length: u32 │ value
//!           a checksum over all of that: u64
//! ```
//!
//! Numbers are little-endian. `FORMAT` beside it names the version.

use std::fs;
use std::path::Path;

use bytes::{Buf, Bytes};

use super::tree::Tree;
use crate::{StorageError, dir, format};

/// The engine's name in the file `FORMAT`.
const ENGINE: &str = "memory";
const FILE: &str = "CONTENT";
const CHECKSUM_BYTES: usize = 8;

/// Writes a tree to a new directory, durably, which appears whole or not at all.
pub(super) fn write(tree: &Tree, path: &Path) -> Result<(), StorageError> {
    dir::create_whole(path, |partial| {
        fs::create_dir(partial).map_err(|error| StorageError::from_io("creating the directory", partial, error))?;
        format::write(partial, ENGINE)?;
        dir::write_atomically(&partial.join(FILE), &encode(tree))
    })
}

/// Reads the tree that a checkpoint holds.
pub(super) fn read(path: &Path) -> Result<Tree, StorageError> {
    format::check(path, ENGINE)?;
    let file = path.join(FILE);
    let content = fs::read(&file).map_err(|error| StorageError::from_io("reading", &file, error))?;
    decode(Bytes::from(content))
        .ok_or_else(|| StorageError::Corruption { detail: format!("the checkpoint file {} is not what was written", file.display()) })
}

fn encode(tree: &Tree) -> Vec<u8> {
    let mut buffer = Vec::new();
    for (name, map) in tree.keyspaces() {
        push(&mut buffer, name.as_bytes());
        buffer.extend_from_slice(&(map.len() as u64).to_le_bytes());
        for (key, value) in map {
            push(&mut buffer, key);
            push(&mut buffer, value);
        }
    }
    let checksum = checksum(&buffer);
    buffer.extend_from_slice(&checksum.to_le_bytes());
    buffer
}

fn push(buffer: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("a batch takes no key and no value of 4 GiB");
    buffer.extend_from_slice(&len.to_le_bytes());
    buffer.extend_from_slice(bytes);
}

fn decode(mut content: Bytes) -> Option<Tree> {
    let body_len = content.len().checked_sub(CHECKSUM_BYTES)?;
    let expected = content.split_off(body_len).get_u64_le();
    if checksum(&content) != expected {
        return None;
    }
    let mut tree = Tree::default();
    while !content.is_empty() {
        let name = take(&mut content)?;
        let name = std::str::from_utf8(&name).ok()?;
        for _ in 0..content.try_get_u64_le().ok()? {
            let key = take(&mut content)?;
            let value = take(&mut content)?;
            tree.insert(name, key, value);
        }
    }
    Some(tree)
}

fn take(content: &mut Bytes) -> Option<Bytes> {
    let len = usize::try_from(content.try_get_u32_le().ok()?).ok()?;
    (len <= content.len()).then(|| content.split_to(len))
}

/// FNV-1a. It is there to notice a test's damage, not an adversary's.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
