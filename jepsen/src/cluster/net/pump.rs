//! One direction of a proxied connection.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Link;
use super::gate::{Gate, Passage};

/// Bytes read at once: one packet of a lossy link stands for so many.
const PIECE: usize = 16 * 1024;
/// Pieces on the way at most. A link of 200 ms carries 20 MB/s with it.
const PIECES_MAX: usize = 256;

/// Carries bytes over `link` until the sender ends its side, which is carried too.
///
/// # Errors
/// If either side breaks, or chance breaks the connection. The error crosses the link as bytes would: not while it is cut.
pub(super) async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, link: Link, gate: &Gate) -> io::Result<()> {
    let (entrance, mut way) = mpsc::channel::<(Instant, Bytes)>(PIECES_MAX);
    let read = async move {
        let mut before = Instant::now();
        let mut buffer = vec![0; PIECE];
        loop {
            let count = match from.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) => {
                    gate.open(&[link]).await;
                    return Err(error);
                }
            };
            match gate.passage(link, count, before) {
                Passage::At(time) => before = time,
                Passage::Broken => return Err(io::ErrorKind::ConnectionReset.into()),
            }
            if entrance.send((before, Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        while let Some((time, piece)) = way.recv().await {
            if time > Instant::now() {
                tokio::time::sleep_until(time).await;
            }
            gate.open(&[link]).await;
            if let Err(error) = to.write_all(&piece).await {
                // The sender learns of it over the way back.
                gate.open(&[(link.1, link.0)]).await;
                return Err(error);
            }
        }
        gate.open(&[link]).await;
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}
