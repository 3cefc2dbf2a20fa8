//! Commands of callers that wait at the same time, sent as one batch.
//!
//! A command that finds nobody else goes alone, as it always did. A batch that is refused as a whole has had no effect: its commands then
//! go one by one, so that each caller learns what is wrong with its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

use crate::client::{Client, Kind, request_id};
use crate::error::{Error, Fate, Refusal};
use crate::gather::{Cargo, Gather, Group, Sent, all_gone};
use crate::proto::{self, command, outcome};

/// Commands in one batch: what the cluster takes.
const COMMANDS_MAX: usize = 256;
/// Tasks that the commands of one batch enqueue together: what the cluster takes.
const TASKS_MAX: usize = 1_000;
/// Larger commands go alone: they gain nothing.
pub(crate) const COMMAND_BYTES_MAX: usize = 64 << 10;
/// A cluster that takes no batches yet is asked again after this long.
const ALONE_FOR: Duration = Duration::from_secs(60);

/// What the cluster made of a command.
pub(crate) struct Told {
    /// Its own outcome.
    pub outcome: outcome::Body,
    /// The id of the batch that it was in, by which the cluster's records name it.
    pub request_id: Arc<str>,
}

impl Cargo for command::Body {
    type Answer = Told;
    const COUNT_MAX: usize = COMMANDS_MAX;
    const TASKS_MAX: usize = TASKS_MAX;

    fn of(client: &Client) -> &Gather<Self> {
        client.together()
    }

    fn tasks(&self) -> usize {
        match self {
            command::Body::Enqueue(request) => request.tasks.len(),
            _ => 0,
        }
    }

    async fn carry(client: Client, group: Group<Self>) {
        let Group { mut members, under_way } = group;
        if let [_] = members.as_slice()
            && let Some(only) = members.pop()
        {
            // Where its caller has given up, this drops what was under way.
            let _ = only.answer.send(Sent::Alone(Some(under_way)));
            return;
        }
        // The least that any has. They came within the patience of one another, so that nobody loses much.
        let Some(end) = members.iter().map(|waiting| waiting.end).min() else {
            return;
        };
        let (bodies, mut callers): (Vec<_>, Vec<_>) = members.into_iter().map(|waiting| (waiting.cargo, waiting.answer)).unzip();
        let commands = bodies.into_iter().map(|body| proto::Command { body: Some(body), ..proto::Command::default() });
        let request_id: Arc<str> = request_id().into();
        let batch = proto::CommandBatch { request_id: request_id.to_string(), commands: commands.collect() };
        let sending = client.command_alone(Kind::BATCH, end, batch, |_, _| Box::pin(async { Err(Status::unimplemented("no batches")) }));
        let sent = tokio::select! {
            biased;
            sent = sending => sent,
            // Nobody is left for whom to try again.
            () = all_gone(&mut callers) => return,
        };
        drop(under_way);
        match sent {
            Ok(answer) => {
                let mut outcomes = answer.outcomes.into_iter();
                for caller in callers {
                    let sent = match outcomes.next().and_then(|outcome| outcome.body) {
                        Some(outcome) => Sent::Done(Told { outcome, request_id: request_id.clone() }),
                        None => {
                            let message = "the node answered a batch with too few outcomes".to_owned();
                            Sent::Failed(Error::Unavailable { message, tries: 1, fate: Fate::Unknown })
                        }
                    };
                    let _ = caller.send(sent);
                }
            }
            Err(Error::Refused(refusal)) if had_no_effect(&refusal) => {
                if knows_no_batches(&refusal) {
                    client.together().rest(Instant::now() + ALONE_FOR);
                }
                callers.into_iter().for_each(|caller| drop(caller.send(Sent::Alone(None))));
            }
            Err(error) => callers.into_iter().for_each(|caller| drop(caller.send(Sent::Failed(error.clone())))),
        }
    }
}

/// Whether a batch that was refused so was certainly not carried out. A node that met a fault of its own does not know.
fn had_no_effect(refusal: &Refusal) -> bool {
    !matches!(refusal.code, Code::Internal | Code::Unknown | Code::DataLoss)
}

/// Whether the node, or the cluster, is older than batches. The node that reads no command in a message names the message's field.
fn knows_no_batches(refusal: &Refusal) -> bool {
    let unread = refusal.reason == "INVALID_ARGUMENT" && refusal.field.as_deref() == Some("command.body");
    unread || refusal.code == Code::Unimplemented || refusal.reason == "CLUSTER_VERSION_TOO_LOW"
}
