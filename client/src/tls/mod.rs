//! Identity and post-quantum TLS: who is at the other end of a connection, and how both ends prove it.
//!
//! Every connection to port 7610 of a node is TLS 1.3 with the key exchange X25519MLKEM768 and ML-DSA-65 certificates on *both*
//! sides. There is no weaker mode to fall back to and no way to switch it off: a peer that offers only classical key exchange,
//! brings no certificate, or brings one from elsewhere is refused while the connection is being made, and never reaches a handler.
//!
//! ```text
//!   provider      the cryptography that is allowed, and nothing else
//!   key, pem      ML-DSA-65 private keys; reading and writing PEM files
//!   principal     who a certificate speaks for: node, user, or joiner; the text form is a SAN URI
//!   certificate   the cluster's root certificate, and the facts of a leaf
//!   credentials   root + chain + key of one party; can be replaced while connections stand (rotation)
//!   verify        what each side demands of the other
//!   config        rustls configurations made of the above
//!   connect       a tonic channel over it
//!   live          which connections stand on which certificate, and how they are cut when it is revoked
//!   refusal       why a connection was refused, in words
//! ```
//!
//! Host names play no part: nodes move between addresses, and a certificate for a name that somebody else may come to own proves
//! little. Identity is the SAN URI `tarn://<cluster-id>/node/<id>` or `tarn://<cluster-id>/user/<name>`, signed by the cluster's
//! own root certificate, which is the only trust anchor. A machine that has no certificate yet authenticates with the key
//! inside a one-time join token (`tarn://join/<id>`), and recognises the cluster by the root's fingerprint.
//!
//! Sessions are never resumed. A resumed handshake skips the check of the peer's certificate, so a certificate that expired or a join
//! token that was used up would still open a connection. Connections here live for hours, and a full handshake costs about two
//! milliseconds of one core; the tickets that are not sent also save several kilobytes per handshake.
//!
//! Invariants: nothing here issues certificates (that is the node's business), nothing here knows a service or a message, and no
//! function returns a configuration that skips a check.

mod certificate;
mod config;
mod connect;
mod credentials;
mod key;
mod live;
mod pem;
mod principal;
mod provider;
mod refusal;
mod verify;

pub use certificate::{CaCertificate, CertificateError, LeafInfo, spki_hash};
pub use config::{NoJoins, client_config, gateway_client_config, gateway_server_config, joiner_config, peer_config, server_config};
pub use connect::{Address, AddressError, ConnectError, ConnectOptions, DEFAULT_PORT, connect, connect_lazy, endpoint};
pub use credentials::{Credentials, CredentialsError, Identity};
pub use key::{KeyError, PrivateKey, SEED_BYTES};
pub use live::{LiveConnection, LiveConnections};
pub use pem::{PemError, encode as encode_pem, read_public_file, read_secret_file};
pub use principal::{
    CLUSTER_ID_MAX, Principal, PrincipalError, PrincipalKind, USER_NAME_MAX, ca_uri, check_cluster_id, check_user_name, join_id,
};
pub use provider::{ML_DSA_65, provider, random_bytes};
pub use refusal::{Refusal, RefusalKind, refusal_in};
pub use verify::{Expect, ForeignRoots, JoinGate, Revocations, VerifyError, foreign_issuer};
