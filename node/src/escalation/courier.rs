//! Carries one handler's violations to its receiver, one after another.

use std::time::Duration;

use rand::Rng as _;
use tarn_client::tls::read_secret_file;
use tarn_machine::Escalations;
use tarn_proto::v1::{self, AcknowledgeEscalations, PolicyHandler, Violation, command};
use tarn_raft::Instant;

use super::{Escalation, SendError};

/// Violations read at once.
const PAGE: usize = 32;
/// After something was applied, this long passes before violations are looked for.
const GATHERED_FOR: Duration = Duration::from_millis(200);
/// Delays between tries: doubling, with up to as much again by chance, so that receivers that come back are not overrun.
const DELAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Limit on one try to acknowledge.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);
/// A key is at least this long: 128 bits.
const KEY_BYTES_MIN: usize = 16;

pub(super) struct Courier {
    of: Escalation,
    name: String,
    /// Everything up to here was looked at in this term of office.
    looked_up_to: u64,
}

impl Courier {
    pub fn new(of: Escalation, name: String) -> Self {
        Self { of, name, looked_up_to: 0 }
    }

    /// Ends when the handler or the node does.
    pub async fn run(mut self) {
        let mut applied = self.of.consensus.applied();
        loop {
            applied.mark_unchanged();
            let Some((_, found)) = self.look() else {
                return;
            };
            let idle = found.violations.is_empty();
            for violation in &found.violations {
                if !self.deliver(violation).await {
                    return;
                }
            }
            self.looked_up_to = found.looked_up_to;
            if idle {
                if applied.changed().await.is_err() {
                    return;
                }
                // A busy cluster applies thousands of entries in a second, and few of them are about violations.
                tokio::time::sleep(GATHERED_FOR).await;
            }
        }
    }

    /// The handler as it is now, and what it is to be told; `None` if it is gone.
    fn look(&self) -> Option<(PolicyHandler, Escalations)> {
        let (name, after) = (self.name.as_str(), self.looked_up_to);
        let read = self.of.consensus.read(|machine| {
            let handler = machine.policy_handlers().into_iter().find(|handler| handler.name == name);
            (handler, machine.escalations(name, after, PAGE))
        });
        match read {
            Ok((Some(handler), Ok(found))) => Some((handler, found)),
            Ok((Some(_), Err(error))) => {
                tracing::error!(handler = name, %error, "violations of policies cannot be read");
                None
            }
            Ok((None, _)) | Err(_) => None,
        }
    }

    /// Sends one violation until it has arrived, and says so in the state. False if the handler is gone.
    async fn deliver(&self, violation: &Violation) -> bool {
        let mut delay = DELAY.0;
        let mut attempt = 1;
        loop {
            // It may have been changed since the last try.
            let Some((handler, _)) = self.look() else {
                return false;
            };
            match self.send(&handler, violation, attempt).await {
                Ok(()) => break,
                Err(error) => {
                    let (name, id) = (&self.name, &violation.violation_id);
                    tracing::warn!(handler = name, violation = id, attempt, %error, "a violation was not delivered, and is sent again");
                }
            }
            let more = rand::rng().random_range(Duration::ZERO..=delay);
            tokio::time::sleep(delay + more).await;
            delay = (delay * 2).min(DELAY.1);
            attempt += 1;
        }
        self.acknowledge(violation).await;
        true
    }

    async fn send(&self, handler: &PolicyHandler, violation: &Violation, attempt: u32) -> Result<(), SendError> {
        let key = self.key(&handler.secret)?;
        let body = body(&self.of.cluster, handler, violation, attempt).to_string();
        let sending = self.of.webhook.post(&handler.url, &violation.violation_id, body.into_bytes(), &key);
        sending.await
    }

    /// Read each time, so that a new key counts without a restart.
    fn key(&self, name: &str) -> Result<Vec<u8>, SendError> {
        let path = self.of.secrets_dir.join(name);
        let unusable = |why: String| SendError::Key { name: name.to_owned(), why };
        let mut key = read_secret_file(&path).map_err(|error| unusable(error.to_string()))?;
        while key.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            key.pop();
        }
        match key.len() {
            KEY_BYTES_MIN.. => Ok(key),
            found => Err(unusable(format!("it has {found} bytes: it needs at least {KEY_BYTES_MIN}"))),
        }
    }

    /// A lost acknowledgement costs a second delivery, at worst: the next one says as much and more.
    async fn acknowledge(&self, violation: &Violation) {
        let command = v1::Command {
            principal: format!("node/{}", self.of.node_id),
            body: Some(command::Body::AcknowledgeEscalations(AcknowledgeEscalations {
                handler: self.name.clone(),
                up_to: violation.violation_id.clone(),
            })),
            ..v1::Command::default()
        };
        if let Err(error) = self.of.consensus.propose(command, Instant::now() + ACKNOWLEDGE).await {
            tracing::warn!(handler = self.name, %error, "a delivered violation is not written down as such, and may be sent again");
        }
    }
}

/// What a receiver gets.
fn body(cluster: &str, handler: &PolicyHandler, violation: &Violation, attempt: u32) -> serde_json::Value {
    let severity = violation.severity().as_str_name().trim_start_matches("POLICY_SEVERITY_").to_lowercase();
    serde_json::json!({
        "id": violation.violation_id,
        "cluster": cluster,
        "handler": handler.name,
        "attempt": attempt,
        "violation": {
            "at_ms": violation.at_ms,
            "namespace": violation.namespace,
            "environment": violation.environment,
            "policy": violation.policy,
            "version": violation.version,
            "severity": severity,
            "code": violation.code,
            "message": violation.message,
            "principal": violation.principal,
            "verb": violation.verb,
            "resource": violation.resource,
            "request_id": violation.request_id,
            "blocking": violation.blocking,
            "count": violation.count,
        },
    })
}
