//! The joining machine's side: from a one-time token to a node's identity.
//!
//! Every step can be interrupted and repeated. The key comes first and stays the same, so that the cluster, asked again, gives
//! the same node id; the identity comes last, because its presence says that all is done.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tarn_client::tls::{
    Address, AddressError, CaCertificate, ConnectOptions, Credentials, Identity, KeyError, Principal, PrivateKey, connect, read_secret_file,
};
use tarn_proto::v1::join_service_client::JoinServiceClient;
use tarn_proto::v1::{JoinRequest, JoinResponse};
use tarn_raft::NodeId;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::fault::Fault;
use super::seeds::{Seed, Seeds, SeedsError, failed, write_private};
use crate::identity::{IdentityStore, JoinToken, StoreError, make_request};

/// How long all tries together may take: an election may be under way.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Limit on one try at one address.
const TRY_TIMEOUT: Duration = Duration::from_secs(10);

/// Between rounds over the addresses.
const ROUND_PAUSE: Duration = Duration::from_millis(500);

/// Holds the key until the identity is complete.
const PENDING_DIR: &str = "joining";

/// What a machine is after it has joined. Start it with `tarn server`; it asks for membership by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The id that the cluster gave it.
    pub node_id: NodeId,
    /// The cluster.
    pub cluster_id: String,
    /// Where the identity lies.
    pub identity_dir: PathBuf,
}

/// Why a machine did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// What the user gave is unusable.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No address was given.
    #[error("say which nodes to join through: one or more addresses of the cluster, as host:port")]
    NoAddress,
    /// The cluster read the request and refused it.
    #[error("the cluster refused: {}", .0.message())]
    Refused(Status),
    /// No connection: the certificate inside the token was refused, or that of the cluster.
    #[error(
        "{address}: {reason}: check that the token is whole, not older than its time to live, not used by another machine, \
         and of this cluster"
    )]
    Untrusted {
        /// Who was dialled.
        address: Address,
        /// What happened.
        reason: String,
    },
    /// Nobody answered.
    #[error("no node could take the request within {} s: {reason}", JOIN_TIMEOUT.as_secs())]
    Unavailable {
        /// What the last try met.
        reason: String,
    },
    /// The answer is not what the token promises. Nothing was stored.
    #[error("the cluster's answer cannot be trusted: {0}")]
    BadAnswer(String),
    /// The data directory belongs to a node already.
    #[error("the data directory belongs to {principal} already: choose another one for a new node")]
    OtherIdentity {
        /// Whom it belongs to.
        principal: Principal,
    },
    /// The key of an interrupted join cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The identity could not be stored or loaded.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be read or written.
    #[error(transparent)]
    Seeds(#[from] SeedsError),
}

/// Joins a cluster: makes a key, exchanges the token for a certificate at one of `addresses`, and stores the identity and
/// where the cluster is in `data_dir`. `advertise` is what peers and clients will dial: host and port.
///
/// Repeating it with the same token and directory finishes what was interrupted, or finds that all is done.
///
/// # Errors
/// [`JoinError`]. Nothing but the pending key is stored then.
pub async fn join(token: &JoinToken, addresses: &[String], advertise: &str, data_dir: &Path) -> Result<Joined, JoinError> {
    let addresses = addresses.iter().map(|address| address.parse()).collect::<Result<Vec<Address>, _>>()?;
    let advertise: Address = advertise.parse()?;
    let store = IdentityStore::new(data_dir);
    if store.exists() {
        return joined_already(token, &store);
    }
    let pending = data_dir.join(PENDING_DIR).join(format!("{}.key", token.id()));
    let key = pending_key(&pending)?;
    let request = JoinRequest { certificate_request: make_request(&key).into(), address: advertise.to_string() };
    let response = ask(token, &addresses, request).await?;
    let credentials = verify(token, &response, key)?;

    let members = response.members.iter();
    let seeds = members.map(|member| Seed { node_id: member.node_id, address: member.address.clone() }).collect();
    let cluster_id = credentials.ca().cluster().to_owned();
    Seeds::new(cluster_id.clone(), response.node_id, advertise.to_string(), seeds).store(data_dir)?;
    store.create(credentials.ca(), &credentials.identity())?;
    // Only tidiness: the identity has the key now.
    let _ = fs::remove_file(&pending).and_then(|()| fs::remove_dir(data_dir.join(PENDING_DIR)));
    Ok(Joined { node_id: response.node_id, cluster_id, identity_dir: store.dir().to_owned() })
}

/// The directory has an identity: the one that this token's cluster gave, or somebody else's.
fn joined_already(token: &JoinToken, store: &IdentityStore) -> Result<Joined, JoinError> {
    let credentials = store.load()?;
    let principal = credentials.principal();
    match principal.kind {
        tarn_client::tls::PrincipalKind::Node { id } if token.pins(credentials.ca()) => {
            Ok(Joined { node_id: id, cluster_id: principal.cluster, identity_dir: store.dir().to_owned() })
        }
        _ => Err(JoinError::OtherIdentity { principal }),
    }
}

/// The key of an earlier try with this token, or a new one, on disk before it is used.
fn pending_key(path: &Path) -> Result<PrivateKey, JoinError> {
    match fs::symlink_metadata(path) {
        Ok(_) => {
            let text = read_secret_file(path).map_err(KeyError::from)?;
            Ok(PrivateKey::from_pem(&path.display().to_string(), &text)?)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = PrivateKey::generate();
            write_private(path, key.to_pem().as_bytes())?;
            Ok(key)
        }
        Err(error) => Err(failed("read", path)(error).into()),
    }
}

/// Asks node after node, round after round, until one answers.
async fn ask(token: &JoinToken, addresses: &[Address], request: JoinRequest) -> Result<JoinResponse, JoinError> {
    let deadline = Instant::now() + JOIN_TIMEOUT;
    loop {
        let mut untrusted = None;
        let mut last = String::new();
        for address in addresses {
            match ask_one(token, address, request.clone()).await {
                Ok(response) => return Ok(response),
                Err(Answer::Refused(status)) => return Err(JoinError::Refused(status)),
                // Perhaps this node has not heard of the token yet: another may have.
                Err(Answer::Untrusted(reason)) => {
                    untrusted = Some(JoinError::Untrusted { address: address.clone(), reason });
                }
                Err(Answer::Unavailable(reason)) => last = format!("{address}: {reason}"),
            }
        }
        if addresses.is_empty() {
            return Err(JoinError::NoAddress);
        }
        if let Some(error) = untrusted {
            return Err(error);
        }
        if Instant::now() + ROUND_PAUSE >= deadline {
            return Err(JoinError::Unavailable { reason: last });
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

/// Why one node gave no certificate.
enum Answer {
    Refused(Status),
    Untrusted(String),
    Unavailable(String),
}

async fn ask_one(token: &JoinToken, address: &Address, request: JoinRequest) -> Result<JoinResponse, Answer> {
    let exchange = async {
        let channel =
            connect(address, token.client_config(), &ConnectOptions::default()).await.map_err(
                |error| match tarn_client::tls::refusal_in(&error) {
                    Some(refusal) => Answer::Untrusted(refusal.to_string()),
                    None => Answer::Unavailable(error.reason),
                },
            )?;
        let answer = JoinServiceClient::new(channel).join(request).await;
        answer.map(tonic::Response::into_inner).map_err(judge)
    };
    match tokio::time::timeout(TRY_TIMEOUT, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(Answer::Unavailable("it did not answer in time".into())),
    }
}

fn judge(status: Status) -> Answer {
    // The server's verdict on the token's certificate comes after the handshake looks done from here.
    if let Some(refusal) = std::error::Error::source(&status).and_then(tarn_client::tls::refusal_in) {
        return Answer::Untrusted(refusal.to_string());
    }
    match Fault::of(status) {
        Fault::Refused(status) => match status.code() {
            Code::Unavailable | Code::Aborted | Code::ResourceExhausted => Answer::Unavailable(status.message().to_owned()),
            _ => Answer::Refused(status),
        },
        fault => Answer::Unavailable(fault.to_string()),
    }
}

/// Believes nothing that does not follow from the token: the root must be the pinned one, and the certificate a node's, for
/// our key, issued by that root.
fn verify(token: &JoinToken, response: &JoinResponse, key: PrivateKey) -> Result<Credentials, JoinError> {
    let bad = |error: &dyn std::fmt::Display| JoinError::BadAnswer(error.to_string());
    let ca = CaCertificate::from_pem("the cluster's root certificate", response.ca_certificate.as_bytes()).map_err(|error| bad(&error))?;
    if !token.pins(&ca) {
        return Err(bad(&"its root certificate is not the one that the token names"));
    }
    let identity = Identity::from_pem(response.certificate.as_bytes(), key.to_pem().as_bytes()).map_err(|error| bad(&error))?;
    if *identity.principal() != Principal::node(ca.cluster(), response.node_id) {
        return Err(bad(&format_args!("the certificate is that of {}", identity.principal())));
    }
    let credentials = Credentials::new(ca, identity);
    credentials.check_issuer().map_err(|error| bad(&error))?;
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use tarn_client::tls::PrincipalKind;

    use super::*;
    use crate::identity::{CertificateAuthority, CertificateRequest, IssueOptions};

    fn answer(authority: &CertificateAuthority, key: &PrivateKey, kind: &PrincipalKind) -> JoinResponse {
        let request = CertificateRequest::parse(&make_request(key)).unwrap();
        JoinResponse {
            node_id: 4,
            cluster_id: authority.cluster().into(),
            certificate: authority.sign_request(&request, kind, &IssueOptions::default()).unwrap(),
            ca_certificate: authority.certificate().to_pem(),
            members: Vec::new(),
        }
    }

    #[test]
    fn an_answer_is_believed_only_as_far_as_the_token_reaches() {
        let ours = CertificateAuthority::ephemeral("prod").unwrap();
        let other = CertificateAuthority::ephemeral("prod").unwrap();
        let token = JoinToken::generate(ours.certificate());
        let key = PrivateKey::generate();
        let node = PrincipalKind::Node { id: 4 };
        let good = answer(&ours, &key, &node);
        assert!(verify(&token, &good, key.clone()).is_ok());

        let refused = |response: &JoinResponse| verify(&token, response, key.clone()).unwrap_err().to_string();
        assert!(refused(&answer(&other, &key, &node)).contains("root certificate"));
        let foreign = JoinResponse { certificate: answer(&other, &key, &node).certificate, ..good.clone() };
        assert!(refused(&foreign).contains("not issued"));
        assert!(refused(&JoinResponse { node_id: 5, ..good.clone() }).contains("node 4"));
        let user = PrincipalKind::User { name: "ada".into() };
        assert!(refused(&answer(&ours, &key, &user)).contains("user ada"));
        refused(&answer(&ours, &PrivateKey::generate(), &node));
        refused(&JoinResponse { ca_certificate: "nonsense".into(), ..good });
    }

    #[test]
    fn an_interrupted_join_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PENDING_DIR).join("0011.key");
        let first = pending_key(&path).unwrap();
        assert_eq!(pending_key(&path).unwrap().spki(), first.spki());
        fs::write(&path, "damaged").unwrap();
        assert!(pending_key(&path).is_err(), "a damaged key is not replaced silently");
    }

    #[tokio::test]
    async fn a_directory_with_another_identity_is_left_alone() {
        let ours = CertificateAuthority::ephemeral("prod").unwrap();
        let other = CertificateAuthority::ephemeral("prod").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let identity = other.issue(&PrincipalKind::Node { id: 1 }, &IssueOptions::default()).unwrap();
        IdentityStore::new(dir.path()).create(other.certificate(), &identity).unwrap();
        let addresses = ["127.0.0.1:1".to_owned()];
        let token = JoinToken::generate(ours.certificate());
        let refused = join(&token, &addresses, "a:1", dir.path()).await.unwrap_err();
        assert!(matches!(refused, JoinError::OtherIdentity { .. }), "{refused}");
        // With a token of its own cluster the join is simply done.
        let token = JoinToken::generate(other.certificate());
        assert_eq!(join(&token, &addresses, "a:1", dir.path()).await.unwrap().node_id, 1);
    }
}
