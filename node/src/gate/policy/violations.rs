//! Violations on their way into the state: gathered for a moment, equal ones folded, proposed in the background.
//!
//! What a user sees of a refusal never waits for this. When the cluster takes nothing for long, the newest are left out and counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tarn_machine::limits;
use tarn_policy::{Decision, Document, Severity};
use tarn_proto::v1::{self, PolicySeverity, RecordViolations, Violation, command, outcome};
use tarn_raft::{Consensus, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::{Ask, What};
use super::facts::cut;

/// Violations that wait to be told. Further ones are left out.
const WAITING_MAX: usize = 4_096;
/// How long they are gathered: short beside a person's patience, long beside the time between requests.
const GATHERED_FOR: Duration = Duration::from_millis(200);
/// One try at telling them.
const TRY: Duration = Duration::from_secs(5);
/// Between tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Takes violations from the gate. Clones share the way.
#[derive(Clone)]
pub(super) struct Recorder {
    outgoing: mpsc::Sender<Violation>,
    /// Taken by whoever tells.
    incoming: Arc<Mutex<Option<mpsc::Receiver<Violation>>>>,
    left_out: Arc<AtomicU64>,
}

impl Default for Recorder {
    fn default() -> Self {
        let (outgoing, incoming) = mpsc::channel(WAITING_MAX);
        Self { outgoing, incoming: Arc::new(Mutex::new(Some(incoming))), left_out: Arc::default() }
    }
}

impl Recorder {
    /// Notes what policies found about one document of a request.
    pub fn note(&self, ask: &Ask<'_>, document: &Document, decision: &Decision) {
        let request_id = match ask.what {
            What::Command(command) => command.body.as_ref().map_or("", command::Body::request_id),
            What::Act(_) => "",
        };
        for (verdict, found) in decision.violations() {
            let resource = format!("{}/{}", document.resource.kind, document.resource.name);
            let violation = Violation {
                namespace: document.namespace.clone(),
                environment: document.environment.clone(),
                policy: verdict.bundle.to_string(),
                version: verdict.version.to_string(),
                severity: severity(found.severity).into(),
                code: cut(&found.code, limits::LABEL_BYTES_MAX),
                message: cut(&found.message, limits::VIOLATION_MESSAGE_BYTES_MAX),
                principal: cut(&document.principal, limits::PRINCIPAL_BYTES_MAX),
                verb: document.verb.clone(),
                resource: cut(&resource, limits::RESOURCE_BYTES_MAX),
                request_id: cut(request_id, limits::REQUEST_ID_BYTES_MAX),
                blocking: found.blocking,
                count: 1,
                ..Violation::default()
            };
            if self.outgoing.try_send(violation).is_err() {
                self.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Tells what comes, until `stop`; what is under way then is tried once more.
    pub async fn tell(&self, consensus: Consensus, node_id: u64, stop: CancellationToken) {
        let incoming = self.incoming.lock().expect("no holder of this lock panics").take();
        let Some(mut incoming) = incoming else {
            return;
        };
        let principal = format!("node/{node_id}");
        loop {
            let Some(first) = stop.run_until_cancelled(incoming.recv()).await.flatten() else {
                return;
            };
            let mut folded = Folded::default();
            folded.add(first);
            stop.run_until_cancelled(tokio::time::sleep(GATHERED_FOR)).await;
            while folded.has_room()
                && let Ok(next) = incoming.try_recv()
            {
                folded.add(next);
            }
            let left_out = self.left_out.swap(0, Ordering::Relaxed);
            if left_out > 0 {
                tracing::warn!(left_out, "more violations of policies came than could be recorded");
            }
            record(&consensus, &principal, folded.into_list(), &stop).await;
        }
    }
}

/// Violations that differ in more than when they happened and which request it was.
#[derive(Default)]
struct Folded(BTreeMap<Vec<String>, Violation>);

impl Folded {
    fn has_room(&self) -> bool {
        self.0.len() < limits::BATCH_VIOLATIONS_MAX
    }

    fn add(&mut self, found: Violation) {
        let same = [
            &found.namespace,
            &found.environment,
            &found.policy,
            &found.version,
            &found.code,
            &found.message,
            &found.principal,
            &found.verb,
            &found.resource,
        ];
        let mut key: Vec<String> = same.into_iter().cloned().collect();
        key.push(format!("{} {}", found.severity, found.blocking));
        match self.0.get_mut(&key) {
            Some(known) => known.count = known.count.saturating_add(1),
            None => drop(self.0.insert(key, found)),
        }
    }

    fn into_list(self) -> Vec<Violation> {
        self.0.into_values().collect()
    }
}

/// Proposes until it is known to be recorded. Repeats are recognised by the request's id.
async fn record(consensus: &Consensus, principal: &str, violations: Vec<Violation>, stop: &CancellationToken) {
    let command = v1::Command {
        principal: principal.to_owned(),
        body: Some(command::Body::RecordViolations(RecordViolations { request_id: crate::way::fresh_id(), violations })),
        ..v1::Command::default()
    };
    loop {
        let stopping = stop.is_cancelled();
        match consensus.propose(command.clone(), Instant::now() + TRY).await {
            Ok(answer) => {
                if let Some(outcome::Body::Rejected(rejection)) = answer.body {
                    tracing::error!(reason = rejection.reason, "violations of policies were not recorded: {}", rejection.message);
                }
                return;
            }
            Err(error) if stopping => {
                tracing::warn!(%error, "violations of policies were not recorded before the node stopped");
                return;
            }
            Err(error) => tracing::debug!(%error, "violations of policies wait to be recorded"),
        }
        stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
    }
}

fn severity(found: Severity) -> PolicySeverity {
    match found {
        Severity::Low => PolicySeverity::Low,
        Severity::Medium => PolicySeverity::Medium,
        Severity::High => PolicySeverity::High,
        Severity::Critical => PolicySeverity::Critical,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_violations_are_told_once_with_their_number() {
        let found =
            |code: &str, request: &str| Violation { code: code.into(), request_id: request.into(), count: 1, ..Violation::default() };
        let mut folded = Folded::default();
        for violation in [found("A", "r1"), found("A", "r2"), found("B", "r3"), found("A", "r4")] {
            folded.add(violation);
        }
        let list = folded.into_list();
        let told: Vec<_> = list.iter().map(|one| (one.code.as_str(), one.count, one.request_id.as_str())).collect();
        assert_eq!(told, [("A", 3, "r1"), ("B", 1, "r3")]);
    }
}
