//! Where others find a driver that runs here: its state, its log, and the queue of those who call it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tarn_executor::LogLevel;
use tarn_proto::v1::{DriverLogLine, DriverState, DriverStatus};
use tokio::sync::{mpsc, oneshot};
use tonic::Code;

use super::Id;
use super::logs::Logs;
use crate::gate::Refusal;
use crate::ops::{DriverTurn, Metrics};

/// Calls that wait for one driver. Each holds its payload in memory.
const CALLS_WAITING_MAX: usize = 64;

/// Somebody waits for an answer.
pub(super) struct Call {
    pub method: String,
    pub payload: Bytes,
    pub answer: oneshot::Sender<Result<Answer, Refusal>>,
}

/// What a driver answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub payload: Vec<u8>,
    pub generation: u64,
}

/// One driver's desk.
pub(super) struct Desk {
    pub id: Id,
    pub logs: Logs,
    calls: mpsc::Sender<Call>,
    status: Mutex<DriverStatus>,
    metrics: Arc<Metrics>,
}

impl Desk {
    pub fn new(id: Id, node: u64, metrics: Arc<Metrics>) -> (Arc<Self>, mpsc::Receiver<Call>) {
        let (calls, waiting) = mpsc::channel(CALLS_WAITING_MAX);
        let status = DriverStatus { state: DriverState::Starting.into(), node, ..DriverStatus::default() };
        (Arc::new(Self { id, logs: Logs::default(), calls, status: Mutex::new(status), metrics }), waiting)
    }

    pub fn status(&self) -> DriverStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is told of the driver.
    pub fn tell(&self, change: impl FnOnce(&mut DriverStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Has the driver answer.
    ///
    /// # Errors
    /// Too many wait; the driver is not running, or stopped before it answered; it answered with an error.
    pub async fn call(&self, method: String, payload: Bytes) -> Result<Answer, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.calls.try_send(Call { method, payload, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                let message = "too many calls wait for this driver: try again in a moment";
                refusal(Code::ResourceExhausted, "DRIVER_BUSY", message).limit(CALLS_WAITING_MAX as u64)
            }
            mpsc::error::TrySendError::Closed(_) => gone(),
        })?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Why nobody answers now.
    pub fn not_running(&self) -> Refusal {
        let status = self.status();
        let message = match status.state() {
            DriverState::Stopped => format!("the driver has stopped, until it is upgraded: {}", status.last_error),
            _ => format!("the driver broke, and is started again in a while: {}", status.last_error),
        };
        refusal(Code::Unavailable, "DRIVER_NOT_RUNNING", message)
    }

    /// Adds to the driver's log, and to this node's.
    pub fn log(&self, level: LogLevel, at_ms: u64, generation: u64, text: &str) {
        let (namespace, driver) = (self.id.namespace.as_str(), self.id.name.as_str());
        match level {
            LogLevel::Error => tracing::error!(namespace, driver, generation, "{text}"),
            LogLevel::Warn => tracing::warn!(namespace, driver, generation, "{text}"),
            LogLevel::Info => tracing::info!(namespace, driver, generation, "{text}"),
            LogLevel::Debug | LogLevel::Trace => tracing::debug!(namespace, driver, generation, "{text}"),
        }
        let level = level.as_str().to_owned();
        self.logs.add(DriverLogLine { number: 0, at_ms, level, text: text.to_owned(), generation });
    }

    /// Counts a turn.
    pub fn count(&self, what: &'static str, result: &'static str) {
        let (namespace, driver) = (self.id.namespace.clone(), self.id.name.clone());
        self.metrics.driver_turns.get_or_create(&DriverTurn { namespace, driver, what, result }).inc();
    }
}

pub(super) fn refusal(code: Code, reason: &str, message: impl Into<String>) -> Refusal {
    let rejection = tarn_proto::v1::Rejection {
        code: code as u32,
        reason: reason.to_owned(),
        message: message.into(),
        ..tarn_proto::v1::Rejection::default()
    };
    Refusal::from(rejection)
}

/// The driver stopped while somebody waited: nobody knows what it had done.
fn gone() -> Refusal {
    let message = "the driver stopped before it answered, because it was removed or another node took over: it may have done what it \
                   was asked or not; call again if that does no harm";
    refusal(Code::Unavailable, "DRIVER_GONE", message)
}
