//! The gate: every request passes its steps, in order, before anything is proposed or read. Each step can refuse, and a refusal names
//! the step.
//!
//! ```text
//!   certificate of the connection ─┐
//!   bearer's token or JWT ─────────┴─► identity ─► role ─► validation ─► handler
//!                                         └──────────┴─────────┴─► Refusal { step, reason, … }
//! ```
//!
//! The order is the list in [`Gate::new`], and nowhere else. [`Gate::identify`] tells who asks; [`Gate::admit`] asks the other steps, for
//! each command and each read, also for those that come over a stream that was opened long ago.
//!
//! Invariants: no handler runs for a caller that the gate has not seen; what the log revoked on this node is refused from then on; a step
//! looks at the request, the caller and the state's snapshot, and at nothing that only the leader knows.

mod caller;
mod identity;
pub mod permission;
mod question;
mod refusal;
mod role;
pub mod roles;
mod state;
mod validation;

use std::sync::Arc;

use tarn_proto::v1;
use tonic::metadata::MetadataMap;

use crate::identity::bearer::Authenticator;

pub use caller::{Caller, Proof};
pub use question::Question;
pub use refusal::{Reason, Refusal};
pub use role::Judge;
pub use roles::Wish;
pub use state::{Snapshot, Snapshots, Workers};

/// What a step judges.
pub struct Ask<'a> {
    /// Who asks.
    pub caller: &'a Caller,
    /// What for.
    pub what: What<'a>,
    /// What the state says about who may do what, as this node has it now.
    pub state: &'a Snapshot,
}

/// What somebody asks for.
#[derive(Clone, Copy)]
pub enum What<'a> {
    /// To propose this.
    Command(&'a v1::Command),
    /// Anything else: a read, or a change of the cluster that is no command.
    Act(Wish<'a>),
}

/// One step of the gate.
trait Step: Send + Sync {
    /// Its name, in answers, logs and metrics.
    fn name(&self) -> &'static str;

    /// Lets the request through, or says why not.
    fn admit(&self, ask: &Ask<'_>) -> Result<(), v1::Rejection>;
}

/// The steps in order. Clones share them.
#[derive(Clone)]
pub struct Gate {
    bearers: Arc<Authenticator>,
    steps: Arc<[Box<dyn Step>]>,
    refused: Listener,
}

/// Hears of refusals: the step and the reason.
type Listener = Arc<dyn Fn(&'static str, &str) + Send + Sync>;

impl Gate {
    /// The gate of a node. `bearers` tells who brings a token. `refused` hears of every refusal:
    /// the step and the reason.
    #[must_use]
    pub fn new(bearers: Arc<Authenticator>, refused: impl Fn(&'static str, &str) + Send + Sync + 'static) -> Self {
        Self {
            bearers,
            steps: [
                Box::new(identity::StillGood) as Box<dyn Step>,
                Box::new(role::Role),
                Box::new(validation::Validation),
            ]
            .into(),
            refused: Arc::new(refused),
        }
    }

    /// The first step: who asks, by the bearer's credential if the request has one, else by the certificate of the connection. Everything
    /// else is asked of this caller.
    ///
    /// # Errors
    /// Neither proves a user of this cluster.
    pub fn identify(
        &self,
        extensions: &tonic::Extensions,
        metadata: &MetadataMap,
        state: &Snapshot,
        trace: Arc<str>,
    ) -> Result<Caller, Refusal> {
        identity::caller(&self.bearers, extensions, metadata, state, trace)
            .map_err(|rejection| self.refuse(identity::STEP, rejection))
    }

    /// The other steps.
    ///
    /// # Errors
    /// The refusal of the first step that refuses.
    pub fn admit(&self, ask: &Ask<'_>) -> Result<(), Refusal> {
        self.steps
            .iter()
            .try_for_each(|step| step.admit(ask).map_err(|rejection| self.refuse(step.name(), rejection)))
    }

    /// The steps that look at nothing but the caller.
    ///
    /// # Errors
    /// The caller's credential is not good any more.
    pub fn recognise(&self, caller: &Caller, state: &Snapshot) -> Result<(), Refusal> {
        identity::still_good(caller, state).map_err(|rejection| self.refuse(identity::STEP, rejection))
    }

    fn refuse(&self, step: &'static str, rejection: v1::Rejection) -> Refusal {
        (self.refused)(step, &rejection.reason);
        Refusal {
            step: Some(step),
            rejection,
        }
    }
}
