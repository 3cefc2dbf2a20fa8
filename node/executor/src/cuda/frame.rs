//! Frames: how messages travel between a node and its device worker.
//!
//! ```text
//! header length, u32 | payload length, u32 | header, JSON | payload      lengths little-endian
//! ```

use std::io::{self, Read, Write};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::request::{INPUT_BYTES_MAX, SOURCE_BYTES_MAX};

/// The longest header. The longest message is a launch with all its arguments, of some kilobytes, or a compiler's complaint, which
/// is cut.
const HEADER_BYTES_MAX: usize = 1 << 20;

/// The longest payload: the largest source and input together. A longer one is taken for garbage before memory is taken for it.
const PAYLOAD_BYTES_MAX: usize = SOURCE_BYTES_MAX + INPUT_BYTES_MAX;

/// How much memory is taken at a time while a payload arrives, so that a lying length costs nothing.
const CHUNK_BYTES: usize = 1 << 20;

const LENGTHS_BYTES: usize = 8;

fn invalid(detail: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail.into())
}

/// The lengths and the header, ready to be written before the payload.
fn head(message: &impl Serialize, payload: usize) -> io::Result<Vec<u8>> {
    let header = serde_json::to_vec(message)?;
    if header.len() > HEADER_BYTES_MAX || payload > PAYLOAD_BYTES_MAX {
        return Err(invalid(format!("a message of {} and {payload} bytes is too long", header.len())));
    }
    let length = |bytes: usize| u32::try_from(bytes).expect("it is bounded").to_le_bytes();
    Ok([&length(header.len())[..], &length(payload)[..], &header].concat())
}

fn lengths(bytes: [u8; LENGTHS_BYTES]) -> io::Result<(usize, usize)> {
    let [a, b, c, d, e, f, g, h] = bytes;
    let (header, payload) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize);
    if header > HEADER_BYTES_MAX || payload > PAYLOAD_BYTES_MAX {
        return Err(invalid(format!("a message announces {header} and {payload} bytes")));
    }
    Ok((header, payload))
}

fn parse<T: DeserializeOwned>(header: &[u8]) -> io::Result<T> {
    serde_json::from_slice(header).map_err(|error| invalid(format!("a message cannot be read: {error}")))
}

/// Writes one message.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize, payload: &[u8]) -> io::Result<()> {
    to.write_all(&head(message, payload.len())?)?;
    to.write_all(payload)?;
    to.flush()
}

/// Reads one message; `None` at the end of the stream.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<(T, Vec<u8>)>> {
    let mut first = [0; LENGTHS_BYTES];
    if from.read(&mut first[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut first[1..])?;
    let (header, payload) = lengths(first)?;
    let mut take = |length: usize| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length.min(CHUNK_BYTES));
        if from.take(length as u64).read_to_end(&mut bytes)? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    };
    let message = parse(&take(header)?)?;
    Ok(Some((message, take(payload)?)))
}

/// [`write`] without blocking the thread. It must not be dropped half way: what follows would be garbage.
pub(super) async fn send(to: &mut (impl AsyncWrite + Unpin), message: &impl Serialize, parts: &[Bytes]) -> io::Result<()> {
    to.write_all(&head(message, parts.iter().map(Bytes::len).sum())?).await?;
    for part in parts {
        to.write_all(part).await?;
    }
    to.flush().await
}

/// [`read`] without blocking the thread.
pub(super) async fn receive<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(T, Bytes)>> {
    let mut first = [0; LENGTHS_BYTES];
    if from.read(&mut first[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut first[1..]).await?;
    let (header, payload) = lengths(first)?;
    let message = parse(&take(from, header).await?)?;
    Ok(Some((message, take(from, payload).await?.into())))
}

async fn take(from: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length.min(CHUNK_BYTES));
    if from.take(length as u64).read_to_end(&mut bytes).await? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::message::{FromWorker, JobError, ToWorker};
    use super::*;

    #[tokio::test]
    async fn both_sides_read_what_both_sides_write() {
        let messages = [FromWorker::Ready, FromWorker::Done { id: 7 }, FromWorker::Failed { id: 8, error: JobError::Cancelled }];
        let (mut blocking, mut waiting) = (Vec::new(), Vec::new());
        for message in &messages {
            write(&mut blocking, message, b"payload").unwrap();
            send(&mut waiting, message, &["pay".into(), "load".into()]).await.unwrap();
        }
        assert_eq!(blocking, waiting);
        let (mut one, mut other) = (&blocking[..], &waiting[..]);
        for message in messages {
            let (have, payload) = read::<FromWorker>(&mut one).unwrap().unwrap();
            assert_eq!((have, &payload[..]), (message.clone(), &b"payload"[..]));
            let (have, payload) = receive::<FromWorker>(&mut other).await.unwrap().unwrap();
            assert_eq!((have, &payload[..]), (message, &b"payload"[..]));
        }
        assert!(read::<FromWorker>(&mut one).unwrap().is_none());
        assert!(receive::<FromWorker>(&mut other).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn garbage_lies_and_torn_messages_are_errors() {
        let mut good = Vec::new();
        write(&mut good, &ToWorker::Probe, b"xyz").unwrap();
        for cut in 1..good.len() {
            assert!(read::<ToWorker>(&mut &good[..cut]).is_err(), "cut at {cut}");
            assert!(receive::<ToWorker>(&mut &good[..cut]).await.is_err(), "cut at {cut}");
        }
        for bad in [&b"GET / HTTP/1.1\r\n"[..], &[0xff; 64], &[4, 0, 0, 0, 0, 0, 0, 0, b'{', b'}', b'[', b']']] {
            assert!(read::<ToWorker>(&mut &bad[..]).is_err());
            assert!(receive::<ToWorker>(&mut &bad[..]).await.is_err());
        }
        let huge = vec![Bytes::from(vec![0; CHUNK_BYTES]); PAYLOAD_BYTES_MAX / CHUNK_BYTES + 1];
        assert!(send(&mut Vec::new(), &ToWorker::Probe, &huge).await.is_err());
    }
}
