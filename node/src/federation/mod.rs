//! Federation: clusters that keep one shared document, and go on by themselves while they are cut off from each other.
//!
//! ```text
//!   local write ─► state: outbox ─► Hub (leader's node): signed change set ─► state: rows ─► links ─► other clusters
//!                                        ▲                                                        │
//!   state: rows, entries, contexts ◄─────┴── verified, merged ◄── frames of the sync session ◄────┘
//! ```
//!
//! A cluster is one replica of the document. What is written here is first committed by this cluster's own Raft group, into the kernel's
//! *outbox*. The leader's node has the replica (`tarn-crdt`) in memory, made of the rows that the state holds: it signs what lies in the
//! outbox with the cluster's key, commits the rows, and only then shows them to anybody. What comes from other clusters is verified and merged
//! there, and committed the same way, rows and what readers see of them in one command. A new leader makes the replica from the rows again.
//!
//! Between clusters there is a port of its own: TLS 1.3 as everywhere, both sides with a certificate of their own cluster's authority. Who
//! is trusted stands in the document. A cluster becomes a member by an invitation, which carries the key with which it proves that it was
//! invited and the fingerprint of the inviter's authority.
//!
//! Over the same links clusters hand work over to each other: see `handover`.
//!
//! Invariants: nothing leaves this cluster that is not committed in it; nothing is merged that a member has not signed; no node but the
//! leader's writes for the cluster, and what two leaders do at once the kernel takes from one of them alone.

mod admit;
mod ask;
mod dial;
mod gateway;
mod handover;
mod hub;
mod joint;
mod lead;
mod link;
mod members;
mod outbox;
mod publish;
mod status;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tarn_client::tls::Credentials;
use tarn_crdt::ClusterId;
use tarn_proto::v1::{LinkFrame, LinkHello, link_frame};
use tokio::sync::mpsc;

use crate::gate::Caller;
use crate::identity::JoinToken;
use crate::peer::Links;
use crate::way::Way;

pub(crate) use admit::refusal;
pub use dial::FRAME_BYTES_MAX;
pub use gateway::Gateway;
pub use handover::Stays;
pub(crate) use handover::{cluster_node, may_travel};
pub use lead::Lead;
pub use members::{Invited, Roots, list};

use handover::Exchange;
use link::Event;
use members::Member;

/// This machine's clock, in milliseconds since 1970: for people, and to tell sessions apart. Nothing rests on it.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// This node's part in the federation. Clones share it.
#[derive(Clone)]
pub struct Federation {
    shared: Arc<Shared>,
}

struct Shared {
    way: Way,
    links: Arc<Links>,
    credentials: Credentials,
    node_id: u64,
    source: Option<IpAddr>,
    /// Where this node's gateway is reached, as host:port; empty if it listens for nobody.
    gateway: String,
    /// The hub, while this node leads.
    hub: Mutex<Option<mpsc::Sender<Event>>>,
    exchange: Exchange,
    numbers: AtomicU64,
}

impl Federation {
    /// A node's part in the federation: its gateway is reached at `gateway`, as host:port, or nowhere if that is empty.
    #[must_use]
    pub fn new(way: Way, links: Arc<Links>, credentials: Credentials, node_id: u64, source: Option<IpAddr>, gateway: String) -> Self {
        let (hub, exchange, numbers) = (Mutex::default(), Exchange::default(), AtomicU64::default());
        Self { shared: Arc::new(Shared { way, links, credentials, node_id, source, gateway, hub, exchange, numbers }) }
    }

    fn way(&self) -> &Way {
        &self.shared.way
    }

    fn credentials(&self) -> &Credentials {
        &self.shared.credentials
    }

    /// Speaks for this node.
    fn caller(&self) -> Caller {
        Caller::node(self.shared.node_id)
    }

    fn links(&self) -> &Arc<Links> {
        &self.shared.links
    }

    fn node_id(&self) -> u64 {
        self.shared.node_id
    }

    /// Where this node's gateway is reached, if it listens.
    fn gateway(&self) -> Option<String> {
        Some(self.shared.gateway.clone()).filter(|gateway| !gateway.is_empty())
    }

    /// Whether this cluster is in a federation, as far as this node knows.
    fn is_member(&self) -> bool {
        self.way().consensus().read(|machine| machine.federation().is_some()).unwrap_or(false)
    }

    /// This cluster's id in its federation.
    fn own_id(&self) -> Option<ClusterId> {
        self.way().consensus().read(members::own_id).ok().flatten()
    }

    fn source(&self) -> Option<IpAddr> {
        self.shared.source
    }

    /// What is asked of other clusters, and what they ask.
    fn exchange(&self) -> &Exchange {
        &self.shared.exchange
    }

    /// The way to the hub, while it is on this node.
    fn hub(&self) -> Option<mpsc::Sender<Event>> {
        self.shared.hub.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_hub(&self, hub: Option<mpsc::Sender<Event>>) {
        *self.shared.hub.lock().unwrap_or_else(PoisonError::into_inner) = hub;
    }

    /// A number for a connection.
    fn next_number(&self) -> u64 {
        self.shared.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The members that are trusted now, this cluster not among them.
    fn others(&self) -> Vec<Member> {
        self.way().consensus().read(members::others).unwrap_or_default()
    }

    /// The trusted members whose authority has the root with this fingerprint: one, but for a cluster that came back without having left.
    fn members_by(&self, root: &[u8; 32]) -> Vec<ClusterId> {
        self.others().into_iter().filter(|member| member.root.fingerprint() == root).map(|member| member.id).collect()
    }

    /// The frame by which this cluster says who it is; `None` if it is in no federation.
    fn hello(&self) -> Option<LinkFrame> {
        let hello = self.way().consensus().read(|machine| {
            let identity = machine.federation()?.identity;
            let cluster_id = identity.card.unwrap_or_default().cluster_id;
            Some(LinkHello { federation_id: identity.federation_id, cluster_id, version: machine.version() })
        });
        hello.ok().flatten().map(gateway::hello_frame)
    }

    /// Who the other end is, if it is who it should be: of this federation, and one of the clusters that its certificate can be of.
    fn check_hello(&self, frame: Option<LinkFrame>, expected: &[ClusterId]) -> Result<ClusterId, String> {
        let Some(LinkFrame { frame: Some(link_frame::Frame::Hello(theirs)) }) = frame else {
            return Err("the other end did not say who it is".to_owned());
        };
        let Some(LinkFrame { frame: Some(link_frame::Frame::Hello(ours)) }) = self.hello() else {
            return Err("this cluster is in no federation".to_owned());
        };
        if theirs.federation_id != ours.federation_id {
            return Err("the other end is of another federation".to_owned());
        }
        let named = expected.iter().find(|cluster| theirs.cluster_id.as_ref() == cluster.0);
        named.copied().ok_or_else(|| "the other end says that it is another cluster than its certificate does".to_owned())
    }

    /// What an invitation is made with.
    fn new_token(&self) -> JoinToken {
        JoinToken::generate(self.credentials().ca())
    }
}
