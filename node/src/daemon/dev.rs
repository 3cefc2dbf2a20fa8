//! A cluster of one node for trying things out: its own CA, a node's and a user's certificate, all in one folder, made once and used again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tarn_client::tls::PrincipalKind;

use crate::config::{Bind, BootstrapMember, Config};
use crate::identity::{AuthorityError, CertificateAuthority, IdentityStore, IssueOptions, StoreError, random_cluster_id, write_identity};

/// Where HTTPS is served unless told otherwise.
const HTTPS_PORT: u16 = 7611;

/// The user's name.
const USER: &str = "admin";

/// Why a folder cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The CA or a certificate could not be made or read.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The node's identity could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A cluster of one, ready to be started.
#[derive(Clone, Debug)]
pub struct Dev {
    /// What to start the node with.
    pub config: Config,
    /// The cluster's CA certificate.
    pub ca: PathBuf,
    /// The user's certificate.
    pub certificate: PathBuf,
    /// The user's key.
    pub key: PathBuf,
}

/// Makes a folder ready for a cluster of one, or finds it ready. HTTPS is served at the same address as gRPC, at its usual port, or at any
/// free one where `bind` asks for any.
///
/// # Errors
/// [`DevError`].
pub fn prepare_dev(dir: &Path, bind: SocketAddr, ops_bind: SocketAddr) -> Result<Dev, DevError> {
    let ca_dir = dir.join("ca");
    let authority = match ca_dir.join("ca.pem").exists() {
        true => CertificateAuthority::load(&ca_dir)?,
        false => CertificateAuthority::init(&ca_dir, &random_cluster_id())?,
    };
    let store = IdentityStore::new(dir);
    if !store.exists() {
        let options = IssueOptions { names: vec!["localhost".into(), "127.0.0.1".into()], ..IssueOptions::default() };
        let node = authority.issue(&PrincipalKind::Node { id: 1 }, &options)?;
        store.create(authority.certificate(), &node)?;
    }
    let user_dir = dir.join("user");
    let [ca, certificate, key] = ["ca.pem".to_owned(), format!("{USER}.pem"), format!("{USER}.key")].map(|name| user_dir.join(name));
    if !certificate.exists() {
        // A key without its certificate is what an interrupted start left.
        let _ = std::fs::remove_file(&key);
        let user = authority.issue(&PrincipalKind::User { name: USER.into() }, &IssueOptions::default())?;
        write_identity(&user_dir, USER, authority.certificate(), &user)?;
    }
    let mut config = Config::in_dir(dir);
    config.listen.bind = bind;
    let https_port = if bind.port() == 0 { 0 } else { HTTPS_PORT };
    config.listen.https_bind = Bind(Some(SocketAddr::new(bind.ip(), https_port)));
    config.listen.ops_bind = ops_bind;
    config.cluster.bootstrap = vec![BootstrapMember::Itself];
    // Nobody else votes: there is nothing to wait for before an election.
    config.raft.heartbeat_ms = 50;
    config.raft.election_min_ms = 150;
    config.raft.election_max_ms = 200;
    Ok(Dev { config, ca, certificate, key })
}
