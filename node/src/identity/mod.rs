//! Identity of nodes and users: the cluster's certificate authority, join tokens, where a node keeps its keys, and the listener that
//! lets nobody in without a known identity.
//!
//! ```text
//!   authority   the cluster's root key: issues certificates, signs joiners' requests
//!   request     a certificate request (PKCS#10): made by a joiner, checked by the authority
//!   token       one-time join tokens: a key and the root's fingerprint in one line of text
//!   store       identity/ in a node's data directory
//!   listener    TCP -> TLS handshake -> stream of connections for tonic
//!   opening     a connection must begin to speak soon
//!   web         the second listener's certificates and its connections
//!   peer        one accepted connection and who is at its other end
//!   revoked     the revoked certificates, for handshakes; cuts the connections that stand on them
//!   refusals    counts and logs what was refused, and why
//!   gate        per request: is the caller a user, a node, a joiner?
//!   signing     our keys in the shape that the certificate library wants
//!   bearer      API tokens, and JWTs of trusted issuers: who a request without a certificate is from
//!   files       owner-only directories, atomic writes
//! ```
//!
//! What certificates mean and how they are verified lives in [`tarn_client::tls`], because clients verify nodes by the same rules.
//!
//! # How a node joins
//! 1. A user makes a [`JoinToken`] from the cluster's root certificate and registers its key's hash with the cluster. The secret half
//!    never leaves the token.
//! 2. The new machine connects with a certificate that the token's key signs ([`JoinToken::client_config`]). The listener lets it in while
//!    the hash is outstanding ([`tarn_client::tls::JoinGate`]); the machine lets itself in only where the root's fingerprint is the token's.
//! 3. It sends a [`request`](make_request) for its own fresh key; the cluster uses the token up, gives it a node id, and the authority
//!    [signs](CertificateAuthority::sign_request).
//! 4. The machine [stores](IdentityStore) the certificate and starts as a node.
//!
//! Invariants: a private key is written only to files of mode 0600 in directories of mode 0700 and never logged; the authority issues
//! only for its own cluster; what a certificate request asks to be called is never looked at.

mod authority;
pub mod bearer;
mod files;
mod gate;
mod listener;
mod lobby;
mod opening;
mod peer;
mod refusals;
mod request;
mod revoked;
mod signing;
mod store;
mod token;
pub mod web;

pub use authority::{
    AuthorityError, CLOCK_SKEW, CertificateAuthority, IssueOptions, NODE_VALIDITY, ROOT_VALIDITY, USER_VALIDITY, random_cluster_id,
    write_identity,
};
pub use files::FileError;
pub use gate::{Denied, nodes_only, require_joiner, require_node, require_user, users_only};
pub use listener::{
    CONNECTIONS_MAX, Door, Foreigners, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, Incoming, ListenerOptions, Members, listen, listen_through,
};
pub use opening::OPENING_TIMEOUT;
pub use peer::{PeerIdentity, PeerStream};
pub use refusals::Refusals;
pub use request::{CertificateRequest, RequestError, make_request};
pub use revoked::Revoked;
pub use store::{IdentityStore, StoreError};
pub use token::{JoinToken, TokenError};
