//! Reads of tasks.

use bytes::Bytes;
use prost::Message as _;
use tarn_proto::v1::{
    Attempt, AttemptLog, GetTaskLogsRequest, GetTaskLogsResponse, GetTaskRequest, GetTaskResponse, ListTasksRequest, ListTasksResponse,
    Task, TaskState,
};
use tarn_storage::{Engine, Range};

use super::{PAGE_BYTES_MAX, PAGE_ROWS_MAX, page_size, page_start};
use crate::domain::parse_id;
use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::keys::{Key, first, prefix};
use crate::overlay::{STATE, decode};
use crate::rows::{AttemptRow, TaskRow};
use crate::task::{find, result, specification, waits_for};
use crate::{Machine, check, reject};

impl Machine {
    /// One task, with payload and result unless `omit_bytes`.
    ///
    /// # Errors
    ///
    /// `INVALID_ID`, `NAMESPACE_NOT_FOUND`, `TASK_NOT_FOUND`.
    pub fn get_task(&self, request: &GetTaskRequest) -> Result<GetTaskResponse, Refusal> {
        let ns = self.namespace(&request.namespace)?;
        let id = parse_id(&request.task_id, "task_id")?;
        let row = find(&self.rows(), ns, id)?.ok_or_else(|| reject::task_not_found(&request.task_id))?;
        let task = self.task(&request.namespace, ns, id, row, !request.omit_bytes)?;
        Ok(GetTaskResponse { task: Some(task), revision: self.applied_index() })
    }

    /// A page of tasks, oldest first, without payloads and results. A page of a filtered list can be short, or even empty, and still name a
    /// next one.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`, `INVALID_NAME`, `INVALID_PAGE_TOKEN`. A queue without tasks is no error: it may be gone, and its ended tasks not.
    pub fn list_tasks(&self, request: &ListTasksRequest) -> Result<ListTasksResponse, Refusal> {
        let ns = self.namespace(&request.namespace)?;
        let after = page_start(&request.page_token)?;
        if !request.queue.is_empty() {
            check::name("queue", &request.queue)?;
        }
        let states: Vec<TaskState> = request.states().collect();
        let size = page_size(request.page_size);
        let mut answer = ListTasksResponse { revision: self.applied_index(), ..ListTasksResponse::default() };
        let mut bytes = 0;
        for (seen, entry) in self.all_tasks(ns, after).enumerate() {
            let (id, row) = entry?;
            let wanted = states.is_empty() || states.contains(&row.state());
            if wanted {
                let task = self.task(&request.namespace, ns, id, row, false)?;
                let queue = task.spec.as_ref().map_or("", |spec| &spec.queue);
                if request.queue.is_empty() || request.queue == queue {
                    bytes += task.encoded_len();
                    answer.tasks.push(task);
                }
            }
            if answer.tasks.len() == size || seen + 1 == PAGE_ROWS_MAX || bytes >= PAGE_BYTES_MAX {
                answer.next_page_token = Id(id).to_string();
                break;
            }
        }
        Ok(answer)
    }

    /// What the attempts of a task wrote to their logs, oldest first.
    ///
    /// # Errors
    ///
    /// `INVALID_ID`, `NAMESPACE_NOT_FOUND`, `TASK_NOT_FOUND`.
    pub fn task_logs(&self, request: &GetTaskLogsRequest) -> Result<GetTaskLogsResponse, Refusal> {
        let ns = self.namespace(&request.namespace)?;
        let id = parse_id(&request.task_id, "task_id")?;
        find(&self.rows(), ns, id)?.ok_or_else(|| reject::task_not_found(&request.task_id))?;
        let mut logs = Vec::new();
        for entry in self.engine.scan(STATE, Range::prefix(&prefix(first::LOG, &[ns, id]))) {
            let (key, text) = entry?;
            if let Some(Key::Log { attempt, .. }) = Key::decode(&key) {
                logs.push(AttemptLog { attempt: attempt as u32, text: text.into() });
            }
        }
        Ok(GetTaskLogsResponse { logs })
    }

    pub(super) fn rows(&self) -> &dyn Engine {
        &*self.engine
    }

    /// All tasks of a namespace after an id, in the order of their ids: live, dead and ended ones merged.
    fn all_tasks(&self, ns: u64, after: u64) -> impl Iterator<Item = Result<(u64, TaskRow), Fatal>> {
        let mut sources: Vec<_> = [first::LIVE_TASK, first::DEAD_TASK, first::ENDED_TASK]
            .into_iter()
            .map(|kind| self.tasks_in(kind, ns, after).peekable())
            .collect();
        std::iter::from_fn(move || {
            let mut next: Option<(u64, usize)> = None;
            for (number, source) in sources.iter_mut().enumerate() {
                let place = match source.peek() {
                    None => continue,
                    Some(Err(_)) => 0,
                    Some(Ok((id, _))) => *id,
                };
                next = Some(next.map_or((place, number), |known| known.min((place, number))));
            }
            sources[next?.1].next()
        })
    }

    fn tasks_in(&self, kind: u8, ns: u64, after: u64) -> impl Iterator<Item = Result<(u64, TaskRow), Fatal>> {
        let (start, end) = (prefix(kind, &[ns, after.saturating_add(1)]), prefix(kind, &[ns + 1]));
        let rows = self.engine.scan(STATE, Range::between(&start, &end));
        rows.map(|entry| {
            let (key, row) = entry?;
            match Key::decode(&key) {
                Some(key @ (Key::LiveTask { id, .. } | Key::DeadTask { id, .. } | Key::EndedTask { id, .. })) => {
                    Ok((id, decode(&key, &row)?))
                }
                _ => Err(Fatal::assertion("a key of a task cannot be decoded")),
            }
        })
    }

    fn task(&self, namespace: &str, ns: u64, id: u64, row: TaskRow, with_bytes: bool) -> Result<Task, Fatal> {
        let spec = specification(&self.rows(), ns, id, with_bytes)?;
        Ok(Task {
            namespace: namespace.to_owned(),
            task_id: Id(id).to_string(),
            state: row.state,
            created_at_ms: row.created_at_ms,
            eligible_at_ms: row.eligible_at_ms,
            ended_at_ms: row.ended_at_ms,
            attempts_begun: row.attempts_begun,
            worker: worker(row.worker),
            token: row.token,
            lease_expires_at_ms: row.lease_expires_at_ms,
            cancel_requested: row.cancel_requested,
            progress: row.progress.clone(),
            placed_worker: worker(row.placed_worker),
            placed_runtime: match row.placed_worker {
                0 => String::new(),
                _ => row.class().runtime,
            },
            result: if with_bytes { result(&self.rows(), ns, id, &row)? } else { Bytes::new() },
            error: row.error,
            attempts: row.attempts.into_iter().map(attempt).collect(),
            waits_for: waits_for(&self.ix, &spec.dependencies, id),
            dependencies: spec.dependencies.into_iter().map(|id| Id(id).to_string()).collect(),
            spec: spec.spec.map(|spec| *spec),
        })
    }
}

fn attempt(row: AttemptRow) -> Attempt {
    Attempt {
        number: row.number,
        worker: worker(row.worker),
        token: row.token,
        started_at_ms: row.started_at_ms,
        ended_at_ms: row.ended_at_ms,
        error: row.error,
    }
}

fn worker(id: u64) -> String {
    if id == 0 { String::new() } else { Id(id).to_string() }
}
