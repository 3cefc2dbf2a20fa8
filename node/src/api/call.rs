//! What every method begins and ends with: who asks, until when, and the answer or the refusal as a status.

use std::time::Duration;

use tarn_machine::Machine;
use tarn_proto::{CommandBody, LEADER_HEADER};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::status::status;
use super::trace::trace_of;
use super::waits::TaskWaits;
use crate::dispatch::Dispatcher;
use crate::gate::{Caller, Question, Refusal, Wish};
use crate::way::Way;

/// Taken off a caller's time-out, so that the node's own answer, which says whether the command may have taken effect, arrives before the
/// caller's side gives up: a tenth, and no more than this.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(50);

/// What all services share. Clones share it.
#[derive(Clone)]
pub struct Api {
    pub(super) way: Way,
    pub(super) dispatcher: Dispatcher,
    pub(super) waits: TaskWaits,
    pub(super) default_deadline: Duration,
    /// Streams end when the node stops.
    pub(super) stopping: CancellationToken,
}

impl Api {
    /// What all services share. Requests that name no time-out get `default_deadline`; streams end with `stopping`.
    #[must_use]
    pub fn new(way: Way, dispatcher: Dispatcher, waits: TaskWaits, default_deadline: Duration, stopping: CancellationToken) -> Self {
        Self { way, dispatcher, waits, default_deadline, stopping }
    }
}

/// One request: who asks and until when.
pub(crate) struct Call {
    pub caller: Caller,
    pub deadline: Instant,
}

impl Call {
    /// The refusal as this call's status.
    pub fn status(&self, refusal: Refusal) -> Status {
        status(refusal, &self.caller.trace)
    }
}

impl Api {
    /// Lets the caller in, or not.
    pub(super) fn enter<T>(&self, request: &Request<T>) -> Result<Call, Status> {
        let trace = trace_of(request.extensions());
        let caller = self.way.identify(request, trace.clone());
        let caller = caller.map_err(|refusal| status(refusal, &trace))?;
        let deadline = self.deadline(timeout_of(request.metadata()));
        Ok(Call { caller, deadline })
    }

    /// Lets the caller in and through the gate, for what is neither a command nor a read of the state.
    pub(super) fn enter_for<T>(&self, request: &Request<T>, wish: Wish<'_>) -> Result<Call, Status> {
        let call = self.enter(request)?;
        self.way.admit(&call.caller, wish).map_err(|refusal| call.status(refusal))?;
        Ok(call)
    }

    /// When the answer to a request that comes now must be on its way, for a caller that waits this long.
    pub(super) fn deadline(&self, timeout: Option<Duration>) -> Instant {
        let timeout = timeout.map(|timeout| timeout.saturating_sub((timeout / 10).min(ANSWER_TIME_MAX)));
        Instant::now() + timeout.unwrap_or(self.default_deadline)
    }

    /// The answer, with the leader's address if this node is not it, or the refusal.
    fn respond<A>(&self, call: &Call, answer: Result<A, Refusal>) -> Result<Response<A>, Status> {
        let mut response = Response::new(answer.map_err(|refusal| call.status(refusal))?);
        if let Some(leader) = self.way.leader_elsewhere().and_then(|address| address.parse().ok()) {
            response.metadata_mut().insert(LEADER_HEADER, leader);
        }
        Ok(response)
    }

    /// The one path of every command.
    pub(super) async fn command<R: CommandBody>(&self, request: Request<R>) -> Result<Response<R::Response>, Status> {
        let call = self.enter(&request)?;
        let answer = self.way.command(&call.caller, request.into_inner(), call.deadline).await;
        self.respond(&call, answer)
    }

    /// The one path of every read.
    pub(super) async fn read<Q: Question, A>(
        &self,
        request: Request<Q>,
        read: impl FnOnce(&Machine, &Q) -> Result<A, tarn_machine::Refusal>,
    ) -> Result<Response<A>, Status> {
        let call = self.enter(&request)?;
        let mut question = request.into_inner();
        question.complete();
        let answer = self.way.read(&call.caller, question.wish(), call.deadline, |machine| read(machine, &question)).await;
        self.respond(&call, answer)
    }

    /// The path of a read that takes what this node has applied, without asking whether there is more.
    pub(super) fn glance<Q: Question, A>(
        &self,
        request: Request<Q>,
        read: impl FnOnce(&Machine, &Q) -> Result<A, tarn_machine::Refusal>,
    ) -> Result<Response<A>, Status> {
        let call = self.enter(&request)?;
        let mut question = request.into_inner();
        question.complete();
        let answer = self.way.admit(&call.caller, question.wish());
        let answer = answer.and_then(|()| self.way.look(|machine| read(machine, &question)));
        self.respond(&call, answer)
    }
}

/// Longer time-outs are as good as this: about a year, so that no sum of times overflows.
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(1 << 25);

/// The caller's time-out: up to eight digits and a unit.
fn timeout_of(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(timeout.min(TIMEOUT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Duration> {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().unwrap());
        timeout_of(&metadata)
    }

    #[test]
    fn time_outs_of_every_unit_are_read_and_nonsense_is_none() {
        assert_eq!(parsed("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parsed("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(parsed("7u"), Some(Duration::from_micros(7)));
        assert_eq!(parsed("99999999H"), Some(Duration::from_secs(1 << 25)));
        for nonsense in ["", "S", "12", "-1S", "123456789S", "1x"] {
            assert_eq!(parsed(nonsense), None, "{nonsense:?}");
        }
    }
}
