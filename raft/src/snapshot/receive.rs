//! The receiving side of a snapshot.
//!
//! Chunks are appended to the files of a directory named after the manifest's hash. When the stream breaks, the files
//! stay, and the next offer of the same snapshot is answered with their lengths. Nothing is believed before the last
//! check: every file must have the size and the hash that the manifest gives.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tarn_storage::dir;

use super::{ARRIVED, FILES, INCOMING, MANIFEST, SnapshotDir, SnapshotStore, hash_file, parse_manifest, short_hash, storage};
use crate::convert;
use crate::transport::PeerError;
use crate::types::Vote;
use crate::wire::{self, Manifest, SnapshotChunk, SnapshotFrame, SnapshotPart};

/// A snapshot that is arriving.
pub(crate) struct Incoming {
    dir: PathBuf,
    manifest: Manifest,
    manifest_bytes: Bytes,
    /// Bytes on disk of each file, in the order of the manifest.
    received: Vec<u64>,
    /// The leader's, from the first frame.
    pub vote: Vote,
}

impl SnapshotStore {
    /// How much of an announced snapshot is here. What is here of other snapshots is removed.
    pub fn offered(&self, manifest_bytes: Bytes) -> Result<(Manifest, Vec<u64>), PeerError> {
        let manifest = parse_manifest(manifest_bytes.clone())?;
        let dir = self.incoming_dir(&manifest_bytes);
        self.remove_other_incoming(&dir).map_err(|error| failed(&error))?;
        let received = manifest.files.iter().map(|file| length(&dir, &file.name)).collect();
        Ok((manifest, received))
    }

    /// Begins or continues to receive. `first` is the first frame.
    pub fn receive(&self, first: Bytes) -> Result<Incoming, PeerError> {
        let Some(SnapshotPart::Begin(begin)) = wire::decode::<SnapshotFrame>(first)?.part else {
            return Err(PeerError::Malformed("the first frame does not begin a snapshot".into()));
        };
        let (manifest, received) = self.offered(begin.manifest.clone())?;
        let dir = self.incoming_dir(&begin.manifest);
        dir::create_durably(&dir.join(FILES)).map_err(|error| failed(&storage(error)))?;
        Ok(Incoming { dir, manifest, manifest_bytes: begin.manifest, received, vote: convert::vote_from_wire(begin.vote)? })
    }

    fn incoming_dir(&self, manifest_bytes: &[u8]) -> PathBuf {
        self.root.join(format!("{INCOMING}{}", short_hash(manifest_bytes)))
    }

    fn remove_other_incoming(&self, keep: &Path) -> Result<(), io::Error> {
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let incoming = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(INCOMING));
            if incoming && path != keep {
                dir::remove_durably(&path).map_err(storage)?;
            }
        }
        Ok(())
    }
}

impl Incoming {
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Takes a frame after the first. True: it was the last. Blocks on the disk.
    pub fn frame(&mut self, frame: Bytes) -> Result<bool, PeerError> {
        match wire::decode::<SnapshotFrame>(frame)?.part {
            Some(SnapshotPart::Chunk(chunk)) => self.chunk(&chunk).map(|()| false),
            Some(SnapshotPart::End(wire::Empty {})) => Ok(true),
            Some(SnapshotPart::Begin(_)) | None => Err(PeerError::Malformed("a frame out of order".into())),
        }
    }

    fn chunk(&mut self, chunk: &SnapshotChunk) -> Result<(), PeerError> {
        if blake3::hash(&chunk.data).as_bytes()[..] != chunk.blake3[..] {
            return Err(PeerError::Damaged(format!("a chunk of file {} at {}", chunk.file, chunk.offset)));
        }
        let position = usize::try_from(chunk.file).expect("a u32 fits");
        let (Some(file), Some(received)) = (self.manifest.files.get(position), self.received.get_mut(position)) else {
            return Err(PeerError::Malformed(format!("the manifest has no file {position}")));
        };
        let end = chunk.offset.saturating_add(chunk.data.len() as u64);
        if chunk.offset != *received || end > file.bytes {
            return Err(PeerError::Malformed(format!(
                "a chunk for {} to {end} of file {position}, which has {received} of {} bytes",
                chunk.offset, file.bytes
            )));
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join(FILES).join(&file.name))
            .and_then(|mut file| file.write_all(&chunk.data))
            .map_err(|error| failed(&error))?;
        *received = end;
        Ok(())
    }

    /// Checks that everything arrived, and makes it durable. A file that is not what it should be is removed, so that it
    /// is sent again. Unless it is published, it goes when it is dropped. Blocks on the disk.
    pub fn finish(self) -> Result<SnapshotDir, PeerError> {
        let files = self.dir.join(FILES);
        for file in &self.manifest.files {
            let path = files.join(&file.name);
            if file.bytes == 0 {
                // No chunk ever named it.
                fs::write(&path, b"").map_err(|error| failed(&error))?;
            }
            let (bytes, hash) = hash_file(&path).map_err(|error| failed(&error))?;
            if bytes < file.bytes {
                return Err(PeerError::Damaged(format!("{} ended after {bytes} of {} bytes", file.name, file.bytes)));
            }
            if bytes > file.bytes || hash != file.blake3 {
                fs::remove_file(&path).map_err(|error| failed(&error))?;
                return Err(PeerError::Damaged(format!("{} does not have the announced hash", file.name)));
            }
        }
        let dir = self.dir.clone();
        self.make_durable().map_err(|error| {
            // After a failed flush the next one succeeds, and says nothing of what the first left in memory alone: all of it is sent again.
            match dir::remove_durably(&dir) {
                Ok(()) => failed(&error),
                Err(removal) => failed(&io::Error::other(format!("{error}; and what arrived of it stays: {removal}"))),
            }
        })
    }

    fn make_durable(self) -> Result<SnapshotDir, io::Error> {
        let files = self.dir.join(FILES);
        for entry in fs::read_dir(&files)? {
            let entry = entry?;
            if !self.manifest.files.iter().any(|file| entry.file_name() == file.name.as_str()) {
                fs::remove_file(entry.path())?;
            }
        }
        dir::fsync_tree(&files).map_err(storage)?;
        dir::write_atomically(&self.dir.join(MANIFEST), &self.manifest_bytes).map_err(storage)?;
        // The next offer removes what is still arriving, and its sender may come while this one is being installed.
        let arrived = self.dir.with_file_name(format!("{ARRIVED}{}", short_hash(&self.manifest_bytes)));
        dir::rename_durably(&self.dir, &arrived).map_err(storage)?;
        let snapshot = SnapshotDir::open(arrived)?;
        snapshot.obsolete.store(true, Ordering::Relaxed);
        Ok(snapshot)
    }
}

fn length(dir: &Path, name: &str) -> u64 {
    fs::metadata(dir.join(FILES).join(name)).map_or(0, |metadata| metadata.len())
}

fn failed(error: &io::Error) -> PeerError {
    PeerError::Stopped(format!("a snapshot cannot be stored: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::StreamExt;

    use super::super::tests::build;
    use super::*;
    use crate::snapshot::send;

    struct Pair {
        _temp: tempfile::TempDir,
        snapshot: Arc<SnapshotDir>,
        receiver: SnapshotStore,
    }

    fn pair() -> Pair {
        let temp = tempfile::tempdir().unwrap();
        let sender = SnapshotStore::open(temp.path().join("sender")).unwrap();
        let receiver = SnapshotStore::open(temp.path().join("receiver")).unwrap();
        let content: Vec<u8> = (0..2_500_000_u32).map(|n| (n % 251) as u8).collect();
        Pair { snapshot: build(&sender, 7, &content), receiver, _temp: temp }
    }

    async fn frames(pair: &Pair, received: Vec<u64>) -> Vec<Bytes> {
        send::frames(pair.snapshot.clone(), &Vote::new_committed(1, 1), received, Arc::new(crate::RealDisk)).collect().await
    }

    fn receive(pair: &Pair, frames: &[Bytes]) -> Result<SnapshotDir, PeerError> {
        let mut incoming = pair.receiver.receive(frames[0].clone())?;
        for frame in &frames[1..] {
            if incoming.frame(frame.clone())? {
                return incoming.finish();
            }
        }
        Err(PeerError::Damaged("the stream ended early".into()))
    }

    #[tokio::test]
    async fn a_snapshot_arrives_whole() {
        let pair = pair();
        let arrived = receive(&pair, &frames(&pair, vec![]).await).unwrap();
        assert_eq!(arrived.manifest, pair.snapshot.manifest);
        pair.receiver.publish(&Arc::new(arrived)).unwrap();
        let published = pair.receiver.current().unwrap();
        assert_eq!(published.meta().last_log_id, pair.snapshot.meta().last_log_id);
    }

    #[tokio::test]
    async fn an_offer_leaves_the_snapshot_alone_that_is_being_installed() {
        let pair = pair();
        let arrived = Arc::new(receive(&pair, &frames(&pair, vec![]).await).unwrap());
        let temp = tempfile::tempdir().unwrap();
        let next = build(&SnapshotStore::open(temp.path().into()).unwrap(), 9, b"next");
        pair.receiver.offered(next.manifest_bytes.clone()).unwrap();
        pair.receiver.publish(&arrived).unwrap();
        arrived.copy_state(&temp.path().join("state")).unwrap();
        assert_eq!(fs::read_dir(&pair.receiver.root).unwrap().count(), 1);

        // One that is not installed after all leaves nothing.
        pair.receiver.publish(&next).unwrap();
        drop((arrived, receive(&pair, &frames(&pair, vec![]).await).unwrap()));
        assert_eq!(fs::read_dir(&pair.receiver.root).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn an_interrupted_transfer_is_continued() {
        let pair = pair();
        let all = frames(&pair, vec![]).await;
        assert!(receive(&pair, &all[..3]).is_err());
        let (_, received) = pair.receiver.offered(pair.snapshot.manifest_bytes.clone()).unwrap();
        assert!(received.iter().sum::<u64>() > 1_000_000);
        let rest = frames(&pair, received).await;
        assert!(rest.len() < all.len());
        receive(&pair, &rest).unwrap();
    }

    #[tokio::test]
    async fn a_damaged_chunk_is_refused() {
        let pair = pair();
        let mut all = frames(&pair, vec![]).await;
        let mut damaged = all[2].to_vec();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        all[2] = damaged.into();
        assert!(matches!(receive(&pair, &all), Err(PeerError::Damaged(_))));
    }

    #[tokio::test]
    async fn damage_on_disk_is_found_and_sent_again() {
        let pair = pair();
        let all = frames(&pair, vec![]).await;
        assert!(receive(&pair, &all[..3]).is_err());
        let (manifest, received) = pair.receiver.offered(pair.snapshot.manifest_bytes.clone()).unwrap();
        let position = received.iter().position(|bytes| *bytes > 0).unwrap();
        let dir = pair.receiver.incoming_dir(&pair.snapshot.manifest_bytes);
        let path = dir.join(FILES).join(&manifest.files[position].name);
        let mut content = fs::read(&path).unwrap();
        content[0] ^= 1;
        fs::write(&path, content).unwrap();

        assert!(matches!(receive(&pair, &frames(&pair, received).await), Err(PeerError::Damaged(_))));
        let (_, received) = pair.receiver.offered(pair.snapshot.manifest_bytes.clone()).unwrap();
        receive(&pair, &frames(&pair, received).await).unwrap();
    }

    #[tokio::test]
    async fn what_could_not_be_made_durable_is_sent_again() {
        let pair = pair();
        let all = frames(&pair, vec![]).await;
        let mut incoming = pair.receiver.receive(all[0].clone()).unwrap();
        let fault = pair.receiver.incoming_dir(&pair.snapshot.manifest_bytes).join(FILES).join("fault");
        fs::create_dir(fault).unwrap();
        assert!(all[1..].iter().any(|frame| incoming.frame(frame.clone()).unwrap()), "all of it arrived");
        assert!(matches!(incoming.finish(), Err(PeerError::Stopped(_))));

        let (_, received) = pair.receiver.offered(pair.snapshot.manifest_bytes.clone()).unwrap();
        assert!(received.iter().all(|bytes| *bytes == 0), "nothing is taken to be on the disk: {received:?}");
        receive(&pair, &all).unwrap();
    }

    #[tokio::test]
    async fn frames_out_of_order_are_refused() {
        let pair = pair();
        let all = frames(&pair, vec![]).await;
        assert!(pair.receiver.receive(all[1].clone()).is_err());
        let mut incoming = pair.receiver.receive(all[0].clone()).unwrap();
        assert!(incoming.frame(all[3].clone()).is_err(), "a gap");
        assert!(incoming.frame(all[0].clone()).is_err(), "a second beginning");
    }
}
