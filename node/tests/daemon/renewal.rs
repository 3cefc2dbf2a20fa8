//! Certificates renew themselves while requests run, and none of these fails.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tarn::config::Config;
use tarn::daemon::{self, Running};
use tarn::identity::{CertificateAuthority, IdentityStore, IssueOptions};
use tarn_client::tls::{Credentials, LeafInfo, PrincipalKind};
use tarn_proto::v1;
use tarn_proto::v1::audit_service_client::AuditServiceClient;

use crate::common::{Node, dial, eventually, task, until};

/// Renewals of each node that a test sees.
const RENEWALS: usize = 4;

/// Short certificates: the least that the authority issues. A third of their life, counted from before the issue for clocks that run
/// behind, is more than they have left, so they are renewed at each look.
const VALIDITY: Duration = Duration::from_secs(60);

/// A cluster of three, of which the first alone holds the CA's key.
struct Scene {
    nodes: Vec<Node>,
    authority: tempfile::TempDir,
}

fn config(dir: &Path, ca: &Path) -> Config {
    let mut config = Config::in_dir(dir);
    config.identity.ca_dir = ca.to_owned();
    config.identity.node_validity_s = VALIDITY.as_secs();
    config.identity.renewal_check_ms = 150;
    config.listen.bind = "127.0.0.1:0".parse().unwrap();
    config.listen.ops_bind = "127.0.0.1:0".parse().unwrap();
    config.listen.https_bind.0 = Some("127.0.0.1:0".parse().unwrap());
    config.executors.wasm = false;
    config
}

impl Scene {
    /// `signs`: whether a node holds the CA's key.
    async fn new(signs: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca");
        let authority = CertificateAuthority::init(&ca, "test").unwrap();
        let mut started: Vec<(Running, tempfile::TempDir)> = Vec::new();
        for id in 1..=3 {
            let dir = tempfile::tempdir().unwrap();
            let options = IssueOptions { validity: Some(VALIDITY), ..IssueOptions::default() };
            let identity = authority.issue(&PrincipalKind::Node { id }, &options).unwrap();
            IdentityStore::new(dir.path()).create(authority.certificate(), &identity).unwrap();
            let none = dir.path().join("no-ca");
            let holds = signs && id == 1;
            let config = config(dir.path(), if holds { &ca } else { &none });
            started.push((daemon::start(config).await.unwrap(), dir));
        }
        let members = started.iter().map(|(running, _)| (running.node_id(), running.addresses().advertise.clone())).collect();
        started[0].0.consensus().bootstrap(members).await.unwrap();
        let name = "admin".to_owned();
        let identity = authority.issue(&PrincipalKind::User { name }, &IssueOptions::default()).unwrap();
        let user = Credentials::new(authority.certificate().clone(), identity);
        let mut nodes = Vec::new();
        for (running, dir) in started {
            until(|| running.is_ready()).await;
            let channel = dial(&running, &user).await;
            nodes.push(Node { running, channel, dir });
        }
        Self { nodes, authority: folder }
    }

    async fn stop(self) {
        for node in self.nodes {
            node.running.shutdown().await;
        }
    }
}

/// Of the certificate alone: the key beside it may be in the middle of a change.
fn serial(node: &Node) -> String {
    let path = node.dir.path().join("identity/node.pem");
    let leaf = CertificateDer::from_pem_file(path).unwrap();
    LeafInfo::from_der("the node's certificate", &leaf).unwrap().serial
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_lives_across_renewals_and_no_request_fails() {
    let scene = Scene::new(true).await;
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    // Through each node, so that two thirds are forwarded over connections between nodes.
    let callers: Vec<_> = scene
        .nodes
        .iter()
        .map(|node| {
            let (stop, answered, mut tasks) = (stop.clone(), answered.clone(), node.tasks());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let request = v1::EnqueueRequest { tasks: vec![task("mail", b"x")], ..v1::EnqueueRequest::default() };
                    tasks.enqueue(request).await?;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, tonic::Status>(())
            })
        })
        .collect();

    let mut seen: Vec<Vec<String>> = scene.nodes.iter().map(|node| vec![serial(node)]).collect();
    eventually(|| {
        for (node, seen) in scene.nodes.iter().zip(&mut seen) {
            let now = serial(node);
            if seen.last() != Some(&now) {
                seen.push(now);
            }
        }
        let done = seen.iter().all(|seen| seen.len() > RENEWALS);
        async move { done }
    })
    .await;
    // What is dialled from now on is dialled with the last of them.
    let before = answered.load(Ordering::Relaxed);
    eventually(|| async { answered.load(Ordering::Relaxed) > before + 30 }).await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }

    // The second listeners have certificates of the one web authority, also those of nodes that do not hold its key.
    let mut authorities = Vec::new();
    for node in &scene.nodes {
        authorities.push(node.web_ca().await);
        node.web_tls(crate::web_client::HYBRID).await.unwrap();
        let ends = node.metric(r#"tarn_certificate_expiry_seconds{certificate="web"}"#).await;
        assert!(ends > 0.0);
    }
    assert!(authorities.windows(2).all(|pair| pair[0] == pair[1]));

    // New keys are decisions, and recorded.
    let renewed = &seen[1][1];
    let resource = format!("certificate/{renewed}");
    let request = v1::ListDecisionsRequest {
        kinds: vec![v1::DecisionKind::Admitted.into()],
        principal: format!("node/{}", scene.nodes[1].running.node_id()),
        page_size: 1_000,
        ..v1::ListDecisionsRequest::default()
    };
    eventually(|| async {
        let mut audit = AuditServiceClient::new(scene.nodes[0].channel.clone());
        let listed = audit.list_decisions(request.clone()).await.unwrap().into_inner();
        let mut of_it = listed.decisions.iter().filter(|record| record.resource == resource);
        of_it.any(|record| record.action == "RenewCertificate")
    })
    .await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_signs_what_is_put_in_place_by_hand_is_taken_over() {
    let scene = Scene::new(false).await;
    let node = &scene.nodes[0];
    let before = serial(node);
    let metric = r#"tarn_certificate_expiry_seconds{certificate="node"}"#;
    eventually(|| async { node.metric(metric).await > 0.0 }).await;
    let ends = node.metric(metric).await;

    let authority = CertificateAuthority::load(&scene.authority.path().join("ca")).unwrap();
    let identity = authority.issue(&PrincipalKind::Node { id: node.running.node_id() }, &IssueOptions::default()).unwrap();
    IdentityStore::new(node.dir.path()).replace(&identity).unwrap();
    eventually(|| async { node.metric(metric).await > ends + 86_400.0 }).await;
    assert_ne!(serial(node), before);
    assert_eq!(serial(node), identity.info().serial, "a certificate with a long life is left alone");
    node.submit(task("mail", b"x")).await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_signed_for_as_itself_alone() {
    use tarn_client::tls::PrivateKey;
    use tarn_proto::v1::peer_service_client::PeerServiceClient;
    use tonic::Code;

    let scene = Scene::new(true).await;
    let authority = CertificateAuthority::load(&scene.authority.path().join("ca")).unwrap();
    let node = &scene.nodes[0];
    let dial_as = async |kind: PrincipalKind| {
        let identity = authority.issue(&kind, &IssueOptions::default()).unwrap();
        let credentials = Credentials::new(authority.certificate().clone(), identity);
        PeerServiceClient::new(dial(&node.running, &credentials).await)
    };
    let ask = || v1::PeerRenewal {
        certificate_request: tarn::identity::make_request(&PrivateKey::generate()).into(),
        ..v1::PeerRenewal::default()
    };
    let renewed = dial_as(PrincipalKind::Node { id: 2 }).await.renew(ask()).await.unwrap().into_inner();
    let leaf = CertificateDer::from_pem_slice(renewed.certificate.as_bytes()).unwrap();
    let leaf = LeafInfo::from_der("what was signed", &leaf).unwrap();
    assert_eq!(leaf.principal.kind, PrincipalKind::Node { id: 2 });

    let stranger = dial_as(PrincipalKind::Node { id: 9 }).await.renew(ask()).await.unwrap_err();
    assert_eq!((stranger.code(), crate::common::reason_of(&stranger)), (Code::FailedPrecondition, "NOT_A_MEMBER".into()));
    let user = dial_as(PrincipalKind::User { name: "admin".into() }).await.renew(ask()).await.unwrap_err();
    assert_eq!(user.code(), Code::PermissionDenied);
    let nonsense = v1::PeerRenewal { certificate_request: vec![0; 100].into(), ..v1::PeerRenewal::default() };
    let refused = dial_as(PrincipalKind::Node { id: 2 }).await.renew(nonsense).await.unwrap_err();
    assert_eq!(crate::common::reason_of(&refused), "RENEWAL_INVALID");
    scene.stop().await;
}
