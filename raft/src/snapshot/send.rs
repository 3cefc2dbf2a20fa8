//! The sending side of a snapshot.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::SnapshotDir;
use crate::convert;
use crate::disk::{self, Disk};
use crate::transport::ByteStream;
use crate::types::Vote;
use crate::wire::{self, SnapshotBegin, SnapshotChunk, SnapshotFrame, SnapshotPart};

/// Bytes in one chunk: large enough that checksums and framing cost nothing, small enough to interleave with heartbeats.
const CHUNK_BYTES: u64 = 1 << 20;

/// Where the sender stands.
struct Cursor {
    snapshot: Arc<SnapshotDir>,
    file: usize,
    offset: u64,
    /// What the receiver has already of the files, in the order of the manifest.
    received: Vec<u64>,
    ended: bool,
}

/// The frames of a snapshot, without what the receiver has already. After a file that cannot be read the stream ends
/// early, which the receiver notices by the missing last frame.
pub(crate) fn frames(snapshot: Arc<SnapshotDir>, vote: &Vote, received: Vec<u64>, disk: Arc<dyn Disk>) -> ByteStream {
    let begin =
        frame(SnapshotPart::Begin(SnapshotBegin { vote: Some(convert::vote_to_wire(vote)), manifest: snapshot.manifest_bytes.clone() }));
    let cursor = Cursor { offset: received.first().copied().unwrap_or(0), snapshot, file: 0, received, ended: false };
    let rest = stream::unfold((cursor, disk), |(cursor, disk)| async move {
        if cursor.ended {
            return None;
        }
        match disk::blocking(disk.as_ref(), move || cursor.next()).await {
            Ok(Ok((frame, cursor))) => Some((frame, (cursor, disk))),
            Ok(Err(error)) => {
                tracing::error!(%error, "a snapshot cannot be read");
                None
            }
            // The runtime is shutting down.
            Err(_) => None,
        }
    });
    Box::pin(stream::once(async { begin }).chain(rest))
}

impl Cursor {
    fn next(mut self) -> Result<(Bytes, Self), io::Error> {
        loop {
            let Some(file) = self.snapshot.manifest.files.get(self.file) else {
                self.ended = true;
                return Ok((frame(SnapshotPart::End(wire::Empty {})), self));
            };
            if self.offset >= file.bytes {
                self.file += 1;
                self.offset = self.received.get(self.file).copied().unwrap_or(0);
                continue;
            }
            let length = CHUNK_BYTES.min(file.bytes - self.offset);
            let mut data = vec![0; usize::try_from(length).expect("a chunk fits in memory")];
            File::open(self.snapshot.file(file))?.read_exact_at(&mut data, self.offset)?;
            let chunk = SnapshotChunk {
                file: u32::try_from(self.file).expect("a checkpoint has fewer than 2^32 files"),
                offset: self.offset,
                blake3: Bytes::copy_from_slice(blake3::hash(&data).as_bytes()),
                data: data.into(),
            };
            self.offset += length;
            return Ok((frame(SnapshotPart::Chunk(chunk)), self));
        }
    }
}

fn frame(part: SnapshotPart) -> Bytes {
    wire::encode(&SnapshotFrame { part: Some(part) })
}
