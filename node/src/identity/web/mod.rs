//! The second listener, port 7611: HTTPS for browsers and other languages' gRPC, whose TLS knows ECDSA certificates and not ML-DSA. The
//! server proves who it is; whoever connects proves it with each request, by a bearer's credential.
//!
//! ```text
//!   authority    the cluster's web authority: one ECDSA P-256 root for the certificates of all nodes' second listeners
//!   certificate  the certificate in force, which can be replaced while the listener stands; the TLS configuration
//!   store        where a node keeps its web certificate
//!   connection   the door of this listener, and what it lets in
//! ```
//!
//! Certificates come from configured files, or from the web authority, which lies beside the cluster's own (`web-ca.pem`; with its key, `web-ca.key`). One
//! root for all nodes means that users install one file; `tarn cluster web-ca` prints it.
//!
//! Invariants: the key exchange is X25519MLKEM768, so that what is recorded today stays secret from tomorrow's machines, though the signature
//! is classical and proves the present only; nothing here ever makes a [`PeerIdentity`](super::PeerIdentity), so that no service for nodes,
//! joiners or certificates can be reached through this listener.

mod authority;
mod certificate;
mod connection;
mod store;

pub use authority::{WEB_NAMES_MAX, WebAuthority, WebAuthorityError, WebRequest};
pub use certificate::{KeyExchange, WebCertificate, WebCertificateError, WebInfo, web_config};
pub use connection::{Web, WebPeer, WebStream};
pub use store::WebStore;
