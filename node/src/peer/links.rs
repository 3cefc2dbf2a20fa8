//! The standing connections to all peers, and one way to use them.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tarn_client::tls::{Address, Credentials, peer_config};
use tarn_proto::v1::peer_service_client::PeerServiceClient;
use tarn_raft::Peer;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::contacts::Contacts;
use super::fault::Fault;
use super::lane::{Connection, Dialling, Lane};
use super::limits::{FRAME_BYTES_MAX, LINK_IDLE};
use crate::identity::Revoked;

/// Which of a peer's connections carries an exchange.
///
/// Streams of one HTTP/2 connection share its window: what the receiver has not read yet of one stream can hold up all
/// others. So what must not wait has its own connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Traffic {
    /// Heartbeats, votes and other short calls.
    Control,
    /// Log replication and forwarded commands.
    Log,
    /// Snapshots and artifacts.
    Bulk,
}

/// The connections of this node to all others. A peer is dialled when it is first needed, and only a certificate of the
/// expected node is accepted.
pub struct Links {
    credentials: Credentials,
    source: Option<IpAddr>,
    revoked: Revoked,
    contacts: Arc<Contacts>,
    table: Mutex<HashMap<Peer, Link>>,
}

/// An address that the membership has changed makes another peer, hence another link; the old one falls idle and goes.
struct Link {
    lanes: Result<Arc<[Arc<Lane>; 3]>, String>,
    used: Instant,
}

/// A client of a peer, with the message limits of this protocol.
pub type PeerClient = PeerServiceClient<Channel>;

impl Links {
    /// Links that present these credentials, which must be a node's.
    #[must_use]
    pub fn new(credentials: Credentials) -> Arc<Self> {
        Self::guarded(None, credentials, Revoked::default())
    }

    /// As [`Links::new`], with connections that come from this local address, and none to whose certificate is revoked.
    #[must_use]
    pub fn guarded(source: Option<IpAddr>, credentials: Credentials, revoked: Revoked) -> Arc<Self> {
        Arc::new(Self { credentials, source, revoked, contacts: Arc::default(), table: Mutex::default() })
    }

    /// Who was in touch when.
    #[must_use]
    pub fn contacts(&self) -> &Arc<Contacts> {
        &self.contacts
    }

    /// One exchange with a peer, which may take `limit` until its answer begins.
    ///
    /// # Errors
    /// [`Fault`], whose variants differ in whether the request may have arrived.
    pub async fn exchange<T, F>(
        self: &Arc<Self>,
        peer: &Peer,
        traffic: Traffic,
        limit: Duration,
        send: impl FnOnce(PeerClient) -> F,
    ) -> Result<Answered<T>, Fault>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = tokio::time::Instant::now() + limit;
        let lane = self.lane(peer, traffic)?;
        let connected = tokio::time::timeout_at(deadline, lane.connection()).await;
        let connection = match connected {
            Ok(Ok(connection)) => connection,
            Ok(Err(fault)) => {
                self.contacts.lost(peer.id);
                return Err(fault);
            }
            // Nothing was sent, whatever becomes of the attempt.
            Err(_) => return Err(Fault::Unreachable("it is still being dialled".into())),
        };
        let client = PeerServiceClient::new(connection.channel.clone()).max_decoding_message_size(FRAME_BYTES_MAX);
        let outcome = tokio::time::timeout_at(deadline, send(client)).await;
        let watch = Watch { links: self.clone(), peer: peer.id, lane, connection };
        match outcome {
            Ok(Ok(response)) => {
                watch.works();
                Ok(Answered { body: response.into_inner(), watch })
            }
            Ok(Err(status)) => Err(watch.failed(status)),
            Err(_) => {
                self.contacts.lost(peer.id);
                Err(Fault::Timeout)
            }
        }
    }

    /// The node has a new certificate: exchanges that begin from now on use new connections, made with it. What is under way ends on the
    /// old ones, which close when the last of it has ended.
    pub fn renew(&self) {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let lanes = table.values().filter_map(|link| link.lanes.as_ref().ok());
        lanes.flat_map(|lanes| lanes.iter()).for_each(|lane| lane.renew());
    }

    fn lane(&self, peer: &Peer, traffic: Traffic) -> Result<Arc<Lane>, Fault> {
        let now = Instant::now();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if !table.contains_key(peer) {
            table.retain(|_, link| now.duration_since(link.used) < LINK_IDLE);
            table.insert(peer.clone(), Link { lanes: self.lanes(peer), used: now });
        }
        let link = table.get_mut(peer).expect("it was inserted above");
        link.used = now;
        match &link.lanes {
            Ok(lanes) => Ok(lanes[traffic as usize].clone()),
            Err(reason) => Err(Fault::Unreachable(reason.clone())),
        }
    }

    fn lanes(&self, peer: &Peer) -> Result<Arc<[Arc<Lane>; 3]>, String> {
        let address: Address = peer.address.parse().map_err(|error| format!("{error}"))?;
        let config = peer_config(&self.credentials, peer.id, Arc::new(self.revoked.clone()));
        let way = Dialling { address, source: self.source, config, live: self.revoked.live().clone() };
        Ok(Arc::new(std::array::from_fn(|_| Lane::new(way.clone()))))
    }
}

/// The beginning of an answer.
pub struct Answered<T> {
    /// The message, or the stream of messages.
    pub body: T,
    /// For what comes after the beginning, where it is a stream.
    pub watch: Watch,
}

/// Keeps the state of a connection true while an answer streams over it.
pub struct Watch {
    links: Arc<Links>,
    peer: tarn_raft::NodeId,
    lane: Arc<Lane>,
    connection: Connection,
}

impl Watch {
    /// A message arrived.
    pub fn works(&self) {
        self.lane.works(&self.connection);
        self.links.contacts.mark(self.peer);
    }

    /// The stream failed.
    pub fn failed(&self, status: Status) -> Fault {
        let fault = Fault::of(status);
        if fault.blames_connection() {
            self.lane.broke(&self.connection, &fault.to_string());
            self.links.contacts.lost(self.peer);
        } else if matches!(fault, Fault::Refused(_)) {
            self.works();
        }
        fault
    }
}
