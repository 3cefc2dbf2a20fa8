//! What this node decided, on its way into the cluster's records: requests that its gate refused, and changes to the cluster that are no
//! commands. Commands that were let through need no ledger: the kernel records them.
//!
//! A refusal must not wait for the log, and a flood of refused requests must not become a flood of commands. So decisions are noted here,
//! equal ones folded into one with a count, and a task of its own proposes them together, about once a second. What does not fit is counted:
//! in a metric, and in the next record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tarn_machine::limits;
use tarn_proto::v1::{self, Decision, DecisionKind, GateFacts, RecordDecisions, command, outcome};
use tarn_raft::Consensus;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::plain::plain;
use super::{Ask, Caller, What};
use crate::way::fresh_id;

/// Different refusals that wait to be recorded.
const PENDING_MAX: usize = 1_024;
/// Different refusals of one principal that wait with all that they were about.
const OF_ONE_MAX: usize = 64;
/// What a record is about that stands for many different things.
const MANY: &str = "*";
/// Records are proposed at least this far apart, so that refusals fold and a flood of them costs little.
const APART: Duration = Duration::from_secs(1);
/// How long a proposal may take. What was not taken is proposed again with the next.
const DEADLINE: Duration = Duration::from_secs(10);
/// The machine version from which on there are records.
pub(super) const SINCE: u32 = 2;

/// The principal of whoever did not prove who it was.
const UNKNOWN: &str = "unknown";

/// Whether the kernel records a command that was carried out: not what workers, holders of leases and writers of contexts do all the time.
pub(super) fn is_recorded(ask: &Ask<'_>) -> bool {
    use command::Body;
    let What::Command(command) = ask.what else {
        return false;
    };
    !matches!(
        command.body,
        None | Some(
            Body::LeaseTasks(_)
                | Body::HeartbeatTasks(_)
                | Body::CompleteTask(_)
                | Body::FailTask(_)
                | Body::HeartbeatWorker(_)
                | Body::AcquireLease(_)
                | Body::RenewLease(_)
                | Body::ReleaseLease(_)
                | Body::PutKey(_)
                | Body::DeleteKey(_)
        )
    )
}

/// What this node decided. Clones share it.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

struct Shared {
    node_id: u64,
    pending: Mutex<Pending>,
    noted: Notify,
    dropped: Counter,
}

/// What waits to be recorded.
#[derive(Default)]
struct Pending {
    decisions: BTreeMap<Key, Decision>,
    dropped: u64,
}

/// What makes two decisions equal: who, what, of what, where, why and by which step. What was let through has neither reason nor step.
type Key = [String; 6];

impl Ledger {
    /// A ledger for this node. `dropped` counts what could not be noted.
    #[must_use]
    pub fn new(node_id: u64, dropped: Counter) -> Self {
        Self { shared: Arc::new(Shared { node_id, pending: Mutex::default(), noted: Notify::new(), dropped }) }
    }

    /// Notes that the gate refused a request. Never waits.
    pub fn refused(&self, refusal: Decision) {
        self.note(refusal);
    }

    /// Notes that the cluster was changed by something that is no command. Never waits. `caller` is `None` where the node did it by itself.
    pub fn changed(&self, caller: Option<&Caller>, action: &str, resource: String, detail: String) {
        let own = || (format!("node/{}", self.shared.node_id), String::new(), String::new());
        let (principal, method, trace) = caller.map_or_else(own, |caller| {
            let trace = caller.trace.to_string();
            (caller.principal.to_string(), caller.method().to_owned(), trace)
        });
        self.note(Decision {
            kind: DecisionKind::Admitted.into(),
            principal,
            action: action.to_owned(),
            resource,
            detail,
            gate: Some(GateFacts { trace, method, node: self.shared.node_id, ..GateFacts::default() }),
            ..Decision::default()
        });
    }

    fn note(&self, mut decision: Decision) {
        clip(&mut decision);
        {
            let mut pending = self.pending();
            if !pending.fold(decision) {
                pending.dropped += 1;
                self.shared.dropped.inc();
            }
        }
        self.shared.noted.notify_one();
    }

    /// Notes that somebody was refused who did not prove who it was.
    pub(super) fn unknown(&self, step: &'static str, rejection: &v1::Rejection, trace: &str) {
        self.refused(Decision {
            principal: UNKNOWN.to_owned(),
            step: step.to_owned(),
            reason: rejection.reason.clone(),
            gate: Some(GateFacts { trace: trace.to_owned(), node: self.shared.node_id, ..GateFacts::default() }),
            ..Decision::default()
        });
    }

    /// The record of a refusal by a step of the gate.
    pub(super) fn draft(&self, ask: &Ask<'_>, step: &'static str, rejection: &v1::Rejection) -> Decision {
        let mut draft = Decision {
            principal: ask.caller.principal.to_string(),
            step: step.to_owned(),
            reason: rejection.reason.clone(),
            gate: Some(self.facts(ask)),
            ..Decision::default()
        };
        match ask.what {
            What::Command(command) => {
                if let Some(body) = &command.body {
                    draft.action = body.name().to_owned();
                    draft.request_id = body.request_id().to_owned();
                    // The first thing that it asked for: what of a batch was refused is in the answer.
                    let _ = super::permission::of_command(body, |wish| {
                        draft.resource = format!("{}/{}", wish.kind, wish.name);
                        draft.namespace = wish.namespace.unwrap_or_default().to_owned();
                        Err(())
                    });
                }
            }
            What::Act(wish) => {
                draft.action = wish.verb.to_owned();
                draft.resource = format!("{}/{}", wish.kind, wish.name);
                draft.namespace = wish.namespace.unwrap_or_default().to_owned();
            }
        }
        clip(&mut draft);
        draft
    }

    /// What this gate has to say about a request.
    #[must_use]
    pub fn facts(&self, ask: &Ask<'_>) -> GateFacts {
        GateFacts {
            trace: ask.caller.trace.to_string(),
            method: ask.caller.method().to_owned(),
            node: self.shared.node_id,
            ..ask.judged().cloned().unwrap_or_default()
        }
    }

    /// Proposes what is noted until the node closes, and what is left then once more.
    pub async fn run(self, consensus: Consensus, closed: CancellationToken) {
        loop {
            tokio::select! {
                () = self.shared.noted.notified() => {}
                () = closed.cancelled() => break,
            }
            self.propose(&consensus, DEADLINE).await;
            tokio::select! {
                () = tokio::time::sleep(APART) => {}
                () = closed.cancelled() => break,
            }
        }
        self.propose(&consensus, APART).await;
    }

    /// Proposes as much as one command takes. What was not taken for certain comes back.
    async fn propose(&self, consensus: &Consensus, within: Duration) {
        if consensus.applied().borrow().version < SINCE {
            // There are no records yet, and an older node could not read the command.
            *self.pending() = Pending::default();
            return;
        }
        let Some(request) = self.take() else { return };
        let command = v1::Command {
            principal: format!("node/{}", self.shared.node_id),
            gate: None,
            body: Some(command::Body::RecordDecisions(request.clone())),
        };
        let outcome = consensus.propose(command, Instant::now() + within).await;
        match outcome.map(|outcome| outcome.body) {
            Ok(Some(outcome::Body::Rejected(rejection))) => {
                tracing::error!(reason = rejection.reason, "decisions could not be recorded: {}", rejection.message);
                self.lose(request.decisions.len() as u64 + request.dropped);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "decisions are not recorded yet");
                self.give_back(request);
            }
        }
        if !self.pending().decisions.is_empty() {
            self.shared.noted.notify_one();
        }
    }

    /// As much as one command takes; `None` if nothing is noted.
    fn take(&self) -> Option<RecordDecisions> {
        let mut pending = self.pending();
        let mut decisions = Vec::new();
        let mut bytes = 0;
        while decisions.len() < limits::DECISIONS_MAX && bytes < limits::COMMAND_BYTES_MAX / 4 {
            let Some((_, decision)) = pending.decisions.pop_first() else {
                break;
            };
            bytes += prost::Message::encoded_len(&decision);
            decisions.push(decision);
        }
        let dropped = std::mem::take(&mut pending.dropped);
        (!decisions.is_empty() || dropped > 0).then(|| RecordDecisions { request_id: fresh_id(), decisions, dropped })
    }

    fn give_back(&self, request: RecordDecisions) {
        let mut pending = self.pending();
        pending.dropped += request.dropped;
        for decision in request.decisions {
            if !pending.fold(decision) {
                pending.dropped += 1;
                self.shared.dropped.inc();
            }
        }
    }

    fn lose(&self, decisions: u64) {
        self.shared.dropped.inc_by(decisions);
        self.pending().dropped += decisions;
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.shared.pending.lock().expect("no holder of this lock panics")
    }
}

impl Pending {
    /// Notes a decision, alone or with those that are equal. What one principal has too many of is noted without what it was about, so that
    /// nobody takes the places of others. False: there is no room.
    fn fold(&mut self, mut decision: Decision) -> bool {
        let mut key = key_of(&decision);
        if !self.decisions.contains_key(&key) && self.of_one(&decision.principal) >= OF_ONE_MAX {
            decision.resource = MANY.to_owned();
            decision.namespace.clear();
            decision.request_id.clear();
            key = key_of(&decision);
        }
        if let Some(known) = self.decisions.get_mut(&key) {
            known.count = known.count.max(1).saturating_add(decision.count.max(1));
            let own = decision.gate.map(|gate| gate.trace).filter(|trace| !trace.is_empty());
            for trace in decision.traces.into_iter().chain(own) {
                if known.traces.len() < limits::TRACES_MAX {
                    known.traces.push(trace);
                }
            }
            return true;
        }
        if self.decisions.len() >= PENDING_MAX {
            return false;
        }
        self.decisions.insert(key, decision);
        true
    }

    /// How many different decisions about one principal wait, counted up to what it may have.
    fn of_one(&self, principal: &str) -> usize {
        let mut first = Key::default();
        first[0] = principal.to_owned();
        let of_one = self.decisions.range(first..).take_while(|(key, _)| key[0] == *principal);
        of_one.take(OF_ONE_MAX).count()
    }
}

fn key_of(decision: &Decision) -> Key {
    [
        decision.principal.clone(),
        decision.action.clone(),
        decision.resource.clone(),
        decision.namespace.clone(),
        decision.reason.clone(),
        decision.step.clone(),
    ]
}

/// Cuts what a caller wrote to what a record takes, and keeps it plain: nothing that somebody asks for may be too long to be recorded as
/// refused, or pass for something else where records are read.
fn clip(decision: &mut Decision) {
    for text in [
        &mut decision.principal,
        &mut decision.action,
        &mut decision.resource,
        &mut decision.namespace,
        &mut decision.reason,
        &mut decision.request_id,
        &mut decision.detail,
    ] {
        *text = plain(text, limits::RECORD_TEXT_BYTES_MAX);
    }
    if let Some(gate) = &mut decision.gate
        && gate.facts.len() > limits::FACTS_BYTES_MAX
    {
        gate.facts = bytes::Bytes::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(principal: &str, trace: &str) -> Decision {
        Decision {
            principal: principal.to_owned(),
            action: "CancelTask".to_owned(),
            reason: "PERMISSION_DENIED".to_owned(),
            step: "role".to_owned(),
            gate: Some(GateFacts { trace: trace.to_owned(), ..GateFacts::default() }),
            ..Decision::default()
        }
    }

    fn ledger() -> Ledger {
        Ledger::new(3, Counter::default())
    }

    #[test]
    fn equal_refusals_are_one_with_a_count_and_their_traces() {
        let ledger = ledger();
        for number in 0..40 {
            ledger.refused(refusal("user/eve", &format!("t{number}")));
        }
        ledger.refused(refusal("user/bob", "b"));
        let request = ledger.take().expect("something is noted");
        assert_eq!(request.decisions.len(), 2);
        let eve = request.decisions.iter().find(|r| r.principal == "user/eve").unwrap();
        assert_eq!((eve.count, eve.traces.len()), (40, limits::TRACES_MAX));
        assert_eq!(eve.gate.as_ref().unwrap().trace, "t0");
        assert_eq!(eve.traces[0], "t1");
        assert!(ledger.take().is_none(), "each is taken once");
    }

    #[test]
    fn a_flood_of_different_refusals_is_bounded_and_what_was_left_out_is_counted() {
        let ledger = ledger();
        for number in 0..PENDING_MAX + 7 {
            ledger.refused(refusal(&format!("user/{number:05}"), ""));
        }
        assert_eq!(ledger.shared.dropped.get(), 7);
        let mut taken = 0;
        let mut dropped = 0;
        while let Some(request) = ledger.take() {
            assert!(request.decisions.len() <= limits::DECISIONS_MAX);
            taken += request.decisions.len();
            dropped += request.dropped;
        }
        assert_eq!((taken, dropped), (PENDING_MAX, 7));
    }

    #[test]
    fn nobody_takes_the_places_of_others() {
        let ledger = ledger();
        for number in 0..5 * PENDING_MAX {
            let mut one = refusal("user/bob", "");
            one.resource = format!("task/{number}");
            one.namespace = format!("n{number}");
            ledger.refused(one);
            if number % 1_000 == 0 {
                ledger.refused(refusal("user/ann", &format!("t{number}")));
            }
        }
        assert_eq!(ledger.shared.dropped.get(), 0);
        let request = ledger.take().unwrap();
        let of = |principal: &str| request.decisions.iter().filter(|r| r.principal == principal).count();
        assert_eq!((of("user/ann"), of("user/bob")), (1, OF_ONE_MAX + 1));
        let counts = request.decisions.iter().map(|r| r.count.max(1) as usize);
        assert_eq!(counts.sum::<usize>(), 5 * PENDING_MAX + 6);
    }

    #[test]
    fn what_was_not_taken_comes_back_and_folds_with_what_came_meanwhile() {
        let ledger = ledger();
        ledger.refused(refusal("user/eve", "a"));
        ledger.refused(refusal("user/eve", "b"));
        let request = ledger.take().unwrap();
        ledger.refused(refusal("user/eve", "c"));
        ledger.give_back(request);
        let request = ledger.take().unwrap();
        assert_eq!(request.decisions.len(), 1);
        assert_eq!(request.decisions[0].count, 3);
    }

    #[test]
    fn nothing_is_too_long_to_be_recorded() {
        let ledger = ledger();
        let mut long = refusal(&"é".repeat(1_000), "t");
        long.resource = format!("queue/{}", "x".repeat(100_000));
        long.gate.as_mut().unwrap().facts = vec![b'x'; limits::FACTS_BYTES_MAX + 1].into();
        ledger.refused(long);
        let request = ledger.take().unwrap();
        let command = v1::Command { body: Some(command::Body::RecordDecisions(request)), ..v1::Command::default() };
        assert_eq!(tarn_machine::check::validate(&command), Ok(()));
    }

    #[test]
    fn records_are_plain() {
        let ledger = ledger();
        let mut forged = refusal("user/eve", "t");
        forged.resource = "task/x\nFORGED\u{202e}".to_owned();
        ledger.refused(forged);
        let request = ledger.take().unwrap();
        assert_eq!(request.decisions[0].resource, r"task/x\nFORGED\u{202e}");
    }
}
