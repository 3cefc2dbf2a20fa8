//! A disk that forgets or changes what it was given, without a word.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde::Serialize;

use super::content::Content;
use super::glob;
use super::names::Body;
use super::volume::Volume;

/// What old chunks consist of.
const CHUNK: usize = 4096;
/// The most bytes that a truncation takes.
const CUT_MAX: u64 = 64 << 10;

/// A way to damage a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// One bit is another.
    BitFlip,
    /// The end is missing: up to 64 KiB, and no more than half of the file.
    Truncation,
    /// 4 KiB are as they were when [`super::FaultyDisk::remember`] was called last: a write that the disk confirmed and lost.
    OldChunk,
    /// 4 KiB are zeros: a place that was never written.
    ZeroChunk,
}

/// What was damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wound {
    /// The file, from the top of the disk.
    pub file: PathBuf,
    /// How.
    pub damage: Damage,
    /// The first byte.
    pub at: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The file's size before.
    pub size: u64,
}

/// Files as they were, by their paths.
pub(super) type Memory = BTreeMap<PathBuf, Vec<u8>>;

/// The files that fit a pattern.
pub(super) fn fitting(volume: &Volume, files: &str) -> Vec<(PathBuf, u64, Arc<Content>)> {
    let names = volume.names();
    let mut found = names.leaves();
    found.retain(|(path, _)| glob::fits(files, &path.to_string_lossy()));
    found
        .into_iter()
        .filter_map(|(path, id)| match names.node(id).map(|node| &node.body) {
            Ok(Body::File(content)) => Some((path, id, Arc::clone(content))),
            _ => None,
        })
        .collect()
}

/// Copies the files that fit a pattern, to be able to bring old chunks of them back.
pub(super) fn remember(volume: &Volume, files: &str) -> Result<Memory> {
    let mut memory = Memory::new();
    for (path, _, content) in fitting(volume, files) {
        let size = usize::try_from(content.facts().size)?;
        memory.insert(path, content.read(0, size)?);
    }
    Ok(memory)
}

/// Damages one of the files that fit a pattern, drawn by chance; with it goes the number of its node. `None` if there is none that can be
/// damaged in this way.
pub(super) fn damage(volume: &Volume, files: &str, damage: Damage, memory: &Memory, rng: &mut StdRng) -> Result<Option<(Wound, u64)>> {
    let mut found = fitting(volume, files);
    // Files in the order of a shuffle, until one can be damaged.
    while !found.is_empty() {
        let (path, id, content) = found.swap_remove(rng.random_range(0..found.len()));
        let size = content.facts().size;
        let hurt = match damage {
            _ if size == 0 => None,
            Damage::BitFlip => Some(flip(&content, size, rng)?),
            Damage::Truncation => Some(truncate(&content, size, rng)?),
            Damage::OldChunk => restore(&content, &path, memory, rng)?,
            Damage::ZeroChunk => blank(&content, size, rng)?,
        };
        if let Some((at, bytes)) = hurt {
            let wound = Wound { file: path, damage, at, bytes, size };
            return Ok(Some((wound, id)));
        }
    }
    Ok(None)
}

fn flip(content: &Content, size: u64, rng: &mut StdRng) -> Result<(u64, u64)> {
    let at = rng.random_range(0..size);
    let byte = content.read(at, 1)?[0] ^ (1 << rng.random_range(0..8));
    content.damage(at, &[byte])?;
    Ok((at, 1))
}

fn truncate(content: &Content, size: u64, rng: &mut StdRng) -> Result<(u64, u64)> {
    let cut = rng.random_range(1..=size.div_ceil(2).min(CUT_MAX));
    content.damage_size(size - cut)?;
    Ok((size - cut, cut))
}

fn restore(content: &Content, path: &Path, memory: &Memory, rng: &mut StdRng) -> Result<Option<(u64, u64)>> {
    let Some(old) = memory.get(path) else { return Ok(None) };
    let now = content.read(0, old.len())?;
    let chunks: Vec<usize> = (0..now.len()).step_by(CHUNK).collect();
    let differ = |at: &usize| {
        let end = (at + CHUNK).min(now.len());
        old[*at..end] != now[*at..end]
    };
    let changed: Vec<usize> = chunks.into_iter().filter(differ).collect();
    let Some(at) = changed.choose(rng).copied() else {
        return Ok(None);
    };
    let chunk = &old[at..(at + CHUNK).min(now.len())];
    content.damage(at as u64, chunk)?;
    Ok(Some((at as u64, chunk.len() as u64)))
}

fn blank(content: &Content, size: u64, rng: &mut StdRng) -> Result<Option<(u64, u64)>> {
    let chunk = CHUNK as u64;
    let at = rng.random_range(0..size.div_ceil(chunk)) * chunk;
    let len = chunk.min(size - at);
    let before = content.read(at, CHUNK)?;
    if before.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    content.damage(at, &vec![0; usize::try_from(len)?])?;
    Ok(Some((at, len)))
}
