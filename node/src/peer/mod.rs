//! Between the nodes of a cluster.
//!
//! ```text
//!   consensus ─► PeerTransport ─┐                                    ┌─► consensus (PeerHandler)
//!   artifacts ──────────────────┼─► Links ═══ post-quantum mTLS ═══► PeerApi ─► artifacts
//!   joining, membership ────────┘   three lanes a peer               └─► admissions
//! ```
//!
//! - `links`, `lane`: the standing connections; one for what must not wait, one for the log, one for bulk. A peer is dialled
//!   when it is needed, and after a failure left alone for a moment that grows.
//! - `transport`, `handler`, `service`: consensus's messages, out and in.
//! - `contacts`: who was in touch when.
//! - `fault`: what a failed exchange means.
//! - `joining`, `seeds`, `membership`: from a join token to a voter.
//!
//! Invariants: whoever is dialled must prove to be the node that was meant; whoever calls must be a node, and speaks only for
//! itself; no message, queue or wait is without a bound, and all bounds are in `limits`.

mod contacts;
mod fault;
mod handler;
mod joining;
mod lane;
pub(crate) mod limits;
mod links;
mod members;
mod membership;
mod seeds;
mod service;
mod transport;

pub use contacts::Contacts;
pub use fault::Fault;
pub use handler::{ConsensusMembers, PeerHandler, Replies, Requests};
pub use joining::{JoinError, Joined, join};
pub use limits::CHUNK_BYTES;
pub use links::{Answered, Links, PeerClient, Traffic, Watch};
pub use members::{ClusterMember, Members, Standing};
pub use membership::{MembershipError, VOTERS_MAX, become_member, grant};
pub use seeds::{Seed, Seeds, SeedsError};
pub use service::{Admissions, DriversHere, FederationHere, Here, PeerApi};
pub use transport::PeerTransport;
