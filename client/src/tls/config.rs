//! rustls configurations. Every one verifies the peer; there is no other kind.

use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::certificate::CaCertificate;
use super::credentials::{Credentials, Identity};
use super::provider::provider;
use super::verify::{Expect, ForeignRoots, JoinGate, MemberVerifier, NodeVerifier, Revocations};

/// The only application protocol: gRPC's.
const HTTP_2: &[u8] = b"h2";

/// A gate for servers that nobody can join through.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoJoins;

impl JoinGate for NoJoins {
    fn is_outstanding(&self, _spki_hash: &[u8; 32]) -> bool {
        false
    }
}

/// The configuration of a member of the cluster (node or user) that connects to a node.
///
/// Accepts servers that present a certificate of the same cluster's root, valid now, for server use, of a node, and of the expected one.
pub fn client_config(credentials: &Credentials, expect: Expect) -> Arc<ClientConfig> {
    let verifier = NodeVerifier::new(credentials.ca().clone(), expect);
    build_client(verifier, credentials.resolver())
}

/// The configuration of a node that connects to another: as [`client_config`], and the other's certificate must not be revoked.
pub fn peer_config(credentials: &Credentials, node_id: u64, revocations: Arc<dyn Revocations>) -> Arc<ClientConfig> {
    let verifier = NodeVerifier::new(credentials.ca().clone(), Expect::Node(node_id)).asking(revocations);
    build_client(verifier, credentials.resolver())
}

/// The configuration of a machine that joins by token: `identity` is the token's self-signed certificate, `fingerprint` the BLAKE3 of the
/// cluster's root certificate (DER).
///
/// Accepts any node whose chain holds the root with this fingerprint and passes it.
pub fn joiner_config(identity: &Identity, fingerprint: [u8; 32]) -> Arc<ClientConfig> {
    build_client(NodeVerifier::pinned(fingerprint), identity.resolver())
}

/// The configuration of a node that serves.
///
/// Accepts clients that present a certificate of the same cluster's root, valid now, for client use, of a node or a user, and one that
/// `gate` does not call revoked; and holders of a
/// join token that `gate` calls outstanding. Which of them may call what is decided per request.
pub fn server_config(credentials: &Credentials, gate: Arc<dyn JoinGate>) -> Arc<ServerConfig> {
    build_server(MemberVerifier::new(credentials.ca().clone(), gate), credentials)
}

/// The configuration of a node that connects to any node of another cluster, whose root certificate is `root`.
pub fn gateway_client_config(credentials: &Credentials, root: Arc<CaCertificate>) -> Arc<ClientConfig> {
    build_client(NodeVerifier::new(root, Expect::AnyNode), credentials.resolver())
}

/// The configuration of a node that serves other clusters: accepts nodes of those clusters whose root certificates `roots` knows, and
/// holders of an invitation that `gate` calls outstanding.
pub fn gateway_server_config(credentials: &Credentials, roots: Arc<dyn ForeignRoots>, gate: Arc<dyn JoinGate>) -> Arc<ServerConfig> {
    build_server(MemberVerifier::foreign(roots, gate), credentials)
}

fn build_server(verifier: MemberVerifier, credentials: &Credentials) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites for TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(credentials.resolver());
    config.alpn_protocols = vec![HTTP_2.to_vec()];
    // No tickets and no store: a resumed session would skip the check of the certificate (see the module's page).
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

fn build_client(verifier: NodeVerifier, resolver: Arc<dyn ResolvesClientCert>) -> Arc<ClientConfig> {
    // "Dangerous" is rustls's word for any verifier that is not its own: this one demands more, not less.
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![HTTP_2.to_vec()];
    config.resumption = Resumption::disabled();
    // Host names play no part, so none is told to whoever listens on the wire.
    config.enable_sni = false;
    Arc::new(config)
}
