//! When a try is repeated, and after how long.
//!
//! A repeat is safe because every call that changes something carries a request id, which the cluster answers from memory the second
//! time. So the only question is whether a repeat can help. A refusal with a reason cannot be helped; a lost connection, an unavailable
//! node or a try that took too long can, most of all at another node.

use std::error::Error as StdError;
use std::time::Duration;

use rand::Rng;
use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::StatusExt;

use crate::error::{Error, Fate, Refusal};
use crate::proto;
use crate::tls::refusal_in;

/// The first pause. Short, because the usual cause is one dead node and the repeat goes to another.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
/// The longest pause. A new leader is elected within about a second, so longer pauses would only add latency.
const BACKOFF_LONGEST: Duration = Duration::from_secs(1);

/// Pauses that double, each varied so that many clients of a node that died do not return in step.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause before the next try: between half of the step and the whole.
    pub(crate) fn next(&mut self) -> Duration {
        let step = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_LONGEST);
        self.failures += 1;
        step.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Starts from the shortest pause again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// What became of a try that gave no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The request never reached a node.
    NotSent(String),
    /// The connection broke, or the node could not serve: the request may have been carried out.
    Lost(String),
    /// The time of the try was up: the request may have been carried out.
    TimedOut,
    /// The node asks to come back after this long, and has done nothing.
    Busy(Duration, Box<Refusal>),
    /// The two ends cannot make a session.
    Barred(String),
    /// The node refused for good.
    Refused(Box<Refusal>),
}

impl Failure {
    /// Sorts the status of a failed try.
    pub(crate) fn of(status: &Status) -> Failure {
        if let Some(source) = status.source() {
            return local(status, source);
        }
        let refusal = Refusal::from_status(status);
        let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
        match delay.filter(|_| refusal.code == Code::ResourceExhausted) {
            Some(delay) => Failure::Busy(delay, Box::new(refusal)),
            None => Failure::of_refusal(refusal),
        }
    }

    /// Sorts a refusal of a question that came over a stream. `trace` is what the cluster's records name it by.
    pub(crate) fn of_rejection(rejection: proto::Rejection, trace: String) -> Failure {
        let delay = Duration::from_millis(rejection.retry_after_ms);
        let refusal = Refusal { request_id: Some(trace), ..Refusal::from_rejection(rejection) };
        match refusal.code == Code::ResourceExhausted && !delay.is_zero() {
            true => Failure::Busy(delay, Box::new(refusal)),
            false => Failure::of_refusal(refusal),
        }
    }

    /// Sorts what a node answered.
    pub(crate) fn of_refusal(refusal: Refusal) -> Failure {
        match refusal.code {
            Code::Unavailable => Failure::Lost(refusal.message),
            // A node that stops, or a proxy before it, cancels calls; the cluster itself never answers so.
            Code::Cancelled | Code::DeadlineExceeded => Failure::TimedOut,
            _ => Failure::Refused(Box::new(refusal)),
        }
    }

    /// Whether the request may have been carried out.
    pub(crate) fn may_be_done(&self) -> bool {
        matches!(self, Failure::Lost(_) | Failure::TimedOut)
    }
}

/// Sorts a status that this side made because the transport failed: only such a status has a source.
fn local(status: &Status, source: &(dyn StdError + 'static)) -> Failure {
    if let Some(refusal) = refusal_in(source) {
        return Failure::Barred(refusal.to_string());
    }
    let mut texts = Vec::new();
    let mut next = Some(source);
    let mut sent = true;
    while let Some(error) = next {
        if error.is::<TimeoutExpired>() {
            return Failure::TimedOut;
        }
        if error.is::<ConnectError>() {
            sent = false;
        }
        if is_connect_timeout(error) {
            sent = false;
        }
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        next = error.source();
    }
    let text = if texts.is_empty() { status.message().to_owned() } else { texts.join(": ") };
    if sent { Failure::Lost(text) } else { Failure::NotSent(text) }
}

/// Whether making a connection took too long, as opposed to a standing connection that went silent.
fn is_connect_timeout(error: &(dyn StdError + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    inner.is_some_and(|inner| inner.is::<tokio::time::error::Elapsed>())
}

/// What the tries of one logical call have met so far.
#[derive(Debug)]
pub(crate) struct Tries {
    made: u32,
    barred: usize,
    changes: bool,
    divisible: bool,
    may_be_done: bool,
    last: Option<Failure>,
    backoff: Backoff,
}

impl Tries {
    /// For a call that changes something, or one that only reads.
    pub(crate) fn new(changes: bool) -> Tries {
        Tries { made: 0, barred: 0, changes, divisible: false, may_be_done: false, last: None, backoff: Backoff::default() }
    }

    /// The same for a batch, whose parts are sent again by themselves once it is refused. So no refusal is for good where an earlier try may
    /// have been carried out: a node that is too old to read the batch refuses it whatever became of it.
    pub(crate) fn divisible(self) -> Tries {
        Tries { divisible: true, ..self }
    }

    /// Notes a failed try, and says after how long to try again; or why not to. `nodes` is how many nodes there are to try.
    pub(crate) fn failed(&mut self, failure: Failure, nodes: usize) -> Result<Duration, Error> {
        self.made += 1;
        self.may_be_done |= failure.may_be_done();
        let mut pause = self.backoff.next();
        match failure {
            Failure::Refused(refusal) => return Err(self.refused(refusal)),
            Failure::Barred(text) => {
                self.barred += 1;
                if self.barred >= nodes {
                    return Err(self.barred(text));
                }
                self.last = Some(Failure::Barred(text));
            }
            Failure::Busy(delay, refusal) => {
                pause = pause.max(delay);
                self.last = Some(Failure::Busy(delay, refusal));
            }
            other => {
                self.barred = 0;
                self.last = Some(other);
            }
        }
        Ok(pause)
    }

    /// The error of a call that ends with this failure, without another try.
    pub(crate) fn end(mut self, failure: Failure) -> Error {
        match self.failed(failure, 1) {
            Ok(_) => self.give_up(),
            Err(error) => error,
        }
    }

    /// What the tries together may have done.
    fn fate(&self) -> Fate {
        if self.changes && self.may_be_done { Fate::Unknown } else { Fate::NotDone }
    }

    /// The error of a call whose last try was refused. An earlier try without an answer may still be on its way to a node, as in one that is
    /// paused, and be carried out once the state allows it: only what no state allows is refused for good then.
    fn refused(&self, refusal: Box<Refusal>) -> Error {
        match self.fate() {
            Fate::Unknown if self.divisible || refusal.code != Code::InvalidArgument => Error::Unavailable {
                message: format!("a repeat was refused, and an earlier try may still take effect: {refusal}"),
                tries: self.made,
                fate: Fate::Unknown,
            },
            _ => Error::Refused(refusal),
        }
    }

    /// The error of a call that no node makes a session for.
    fn barred(&self, text: String) -> Error {
        match self.fate() {
            Fate::NotDone => Error::Transport(text),
            fate @ Fate::Unknown => Error::Unavailable { message: text, tries: self.made, fate },
        }
    }

    /// The error of a call that ran out of time.
    pub(crate) fn give_up(&mut self) -> Error {
        let (fate, tries) = (self.fate(), self.made);
        match self.last.take() {
            // An earlier try may have been carried out, and then a refusal would be no answer to the call.
            Some(Failure::Busy(_, refusal)) if fate == Fate::NotDone => Error::Refused(refusal),
            Some(Failure::Barred(text)) => self.barred(text),
            Some(Failure::NotSent(message) | Failure::Lost(message)) => Error::Unavailable { message, tries, fate },
            Some(Failure::Busy(_, refusal) | Failure::Refused(refusal)) => Error::Unavailable { message: refusal.message, tries, fate },
            Some(Failure::TimedOut) | None => Error::DeadlineExceeded { tries, fate },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..40).map(|_| backoff.next()).collect();
        assert!(pauses[0] >= BACKOFF_FIRST / 2 && pauses[0] <= BACKOFF_FIRST);
        assert!(pauses.iter().all(|pause| *pause <= BACKOFF_LONGEST));
        assert!(pauses[39] >= BACKOFF_LONGEST / 2);
        backoff.reset();
        assert!(backoff.next() <= BACKOFF_FIRST);
    }

    #[test]
    fn refusals_are_final_and_outages_are_not() {
        let mut tries = Tries::new(true);
        assert!(tries.failed(Failure::of(&Status::unavailable("no leader")), 3).is_ok());
        assert!(tries.failed(Failure::of(&Status::deadline_exceeded("slow")), 3).is_ok());
        for status in [
            Status::aborted("x"),
            Status::failed_precondition("x"),
            Status::invalid_argument("x"),
            Status::internal("x"),
            Status::resource_exhausted("x"),
            Status::unknown("x"),
        ] {
            let error = Tries::new(true).failed(Failure::of(&status), 3).expect_err("final");
            assert_eq!(error.refusal().map(|refusal| refusal.code), Some(status.code()));
        }
        assert!(tries.give_up().outcome_unknown());
    }

    /// As where a lock was asked for through a paused node, and a second try found it held: the first may still acquire it later.
    #[test]
    fn a_refusal_after_a_try_without_an_answer_leaves_the_outcome_unknown() {
        let refused = |status: Status, changes: bool| {
            let mut tries = Tries::new(changes);
            assert!(tries.failed(Failure::TimedOut, 3).is_ok());
            tries.failed(Failure::of(&status), 3).expect_err("final")
        };
        let held = refused(Status::failed_precondition("held by another"), true);
        assert!(held.outcome_unknown() && held.to_string().contains("held by another"));
        assert!(refused(Status::invalid_argument("x"), true).refusal().is_some());
        assert!(refused(Status::not_found("x"), false).refusal().is_some());
        let mut tries = Tries::new(true);
        assert!(tries.failed(Failure::Lost("gone".into()), 1).is_ok());
        let barred = tries.failed(Failure::Barred("unknown issuer".into()), 1);
        assert!(barred.expect_err("final").outcome_unknown());
    }

    #[test]
    fn what_never_reached_a_node_was_not_done() {
        let mut tries = Tries::new(true);
        assert!(tries.failed(Failure::NotSent("refused".into()), 1).is_ok());
        assert!(!tries.give_up().outcome_unknown());
        let mut read = Tries::new(false);
        assert!(read.failed(Failure::TimedOut, 1).is_ok());
        assert!(!read.give_up().outcome_unknown());
    }

    #[test]
    fn a_refused_session_ends_the_call_once_every_node_refused_it() {
        let mut tries = Tries::new(true);
        assert!(tries.failed(Failure::Barred("unknown issuer".into()), 2).is_ok());
        assert!(matches!(tries.failed(Failure::Barred("unknown issuer".into()), 2), Err(Error::Transport(_))));
    }

    #[test]
    fn a_hint_to_come_back_is_obeyed() {
        let details = tonic_types::ErrorDetails::with_retry_info(Some(Duration::from_secs(3)));
        let status = Status::with_error_details(Code::ResourceExhausted, "slow down", details);
        let mut tries = Tries::new(true);
        assert!(tries.failed(Failure::of(&status), 1).expect("to be repeated") >= Duration::from_secs(3));
        assert_eq!(tries.give_up().reason(), "RESOURCE_EXHAUSTED");
    }
}
