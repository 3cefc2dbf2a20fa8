//! What every runtime must do alike, asked of each with the same guest: [`guest.c`](guest.c), compiled for it.
//!
//! A runtime that is added to tarn is added here: a [`Subject`] that makes its executor and its guest.

mod guest;
mod leaks;
mod microvm;
mod native;
mod suite;
mod wasm;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tarn_executor::Executor;

/// A runtime under test.
#[async_trait]
trait Subject: Send + Sync {
    /// Its executor with this many slots. `None` on a machine that cannot have it, which is told.
    async fn executor(&self, slots: usize) -> Option<Arc<dyn Executor>>;

    /// [`guest.c`](guest.c) for it; `None` on a machine without the compiler, which is told.
    fn guest(&self) -> Option<Bytes>;

    /// The reason of a guest that trapped or crashed.
    fn crash_reason(&self) -> &'static str;

    /// Something that is no program for it, and the reason of that.
    fn garbage_reason(&self) -> &'static str;
}

/// The whole suite for one runtime.
macro_rules! conformance {
    ($runtime:ident, $subject:expr) => {
        mod $runtime {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn succeeds() {
                suite::succeeds(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn non_zero_exit() {
                suite::non_zero_exit(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn crash() {
                suite::crash(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn time_out() {
                suite::time_out(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn memory_limit() {
                suite::memory_limit(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn output_limit() {
                suite::output_limit(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn logs_are_bounded() {
                suite::logs_are_bounded(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn logs_without_end_are_stopped_by_time() {
                suite::logs_without_end_are_stopped_by_time(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn cancellation() {
                suite::cancellation(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_dropped_attempt_gives_its_slot_back() {
                suite::a_dropped_attempt_gives_its_slot_back(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn bad_artifacts() {
                suite::bad_artifacts(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn bad_sources() {
                suite::bad_sources(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn damaged_programs() {
                suite::damaged_programs(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn bad_limits() {
                suite::bad_limits(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_hundred_at_once() {
                suite::a_hundred_at_once(&$subject).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn leaks_nothing() {
                leaks::after(&$subject, 200).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "minutes: run by name"]
            async fn leaks_nothing_in_ten_thousand() {
                leaks::after(&$subject, 10_000).await;
            }
        }
    };
}

mod conformance {
    use super::{leaks, suite};

    conformance!(wasm, crate::wasm::Wasm);
    conformance!(microvm, crate::microvm::MicroVm);
    conformance!(native, crate::native::Native);
}
