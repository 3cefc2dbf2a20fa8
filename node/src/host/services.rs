//! What this node does for guests that were granted it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tarn_executor::{ContextEntry, HostServices, LogLevel, NoServices, ServiceError};
use tarn_proto::v1;

use super::held::Held;

/// Longest sentence about progress that the kernel keeps, in bytes.
const MESSAGE_BYTES_MAX: usize = tarn_machine::limits::PROGRESS_BYTES_MAX;

/// The services for one attempt.
#[derive(Debug)]
pub(super) struct Services {
    held: Arc<Held>,
    /// Of the attempt's lease.
    token: u64,
}

impl Services {
    pub(super) fn new(held: Arc<Held>, token: u64) -> Self {
        Self { held, token }
    }
}

#[async_trait]
impl HostServices for Services {
    async fn context_get(&self, context: &str, key: &str) -> Result<Option<ContextEntry>, ServiceError> {
        NoServices.context_get(context, key).await
    }

    async fn context_set(
        &self,
        context: &str,
        key: &str,
        value: Bytes,
        expected: Option<u64>,
    ) -> Result<u64, ServiceError> {
        NoServices.context_set(context, key, value, expected).await
    }

    async fn context_delete(&self, context: &str, key: &str, expected: Option<u64>) -> Result<(), ServiceError> {
        NoServices.context_delete(context, key, expected).await
    }

    async fn context_list(
        &self,
        context: &str,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, ServiceError> {
        NoServices.context_list(context, prefix, after, limit).await
    }

    /// Goes to the cluster with the next heartbeat of the lease.
    async fn progress(&self, fraction: f64, message: &str) -> Result<(), ServiceError> {
        self.held.progress(self.token, told(fraction, message));
        Ok(())
    }

    /// The line stands in the attempt's logs already.
    async fn log(&self, _: LogLevel, _: &str) {}
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
