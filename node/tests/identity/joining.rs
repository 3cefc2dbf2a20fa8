//! One-time join tokens.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, PKCS_ML_DSA_65, PublicKeyData, SanType,
    SignatureAlgorithm, SigningKey,
};
use tarn::identity::{CertificateAuthority, CertificateRequest, IssueOptions, JoinToken, make_request, require_joiner};
use tarn_client::tls::{Credentials, Identity, JoinGate, Principal, PrivateKey, RefusalKind, joiner_config};
use tonic::{Code, Request, Status};

use super::support::*;

/// Outstanding tokens, as the node will know them from its replicated state.
#[derive(Default)]
struct Outstanding(Mutex<BTreeSet<[u8; 32]>>);

impl Outstanding {
    fn add(&self, token: &JoinToken) {
        self.0.lock().unwrap().insert(token.spki_hash());
    }

    fn use_up(&self, token: &JoinToken) {
        assert!(self.0.lock().unwrap().remove(&token.spki_hash()));
    }
}

impl JoinGate for Outstanding {
    fn is_outstanding(&self, spki_hash: &[u8; 32]) -> bool {
        self.0.lock().unwrap().contains(spki_hash)
    }
}

fn joiners_only(request: Request<()>) -> Result<Request<()>, Status> {
    require_joiner(&request)?;
    Ok(request)
}

async fn start(door: Door) -> (TestServer, Arc<Outstanding>) {
    let outstanding = Arc::new(Outstanding::default());
    let setup = Setup { door, gate: outstanding.clone(), ..Setup::default() };
    (TestServer::start(setup).await, outstanding)
}

#[tokio::test]
async fn a_token_opens_the_door_once() {
    let (mut server, outstanding) = start(joiners_only).await;
    let token = JoinToken::generate(server.authority.certificate());

    // Not yet registered.
    server.call_with(token.client_config()).await.unwrap_err();
    server.expect_refusal(RefusalKind::TokenNotOutstanding).await;

    // Registered, and read back from its text.
    outstanding.add(&token);
    let read: JoinToken = token.reveal().parse().unwrap();
    server.call_with(read.client_config()).await.unwrap();
    server.logs.assert_line(&["accepted", "join token", &token.id()]);

    // Used up. Nothing of the earlier session helps.
    outstanding.use_up(&token);
    server.call_with(read.client_config()).await.unwrap_err();
    let refusal = server.expect_refusal(RefusalKind::TokenNotOutstanding).await;
    assert!(refusal.detail.contains(&token.id()), "{refusal}");

    // Members have nothing to join.
    let status = server.call(&server.issue(&user("ada"))).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_joiner_is_neither_user_nor_node() {
    for door in [tarn::identity::users_only as Door, tarn::identity::nodes_only] {
        let (server, outstanding) = start(door).await;
        let token = JoinToken::generate(server.authority.certificate());
        outstanding.add(&token);
        let status = server.call_with(token.client_config()).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        server.logs.assert_line(&["WARN", "refused a request", "the holder of join token"]);
    }
}

#[tokio::test]
async fn a_joiner_refuses_a_cluster_that_its_token_does_not_pin() {
    let (mut server, outstanding) = start(joiners_only).await;
    let elsewhere = CertificateAuthority::ephemeral("prod").unwrap();
    let token = JoinToken::generate(elsewhere.certificate());
    // Even if the wrong cluster would take it.
    outstanding.add(&token);
    let error = server.channel(token.client_config()).await.unwrap_err();
    assert!(error.contains("not the one in the join token"), "{error}");
    server.expect_refusal(RefusalKind::RefusedByPeer).await;
    assert!(!token.pins(server.authority.certificate()));
    assert!(token.pins(elsewhere.certificate()));
}

#[tokio::test]
async fn a_machine_joins_and_becomes_a_node() {
    let (server, outstanding) = start(open_door).await;
    let token = JoinToken::generate(server.authority.certificate());
    outstanding.add(&token);
    server.call_with(token.client_config()).await.unwrap();

    let key = PrivateKey::generate();
    let request = CertificateRequest::parse(&make_request(&key)).unwrap();
    outstanding.use_up(&token);
    let certificate = server.authority.sign_request(&request, &node(4), &IssueOptions::default()).unwrap();
    let credentials =
        Credentials::from_pem(server.authority.certificate().to_pem().as_bytes(), certificate.as_bytes(), key.to_pem().as_bytes()).unwrap();
    assert_eq!(credentials.principal(), Principal::node("prod", 4));
    server.call(&credentials).await.unwrap();
}

/// A token's holder who claims to be somebody else.
struct Forger(PrivateKey);

impl PublicKeyData for Forger {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ML_DSA_65
    }
}

impl SigningKey for Forger {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.0.sign(message).unwrap())
    }
}

/// A certificate that is right in everything but its signature.
fn forged_params(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(1.into());
    params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![1]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params
}

#[tokio::test]
async fn a_member_cannot_issue() {
    let mut server = TestServer::start(Setup::default()).await;
    let member = server.issue(&node(2)).identity();
    // The issuer's name as it stands in the member's certificate, so that the chain fits together.
    let mut issuer_params = CertificateParams::default();
    issuer_params.distinguished_name = DistinguishedName::new();
    issuer_params.distinguished_name.push(DnType::CommonName, "node 2");
    let issuer = Issuer::new(issuer_params, Forger(member.key().clone()));

    let key = PrivateKey::generate();
    let uri = Principal::user("prod", "root").uri();
    let leaf = forged_params(&uri).signed_by(&Forger(key.clone()), &issuer).unwrap();
    let chain = vec![leaf.der().clone(), member.chain()[0].clone()];
    let identity = Identity::new("forged", chain, key).unwrap();
    let credentials = Credentials::new(server.authority.certificate().clone(), identity);
    assert!(credentials.check_issuer().is_err());
    server.call(&credentials).await.unwrap_err();
    server.expect_refusal(RefusalKind::UnknownIssuer).await;
}

#[tokio::test]
async fn a_self_signed_certificate_can_claim_nothing() {
    let (mut server, outstanding) = start(open_door).await;
    let token = JoinToken::generate(server.authority.certificate());
    outstanding.add(&token);
    let token_uri = Principal::join(&token.spki_hash()).uri();
    let node_uri = Principal::node("prod", 1).uri();
    for (uri, kind) in [
        // Another's token, without its key.
        (token_uri, RefusalKind::WrongIdentity),
        // A node, a user.
        (node_uri, RefusalKind::UnknownIssuer),
        (Principal::user("prod", "ada").uri(), RefusalKind::UnknownIssuer),
    ] {
        let forger = Forger(PrivateKey::generate());
        let certificate = forged_params(&uri).self_signed(&forger).unwrap();
        let identity = Identity::new("forged", vec![certificate.der().clone()], forger.0).unwrap();
        let config = joiner_config(&identity, *server.authority.certificate().fingerprint());
        server.call_with(config).await.unwrap_err();
        server.expect_refusal(kind).await;
    }
}
