//! What this node does for guests that were granted it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tarn_executor::{ContextEntry, HostServices, LogLevel, ServiceError};
use tarn_machine::Machine;
use tarn_proto::{CommandBody, v1};
use tokio::time::Instant;
use tonic::Code;

use super::held::Held;
use super::{COMMAND_DEADLINE, Shared};
use crate::gate::{Caller, Question, Refusal};
use crate::way::Way;

/// Longest sentence about progress that the kernel keeps, in bytes.
const MESSAGE_BYTES_MAX: usize = tarn_machine::limits::PROGRESS_BYTES_MAX;

/// The services for one attempt.
pub(super) struct Services {
    way: Way,
    /// This node. What the guest may do was asked of its submitter.
    caller: Caller,
    held: Arc<Held>,
    namespace: String,
    /// By which the kernel knows whether the attempt still runs.
    fence: v1::Fence,
}

impl Services {
    pub(super) fn new(shared: &Shared, task: &v1::LeasedTask) -> Self {
        Self {
            way: shared.way.clone(),
            caller: shared.caller.clone(),
            held: Arc::clone(&shared.held),
            namespace: task.namespace.clone(),
            fence: v1::Fence { task_id: task.task_id.clone(), token: task.token },
        }
    }

    async fn write<R: CommandBody>(&self, request: R) -> Result<R::Response, ServiceError> {
        self.way.command(&self.caller, request, Instant::now() + COMMAND_DEADLINE).await.map_err(told_to_guest)
    }

    /// What is there; `None` if there is no such key, or no context yet.
    async fn read<Q: Question, A>(
        &self,
        question: Q,
        read: impl FnOnce(&Machine, &Q) -> Result<A, tarn_machine::Refusal>,
    ) -> Result<Option<A>, ServiceError> {
        let deadline = Instant::now() + COMMAND_DEADLINE;
        let answer = self.way.read(&self.caller, question.wish(), deadline, |machine| read(machine, &question)).await;
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(refusal) if matches!(refusal.reason(), "KEY_NOT_FOUND" | "CONTEXT_NOT_FOUND") => Ok(None),
            Err(refusal) => Err(told_to_guest(refusal)),
        }
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("namespace", &self.namespace).field("fence", &self.fence).finish_non_exhaustive()
    }
}

#[async_trait]
impl HostServices for Services {
    async fn context_get(&self, context: &str, key: &str) -> Result<Option<ContextEntry>, ServiceError> {
        let question = v1::GetKeyRequest {
            namespace: self.namespace.clone(),
            context: context.to_owned(),
            key: key.to_owned(),
            ..v1::GetKeyRequest::default()
        };
        let found = self.read(question, |machine, question| machine.get_key(question)).await?;
        Ok(found.map(|found| ContextEntry { value: found.value, version: found.version }))
    }

    async fn context_set(&self, context: &str, key: &str, value: Bytes, expected: Option<u64>) -> Result<u64, ServiceError> {
        let request = v1::PutKeyRequest {
            request_id: String::new(),
            namespace: self.namespace.clone(),
            context: context.to_owned(),
            key: key.to_owned(),
            value,
            expected_version: expected,
            fence: Some(self.fence.clone()),
        };
        Ok(self.write(request).await?.version)
    }

    async fn context_delete(&self, context: &str, key: &str, expected: Option<u64>) -> Result<(), ServiceError> {
        let request = v1::DeleteKeyRequest {
            request_id: String::new(),
            namespace: self.namespace.clone(),
            context: context.to_owned(),
            key: key.to_owned(),
            expected_version: expected,
            fence: Some(self.fence.clone()),
        };
        self.write(request).await.map(drop)
    }

    async fn context_list(&self, context: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, ServiceError> {
        let mut keys = Vec::new();
        let mut after = after.unwrap_or_default().to_owned();
        // A page can be short where many keys were deleted.
        while (keys.len() as u64) < u64::from(limit) {
            let question = v1::ListKeysRequest {
                namespace: self.namespace.clone(),
                context: context.to_owned(),
                prefix: prefix.to_owned(),
                page_size: limit - keys.len() as u32,
                page_token: after,
                ..v1::ListKeysRequest::default()
            };
            let page = self.read(question, |machine, question| machine.list_keys(question)).await?;
            let page = page.unwrap_or_default();
            keys.extend(page.keys.into_iter().map(|key| key.key));
            after = page.next_page_token;
            if after.is_empty() {
                break;
            }
        }
        Ok(keys)
    }

    /// Goes to the cluster with the next heartbeat of the lease.
    async fn progress(&self, fraction: f64, message: &str) -> Result<(), ServiceError> {
        self.held.progress(self.fence.token, told(fraction, message));
        Ok(())
    }

    /// The line stands in the attempt's logs already.
    async fn log(&self, _: LogLevel, _: &str) {}
}

/// A refusal in the words of the guest's contract.
fn told_to_guest(refusal: Refusal) -> ServiceError {
    let said = || format!("{}: {}", refusal.reason(), refusal.rejection.message);
    match refusal.reason() {
        "VERSION_CONFLICT" => ServiceError::Conflict { current: refusal.rejection.actual_version },
        // What is full does not pass while a guest waits.
        _ if refusal.passes() && refusal.code() != Code::ResourceExhausted => ServiceError::Unavailable(said()),
        _ => ServiceError::Refused(said()),
    }
}

/// Progress as the kernel takes it: thousandths, and a sentence that is not too long.
fn told(fraction: f64, message: &str) -> v1::Progress {
    let end = (0..=message.len().min(MESSAGE_BYTES_MAX)).rev().find(|end| message.is_char_boundary(*end));
    // What is no number counts as nothing; the conversion saturates.
    let permille = (fraction.clamp(0.0, 1.0) * 1_000.0) as u32;
    v1::Progress { permille: permille.min(1_000), message: message[..end.unwrap_or(0)].to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_brought_into_its_bounds() {
        for (fraction, permille) in [(0.5, 500), (-1.0, 0), (7.0, 1_000), (f64::NAN, 0), (f64::INFINITY, 1_000)] {
            assert_eq!(told(fraction, "").permille, permille, "{fraction}");
        }
        assert_eq!(told(0.0, "half way").message, "half way");
        let long = "é".repeat(MESSAGE_BYTES_MAX);
        assert_eq!(told(0.0, &long).message, "é".repeat(MESSAGE_BYTES_MAX / 2));
        assert_eq!(told(0.0, &format!("a{long}")).message.len(), MESSAGE_BYTES_MAX - 1);
    }
}
