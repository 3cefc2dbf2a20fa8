//! What the gate knows of the state: one snapshot for each applied entry, shared by all requests until the next.

use std::sync::{Arc, Mutex};

use tarn_machine::limits::ENVIRONMENT_DEFAULT;
use tarn_machine::{Access, Machine, Policies, Tenants};
use tarn_raft::Consensus;

use super::{Reason, Refusal};

/// What the state says about who may do what, at one moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Roles, bindings, tokens, revocations.
    pub access: Arc<Access>,
    /// The machine version in force. Roles are judged from 2 on: in a cluster that has not been raised to it yet, nobody could be given one.
    pub version: u32,
    /// The machine's time, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Which bundles judge.
    pub policies: Arc<Policies>,
    /// Members of the cluster.
    pub nodes: u32,
    /// Whose workers are whose.
    pub workers: Workers,
    /// Every namespace, and how it is limited and judged.
    pub tenants: Arc<Tenants>,
    /// Nodes that vote, at least one.
    pub voters: u64,
}

/// Knows whose worker is whose. Asked seldom, and therefore not part of the snapshot's own data.
#[derive(Clone, Default)]
pub struct Workers(Option<Consensus>);

impl Workers {
    /// Whether this principal may work as this worker: it registered it.
    #[must_use]
    pub fn may_work_as(&self, worker_id: &str, principal: &str) -> bool {
        let consensus = self.0.as_ref();
        consensus.is_some_and(|consensus| {
            let may = consensus.read(|machine| machine.may_work_as(worker_id, principal));
            may.unwrap_or(false)
        })
    }

    /// The namespaces that a worker serves, none for all; `None` for a worker that is not registered.
    #[must_use]
    pub fn namespaces(&self, worker_id: &str) -> Option<Vec<String>> {
        self.0.as_ref()?.read(|machine| machine.worker_namespaces(worker_id)).ok()?
    }
}

/// The machine version from which on roles are judged.
const ROLES_SINCE: u32 = 2;

impl Snapshot {
    fn of(machine: &Machine, workers: Workers, nodes: u32, voters: u64) -> Self {
        Self {
            policies: machine.policies(),
            nodes,
            workers,
            tenants: machine.tenants(),
            voters,
            access: machine.access(),
            version: machine.version(),
            now_ms: machine.now_ms(),
        }
    }

    /// The environment whose policies judge what is asked of a namespace; without one, of the cluster.
    #[must_use]
    pub fn environment(&self, namespace: &str) -> Arc<str> {
        match self.tenants.get(namespace) {
            Some(tenant) => tenant.environment.clone(),
            None => ENVIRONMENT_DEFAULT.into(),
        }
    }

    /// Whether there are roles to judge by.
    #[must_use]
    pub fn has_roles(&self) -> bool {
        self.version >= ROLES_SINCE
    }

    /// Whether nothing was ever applied: the first leader has not made the cluster's version known yet.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        Self::is_before_roles(self.version, self.now_ms)
    }

    /// The same, of a state at this version and time.
    #[must_use]
    pub fn is_before_roles(version: u32, now_ms: u64) -> bool {
        version < ROLES_SINCE && now_ms == 0
    }
}

/// Takes snapshots of a node's state. Clones share them.
#[derive(Clone)]
pub struct Snapshots {
    consensus: Consensus,
    last: Arc<Mutex<Option<(u64, Snapshot)>>>,
}

impl Snapshots {
    /// Of this node's state.
    #[must_use]
    pub fn new(consensus: Consensus) -> Self {
        Self { consensus, last: Arc::default() }
    }

    /// As the state is now.
    ///
    /// # Errors
    /// The node is stopping.
    pub fn now(&self) -> Result<Snapshot, Refusal> {
        let index = self.consensus.applied().borrow().index;
        let mut last = self.last.lock().expect("no holder of this lock panics");
        // Many commands come between two entries, and reading the state would wait for the entry that is being applied.
        if let Some((_, snapshot)) = last.as_ref().filter(|(of, _)| *of == index && index > 0) {
            return Ok(snapshot.clone());
        }
        let workers = Workers(Some(self.consensus.clone()));
        let members = self.consensus.members();
        let nodes = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let voters = members.iter().filter(|(_, votes)| *votes).count() as u64;
        let snapshot = self.consensus.read(|machine| Snapshot::of(machine, workers, nodes, voters)).map_err(|_| stopping())?;
        *last = Some((index, snapshot.clone()));
        Ok(snapshot)
    }
}

fn stopping() -> Refusal {
    Reason::NodeStopping.refusal("this node is stopping: ask another one")
}
