//! Puts the parts of a node together, in the order in which they need each other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tarn_client::tls::{Credentials, PrincipalKind, server_config};
use tarn_executor::{ArtifactSource, ArtifactStore};
use tarn_proto::v1::PeerMembershipRequest;
use tarn_raft::{AdminError, BootstrapError, Consensus, Instant, Limits, Options, Timings};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::executors;
use super::founding::found_version;
use super::gateway::{bind_gateway, gateway_address, serve_gateway};
use super::keys::watch_key_files;
use super::revocations::{tell, watch_revocations};
use super::web::{bind_web, key_exchange, web_renewal};
use super::{Addresses, Running, StartError, Stops};
use crate::api::{
    self, Api, AuditApi, ClusterApi, Doorkeeper, DriverApi, Faces, FederationApi, JoinApi, Services, TaskWaits, TokenGate, TraceLayer,
};
use crate::artifacts::{ArtifactApi, Artifacts};
use crate::config::{BootstrapMember, Config};
use crate::dispatch::Dispatcher;
use crate::drivers::{Drivers, Lead};
use crate::escalation::{Escalation, Webhook};
use crate::federation::{self, Federation};
use crate::gate::{Caller, Gate, Ledger, PolicyGate, Snapshot};
use crate::identity::bearer::Authenticator;
use crate::identity::web::{Web, WebAuthority, WebCertificate, WebStore, web_config};
use crate::identity::{CertificateAuthority, IdentityStore, ListenerOptions, Members, Refusals, Revoked, listen_through};
use crate::ops::{self, Metrics, Readiness, Refused, Sampler};
use crate::peer::{ConsensusMembers, Here, Links, PeerApi, PeerTransport, Seeds, become_member};
use crate::renewal::{Renewal, Signer};
use crate::router::Router;
use crate::way::Way;

/// A node that is this many entries behind what it knows to be committed is not ready.
const LAG_MAX: u64 = 10_000;

/// How long a node that is alone tries to make its new address known: it has to become the leader first.
const MOVE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it waits before it tries again, while another change is under way.
const MOVE_PAUSE: Duration = Duration::from_millis(50);

/// Starts a node.
pub(super) async fn start(config: Config) -> Result<Running, StartError> {
    let data_dir = config.node.data_dir.clone();
    let unusable = |source| StartError::DataDir { path: data_dir.clone(), source };
    tarn_storage::dir::create_durably(&data_dir).map_err(|error| unusable(std::io::Error::other(error)))?;
    let credentials = IdentityStore::new(&data_dir).load()?;
    let node_id = certified_id(&config, &credentials)?;
    let signer = signer(&config)?;
    let leeway = Duration::from_secs(config.auth.jwt_leeway_s);
    let authenticator = Arc::new(Authenticator::new(&config.auth.jwt.0, leeway)?);
    let webhook = Webhook::new(&config.policy.webhook_authorities)?;
    let seeds = Seeds::load(&data_dir)?;

    let api_socket = bind(config.listen.bind).await?;
    let ops_socket = bind(config.listen.ops_bind).await?;
    let web_socket = bind_web(&config).await?;
    let gateway_socket = bind_gateway(&config).await?;
    let advertise = match (config.listen.advertise.as_str(), &seeds) {
        ("", Some(seeds)) => seeds.advertise.as_str(),
        (advertise, _) => advertise,
    };
    let addresses = Addresses::new(api_socket.local_addr().map_err(unusable)?, ops_socket.local_addr().map_err(unusable)?, advertise)
        .with_https(web_socket.as_ref().map(TcpListener::local_addr).transpose().map_err(unusable)?);
    addresses.write(&data_dir).map_err(unusable)?;
    let gateway = gateway_socket.as_ref().map(TcpListener::local_addr).transpose().map_err(unusable)?;
    let gateway = gateway_address(&config, gateway, &addresses.advertise);
    let web_certificate = WebCertificate::absent();
    let web = match &web_socket {
        Some(_) => Some(web_renewal(&config, web_certificate.clone(), &addresses.advertise)?),
        None => None,
    };

    let store = ArtifactStore::open(data_dir.join("artifacts"))?;
    let runtimes = executors::start(&config).await?;
    let driver_engine = executors::drivers(&config)?;
    let revoked = Revoked::default();
    let links = Links::guarded(config.network.source_address.0, credentials.clone(), revoked.clone());
    let metrics = Arc::new(Metrics::new());
    let consensus = Consensus::start(options(&config, node_id, &links, &metrics)).await?;
    let founding = match found(&config, &consensus, node_id, &addresses).await {
        Ok(founding) => founding,
        Err(error) => {
            consensus.stop().await;
            return Err(error);
        }
    };
    if says_where_it_is(&config) {
        let moving = move_to(consensus.clone(), node_id, addresses.advertise.clone());
        tokio::spawn(async move {
            if let Some(founding) = founding {
                // It cannot panic, and has said what went wrong.
                let _ = founding.await;
            }
            moving.await;
        });
    }

    let stops = Stops::default();
    let tasks = TaskTracker::new();
    let refusals = Arc::new(Refusals::new());
    let counted = metrics.clone();
    tokio::spawn(found_version(consensus.clone(), stops.leaving.clone()));
    let ledger = Ledger::new(node_id, metrics.refusals_unrecorded.clone());
    tokio::spawn(ledger.clone().run(consensus.clone(), stops.closing.clone()));
    let policies = PolicyGate::new(Duration::from_millis(config.policy.budget_ms));
    tokio::spawn(policies.clone().run(consensus.clone(), node_id, stops.closing.clone()));
    let gate = Gate::new(authenticator.clone(), policies, ledger.clone(), move |step, reason| {
        counted.gate_refusals.get_or_create(&Refused { step, reason: reason.to_owned() }).inc();
    });
    let escalation = Escalation {
        consensus: consensus.clone(),
        node_id,
        cluster: credentials.ca().cluster().into(),
        secrets_dir: config.policy.secrets_dir.clone(),
        webhook,
    };
    tokio::spawn(escalation.run(stops.leaving.clone()));
    let way = Way::new(consensus.clone(), gate.clone(), metrics.clone());
    let members = Arc::new(ConsensusMembers { own_id: node_id, consensus: consensus.clone() });
    let artifacts = Artifacts::new(store, links.clone(), members.clone());
    let stays = federation::Stays::default();
    let router =
        Router { consensus: consensus.clone(), node_id, artifacts: artifacts.clone(), metrics: metrics.clone(), stays: stays.clone() };
    tokio::spawn(router.run(stops.leaving.clone()));
    let drivers = Drivers::new(way.clone(), links.clone(), artifacts.clone(), driver_engine, node_id);
    tokio::spawn(Lead { drivers: drivers.clone() }.run(stops.leaving.clone()));
    let federation = Federation::new(way.clone(), links.clone(), credentials.clone(), node_id, config.network.source_address.0, gateway);
    let lead = federation::Lead {
        federation: federation.clone(),
        artifacts: artifacts.clone(),
        stays,
        lease: Duration::from_millis(config.federation.lease_ms),
    };
    tokio::spawn(lead.run(stops.leaving.clone()));
    let dispatcher = Dispatcher::start(way.clone(), Caller::node(node_id), stops.leaving.clone(), stops.closed.clone());
    let services_api = Api::new(
        way.clone(),
        dispatcher.clone(),
        TaskWaits::start(&consensus, stops.closing.clone()),
        Duration::from_millis(config.limits.default_deadline_ms),
        stops.leaving.clone(),
    );
    let join = JoinApi::new(way.clone(), links.clone(), credentials.ca().clone(), signer.clone());
    let services = Services {
        audit: AuditApi::new(services_api.clone(), node_id),
        cluster: ClusterApi::new(services_api.clone(), credentials.ca().cluster(), WebStore::new(&data_dir)),
        drivers: DriverApi::new(services_api.clone(), drivers.clone()),
        federation: FederationApi::new(services_api.clone(), federation.clone()),
        artifacts: ArtifactApi::new(services_api.clone(), artifacts.clone()),
        peers: PeerApi::server(
            Arc::new(consensus.clone()),
            members,
            links.contacts().clone(),
            artifacts.clone(),
            Here { admissions: Arc::new(join.clone()), drivers: Arc::new(drivers), federation: Arc::new(federation.clone()) },
            stops.closing.clone(),
        ),
        join,
        api: services_api,
    };
    let Faces { members, web: web_routes, health } = match api::routes(services).await {
        Ok(faces) => faces,
        Err(error) => {
            consensus.stop().await;
            return Err(error.into());
        }
    };
    let listener = ListenerOptions { connections_max: config.limits.connections, refusals: refusals.clone(), ..ListenerOptions::default() };
    // What was revoked before this start is known before anybody comes; a link to a peer may have been quicker.
    if tell(&consensus, &revoked) {
        revoked.cut();
    }
    tokio::spawn(watch_revocations(consensus.clone(), revoked.clone(), stops.closed.clone()));
    let tls = server_config(&credentials, Arc::new(TokenGate::new(consensus.clone(), revoked.clone())));
    let door = Members::new(revoked.live().clone());
    let incoming = listen_through(api_socket, tls, listener, door).map_err(unusable)?;
    let serving = api::serve(members, TraceLayer::new(metrics.clone()), incoming, stops.closing.clone());
    tasks.spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the API has failed");
        }
    });

    let renewal = Renewal {
        node_id,
        credentials: credentials.clone(),
        store: IdentityStore::new(&data_dir),
        web,
        signer,
        links: links.clone(),
        consensus: consensus.clone(),
        ledger: ledger.clone(),
        metrics: metrics.clone(),
        every: Duration::from_millis(config.identity.renewal_check_ms),
    };
    if let Some(socket) = web_socket {
        let listener =
            ListenerOptions { connections_max: config.limits.https_connections, refusals: refusals.clone(), ..ListenerOptions::default() };
        let tls = web_config(web_certificate, key_exchange(&config));
        let door = Web::new(config.limits.https_connections_per_address);
        let incoming = listen_through(socket, tls, listener, door).map_err(unusable)?;
        let doorkeeper = Doorkeeper::new(authenticator.clone(), consensus.clone(), gate.clone());
        let serving = api::serve_web(web_routes, TraceLayer::new(metrics.clone()), doorkeeper, incoming, stops.closing.clone());
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the HTTPS listener has failed");
            }
        });
    }
    tokio::spawn(renewal.run(stops.closed.clone()));
    if let Some(socket) = gateway_socket {
        let options = ListenerOptions { refusals: refusals.clone(), ..ListenerOptions::default() };
        let trace = TraceLayer::new(metrics.clone());
        let serving = serve_gateway(socket, &credentials, &consensus, federation, options, trace, stops.closing.clone());
        tasks.spawn(serving.map_err(unusable)?);
    }

    if let Some(seeds) = seeds {
        let request = PeerMembershipRequest { address: addresses.advertise.clone(), learner: false };
        tokio::spawn(join_cluster(links.clone(), seeds, data_dir.clone(), request, stops.clone()));
    }
    tokio::spawn(watch_key_files(authenticator, Duration::from_millis(config.auth.jwks_poll_ms), metrics.clone(), stops.closed.clone()));
    tokio::spawn(artifacts.clone().reconcile(stops.leaving.clone()));
    let artifacts: Arc<dyn ArtifactSource> = Arc::new(artifacts);
    let hosts = executors::host(runtimes, &config, node_id, &way, &dispatcher, &artifacts);

    let readiness = readiness(&consensus, &stops);
    let sampler = Sampler::new(consensus.clone(), refusals);
    let fatal = consensus.fatal();
    let http = ops::serve(ops_socket, metrics, sampler, readiness.clone(), move || fatal.borrow().clone(), stops.closed.clone());
    tokio::spawn(async move {
        if let Err(error) = http.await {
            tracing::error!(%error, "the HTTP listener has failed");
        }
    });
    tracing::info!(
        node = node_id,
        name = node_name(&config, node_id),
        cluster = credentials.ca().cluster(),
        api = %addresses.api,
        advertise = addresses.advertise,
        https = addresses.https.map(tracing::field::display),
        ops = %addresses.ops,
        "the node serves"
    );
    let grace = Duration::from_millis(config.limits.shutdown_grace_ms);
    Ok(Running { addresses, node_id, consensus, readiness, health, hosts, stops, grace, tasks })
}

/// The id in the node's certificate, which the configuration must not contradict.
fn certified_id(config: &Config, credentials: &Credentials) -> Result<u64, StartError> {
    let certified = match credentials.principal().kind {
        PrincipalKind::Node { id } => id,
        // The store refuses others; 0 is no node's id.
        PrincipalKind::User { .. } | PrincipalKind::Join { .. } => 0,
    };
    match config.node.id {
        0 => Ok(certified),
        id if id == certified => Ok(certified),
        configured => Err(StartError::OtherNode { configured, certified }),
    }
}

/// The cluster's CA with its key, and the web authority beside it, if this node holds them.
fn signer(config: &Config) -> Result<Option<Arc<Signer>>, StartError> {
    let dir = &config.identity.ca_dir;
    if !dir.join("ca.key").exists() {
        return Ok(None);
    }
    let authority = CertificateAuthority::load(dir)?;
    let web = WebAuthority::load_or_init(dir, authority.cluster())?;
    Ok(Some(Arc::new(Signer { authority, web, validity: Duration::from_secs(config.identity.node_validity_s) })))
}

async fn bind(address: std::net::SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

fn options(config: &Config, node_id: u64, links: &Arc<Links>, metrics: &Arc<Metrics>) -> Options {
    let raft = &config.raft;
    let transport = Arc::new(PeerTransport::new(links.clone()));
    let mut options = Options::new(node_id, config.node.data_dir.join("raft"), tarn_machine::Versions::CURRENT, transport);
    options.build_version = env!("CARGO_PKG_VERSION").into();
    let metrics = metrics.clone();
    options.on_applied = Arc::new(move |commands, took| metrics.applied(commands, took));
    options.timings = Timings {
        heartbeat: Duration::from_millis(raft.heartbeat_ms),
        election_min: Duration::from_millis(raft.election_min_ms),
        election_max: Duration::from_millis(raft.election_max_ms),
        ..Timings::default()
    };
    options.limits = Limits { snapshot_entries: raft.snapshot_entries, keep_entries: raft.keep_entries, ..Limits::default() };
    options
}

/// How long each founder leaves it to the one before it, in the order of their ids. Standing for election all at once, they would take each
/// other's votes, and start again a second later.
const FOUNDERS_APART: Duration = Duration::from_millis(200);
/// How soon a founder that waits sees that another was faster.
const FOUNDED_LOOK: Duration = Duration::from_millis(10);

/// Founds the cluster, if the configuration says so and it was not founded before: at once if no founder has a lower id, else by the task that
/// is given back, where those before this one do not.
async fn found(config: &Config, consensus: &Consensus, node_id: u64, addresses: &Addresses) -> Result<Option<JoinHandle<()>>, StartError> {
    let bootstrap = &config.cluster.bootstrap;
    if bootstrap.is_empty() || consensus.is_bootstrapped().await {
        return Ok(None);
    }
    let members: BTreeMap<u64, String> = bootstrap
        .iter()
        .map(|member| match member {
            BootstrapMember::Itself => (node_id, addresses.advertise.clone()),
            BootstrapMember::Node { id, address } => (*id, address.clone()),
        })
        .collect();
    if !members.contains_key(&node_id) {
        return Err(BootstrapError::NotAMember { node: node_id }.into());
    }
    let before = u32::try_from(members.range(..node_id).count()).unwrap_or(u32::MAX);
    if before > 0 {
        return Ok(Some(tokio::spawn(found_after(FOUNDERS_APART.saturating_mul(before), consensus.clone(), members))));
    }
    match consensus.bootstrap(members).await {
        // Another founder was faster.
        Ok(()) | Err(BootstrapError::AlreadyBootstrapped) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Founds the cluster when this time has passed and nobody else has.
async fn found_after(time: Duration, consensus: Consensus, members: BTreeMap<u64, String>) {
    let others = async {
        while !consensus.is_bootstrapped().await {
            tokio::time::sleep(FOUNDED_LOOK).await;
        }
    };
    if tokio::time::timeout(time, others).await.is_ok() {
        return;
    }
    match consensus.bootstrap(members).await {
        Ok(()) | Err(BootstrapError::AlreadyBootstrapped | BootstrapError::Stopped) => {}
        Err(error) => tracing::error!(%error, "the cluster cannot be founded from here"),
    }
}

/// Whether the advertised address is meant, and not a guess from where the node listens.
fn says_where_it_is(config: &Config) -> bool {
    let bootstrap = &config.cluster.bootstrap;
    !config.listen.advertise.is_empty() || bootstrap.iter().any(|member| matches!(member, BootstrapMember::Itself))
}

/// A node that is the whole cluster moves to the address at which it was started. Any other stays known at the one that the others have.
async fn move_to(consensus: Consensus, node_id: u64, advertise: String) {
    if !consensus.is_bootstrapped().await {
        return;
    }
    let members = consensus.members();
    let known = members.iter().find(|(peer, _)| peer.id == node_id);
    let Some((known, _)) = known.filter(|(peer, _)| peer.address != advertise) else {
        return;
    };
    if members.len() > 1 {
        tracing::warn!(
            known = known.address,
            advertise,
            "the cluster knows this node at another address, and keeps it: start it there, or remove it and join anew"
        );
        return;
    }
    match moved(&consensus, node_id, &advertise).await {
        Ok(()) => tracing::info!(advertise, "the cluster knows this node at its new address"),
        Err(error) => tracing::warn!(%error, advertise, "the cluster still knows this node at its old address"),
    }
}

/// A node that was stopped before it had applied what it was founded with does so first: until then that counts as a change under way.
async fn moved(consensus: &Consensus, node_id: u64, advertise: &str) -> Result<(), AdminError> {
    let deadline = Instant::now() + MOVE_TIMEOUT;
    loop {
        match consensus.add_learner(node_id, advertise.to_owned(), deadline).await {
            Err(AdminError::InProgress) if Instant::now() < deadline => tokio::time::sleep(MOVE_PAUSE).await,
            result => return result,
        }
    }
}

/// A node that came by joining asks to be made a member, until it has a vote.
async fn join_cluster(links: Arc<Links>, seeds: Seeds, data_dir: PathBuf, request: PeerMembershipRequest, stops: Stops) {
    match become_member(&links, seeds, &data_dir, request, &stops.leaving).await {
        Ok(()) => tracing::info!("this node is a member of the cluster"),
        Err(error) => tracing::error!(%error, "this node is not a member of the cluster"),
    }
}

fn readiness(consensus: &Consensus, stops: &Stops) -> Readiness {
    let readiness = Readiness::default();
    let leaving = stops.leaving.clone();
    readiness.add("serving", move || match leaving.is_cancelled() {
        false => Ok(()),
        true => Err("the node is stopping".into()),
    });
    let fatal = consensus.fatal();
    readiness.add("state", move || match fatal.borrow().is_none() {
        true => Ok(()),
        false => Err("the node has stopped itself; its log says why".into()),
    });
    let leadership = consensus.leadership();
    readiness.add("leader", move || match leadership.borrow().leader.is_some() {
        true => Ok(()),
        false => Err("no leader is known: a majority of the voters must be up".into()),
    });
    let founded = consensus.applied();
    readiness.add("founded", move || match Snapshot::is_before_roles(founded.borrow().version, founded.borrow().now_ms) {
        false => Ok(()),
        true => Err("the cluster's first leader has not made its version known yet".into()),
    });
    let consensus = consensus.clone();
    readiness.add("caught-up", move || match consensus.status() {
        Ok(status) => match status.committed_index.saturating_sub(status.applied.index) {
            lag if lag > LAG_MAX => Err(format!("{lag} entries are not applied yet")),
            _ => Ok(()),
        },
        Err(_) => Err("the state is closed".into()),
    });
    readiness
}

fn node_name(config: &Config, node_id: u64) -> String {
    match config.node.name.as_str() {
        "" => format!("node-{node_id}"),
        name => name.to_owned(),
    }
}
