//! Do the active policies let it pass? Asked of every command, and of every other change of the cluster, after roles and before quotas.
//!
//! ```text
//!   request ─► documents (input) ─► the bundles of the namespace's environment, compiled (shelf) ─► decision
//!                                                                                 ├─► refusal, or facts for the record of the decision
//!                                                                                 └─► violations, told in the background (violations)
//! ```
//!
//! Reads are not asked about, nor what a node does by itself, nor leases and heartbeats, which carry on with what policies let in. A policy
//! that fails or takes too long refuses. So that a policy that refuses everything can be got rid of, **`user/admin` may always run the
//! commands about policies themselves**, whatever policies say; and nobody else may.
//!
//! Invariants: a request is judged by the bundles that this node has applied, or by later ones; the same facts that were judged are handed
//! on for the record; no payload is in them.

mod facts;
mod input;
mod prepare;
mod shelf;
mod violations;

use std::time::{Duration, Instant};

use tarn_policy::{FailureKind, Input, Verdict};
use tarn_proto::v1::{self, command::Body};
use tarn_raft::Consensus;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::roles::ROOT;
use super::{Ask, Proof, Step, What};
use facts::Facts;
use shelf::{Broken, Shelf};
use violations::Recorder;

pub use prepare::{Prepared, prepare};

/// A batch may take this many times the budget of one evaluation, all its tasks together.
const BATCH_BUDGETS: u32 = 20;

/// The active policies of a node's gate. Clones share them.
#[derive(Clone)]
pub struct PolicyGate {
    shelf: Shelf,
    recorder: Recorder,
    budget: Duration,
}

impl PolicyGate {
    /// Judges with this budget for each bundle and task. Nothing is compiled ahead, and no violation leaves the node, until
    /// [`PolicyGate::run`] does.
    #[must_use]
    pub fn new(budget: Duration) -> Self {
        Self { shelf: Shelf::default(), recorder: Recorder::default(), budget }
    }

    /// Compiles bundles as they become active, and tells violations, until `stop`.
    pub async fn run(self, consensus: Consensus, node_id: u64, stop: CancellationToken) {
        let compiling = self.shelf.follow(consensus.clone(), stop.clone());
        tokio::join!(compiling, self.recorder.tell(consensus, node_id, stop));
    }

    /// Asks for each part of the request. Violations are noted on the way, also of what passes.
    fn ask_all(&self, ask: &Ask<'_>, set: &shelf::Set, facts: &mut Facts) -> Result<(), v1::Rejection> {
        let started = Instant::now();
        for document in input::documents(ask) {
            let Some(bench) = set.of(&document.environment) else {
                continue;
            };
            let policies = bench.as_ref().map_err(broken)?;
            let input = Input::new(&document).map_err(|error| rejection(Code::InvalidArgument, error.reason(), error.to_string()))?;
            if started.elapsed() > self.budget * BATCH_BUDGETS {
                return Err(too_long());
            }
            let remembered = policies.remembered(&input);
            let decision = remembered.unwrap_or_else(|| blocking(|| policies.decide(&input, self.budget)));
            facts.add(&document.environment, &input, &decision);
            self.recorder.note(ask, &document, &decision);
            if let Some(verdict) = decision.refusal() {
                return Err(refused(verdict));
            }
        }
        Ok(())
    }
}

impl Step for PolicyGate {
    fn name(&self) -> &'static str {
        "policy"
    }

    fn admit(&self, ask: &Ask<'_>) -> Result<(), v1::Rejection> {
        let state = &ask.state.policies;
        if state.active.is_empty() || ask.caller.proof == Proof::Own || is_recovery(ask) {
            return Ok(());
        }
        let ready = self.shelf.ready(state);
        let set = ready.unwrap_or_else(|| blocking(|| self.shelf.compiled(state)));
        let mut facts = Facts::default();
        let result = self.ask_all(ask, &set, &mut facts);
        if let Some(facts) = facts.finish() {
            // A request that is asked about twice rests on the first answer.
            let _ = ask.judged.set(facts);
        }
        result
    }
}

/// Whether it is root, at work on the policies themselves.
fn is_recovery(ask: &Ask<'_>) -> bool {
    let What::Command(command) = ask.what else { return false };
    let about_policies = matches!(
        command.body,
        Some(
            Body::PutBundle(_)
                | Body::ActivateBundle(_)
                | Body::RollbackBundle(_)
                | Body::DeactivateBundle(_)
                | Body::DeleteBundle(_)
                | Body::PutPolicyHandler(_)
                | Body::DeletePolicyHandler(_)
                | Body::PutPolicySettings(_)
        )
    );
    about_policies && *ask.caller.principal == *ROOT
}

/// Does what may block without holding up other tasks, where there are threads for it.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        Ok(_) | Err(_) => work(),
    }
}

fn refused(verdict: &Verdict) -> v1::Rejection {
    let message = verdict.sentence().unwrap_or_default();
    match verdict.error.as_ref().map(|failure| failure.kind) {
        None => rejection(Code::PermissionDenied, "POLICY_DENIED", message),
        // Nothing is wrong with the policy: the same request may pass in a moment.
        Some(FailureKind::PolicyBusy) => rejection(Code::Unavailable, "POLICY_ERROR", message),
        Some(FailureKind::PolicyOverBudget | FailureKind::PolicyStuck) => rejection(Code::PermissionDenied, "POLICY_TIMEOUT", message),
        Some(FailureKind::PolicyFailed | FailureKind::PolicyTooLarge) => rejection(Code::PermissionDenied, "POLICY_ERROR", message),
    }
}

fn broken(broken: &Broken) -> v1::Rejection {
    let Broken { name, version, .. } = broken;
    let message = format!(
        "the active policy {name} {version} cannot be used by this node, so the request is refused; its log says why: activate another \
         version, or roll back"
    );
    rejection(Code::PermissionDenied, "POLICY_ERROR", message)
}

fn too_long() -> v1::Rejection {
    let message = "policies take too long to judge all tasks of this batch, so it is refused: send fewer tasks at once";
    rejection(Code::PermissionDenied, "POLICY_TIMEOUT", message.to_owned())
}

fn rejection(code: Code, reason: &str, message: String) -> v1::Rejection {
    v1::Rejection { code: code as u32, reason: reason.to_owned(), message, ..v1::Rejection::default() }
}
