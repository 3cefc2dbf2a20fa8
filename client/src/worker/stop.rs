//! How a worker ends: step by step, each with its own bound.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::crew::ABANDON_AFTER;
use crate::time::from_now;

/// How long the last reports may take to be taken.
const FLUSH: Duration = Duration::from_secs(5);

/// How far the end of a worker has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It takes tasks.
    Working,
    /// It takes no more, and waits for those that run: until then, or without end where the cluster asked for it.
    Draining(Option<Instant>),
    /// It has told its jobs to stop, and waits for the last reports until then.
    Abandoning(Instant),
    /// It waits for nothing.
    Over,
}

/// Watches for the wish to stop and for the end of each stage.
pub(super) struct Stop {
    wished: CancellationToken,
    grace: Duration,
    stage: Stage,
}

impl Stop {
    pub(super) fn new(wished: CancellationToken, grace: Duration) -> Stop {
        Stop { wished, grace, stage: Stage::Working }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether no more tasks are to be taken.
    pub(super) fn is_stopping(&self) -> bool {
        self.stage != Stage::Working
    }

    /// The cluster asked the worker to drain.
    pub(super) fn drain(&mut self) {
        if self.stage == Stage::Working {
            self.stage = Stage::Draining(None);
        }
    }

    /// Waits for the next stage, and enters it. Dropping the wait changes nothing.
    pub(super) async fn advance(&mut self) -> Stage {
        self.stage = match self.stage {
            Stage::Working | Stage::Draining(None) => {
                self.wished.cancelled().await;
                Stage::Draining(Some(from_now(self.grace)))
            }
            Stage::Draining(Some(until)) => {
                tokio::time::sleep_until(until).await;
                Stage::Abandoning(Instant::now() + ABANDON_AFTER + FLUSH)
            }
            Stage::Abandoning(until) => {
                tokio::time::sleep_until(until).await;
                Stage::Over
            }
            Stage::Over => std::future::pending().await,
        };
        self.stage
    }
}
