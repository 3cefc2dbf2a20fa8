//! Handing over work: tasks that another cluster of the federation does for this one, and the other way round.
//!
//! ```text
//!   origin: router ─► worker that stands for the other cluster ─► lease ─► errand ─┐      ┌─► guests: gate, artifacts, kernel's transfer
//!                                                                                  ├ link ┤        │ confirmed: a task like any other
//!   origin: task completed ◄─ result ◄─────────────────────────────────────────────┘      └────────┴─► a worker there runs it
//! ```
//!
//! A task goes only where its submitter lets it (`any_cluster`), only while nobody here has room for it, and only once: whoever does it does
//! not hand it on. So clusters that are idle never send work to and fro.
//!
//! Invariants: a task of this cluster is in one place at a time, as far as clocks run equally fast (see `clock`); whatever they do, what came of
//! it is taken once, from the attempt whose token is the task's.

mod artifact;
mod away;
mod capacity;
mod clock;
mod errand;
mod exchange;
mod guest;
mod lease;
mod stays;

use std::time::Duration;

use tarn_proto::v1::Rejection;
use tokio::sync::mpsc;

use super::Federation;
use crate::artifacts::Artifacts;

pub(crate) use away::cluster_node;
pub(super) use exchange::Exchange;
pub(crate) use guest::may_travel;
pub use stays::Stays;

/// Notices that wait to be taken up. What is more is dropped: the other cluster says it again.
const NOTICES_MAX: usize = 256;

/// Whether a refusal may be another answer the next time, and whether what was asked for took effect is not certain.
fn passes(rejection: &Rejection) -> bool {
    use tonic::Code;
    let lasting = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::OutOfRange,
        Code::Unimplemented,
    ];
    !lasting.iter().any(|code| *code as u32 == rejection.code)
}

/// A refusal of this room's.
fn refused(code: tonic::Code, reason: &str, message: impl Into<String>) -> Rejection {
    Rejection { code: code as u32, reason: reason.to_owned(), message: message.into(), ..Rejection::default() }
}

/// Works on the leader's node, for both sides; until it is dropped.
pub(super) async fn run(federation: Federation, artifacts: Artifacts, stays: Stays, lease: Duration) {
    let exchange = federation.exchange().clone();
    let offered = artifact::Offered::default();
    let (notices, noticed) = mpsc::channel(NOTICES_MAX);
    let guests = guest::Guests { federation: federation.clone(), exchange: exchange.clone(), artifacts, offered: offered.clone() };
    let away = away::Away::new(federation.clone(), exchange.clone(), offered, stays, lease::Leases::new(lease));
    tokio::join!(guests.clone().answer(exchange.listen(), notices), guests.tell(), away.run(noticed), capacity::publish(federation),);
}
