//! `tarn ca …` and `tarn node …`: identities, and how a node gets one.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tarn_client::Client;
use tarn_client::tls::{CredentialsError, Identity, PrincipalKind};
use tarn_machine::limits::JOIN_TOKEN_MS;

use super::connect::{ConnectArgs, parse_duration, parse_duration_in};
use super::exit::Failure;
use super::output::{Printer, time};
use crate::identity::web::{WebAuthority, WebStore};
use crate::identity::{CertificateAuthority, IdentityStore, IssueOptions, JoinToken, StoreError, random_cluster_id, write_identity};

/// Be the cluster's certificate authority.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum CaCommand {
    /// Make a new authority: the root of one cluster's identities
    #[command(
        after_help = "Example:\n  tarn ca init --dir ca\n  tarn ca issue --ca ca --node 1 --data-dir /var/lib/tarn\n  tarn ca issue --ca ca --user ann --out ann"
    )]
    Init {
        /// Where to keep it. Whoever has this folder can make any identity: keep it off the nodes, or on one alone
        #[arg(long)]
        dir: PathBuf,
        /// The cluster's id: [a-z0-9-], up to 63 characters [default: random]
        #[arg(long)]
        cluster_id: Option<String>,
    },
    /// Issue a certificate to a node or a user
    #[command(after_help = "\
Examples:
  tarn ca issue --ca ca --node 1 --data-dir /var/lib/tarn     where `tarn server --data-dir /var/lib/tarn` finds it
  tarn ca issue --ca ca --node 1 --data-dir /var/lib/tarn --renew      a running node takes the new one over by itself
  tarn ca issue --ca ca --user ann --out ann                  ann/ann.pem, ann/ann.key, ann/ca.pem")]
    Issue {
        /// The authority's folder
        #[arg(long)]
        ca: PathBuf,
        /// For the node with this id
        #[arg(long, required_unless_present = "user", conflicts_with = "user")]
        node: Option<u64>,
        /// For the user with this name
        #[arg(long)]
        user: Option<String>,
        /// Write it where a node finds it, below its data directory
        #[arg(long, required_unless_present = "out", requires = "node")]
        data_dir: Option<PathBuf>,
        /// Write NAME.pem, NAME.key and ca.pem to this folder
        #[arg(long, conflicts_with = "data_dir")]
        out: Option<PathBuf>,
        /// A DNS name or IP address by which clients reach the node in HTTPS, beside localhost; may be repeated
        #[arg(long = "name", requires = "data_dir", conflicts_with = "out")]
        names: Vec<String>,
        /// Put it in the place of the node's present one, which may run meanwhile; names are given again
        #[arg(long, requires = "data_dir", conflicts_with = "out")]
        renew: bool,
        /// How long it is valid [default: 90 days for nodes, a year for users]
        #[arg(long, value_parser = parse_duration)]
        validity: Option<Duration>,
    },
}

/// Runs `tarn ca …`.
pub fn ca(command: CaCommand, printer: Printer) -> Result<(), Failure> {
    match command {
        CaCommand::Init { dir, cluster_id } => {
            let id = cluster_id.unwrap_or_else(random_cluster_id);
            CertificateAuthority::init(&dir, &id).map_err(anyhow::Error::from)?;
            let value = serde_json::json!({ "cluster_id": id, "dir": dir });
            printer.value(&value, || format!("made the authority of cluster {id} in {}", dir.display()))
        }
        CaCommand::Issue { ca, node, user, data_dir, out, names, renew, validity } => {
            must_be_authority(&ca)?;
            let authority = CertificateAuthority::load(&ca).map_err(anyhow::Error::from)?;
            let (kind, name) = match (node, user) {
                (Some(id), _) => (PrincipalKind::Node { id }, format!("node-{id}")),
                (None, Some(name)) => (PrincipalKind::User { name: name.clone() }, name),
                (None, None) => return Err(Failure::Usage("name a --node or a --user".into())),
            };
            let identity = authority.issue(&kind, &IssueOptions { validity, ..Default::default() }).map_err(anyhow::Error::from)?;
            let folder = match (data_dir, out) {
                (Some(data_dir), _) => {
                    let store = IdentityStore::new(&data_dir);
                    let stored = match renew {
                        true => replace(&store, &authority, &identity),
                        false => store.create(authority.certificate(), &identity),
                    };
                    stored.map_err(anyhow::Error::from)?;
                    issue_web(&ca, &authority, node.unwrap_or_default(), &data_dir, names, validity)?;
                    store.dir().to_owned()
                }
                (None, Some(out)) => {
                    write_identity(&out, &name, authority.certificate(), &identity).map_err(anyhow::Error::from)?;
                    out
                }
                (None, None) => return Err(Failure::Usage("name a --data-dir or an --out folder".into())),
            };
            if let PrincipalKind::User { name } = &identity.principal().kind
                && name != "admin"
            {
                printer.note(&format!(
                    "{name} may do nothing yet; an administrator gives out roles: tarn role bind user/{name} developer --in NAMESPACE"
                ));
            }
            let value = serde_json::json!({ "principal": identity.principal().uri(), "dir": folder });
            printer.value(&value, || format!("issued {} in {}", identity.principal().uri(), folder.display()))
        }
    }
}

/// Says where authorities come from, where there is none.
fn must_be_authority(dir: &Path) -> Result<(), Failure> {
    if dir.join("ca.pem").exists() {
        return Ok(());
    }
    let dev = super::server::default_dev_dir().map_or_else(|_| "DIR/ca".into(), |dir| dir.join("ca"));
    Err(Failure::Usage(format!(
        "there is no certificate authority in {0}: make one with `tarn ca init --dir {0}`; that of `tarn dev` is in {1}",
        dir.display(),
        dev.display()
    )))
}

/// Puts a node's new identity in the place of its old one, which must be of the same node and cluster.
fn replace(store: &IdentityStore, authority: &CertificateAuthority, identity: &Identity) -> Result<(), StoreError> {
    let current = store.load()?;
    if current.principal() != *identity.principal() || current.ca().der() != authority.certificate().der() {
        return Err(StoreError::Credentials(CredentialsError::OtherPrincipal {
            current: current.principal(),
            offered: identity.principal().clone(),
        }));
    }
    store.replace(identity)
}

/// The certificate of a node's HTTPS listener. A node that reaches one with the CA's key gets it from there, and needs none of this.
fn issue_web(
    ca: &Path,
    authority: &CertificateAuthority,
    node_id: u64,
    data_dir: &Path,
    names: Vec<String>,
    validity: Option<Duration>,
) -> Result<(), anyhow::Error> {
    let web = WebAuthority::load_or_init(ca, authority.cluster())?;
    let mut all = names;
    all.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    let (key, request) = WebStore::request(all);
    let certificate = web.issue(node_id, &request, validity, SystemTime::now())?;
    Ok(WebStore::new(data_dir).replace(&certificate, &key, &web.pem())?)
}

/// Bring new nodes into the cluster.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum NodeCommand {
    /// Make a one-time token with which one machine can join
    #[command(after_help = "\
On a machine with a user's certificate:
  tarn node token --ttl 1h                       prints the token; hand it over as a secret
On the new machine:
  tarn node join --token-file token --address 10.0.0.1:7610 --advertise 10.0.0.4:7610 --data-dir /var/lib/tarn
  tarn server --data-dir /var/lib/tarn           it adds itself to the cluster and becomes a voter")]
    Token {
        /// How long it can be used
        #[arg(long, default_value = "1h", value_parser = |text: &str| parse_duration_in(text, JOIN_TOKEN_MS))]
        ttl: Duration,
    },
    /// Get an identity for this machine in exchange for a token
    #[command(after_help = "\
Example:
  tarn node join --token-file token --address 10.0.0.1:7610 --advertise 10.0.0.4:7610 --data-dir /var/lib/tarn
  tarn server --data-dir /var/lib/tarn --bind 10.0.0.4:7610")]
    Join {
        /// The token
        #[arg(long, env = "TARN_JOIN_TOKEN", hide_env_values = true, required_unless_present = "token_file")]
        token: Option<String>,
        /// A file that holds the token
        #[arg(long, conflicts_with = "token")]
        token_file: Option<PathBuf>,
        /// What peers and clients will dial to reach this node, host:port
        #[arg(long)]
        advertise: String,
        /// Where the node will keep its data
        #[arg(long)]
        data_dir: PathBuf,
    },
}

/// Runs `tarn node …`.
pub async fn node(command: NodeCommand, connect: &ConnectArgs, printer: Printer) -> Result<(), Failure> {
    match command {
        NodeCommand::Token { ttl } => token(connect, ttl, printer).await,
        NodeCommand::Join { token, token_file, advertise, data_dir } => {
            let text = match (token, token_file) {
                (Some(token), _) => token,
                (None, Some(path)) => std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?,
                (None, None) => return Err(Failure::Usage("name a --token or a --token-file".into())),
            };
            let token: JoinToken = text.trim().parse().map_err(|error| Failure::Usage(format!("{error}")))?;
            if connect.address.is_empty() {
                return Err(Failure::Usage("name the address of a node of the cluster with --address".into()));
            }
            let joined = crate::peer::join(&token, &connect.address, &advertise, &data_dir).await.map_err(anyhow::Error::from)?;
            let value = serde_json::json!({ "node_id": joined.node_id, "cluster_id": joined.cluster_id, "data_dir": data_dir });
            printer.value(&value, || {
                format!(
                    "this machine is node {} of cluster {}; start it with: tarn server --data-dir {}",
                    joined.node_id,
                    joined.cluster_id,
                    data_dir.display()
                )
            })
        }
    }
}

async fn token(connect: &ConnectArgs, ttl: Duration, printer: Printer) -> Result<(), Failure> {
    let (credentials, _, _) = connect.resolved()?;
    let token = JoinToken::generate(credentials.ca());
    let client: Client = connect.client()?;
    let answer = client.create_join_token(token.spki_hash(), ttl).await?;
    let value = serde_json::json!({
        "token": token.reveal(),
        "id": token.id(),
        "expires_at_ms": answer.expires_at_ms.to_string(),
        "addresses": answer.addresses,
    });
    printer.note(&format!(
        "one machine can join with this token until {}; join at {}",
        time(answer.expires_at_ms),
        answer.addresses.join(",")
    ));
    printer.value(&value, || token.reveal())
}
