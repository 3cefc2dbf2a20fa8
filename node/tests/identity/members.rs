//! Members of the cluster, and those who only look like members.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ServerConnection, SignatureScheme};
use rustls_pki_types::{ServerName, UnixTime};
use tarn::identity::{CertificateAuthority, IssueOptions};
use tarn_client::tls::{
    CaCertificate, Credentials, Expect, ForeignRoots, NoJoins, PrincipalKind, RefusalKind, client_config, foreign_issuer, provider,
    refusal_in, server_config,
};
use tonic::Code;

use super::support::*;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn users_and_nodes_of_the_cluster_get_in() {
    let server = TestServer::start(Setup::default()).await;
    server.call(&server.issue(&user("ada"))).await.unwrap();
    server.call(&server.issue(&node(2))).await.unwrap();
    let config = client_config(&server.issue(&node(2)), Expect::Node(1));
    server.call_with(config).await.unwrap();
    server.logs.assert_line(&["accepted", "user ada of cluster prod"]);
    server.logs.assert_line(&["accepted", "node 2 of cluster prod"]);
    assert_eq!(server.refusals.counts().map(|(_, count)| count).sum::<u64>(), 0);
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let mut server = TestServer::start(Setup::default()).await;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustEverybody))
        .with_no_client_auth();
    server.call_with(Arc::new(config)).await.unwrap_err();
    server.expect_refusal(RefusalKind::NoCertificate).await;
    server.assert_alive().await;
}

#[tokio::test]
async fn another_clusters_certificate_is_refused() {
    let mut server = TestServer::start(Setup::default()).await;
    // One cluster of another name, one of the same: only the root tells them apart.
    for cluster in ["other", "prod"] {
        let stranger = CertificateAuthority::ephemeral(cluster).unwrap();
        for kind in [user("ada"), node(2)] {
            let identity = stranger.issue(&kind, &IssueOptions::default()).unwrap();
            let credentials = Credentials::new(server.authority.certificate().clone(), identity);
            let status = server.call(&credentials).await.unwrap_err();
            assert_ne!(status.code(), Code::Ok);
            server.expect_refusal(RefusalKind::UnknownIssuer).await;
        }
    }
    server.assert_alive().await;
}

#[tokio::test]
async fn a_client_refuses_another_clusters_server() {
    let mut server = TestServer::start(Setup::default()).await;
    let stranger = CertificateAuthority::ephemeral("prod").unwrap();
    let identity = stranger.issue(&user("ada"), &IssueOptions::default()).unwrap();
    let credentials = Credentials::new(stranger.certificate().clone(), identity);
    let error = server.channel(client_config(&credentials, Expect::AnyNode)).await.unwrap_err();
    assert!(error.contains("unknown issuer"), "{error}");
    let refusal = server.expect_refusal(RefusalKind::RefusedByPeer).await;
    assert!(refusal.detail.contains("issuer of our certificate"), "{refusal}");
}

#[tokio::test]
async fn dates_are_kept() {
    let mut server = TestServer::start(Setup::default()).await;
    let now = SystemTime::now();
    for (issued, refusal) in [
        (now - 3 * HOUR, Some(RefusalKind::Expired)),
        (now + HOUR, Some(RefusalKind::NotYetValid)),
        // A clock that runs four minutes behind the authority's.
        (now + Duration::from_secs(240), None),
    ] {
        let credentials = server.issue_with(&user("ada"), &TestServer::issued_at(issued));
        assert_eq!(credentials.is_valid_at(now), refusal.is_none());
        let answer = server.call(&credentials).await;
        match refusal {
            Some(kind) => {
                let status = answer.unwrap_err();
                // Where the alert won the race, the client can say so too.
                if let Some(refusal) = refusal_in(&status) {
                    assert!(matches!(refusal.kind, RefusalKind::RefusedByPeer | RefusalKind::Closed), "{refusal}");
                }
                server.expect_refusal(kind).await;
            }
            None => answer.unwrap(),
        }
    }
    server.assert_alive().await;
}

#[tokio::test]
async fn an_expired_server_is_refused_by_clients() {
    let authority = CertificateAuthority::ephemeral("prod").unwrap();
    let expired = TestServer::issued_at(SystemTime::now() - 3 * HOUR);
    let identity = authority.issue(&node(1), &expired).unwrap();
    let mut server = TestServer::start_as(authority, identity, Setup::default()).await;
    let config = client_config(&server.issue(&user("ada")), Expect::AnyNode);
    let error = server.channel(config).await.unwrap_err();
    assert!(error.contains("expired"), "{error}");
    server.expect_refusal(RefusalKind::RefusedByPeer).await;
}

#[tokio::test]
async fn a_user_cannot_serve_and_no_node_can_pose_as_another() {
    let authority = CertificateAuthority::ephemeral("prod").unwrap();
    let identity = authority.issue(&user("mallory"), &IssueOptions::default()).unwrap();
    let mut server = TestServer::start_as(authority, identity, Setup::default()).await;
    let config = client_config(&server.issue(&user("ada")), Expect::AnyNode);
    let error = server.channel(config).await.unwrap_err();
    assert!(error.contains("may not be used for this end"), "{error}");
    server.expect_refusal(RefusalKind::RefusedByPeer).await;

    let mut server = TestServer::start(Setup::default()).await;
    let config = client_config(&server.issue(&node(3)), Expect::Node(2));
    let error = server.channel(config).await.unwrap_err();
    assert!(error.contains("it is node 1 of cluster prod, but node 2 was expected"), "{error}");
    server.expect_refusal(RefusalKind::RefusedByPeer).await;
}

#[tokio::test]
async fn classical_key_exchange_is_refused() {
    let mut server = TestServer::start(Setup::default()).await;
    for group in [kx_group::X25519, kx_group::SECP256R1] {
        let classical = CryptoProvider { kx_groups: vec![group], ..(*provider()).clone() };
        let credentials = server.issue(&user("ada"));
        // Everything else about this client is right, its certificate included.
        let config = ClientConfig::builder_with_provider(Arc::new(classical))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustEverybody))
            .with_client_auth_cert(
                credentials.identity().chain().to_vec(),
                rustls_pki_types::PrivateKeyDer::Pkcs8(credentials.identity().key().pkcs8().to_vec().into()),
            )
            .unwrap();
        server.channel(Arc::new(config)).await.unwrap_err();
        server.expect_refusal(RefusalKind::ClassicalKeyExchange).await;
    }
    server.assert_alive().await;
}

static ECDSA_ONLY: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::aws_lc_rs::ECDSA_P256_SHA256],
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[webpki::aws_lc_rs::ECDSA_P256_SHA256])],
};

#[tokio::test]
async fn classical_signatures_are_refused() {
    let mut server = TestServer::start(Setup::default()).await;
    // A stock client as most libraries have it: hybrid key exchange, but ECDSA and RSA only.
    let mut stock = aws_lc_rs::default_provider();
    stock.signature_verification_algorithms = ECDSA_ONLY;
    let config = ClientConfig::builder_with_provider(Arc::new(stock))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    server.channel(Arc::new(config)).await.unwrap_err();
    server.expect_refusal(RefusalKind::ClassicalSignatures).await;
}

#[tokio::test]
async fn certificates_rotate_without_restart() {
    let server = TestServer::start(Setup::default()).await;
    let credentials = server.issue(&user("ada"));
    let config = client_config(&credentials, Expect::AnyNode);
    let standing = server.channel(config.clone()).await.unwrap();
    check(&standing).await.unwrap();

    // The server's.
    let old = server.credentials.info().serial;
    let next = server.authority.issue(&node(1), &IssueOptions::default()).unwrap();
    server.credentials.replace(next.clone()).unwrap();
    let served = served_chain(&server, config.clone()).await;
    assert_eq!(served, next.chain());
    assert_ne!(next.info().serial, old);
    // The client's, in a configuration that was made before.
    let next = server.authority.issue(&user("ada"), &IssueOptions::default()).unwrap();
    credentials.replace(next).unwrap();
    server.call_with(config).await.unwrap();
    // A connection that stands is left alone.
    check(&standing).await.unwrap();

    // Nobody else's certificate gets in this way.
    let other = server.authority.issue(&user("bob"), &IssueOptions::default()).unwrap();
    let stranger = CertificateAuthority::ephemeral("prod").unwrap();
    let foreign = stranger.issue(&user("ada"), &IssueOptions::default()).unwrap();
    assert!(credentials.replace(other).is_err());
    assert!(credentials.replace(foreign).is_err());
}

/// The certificates that the server presents to this client.
async fn served_chain(server: &TestServer, config: Arc<ClientConfig>) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    let name = ServerName::try_from("localhost").unwrap();
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, server.tcp().await).await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap().to_vec()
}

#[test]
fn a_handshake_is_hybrid_full_and_small() {
    let authority = CertificateAuthority::ephemeral("prod").unwrap();
    let credentials = |kind| {
        let identity = authority.issue(&kind, &IssueOptions::default()).unwrap();
        Credentials::new(authority.certificate().clone(), identity)
    };
    let server = server_config(&credentials(node(1)), Arc::new(NoJoins));
    let client = client_config(&credentials(user("ada")), Expect::Node(1));
    // Even a client that would resume finds nothing to resume with.
    let mut eager = (*client).clone();
    eager.resumption = Resumption::in_memory_sessions(16);
    let eager = Arc::new(eager);
    for _ in 0..2 {
        let name = ServerName::try_from("localhost").unwrap();
        let mut near = ClientConnection::new(eager.clone(), name).unwrap();
        let mut far = ServerConnection::new(server.clone()).unwrap();
        let (mut up, mut down) = (0, 0);
        while near.is_handshaking() || far.is_handshaking() || far.wants_write() {
            let mut wire = Vec::new();
            while near.wants_write() {
                near.write_tls(&mut wire).unwrap();
            }
            up += wire.len();
            let mut rest = wire.as_slice();
            while !rest.is_empty() {
                far.read_tls(&mut rest).unwrap();
                far.process_new_packets().unwrap();
            }
            let mut wire = Vec::new();
            while far.wants_write() {
                far.write_tls(&mut wire).unwrap();
            }
            down += wire.len();
            let mut rest = wire.as_slice();
            while !rest.is_empty() {
                near.read_tls(&mut rest).unwrap();
                near.process_new_packets().unwrap();
            }
        }
        let group = far.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        assert_eq!(far.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(near.tls13_tickets_received(), 0);
        assert_eq!(near.peer_certificates().unwrap().len(), 1, "the root is not sent to those who hold it");
        // Key shares 1.2 kB, certificate 5.6 kB, signature 3.3 kB each way; without tickets and without the root.
        assert!(up < 10_500, "{up} bytes up");
        assert!(down < 10_500, "{down} bytes down");
    }
}

/// Of two clusters that bear one name, the root tells who a node is of; a third one of that name is nobody.
#[test]
fn a_foreign_node_is_of_the_cluster_whose_root_issued_its_certificate() {
    struct Two(Vec<Arc<CaCertificate>>);
    impl ForeignRoots for Two {
        fn roots_of(&self, cluster: &str) -> Vec<Arc<CaCertificate>> {
            self.0.iter().filter(|root| root.cluster() == cluster).cloned().collect()
        }
    }
    let authorities: Vec<CertificateAuthority> = (0..3).map(|_| CertificateAuthority::ephemeral("west").unwrap()).collect();
    let roots = Two(authorities[..2].iter().map(|authority| Arc::new(authority.certificate().clone())).collect());
    let issuer = |authority: &CertificateAuthority, kind: PrincipalKind| {
        let identity = authority.issue(&kind, &IssueOptions::default()).unwrap();
        foreign_issuer(&roots, &identity.chain()[0], &[], UnixTime::now()).map(|root| *root.fingerprint())
    };
    for authority in &authorities[..2] {
        assert_eq!(issuer(authority, node(1)).unwrap(), *authority.certificate().fingerprint());
        assert!(issuer(authority, user("ada")).is_err(), "between clusters only nodes talk");
    }
    assert!(issuer(&authorities[2], node(1)).is_err());
}
