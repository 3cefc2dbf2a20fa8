//! Rejections: a gRPC status code, a stable reason, a sentence that tells what to do.
//!
//! Each reason that more than one place gives is made here, so that it reads the same everywhere.

use tarn_proto::v1::{Rejection, TaskState};

/// The gRPC status codes that the kernel uses.
mod code {
    pub const INVALID_ARGUMENT: u32 = 3;
    pub const NOT_FOUND: u32 = 5;
    pub const ALREADY_EXISTS: u32 = 6;
    pub const PERMISSION_DENIED: u32 = 7;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const FAILED_PRECONDITION: u32 = 9;
    pub const OUT_OF_RANGE: u32 = 11;
    pub const DATA_LOSS: u32 = 15;
}

fn rejection(code: u32, reason: &str, field: &str, limit: u64, message: String) -> Rejection {
    Rejection { code, reason: reason.to_owned(), message, field: field.to_owned(), limit, ..Rejection::default() }
}

/// The request can never succeed as it stands.
pub fn invalid(reason: &str, field: &str, message: impl Into<String>) -> Rejection {
    rejection(code::INVALID_ARGUMENT, reason, field, 0, message.into())
}

/// Something in the request is larger than its limit.
pub fn too_large(reason: &str, field: &str, limit: u64, message: impl Into<String>) -> Rejection {
    rejection(code::INVALID_ARGUMENT, reason, field, limit, message.into())
}

/// There is no such thing.
pub fn not_found(reason: &str, field: &str, message: impl Into<String>) -> Rejection {
    rejection(code::NOT_FOUND, reason, field, 0, message.into())
}

/// There is one already.
pub fn exists(reason: &str, field: &str, message: impl Into<String>) -> Rejection {
    rejection(code::ALREADY_EXISTS, reason, field, 0, message.into())
}

/// The asker may not.
pub fn denied(reason: &str, field: &str, message: impl Into<String>) -> Rejection {
    rejection(code::PERMISSION_DENIED, reason, field, 0, message.into())
}

/// A limit of the state is reached: make room, or come back later.
pub fn full(reason: &str, field: &str, limit: u64, message: impl Into<String>) -> Rejection {
    rejection(code::RESOURCE_EXHAUSTED, reason, field, limit, message.into())
}

/// The state does not allow it now.
pub fn precondition(reason: &str, field: &str, message: impl Into<String>) -> Rejection {
    rejection(code::FAILED_PRECONDITION, reason, field, 0, message.into())
}

/// What is asked for lies outside of what is kept.
pub fn out_of_range(reason: &str, field: &str, limit: u64, message: impl Into<String>) -> Rejection {
    rejection(code::OUT_OF_RANGE, reason, field, limit, message.into())
}

/// What is asked for is damaged on this node.
pub fn data_loss(reason: &str, message: impl Into<String>) -> Rejection {
    rejection(code::DATA_LOSS, reason, "", 0, message.into())
}

pub fn namespace_not_found(name: &str) -> Rejection {
    let message = format!("there is no namespace {name:?}: create it first, or check the name");
    not_found("NAMESPACE_NOT_FOUND", "namespace", message)
}

pub fn namespace_draining(name: &str) -> Rejection {
    let message = format!("namespace {name:?} is being deleted and takes nothing new: use another");
    precondition("NAMESPACE_DRAINING", "namespace", message)
}

pub fn queue_not_found(name: &str) -> Rejection {
    let message = format!("there is no queue {name:?} in this namespace: a queue is created by its first task");
    not_found("QUEUE_NOT_FOUND", "queue", message)
}

pub fn task_not_found(id: &str) -> Rejection {
    let message = format!("there is no task {id} in this namespace: check the id, or its retention is over");
    not_found("TASK_NOT_FOUND", "task_id", message)
}

pub fn worker_not_found(id: &str) -> Rejection {
    let message = format!("worker {id} is not registered, or its registration expired: register again");
    not_found("WORKER_NOT_FOUND", "worker_id", message)
}

pub fn timer_not_found(id: &str) -> Rejection {
    let message = format!("there is no timer {id} in this namespace: check the id");
    not_found("TIMER_NOT_FOUND", "timer_id", message)
}

pub fn stale_token(what: &str) -> Rejection {
    let message = format!("the token is not the current one of {what}: stop, somebody else may hold it now");
    precondition("STALE_TOKEN", "token", message)
}

pub fn task_ended(id: &str, state: TaskState) -> Rejection {
    let message = format!("task {id} has ended as {}: it cannot be cancelled any more", state_name(state));
    precondition("TASK_ENDED", "task_id", message)
}

pub fn request_id_reused() -> Rejection {
    let message = "this request id was used for another request: give every new request an id of its own";
    exists("REQUEST_ID_REUSED", "request_id", message)
}

pub fn invalid_id(field: &str) -> Rejection {
    invalid("INVALID_ID", field, format!("{field} is not an id as tarn writes them: thirteen digits and letters"))
}

pub fn invalid_page_token() -> Rejection {
    let message = "page_token is not from an earlier answer of this call: start again without it";
    invalid("INVALID_PAGE_TOKEN", "page_token", message)
}

/// The state's name without the enum's prefix.
pub fn state_name(state: TaskState) -> &'static str {
    state.as_str_name().strip_prefix("TASK_STATE_").unwrap_or_default()
}
