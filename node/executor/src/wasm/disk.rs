//! Compiled modules on disk, so that a node that restarts does not compile everything again.
//!
//! An entry is named `<artifact>-<engine fingerprint>.tarncode` and reads: eight bytes of magic, the machine code as the
//! engine serialized it, and a BLAKE3 checksum over name, length and code. Anything that is not exactly that is discarded, and the
//! module is compiled again: the cache can lose entries, never give a wrong one.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::Hash;
use crate::durable::{Unfinished, own_directory, remove_unfinished};

/// The first bytes of an entry. The number is the version of this layout.
const MAGIC: &[u8; 8] = b"tarncod1";

/// How the names of entries end.
const EXTENSION: &str = "tarncode";

/// What the checksum is for. BLAKE3 derives from it, so that no other checksum of ours can be taken for this one.
const CHECKSUM_CONTEXT: &str = "tarn 2026 compiled module cache entry";

const CHECKSUM_BYTES: usize = 32;

/// The largest machine code that is kept, in bytes. It is several times the largest module.
const ENTRY_BYTES_MAX: u64 = 256 << 20;

/// The most that all entries may have together, in bytes; beyond, the ones that were not used for longest are removed.
/// A cache that fills the disk would harm what cannot be computed again.
const CACHE_BYTES_MAX: u64 = 1 << 30;

/// A directory of compiled modules.
pub(crate) struct DiskCache {
    dir: PathBuf,
}

/// What was found under a name.
pub(crate) enum Entry {
    Missing,
    Damaged,
    /// Machine code that is byte for byte what was stored.
    Intact(Vec<u8>),
}

impl DiskCache {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        own_directory(dir)?;
        remove_unfinished(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    pub(crate) fn load(&self, artifact: &Hash, fingerprint: &str) -> io::Result<Entry> {
        let name = name(artifact, fingerprint);
        let mut file = match File::open(self.dir.join(&name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Entry::Missing),
            Err(error) => return Err(error),
        };
        // Eviction goes by this time. Not being able to note it only makes eviction less wise.
        let _ = file.set_modified(SystemTime::now());
        let mut bytes = Vec::new();
        let bytes_max = ENTRY_BYTES_MAX + (MAGIC.len() + CHECKSUM_BYTES) as u64;
        (&mut file).take(bytes_max + 1).read_to_end(&mut bytes)?;
        Ok(match unwrap_entry(&name, bytes) {
            Some(code) => Entry::Intact(code),
            None => Entry::Damaged,
        })
    }

    /// Stores machine code. When the process dies in between, the entry is either whole or not there.
    pub(crate) fn store(&self, artifact: &Hash, fingerprint: &str, code: &[u8]) -> io::Result<()> {
        if code.len() as u64 > ENTRY_BYTES_MAX {
            return Ok(());
        }
        let name = name(artifact, fingerprint);
        let mut file = Unfinished::create(&self.dir)?;
        file.append(MAGIC)?;
        file.append(code)?;
        file.append(&checksum(&name, code))?;
        file.persist(&self.dir, &name)?;
        self.evict(CACHE_BYTES_MAX)
    }

    pub(crate) fn discard(&self, artifact: &Hash, fingerprint: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.join(name(artifact, fingerprint))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes entries, the one that was unused for longest first, until no more than `bytes_max` are left.
    fn evict(&self, bytes_max: u64) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                let metadata = fs::metadata(&path)?;
                entries.push((metadata.modified()?, metadata.len(), path));
            }
        }
        entries.sort_unstable();
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in entries {
            if total <= bytes_max {
                break;
            }
            fs::remove_file(path)?;
            total -= bytes;
        }
        Ok(())
    }
}

fn name(artifact: &Hash, fingerprint: &str) -> String {
    format!("{}-{fingerprint}.{EXTENSION}", artifact.to_hex())
}

/// The name is part of what is summed, so that an entry under another one's name is as bad as a damaged one.
fn checksum(name: &str, code: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key(CHECKSUM_CONTEXT);
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
    hasher.update(&(code.len() as u64).to_le_bytes()).update(code);
    *hasher.finalize().as_bytes()
}

/// Takes the machine code out of an entry, or nothing if any byte of it is not as it was stored.
fn unwrap_entry(name: &str, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let code_end = bytes.len().checked_sub(CHECKSUM_BYTES)?;
    let code = bytes.get(MAGIC.len()..code_end)?;
    if bytes[..MAGIC.len()] != MAGIC[..] || bytes[code_end..] != checksum(name, code) {
        return None;
    }
    bytes.truncate(code_end);
    bytes.drain(..MAGIC.len());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ENGINE: &str = "0123456789abcdef";

    fn cache() -> (tempfile::TempDir, DiskCache, Hash) {
        let dir = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(&dir.path().join("code")).unwrap();
        (dir, cache, Hash::of(b"module"))
    }

    fn intact(cache: &DiskCache, artifact: &Hash, fingerprint: &str) -> Option<Vec<u8>> {
        match cache.load(artifact, fingerprint).unwrap() {
            Entry::Intact(code) => Some(code),
            Entry::Missing | Entry::Damaged => None,
        }
    }

    #[test]
    fn what_was_stored_comes_back_under_its_own_name_only() {
        let (_dir, cache, artifact) = cache();
        assert!(matches!(cache.load(&artifact, ENGINE).unwrap(), Entry::Missing));
        cache.store(&artifact, ENGINE, b"code").unwrap();
        assert_eq!(intact(&cache, &artifact, ENGINE).unwrap(), b"code");
        assert!(matches!(cache.load(&artifact, "fedcba9876543210").unwrap(), Entry::Missing));

        let stolen = Hash::of(b"other module");
        fs::copy(cache.dir.join(name(&artifact, ENGINE)), cache.dir.join(name(&stolen, ENGINE))).unwrap();
        assert!(matches!(cache.load(&stolen, ENGINE).unwrap(), Entry::Damaged));

        cache.discard(&artifact, ENGINE).unwrap();
        cache.discard(&artifact, ENGINE).unwrap();
        assert!(matches!(cache.load(&artifact, ENGINE).unwrap(), Entry::Missing));
    }

    #[test]
    fn every_flipped_byte_and_every_torn_end_is_found() {
        let (_dir, cache, artifact) = cache();
        cache.store(&artifact, ENGINE, b"some machine code").unwrap();
        let path = cache.dir.join(name(&artifact, ENGINE));
        let good = fs::read(&path).unwrap();
        for index in 0..good.len() {
            let mut flipped = good.clone();
            flipped[index] ^= 0x10;
            fs::write(&path, &flipped).unwrap();
            assert!(matches!(cache.load(&artifact, ENGINE).unwrap(), Entry::Damaged), "flipped byte {index}");
            fs::write(&path, &good[..index]).unwrap();
            assert!(matches!(cache.load(&artifact, ENGINE).unwrap(), Entry::Damaged), "torn after {index}");
        }
        fs::write(&path, [&good[..], b"x"].concat()).unwrap();
        assert!(matches!(cache.load(&artifact, ENGINE).unwrap(), Entry::Damaged));
        fs::write(&path, &good).unwrap();
        assert!(intact(&cache, &artifact, ENGINE).is_some());
    }

    #[test]
    fn what_was_unused_for_longest_is_evicted_first() {
        let (_dir, cache, _) = cache();
        let artifacts = [Hash::of(b"a"), Hash::of(b"b"), Hash::of(b"c")];
        for (age, artifact) in artifacts.iter().enumerate() {
            cache.store(artifact, ENGINE, &[0; 1_000]).unwrap();
            let file = File::open(cache.dir.join(name(artifact, ENGINE))).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(3600 * (age as u64 + 1))).unwrap();
        }
        // Using the oldest makes it the youngest.
        assert!(intact(&cache, &artifacts[2], ENGINE).is_some());
        cache.evict(2_200).unwrap();
        assert!(intact(&cache, &artifacts[0], ENGINE).is_some());
        assert!(intact(&cache, &artifacts[1], ENGINE).is_none());
        assert!(intact(&cache, &artifacts[2], ENGINE).is_some());
    }
}
