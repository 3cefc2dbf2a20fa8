//! The handle: everything that the rest of a node does with consensus.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use openraft::errors::{InitializeError, RaftError};
use openraft::{BasicNode, Config, SnapshotPolicy, StepDownPolicy};
use tarn_machine::{Machine, Versions};
use tarn_proto::v1;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admin::{Admin, AdminError};
use crate::audit;
use crate::clock::{self, Clock};
use crate::disk;
use crate::leadership::{self, LeaderTime, Leadership};
use crate::log_store::{LogLimits, LogStore};
use crate::network::Network;
use crate::options::{Limits, Options, Timings};
use crate::peer::PeerService;
use crate::propose::{ProposeError, Proposer};
use crate::read::{ReadError, ReadGate};
use crate::state_machine::{Applied, EventBatch, StateMachine};
use crate::status::{self, MemberInfo, Status};
use crate::ticker;
use crate::transport::{Peer, PeerError, TransportError};
use crate::types::{FatalFlag, NodeId, Raft};
use crate::wire::{self, AdminAction};

/// The longest that a snapshot's announcement may take to be answered.
const SNAPSHOT_OFFER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a graceful shutdown tries to hand leadership over.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[error("the node cannot start: {reason}")]
pub struct StartError {
    reason: String,
    #[source]
    source: Option<io::Error>,
}

impl StartError {
    fn because(reason: impl std::fmt::Display) -> Self {
        let (reason, source) = (reason.to_string(), None);
        Self { reason, source }
    }

    fn io(what: &str, source: io::Error) -> Self {
        Self { reason: format!("{what}: {source}"), source: Some(source) }
    }
}

/// Why a cluster was not founded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BootstrapError {
    /// It was, before: by this node, or by another one that it has heard of.
    #[error("this node belongs to a cluster already")]
    AlreadyBootstrapped,
    /// This node is not among its founders.
    #[error("node {node} is not among the founding members")]
    NotAMember {
        /// This node.
        node: NodeId,
    },
    /// This node has stopped.
    #[error("this node is stopping")]
    Stopped,
}

/// A node's part in the consensus. Clones are handles to the same node.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Raft,
    log: LogStore,
    machine: StateMachine,
    leadership: watch::Receiver<Leadership>,
    proposer: Proposer,
    reads: ReadGate,
    admin: Admin,
    peers: PeerService,
    fatal: FatalFlag,
    /// Ended by a shutdown; with them end the queues, and whoever waits in one is told.
    tasks: Mutex<Vec<JoinHandle<()>>>,
    build_version: String,
}

/// Collects background tasks, so that a shutdown can end them.
#[derive(Default)]
pub(crate) struct Tasks(Vec<JoinHandle<()>>);

impl Tasks {
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }
}

impl Consensus {
    /// Opens log and state below the data directory, recovers what a crash left, and takes part in the cluster.
    ///
    /// A new node waits to be founded ([`Consensus::bootstrap`]) or to be added by a leader.
    ///
    /// # Errors
    ///
    /// The data directory belongs to another node, is in use, was written by a build that is too new, or is damaged; or
    /// the timings contradict each other.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        if options.node_id == 0 {
            return Err(StartError::because("node ids begin at 1"));
        }
        let fatal = FatalFlag::new();
        let (log, machine) = open(&options, fatal.clone()).await?;
        let network = Network { transport: options.transport.clone(), machine: machine.clone(), stall: options.timings.election_max * 2 };
        let raft =
            Raft::new(options.node_id, config(&options)?, network, log.clone(), machine.clone()).await.map_err(StartError::because)?;
        Ok(Self::assemble(options, raft, log, machine, fatal))
    }

    fn assemble(options: Options, raft: Raft, log: LogStore, machine: StateMachine, fatal: FatalFlag) -> Self {
        let mut tasks = Tasks::default();
        let leadership = leadership::watch(&raft, fatal.clone(), &mut tasks);
        let applied = machine.applied();
        let time = Arc::new(Mutex::new(LeaderTime::new(options.clock.clone(), machine.applied())));
        let proposer = Proposer::spawn(
            raft.clone(),
            applied.clone(),
            options.transport.clone(),
            leadership.clone(),
            time.clone(),
            options.proposals,
            &mut tasks,
        );
        let reads = ReadGate::spawn(
            raft.clone(),
            options.transport.clone(),
            leadership.clone(),
            applied.clone(),
            options.reads,
            options.timings.election_max,
            &mut tasks,
        );
        let admin = Admin {
            node_id: options.node_id,
            raft: raft.clone(),
            machine: machine.clone(),
            transport: options.transport.clone(),
            leadership: leadership.clone(),
            applied: applied.clone(),
            proposer: proposer.clone(),
            timings: options.timings,
            version_max: options.versions.max,
        };
        let peers = PeerService {
            node_id: options.node_id,
            build_version: options.build_version.clone(),
            raft: raft.clone(),
            machine: machine.clone(),
            proposer: proposer.clone(),
            reads: reads.clone(),
            admin: admin.clone(),
            fatal: fatal.clone(),
            clock: options.clock.clone(),
            receiving: Arc::default(),
        };
        tasks.spawn(agree_on_time(admin.clone(), options.clock, time.clone()));
        tasks.spawn(ticker::run(proposer.clone(), leadership.clone(), machine.next_wake_ms(), time));
        tasks.spawn(audit::run(admin.clone(), machine.clone(), fatal.clone()));
        tasks.spawn(finish_changes(admin.clone()));
        Self {
            inner: Arc::new(Inner {
                raft,
                log,
                machine,
                leadership,
                proposer,
                reads,
                admin,
                peers,
                fatal,
                tasks: Mutex::new(tasks.0),
                build_version: options.build_version,
            }),
        }
    }

    /// Founds a cluster, once in its life, with these voters and their addresses. This node must be among them. All of
    /// them may be told so, with the same members; one is enough.
    ///
    /// # Errors
    ///
    /// See [`BootstrapError`].
    pub async fn bootstrap(&self, members: BTreeMap<NodeId, String>) -> Result<(), BootstrapError> {
        let nodes: BTreeMap<NodeId, BasicNode> = members.into_iter().map(|(id, address)| (id, BasicNode::new(address))).collect();
        self.inner.raft.initialize(nodes).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => BootstrapError::AlreadyBootstrapped,
            RaftError::APIError(InitializeError::NotInMembers(error)) => BootstrapError::NotAMember { node: error.node_id },
            RaftError::Fatal(_) => BootstrapError::Stopped,
        })
    }

    /// Whether this node belongs to a cluster: it was founded here, or a leader has sent it something.
    pub async fn is_bootstrapped(&self) -> bool {
        self.inner.raft.is_initialized().await.unwrap_or(false)
    }

    /// Replicates a command and returns what the kernel answered, a rejection included. Works on any node; changes of
    /// leader before the deadline are not seen.
    ///
    /// Dropping the future gives up waiting; the command may still take effect.
    ///
    /// # Errors
    ///
    /// See [`ProposeError`], whose variants differ in whether the command may have taken effect.
    pub async fn propose(&self, command: v1::Command, deadline: Instant) -> Result<v1::Outcome, ProposeError> {
        self.inner.proposer.propose(command, false, deadline).await
    }

    /// As [`Consensus::propose`], for a command behind which the caller proposes another at once: both go in one entry where they can.
    ///
    /// # Errors
    ///
    /// As [`Consensus::propose`].
    pub async fn propose_followed(&self, command: v1::Command, deadline: Instant) -> Result<v1::Outcome, ProposeError> {
        self.inner.proposer.propose(command, true, deadline).await
    }

    /// Returns when this node's state contains everything that was committed anywhere when this was called. What is read
    /// after that is linearizable. Returns the log index up to which that was.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub async fn read_barrier(&self, deadline: Instant) -> Result<u64, ReadError> {
        self.inner.reads.barrier(deadline).await
    }

    /// Reads the state as it is now. Nothing is applied meanwhile, so a long reader delays the node, and as it may touch
    /// the disk, long reading belongs on a thread that may block. A disk that does not give back what was written stops the node, whatever the
    /// reader makes of the error: see [`Consensus::fatal`].
    ///
    /// # Errors
    ///
    /// [`ReadError::Stopped`], also where the read itself met such a disk.
    pub fn read<T>(&self, read: impl FnOnce(&Machine) -> T) -> Result<T, ReadError> {
        self.inner.machine.read(read).ok_or(ReadError::Stopped)
    }

    /// Events as they happen, one batch for each log entry that has any. A receiver that is too slow gets
    /// `RecvError::Lagged`: it then reads what it missed from the state and goes on. A snapshot that is installed brings
    /// no events, so a receiver that sees a gap in the revisions should look there too.
    pub fn events(&self) -> broadcast::Receiver<EventBatch> {
        self.inner.machine.events()
    }

    /// Where the state stands. Changes with every log entry.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.inner.machine.applied()
    }

    /// Who leads, as this node believes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Becomes the reason when this node can no longer keep its promises. The daemon must then end the process, with the
    /// reason and a failure code.
    pub fn fatal(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.inner.fatal.watch()
    }

    /// A look at this node and at the cluster as it sees it.
    ///
    /// # Errors
    ///
    /// [`ReadError::Stopped`].
    pub fn status(&self) -> Result<Status, ReadError> {
        status::look(&self.inner.raft, &self.inner.machine, &self.inner.build_version).ok_or(ReadError::Stopped)
    }

    /// The members of the cluster, as this node knows them, and whether each has a vote. Cheap: does not touch the state.
    pub fn members(&self) -> Vec<(Peer, bool)> {
        self.inner.admin.members()
    }

    /// Whether a node is a member, as far as this node knows.
    pub fn is_member(&self, id: NodeId) -> bool {
        self.inner.admin.is_member(id)
    }

    /// Whether a node was a member and is none any more, as far as this node has applied. Such a node stays out for good.
    pub fn was_removed(&self, id: NodeId) -> bool {
        self.inner.peers.machine.was_removed(id)
    }

    /// Asks every member what it is, at most for `timeout`.
    pub async fn member_infos(&self, timeout: Duration) -> Vec<MemberInfo> {
        let peers = self.members().into_iter().map(|(peer, _)| peer);
        futures::future::join_all(peers.map(|peer| async move {
            let info = match peer.id == self.inner.peers.node_id {
                true => Some(self.inner.peers.info()),
                false => tokio::time::timeout(timeout, self.inner.admin.node_info(&peer)).await.ok().flatten(),
            };
            MemberInfo {
                peer,
                versions: info.as_ref().map(|info| Versions { min: info.machine_version_min, max: info.machine_version_max }),
                applied_index: info.as_ref().map(|info| info.applied_index),
                build_version: info.map(|info| info.build_version),
            }
        }))
        .await
    }

    /// Adds a node without a vote. It gets the log, or a snapshot, from now on. The only member of a cluster moves to the
    /// address instead.
    ///
    /// # Errors
    ///
    /// See [`AdminError`].
    pub async fn add_learner(&self, id: NodeId, address: String, deadline: Instant) -> Result<(), AdminError> {
        self.administer(AdminAction::AddLearner(wire::Node { id, address }), deadline).await
    }

    /// Gives a learner a vote, as soon as it has caught up.
    ///
    /// # Errors
    ///
    /// See [`AdminError`].
    pub async fn promote(&self, id: NodeId, deadline: Instant) -> Result<(), AdminError> {
        self.administer(AdminAction::Promote(node(id)), deadline).await
    }

    /// Removes a voter or a learner. A leader that is removed hands over first. The id is never used again.
    ///
    /// # Errors
    ///
    /// See [`AdminError`].
    pub async fn remove(&self, id: NodeId, deadline: Instant) -> Result<(), AdminError> {
        self.administer(AdminAction::Remove(node(id)), deadline).await
    }

    /// Puts a new node in the place of a dead one, in one change: adds it, lets it catch up, and swaps the votes.
    ///
    /// # Errors
    ///
    /// See [`AdminError`].
    pub async fn replace(&self, dead: NodeId, id: NodeId, address: String, deadline: Instant) -> Result<(), AdminError> {
        let new = Some(wire::Node { id, address });
        self.administer(AdminAction::Replace(wire::Replace { dead, new }), deadline).await
    }

    /// Hands leadership to a voter, or to the most advanced one. Returns who leads.
    ///
    /// # Errors
    ///
    /// See [`AdminError`].
    pub async fn transfer_leader(&self, to: Option<NodeId>, deadline: Instant) -> Result<NodeId, AdminError> {
        let action = AdminAction::TransferLeader(node(to.unwrap_or(0)));
        self.inner.admin.request(action, deadline).await
    }

    /// Raises the machine version of the whole cluster, after every voter has said that it supports it. Cannot be taken
    /// back. Returns the version in force.
    ///
    /// # Errors
    ///
    /// [`AdminError::VersionNotSupported`] names the nodes that hold it back; otherwise see there.
    pub async fn raise_version(&self, version: u32, deadline: Instant) -> Result<u32, AdminError> {
        let action = AdminAction::RaiseVersion(version);
        let value = self.inner.admin.request(action, deadline).await?;
        Ok(u32::try_from(value).unwrap_or(u32::MAX))
    }

    async fn administer(&self, action: AdminAction, deadline: Instant) -> Result<(), AdminError> {
        self.inner.admin.request(action, deadline).await.map(|_| ())
    }

    /// Begins to make a snapshot, whatever the policy says; the log is purged after it. Returns at once.
    pub async fn trigger_snapshot(&self) {
        // A node that has stopped makes no snapshot, and says so in other ways.
        let _ = self.inner.raft.trigger().snapshot().await;
    }

    /// Answers a call of another node: the server side of [`Transport::call`](crate::Transport::call). `from` is the
    /// sender's *authenticated* id, `method` the number of a [`Method`](crate::Method).
    ///
    /// # Errors
    ///
    /// See [`PeerError`].
    pub async fn handle_call(&self, from: NodeId, method: u32, body: Bytes) -> Result<Bytes, PeerError> {
        self.inner.peers.call(from, method, body).await
    }

    /// Answers a pipeline of another node: the server side of [`Transport::replicate`](crate::Transport::replicate). The
    /// replies end with the requests or with an error.
    pub fn handle_replicate(
        &self,
        from: NodeId,
        requests: impl Stream<Item = Result<Bytes, TransportError>> + Send + 'static,
    ) -> impl Stream<Item = Result<Bytes, PeerError>> + Send + 'static {
        self.inner.peers.replicate(from, requests)
    }

    /// Takes a snapshot from another node: the server side of
    /// [`Transport::send_snapshot`](crate::Transport::send_snapshot). Returns when it is installed.
    ///
    /// # Errors
    ///
    /// See [`PeerError`].
    pub async fn handle_snapshot(
        &self,
        from: NodeId,
        frames: impl Stream<Item = Result<Bytes, TransportError>> + Send + 'static,
    ) -> Result<Bytes, PeerError> {
        self.inner.peers.snapshot(from, frames).await
    }

    /// Stops gracefully: hands leadership over if this node leads, flushes, and closes, so that the data directory can be
    /// opened again at once. What was proposed here and is not answered yet ends with an error.
    pub async fn shutdown(&self) {
        if self.inner.leadership.borrow().is_this_node && self.has_other_voters() {
            let deadline = Instant::now() + HAND_OVER_TIMEOUT;
            if self.inner.admin.transfer_leader(0, deadline).await.is_err() {
                tracing::warn!("leadership could not be handed over; the others will elect a leader in a moment");
            }
        }
        self.stop().await;
    }

    /// Stops without handing over, as if the process had ended; everything is closed on return.
    pub async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.inner.tasks.lock().expect("no holder of this lock panics"));
        for task in &tasks {
            task.abort();
        }
        // openraft's own tasks end with it; an error means that it has ended already.
        let _ = self.inner.raft.shutdown().await;
        for task in tasks {
            let _ = task.await;
        }
        let (log, machine) = (self.inner.log.clone(), self.inner.machine.clone());
        let disk = machine.disk().clone();
        let closed = disk::blocking(disk.as_ref(), move || {
            log.close();
            machine.close();
        });
        // It does not panic, and a runtime that is going away closes everything by itself.
        let _ = closed.await;
    }

    fn has_other_voters(&self) -> bool {
        self.members().iter().any(|(peer, voter)| *voter && peer.id != self.inner.peers.node_id)
    }
}

fn node(id: NodeId) -> wire::Node {
    let address = String::new();
    wire::Node { id, address }
}

async fn open(options: &Options, fatal: FatalFlag) -> Result<(LogStore, StateMachine), StartError> {
    let Options { node_id, data_dir, versions, limits, on_applied, disk, .. } = options.clone();
    let opened = disk::blocking(options.disk.as_ref(), move || {
        let Limits { log_cache_bytes, batch_bytes, .. } = limits;
        let limits = LogLimits { cache_bytes: log_cache_bytes, batch_bytes };
        let open_log = || {
            tarn_storage::dir::create_durably(&data_dir).map_err(io::Error::other)?;
            LogStore::open(disk::open_log(disk.as_ref(), &data_dir.join("log"))?, node_id, limits, &disk, fatal.clone())
        };
        let log = open_log().map_err(|error| StartError::io("the log", error))?;
        let machine = StateMachine::open(&data_dir, versions, on_applied, disk.clone(), fatal.clone()).map_err(|error| {
            log.close();
            StartError::io("the state", error)
        })?;
        Ok((log, machine))
    });
    opened.await.unwrap_or_else(|error| Err(StartError::because(error)))
}

fn config(options: &Options) -> Result<Arc<Config>, StartError> {
    let Timings { heartbeat, election_min, election_max, .. } = options.timings;
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "tarn".into(),
        heartbeat_interval: ms(heartbeat),
        election_timeout_min: ms(election_min),
        election_timeout_max: ms(election_max),
        install_snapshot_timeout: ms(SNAPSHOT_OFFER_TIMEOUT),
        // The log limits a message by bytes; this only has to be out of its way.
        max_payload_entries: 4_096,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.limits.snapshot_entries),
        max_in_snapshot_log_to_keep: options.limits.keep_entries,
        // Time for the followers to learn of the removal before the leader steps down.
        removed_leader_step_down: StepDownPolicy::After(ms(heartbeat) * 2),
        enable_pre_vote: Some(true),
        // A leader that restarts stands for election like anybody else: its state may have fallen back a little.
        enable_leader_restore: Some(false),
        backoff: "50ms 100ms 200ms ...1s".into(),
        ..Config::default()
    };
    let contradiction = |error| StartError::because(format!("the timings contradict each other: {error}"));
    config.validate().map(Arc::new).map_err(contradiction)
}

/// Keeps the leader's clock to what the voters' wall clocks show; only the leader does anything.
async fn agree_on_time(admin: Admin, own: Arc<dyn Clock>, time: Arc<Mutex<LeaderTime>>) {
    let mut leadership = admin.leadership.clone();
    while let Ok(term) = leadership.wait_for(|now| now.is_this_node).await.map(|now| now.term) {
        let clocks = admin.wall_clocks(own.as_ref()).await;
        let pause = match clock::reached_by_majority(clocks) {
            Some(reached_ms) => {
                let mut time = time.lock().expect("no holder of this lock panics");
                time.agree(term, reached_ms);
                admin.timings.audit
            }
            None => admin.timings.heartbeat,
        };
        // A new leadership asks at once.
        if let Ok(Err(_)) = tokio::time::timeout(pause, leadership.wait_for(|now| now.term != term)).await {
            return;
        }
    }
}

/// Finishes, as a new leader, what an earlier one began.
async fn finish_changes(admin: Admin) {
    let mut leadership = admin.leadership.clone();
    let mut finished = 0;
    loop {
        let term = match leadership.wait_for(|now| now.is_this_node && now.term > finished).await {
            Ok(leadership) => leadership.term,
            Err(_) => return,
        };
        finished = term;
        admin.finish_change().await;
    }
}
