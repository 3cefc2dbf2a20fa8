//! What a driver asks for during one call, kept until it is known whether the call went well.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use tarn_executor::{DriverServices, LogLevel, NotEnqueued};
use tarn_machine::{check, limits};
use tarn_proto::v1::{self, TaskSpec};

use super::desk::Desk;
use super::world::World;
use crate::gate::roles::covers;

/// Lines that a driver may log in one call; a driver that chatters would push everything else out of the log.
const LINES_PER_TURN_MAX: usize = 100;

static TASK_SPEC: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(tarn_proto::DESCRIPTORS).expect("the contract was compiled with this binary");
    pool.get_message_by_name("tarn.v1.TaskSpec").expect("the contract has it")
});

/// What one call wants changed.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub state: Option<Bytes>,
    pub tasks: Vec<TaskSpec>,
    lines: usize,
}

/// One instance's services.
pub(super) struct Turn {
    pub queues: Arc<[String]>,
    pub generation: u64,
    pub desk: Arc<Desk>,
    pub world: Arc<dyn World>,
    pub effects: Mutex<Effects>,
}

impl Turn {
    /// What the call that has ended wants changed; the next begins with nothing.
    pub fn take(&self) -> Effects {
        std::mem::take(&mut self.effects())
    }

    fn effects(&self) -> std::sync::MutexGuard<'_, Effects> {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("driver", &self.desk.id).finish_non_exhaustive()
    }
}

impl DriverServices for Turn {
    fn log(&self, level: LogLevel, message: &str) {
        let mut effects = self.effects();
        effects.lines += 1;
        let text = match effects.lines {
            lines if lines > LINES_PER_TURN_MAX => return,
            LINES_PER_TURN_MAX => "what this call logs beyond this line is dropped",
            _ => message,
        };
        drop(effects);
        self.desk.log(level, self.world.now_ms(), self.generation, text);
    }

    fn save(&self, state: Bytes) -> Result<(), String> {
        let (found, max) = (state.len(), limits::DRIVER_STATE_BYTES_MAX);
        if found > max {
            return Err(format!("the state has {found} bytes: at most {max} are kept"));
        }
        self.effects().state = Some(state);
        Ok(())
    }

    fn enqueue(&self, spec: &str, payload: Option<Bytes>) -> Result<(), NotEnqueued> {
        let task = parse(spec, payload).map_err(NotEnqueued::Refused)?;
        if !self.queues.iter().any(|pattern| covers(pattern, &task.queue)) {
            return Err(NotEnqueued::NotGranted { queue: task.queue });
        }
        let mut effects = self.effects();
        if effects.tasks.len() >= limits::DRIVER_TASKS_MAX {
            let why = format!("one call enqueues at most {} tasks", limits::DRIVER_TASKS_MAX);
            return Err(NotEnqueued::Refused(why));
        }
        effects.tasks.push(task);
        Ok(())
    }
}

/// The task, if it is one that could be enqueued.
fn parse(spec: &str, payload: Option<Bytes>) -> Result<TaskSpec, String> {
    let mut json = serde_json::Deserializer::from_str(spec);
    let message = DynamicMessage::deserialize(TASK_SPEC.clone(), &mut json).map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    let mut task: TaskSpec = message.transcode_to().map_err(|error| error.to_string())?;
    if let Some(payload) = payload {
        task.payload = payload;
    }
    // Alone in a command, so that what is wrong is told to the driver, and not found out when it is too late.
    let request =
        v1::EnqueueRequest { namespace: crate::way::DEFAULT_NAMESPACE.to_owned(), tasks: vec![task], ..v1::EnqueueRequest::default() };
    let body = v1::command::Body::Enqueue(request);
    let command = v1::Command { body: Some(body), ..v1::Command::default() };
    check::validate(&command).map_err(|rejection| rejection.message)?;
    match command.body {
        Some(v1::command::Body::Enqueue(request)) => request.tasks.into_iter().next().ok_or_else(String::new),
        _ => Err(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_read_as_the_contract_says_and_refused_where_it_could_not_run() {
        let task = parse(r#"{"queue":"mail","handler":"send","payload":"aGk=","priority":"PRIORITY_HIGH"}"#, None).unwrap();
        assert_eq!((task.queue.as_str(), task.payload.as_ref()), ("mail", b"hi".as_slice()));
        let task = parse(r#"{"queue":"mail"}"#, Some(Bytes::from_static(b"own"))).unwrap();
        assert_eq!(task.payload, "own");
        for bad in ["", "{", "{}", r#"{"queue":"Not A Name"}"#, r#"{"queue":"q","nonsense":1}"#, r#"{"queue":"q"} x"#] {
            assert!(!parse(bad, None).unwrap_err().is_empty(), "{bad}");
        }
    }
}
