//! Consensus's way to the other nodes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use tarn_proto::v1::{PeerFrame, PeerRequest};
use tarn_raft::{ByteStream, Method, Peer, ReplyStream, Transport, TransportError};
use tokio::time::Instant;
use tonic::Streaming;

use super::limits::{OPEN_TIMEOUT, SNAPSHOT_INSTALL, SNAPSHOT_STALL};
use super::links::{Answered, Links, Traffic};

/// Carries consensus's messages over [`Links`].
pub struct PeerTransport {
    links: Arc<Links>,
}

impl PeerTransport {
    /// A transport over these links.
    #[must_use]
    pub fn new(links: Arc<Links>) -> Self {
        Self { links }
    }
}

/// Forwarded commands may be large, and there may be many of them: they travel beside the log.
fn traffic_of(method: Method) -> Traffic {
    match method {
        Method::Propose => Traffic::Log,
        Method::Append
        | Method::Vote
        | Method::PreVote
        | Method::TransferLeader
        | Method::ReadIndex
        | Method::NodeInfo
        | Method::Admin
        | Method::SnapshotOffer
        | Method::Diverged
        | Method::WallClock => Traffic::Control,
    }
}

#[async_trait]
impl Transport for PeerTransport {
    async fn call(&self, target: &Peer, method: Method, body: Bytes, timeout: Duration) -> Result<Bytes, TransportError> {
        let mut request = tonic::Request::new(PeerRequest { method: method.number(), body });
        // Tells the peer when it need not go on.
        request.set_timeout(timeout);
        let answered = self.links.exchange(target, traffic_of(method), timeout, |mut peer| async move { peer.call(request).await }).await?;
        Ok(answered.body.body)
    }

    async fn replicate(&self, target: &Peer, requests: ByteStream) -> Result<ReplyStream, TransportError> {
        let frames = framed(requests);
        let answered =
            self.links.exchange(target, Traffic::Log, OPEN_TIMEOUT, |mut peer| async move { peer.replicate(frames).await }).await?;
        Ok(Box::pin(replies(answered)))
    }

    async fn send_snapshot(&self, target: &Peer, chunks: ByteStream) -> Result<Bytes, TransportError> {
        let progress = Arc::new(Mutex::new(Instant::now() + SNAPSHOT_STALL));
        let frames = watched(chunks, progress.clone());
        let exchange =
            self.links.exchange(target, Traffic::Bulk, SNAPSHOT_MAX, |mut peer| async move { peer.install_snapshot(frames).await });
        tokio::select! {
            answered = exchange => Ok(answered?.body.body),
            () = stalled(progress) => Err(TransportError::Timeout),
        }
    }
}

/// No limit on the whole: only progress counts for a snapshot.
const SNAPSHOT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The peer's replies; the first error is the last item.
fn replies(answered: Answered<Streaming<PeerFrame>>) -> impl Stream<Item = Result<Bytes, TransportError>> + Send {
    stream::unfold(Some(answered), |answered| async move {
        let mut answered = answered?;
        match answered.body.next().await {
            None => None,
            Some(Ok(frame)) => {
                answered.watch.works();
                Some((Ok(frame.body), Some(answered)))
            }
            Some(Err(status)) => Some((Err(answered.watch.failed(status).into()), None)),
        }
    })
}

fn framed(messages: ByteStream) -> impl Stream<Item = PeerFrame> + Send {
    messages.map(|body| PeerFrame { body })
}

/// The frames of a snapshot. Each frame that the connection takes moves the deadline on.
fn watched(chunks: ByteStream, deadline: Arc<Mutex<Instant>>) -> impl Stream<Item = PeerFrame> + Send {
    let ended = deadline.clone();
    chunks
        .map(move |body| {
            *deadline.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + SNAPSHOT_STALL;
            PeerFrame { body }
        })
        .chain(
            stream::once(async move {
                *ended.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + SNAPSHOT_INSTALL;
            })
            .filter_map(|()| async { None }),
        )
}

/// Ends when the deadline has passed without having been moved on.
async fn stalled(deadline: Arc<Mutex<Instant>>) {
    loop {
        let until = *deadline.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() >= until {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_that_nobody_takes_stalls_and_one_that_moves_does_not() {
        let deadline = Arc::new(Mutex::new(Instant::now() + SNAPSHOT_STALL));
        let started = Instant::now();
        let chunks = futures::stream::iter([Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        let mut frames = Box::pin(watched(Box::pin(chunks), deadline.clone()));
        let watchdog = tokio::spawn(stalled(deadline));
        for _ in 0..2 {
            tokio::time::sleep(SNAPSHOT_STALL * 9 / 10).await;
            assert!(frames.next().await.is_some());
        }
        assert!(!watchdog.is_finished());
        watchdog.await.unwrap();
        assert_eq!(started.elapsed(), SNAPSHOT_STALL * 9 / 10 * 2 + SNAPSHOT_STALL);
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_last_piece_there_is_time_to_install() {
        let deadline = Arc::new(Mutex::new(Instant::now() + SNAPSHOT_STALL));
        let mut frames = Box::pin(watched(Box::pin(futures::stream::empty()), deadline.clone()));
        assert!(frames.next().await.is_none());
        let started = Instant::now();
        stalled(deadline).await;
        assert_eq!(started.elapsed(), SNAPSHOT_INSTALL);
    }
}
