//! One connection to another cluster: what comes in goes to the hub, what the hub says goes out.

use tarn_crdt::ClusterId;
use tarn_proto::v1::LinkFrame;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

/// Frames that wait to be sent. The session and the questions about tasks have fewer under way: a link on which so many wait is one whose other
/// end does not read.
pub(super) const FRAMES_WAITING_MAX: usize = 128;

/// What the hub hears of links.
pub(super) enum Event {
    /// A connection stands, and both ends have said who they are.
    Up(Link),
    /// A frame came in.
    Frame {
        /// From whom.
        cluster: ClusterId,
        /// On which of its connections.
        link: u64,
        /// The frame.
        frame: Box<LinkFrame>,
    },
    /// A connection has ended.
    Down {
        /// To whom.
        cluster: ClusterId,
        /// Which one.
        link: u64,
        /// Why, as far as is known.
        why: String,
    },
    /// Somebody on this node wants to know or to do something.
    Ask(super::ask::Ask),
}

/// A connection, from the hub's side. Dropped, it ends.
pub(super) struct Link {
    /// Who is at the other end.
    pub cluster: ClusterId,
    /// The fingerprint of the root that vouches for the other end.
    pub root: [u8; 32],
    /// Tells it from earlier connections to the same cluster.
    pub number: u64,
    /// Where the other end is, as host:port.
    pub address: String,
    /// What is to be sent.
    pub frames: mpsc::Sender<LinkFrame>,
    _end: DropGuard,
}

impl Link {
    /// A connection, and what ends when the hub drops it.
    pub fn new(
        cluster: ClusterId,
        root: [u8; 32],
        number: u64,
        address: String,
        frames: mpsc::Sender<LinkFrame>,
    ) -> (Self, CancellationToken) {
        let ended = CancellationToken::new();
        (Self { cluster, root, number, address, frames, _end: ended.clone().drop_guard() }, ended)
    }
}

/// Carries what comes in to the hub, until either end has had enough.
pub(super) async fn carry<S>(hub: mpsc::Sender<Event>, link: Link, ended: CancellationToken, inbound: S)
where
    S: Stream<Item = Result<LinkFrame, Status>>,
{
    let (cluster, number) = (link.cluster, link.number);
    if hub.send(Event::Up(link)).await.is_err() {
        return;
    }
    let reading = async {
        tokio::pin!(inbound);
        loop {
            match inbound.next().await {
                Some(Ok(frame)) => {
                    if hub.send(Event::Frame { cluster, link: number, frame: Box::new(frame) }).await.is_err() {
                        return "this node does not lead any more".to_owned();
                    }
                }
                Some(Err(status)) => return status.message().to_owned(),
                None => return "the other cluster ended the connection".to_owned(),
            }
        }
    };
    let why = ended.run_until_cancelled(reading).await;
    if let Some(why) = why {
        // Without a hub there is nobody to tell.
        let _ = hub.send(Event::Down { cluster, link: number, why }).await;
    }
}
