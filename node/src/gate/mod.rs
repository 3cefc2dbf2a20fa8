//! The gate: every request passes its steps, in order, before anything is proposed or read. Each step can refuse, and a refusal names
//! the step.
//!
//! ```text
//!   certificate of the connection ─┐
//!   bearer's token or JWT ─────────┴─► identity ─► role ─► validation ─► policy ─► quota ─► handler
//!                                         └──────────┴─────────┴──────────┴─────────┴─► Refusal { step, reason, … }
//! ```
//!
//! The order is the list in [`Gate::new`], and nowhere else. [`Gate::identify`] tells who asks; [`Gate::admit`] asks the other steps, for
//! each command and each read, also for those that come over a stream that was opened long ago.
//!
//! Invariants: no handler runs for a caller that the gate has not seen; what the log revoked on this node is refused from then on; a step
//! looks at the request, the caller and the state's snapshot, and at nothing that only the leader knows.

mod caller;
pub mod driver;
mod identity;
mod ledger;
pub mod permission;
mod plain;
pub mod policy;
mod question;
mod quota;
mod refusal;
mod role;
pub mod roles;
mod state;
mod validation;

use std::sync::{Arc, OnceLock};

use tarn_proto::v1;
use tonic::metadata::MetadataMap;

use crate::identity::bearer::Authenticator;

pub use caller::{Caller, Proof};
pub use ledger::Ledger;
pub use policy::PolicyGate;
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
    /// What policies rested on, once they were asked.
    judged: OnceLock<v1::GateFacts>,
}

impl<'a> Ask<'a> {
    /// A request that no step has seen yet.
    #[must_use]
    pub fn new(caller: &'a Caller, what: What<'a>, state: &'a Snapshot) -> Self {
        Self { caller, what, state, judged: OnceLock::new() }
    }

    /// Which policies were asked, about what, and what they said, for the record of the decision; `None` if none was.
    #[must_use]
    pub fn judged(&self) -> Option<&v1::GateFacts> {
        self.judged.get()
    }
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
    ledger: Ledger,
}

/// Hears of refusals: the step and the reason.
type Listener = Arc<dyn Fn(&'static str, &str) + Send + Sync>;

impl Gate {
    /// The gate of a node. `bearers` tells who brings a token, `policies` are those that are active. `refused` hears of every refusal: the
    /// step and the reason; and `ledger` records them.
    #[must_use]
    pub fn new(
        bearers: Arc<Authenticator>,
        policies: PolicyGate,
        ledger: Ledger,
        refused: impl Fn(&'static str, &str) + Send + Sync + 'static,
    ) -> Self {
        Self {
            bearers,
            steps: [
                Box::new(identity::StillGood) as Box<dyn Step>,
                Box::new(role::Role),
                Box::new(validation::Validation),
                Box::new(policies),
                Box::new(quota::Quota::new()),
            ]
            .into(),
            refused: Arc::new(refused),
            ledger,
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
        identity::caller(&self.bearers, extensions, metadata, state, trace.clone()).map_err(|rejection| self.turn_away(rejection, &trace))
    }

    /// Refuses somebody who did not prove who they are: the first step, and the door before it.
    pub(crate) fn turn_away(&self, rejection: v1::Rejection, trace: &str) -> Refusal {
        let rejection = in_plain_words(rejection);
        tracing::info!(trace, step = identity::STEP, reason = rejection.reason, "the gate refused: {}", rejection.message);
        self.ledger.unknown(identity::STEP, &rejection, trace);
        self.refuse(identity::STEP, rejection)
    }

    /// The other steps.
    ///
    /// # Errors
    /// The refusal of the first step that refuses.
    pub fn admit(&self, ask: &Ask<'_>) -> Result<(), Refusal> {
        self.steps.iter().try_for_each(|step| {
            step.admit(ask).map_err(|rejection| {
                let rejection = in_plain_words(rejection);
                let draft = self.ledger.draft(ask, step.name(), &rejection);
                tracing::info!(
                    trace = %ask.caller.trace,
                    principal = %ask.caller.principal,
                    step = step.name(),
                    action = draft.action,
                    resource = draft.resource,
                    namespace = draft.namespace,
                    reason = rejection.reason,
                    "the gate refused: {}",
                    rejection.message
                );
                self.ledger.refused(draft);
                self.refuse(step.name(), rejection)
            })
        })
    }

    /// Whether the caller's credential is still good, and their roles still allow it. For what goes on for long, and for answers that say
    /// more to who may see more: it is no new request, so no policy is asked, nothing counts for a quota, and nothing is recorded.
    ///
    /// # Errors
    /// As [`Gate::admit`].
    pub fn still_may(&self, caller: &Caller, wish: Wish<'_>, state: &Snapshot) -> Result<(), Refusal> {
        let ask = Ask::new(caller, What::Act(wish), state);
        let lasting: [&dyn Step; 2] = [&identity::StillGood, &role::Role];
        lasting.into_iter().try_for_each(|step| {
            step.admit(&ask).map_err(|rejection| Refusal { step: Some(step.name()), rejection: in_plain_words(rejection) })
        })
    }

    /// What is to be recorded with a command that was let through; `None` where nothing is: in a cluster that keeps no records yet, and of
    /// what nodes and workers do all the time.
    #[must_use]
    pub fn facts(&self, ask: &Ask<'_>) -> Option<v1::GateFacts> {
        let recorded = ask.state.version >= ledger::SINCE && ask.caller.proof != Proof::Own && ledger::is_recorded(ask);
        recorded.then(|| self.ledger.facts(ask))
    }

    /// The steps that look at nothing but the caller.
    ///
    /// # Errors
    /// The caller's credential is not good any more.
    pub fn recognise(&self, caller: &Caller, state: &Snapshot) -> Result<(), Refusal> {
        identity::still_good(caller, state).map_err(|rejection| self.refuse(identity::STEP, rejection))
    }

    /// Notes that a request changed the cluster which is no command, such as who its members are.
    pub fn carried_out(&self, caller: &Caller, action: &str, resource: String, detail: String) {
        self.ledger.changed(Some(caller), action, resource, detail);
    }

    fn refuse(&self, step: &'static str, rejection: v1::Rejection) -> Refusal {
        (self.refused)(step, &rejection.reason);
        Refusal { step: Some(step), rejection }
    }
}

/// A rejection that can be sent and logged, whatever the request that it speaks of holds.
fn in_plain_words(rejection: v1::Rejection) -> v1::Rejection {
    v1::Rejection { message: plain::plain(&rejection.message, plain::MESSAGE_BYTES_MAX), ..rejection }
}
