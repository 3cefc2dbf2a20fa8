//! A task as commands handle it: loaded, changed, saved.
//!
//! [`Task::save`] is the one place where a task moves: between the prefixes of live, dead and ended tasks, and through the indices.

pub mod backoff;
pub mod end;
pub mod recent;
pub mod spec;

use bytes::Bytes;
use tarn_proto::v1::{EventKind, TaskError, TaskState};

use crate::domain::quota;
use crate::error::Fatal;
use crate::ids::Id;
use crate::index::{Facts, Indices};
use crate::keys::Key;
use crate::overlay::Rows;
use crate::rows::{Class, SpecRow, TaskRow};
use crate::txn::Txn;

/// A task and where the indices have it.
pub struct Task {
    pub ns: u64,
    pub id: u64,
    pub row: TaskRow,
    /// The facts that the indices hold; `None` if they hold none.
    was: Option<Facts>,
    /// The state in which the row was loaded; `None` if the task is new.
    was_in: Option<TaskState>,
    /// The class that the indices have it in, if it has another by now.
    was_of: Option<Class>,
    /// What it counted with then.
    was_stored: u64,
}

/// The key under which a task in this state lies.
pub fn key(ns: u64, id: u64, state: TaskState) -> Key<'static> {
    match state {
        TaskState::Dead => Key::DeadTask { ns, id },
        TaskState::Succeeded | TaskState::Cancelled => Key::EndedTask { ns, id },
        TaskState::Unspecified | TaskState::Blocked | TaskState::Delayed | TaskState::Ready | TaskState::Running => {
            Key::LiveTask { ns, id }
        }
    }
}

/// Reads a task's row wherever it lies.
pub fn find(rows: &impl Rows, ns: u64, id: u64) -> Result<Option<TaskRow>, Fatal> {
    for key in [Key::LiveTask { ns, id }, Key::EndedTask { ns, id }, Key::DeadTask { ns, id }] {
        if let Some(row) = rows.row(key)? {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// Reads what never changes of a task, with its payload if `with_payload`.
pub fn specification(rows: &impl Rows, ns: u64, id: u64, with_payload: bool) -> Result<SpecRow, Fatal> {
    let missing = || Fatal::assertion(format!("task {} has lost its specification", Id(id)));
    let mut row: SpecRow = rows.row(Key::Spec { ns, id })?.ok_or_else(missing)?;
    let spec = row.spec.as_mut().ok_or_else(missing)?;
    if !with_payload {
        spec.payload = Bytes::new();
    } else if row.payload_apart {
        spec.payload = rows.bytes(Key::Payload { ns, id })?.ok_or_else(missing)?;
    }
    Ok(row)
}

/// The same with its payload, for whoever leases the task, which happens once in most tasks' lives.
pub fn take_specification(txn: &mut Txn<'_>, ns: u64, id: u64) -> Result<SpecRow, Fatal> {
    let Some(known) = txn.recent.take_spec(ns, id) else {
        return specification(&txn.rows, ns, id, true);
    };
    if cfg!(debug_assertions) && known != specification(&txn.rows, ns, id, true)? {
        return Err(misremembered(id));
    }
    Ok(known)
}

fn misremembered(id: u64) -> Fatal {
    Fatal::assertion(format!("task {} is not what it is remembered to be", Id(id)))
}

impl Task {
    /// A task that does not exist yet; [`Task::save`] makes it.
    pub fn new(ns: u64, id: u64, row: TaskRow) -> Self {
        Task { ns, id, row, was: None, was_in: None, was_of: None, was_stored: 0 }
    }

    /// The task with this id, in whatever state.
    pub fn load(txn: &Txn<'_>, ns: u64, id: u64) -> Result<Option<Self>, Fatal> {
        if let Some(row) = Task::recent(txn, ns, id)? {
            return Ok(Some(Task::from_row(ns, id, row)));
        }
        Ok(find(&txn.rows, ns, id)?.map(|row| Task::from_row(ns, id, row)))
    }

    /// The row of an unended task, if it need not be read.
    fn recent(txn: &Txn<'_>, ns: u64, id: u64) -> Result<Option<TaskRow>, Fatal> {
        let known = txn.recent.row(ns, id);
        if cfg!(debug_assertions) && known.is_some() && known != txn.rows.row(Key::LiveTask { ns, id })?.as_ref() {
            return Err(misremembered(id));
        }
        Ok(known.cloned())
    }

    /// A task that an index names: it exists, and in this state.
    pub fn indexed(txn: &Txn<'_>, ns: u64, id: u64, state: TaskState) -> Result<Self, Fatal> {
        let row = match Task::recent(txn, ns, id)? {
            None => txn.rows.row(key(ns, id, state))?,
            known => known,
        };
        let row = row.filter(|row| row.state() == state);
        let row = row.ok_or_else(|| Fatal::assertion(format!("an index has task {} in a state it is not in", Id(id))))?;
        Ok(Task::from_row(ns, id, row))
    }

    fn from_row(ns: u64, id: u64, row: TaskRow) -> Self {
        let (was, was_in, was_stored) = (Facts::of(&row), Some(row.state()), row.stored_bytes);
        Task { ns, id, row, was, was_in, was_of: None, was_stored }
    }

    /// Writes the row and brings the indices up to date.
    pub fn save(&mut self, txn: &mut Txn<'_>) -> Result<(), Fatal> {
        let (ns, id, state) = (self.ns, self.id, self.row.state());
        self.count(txn)?;
        if let Some(was_in) = self.was_in.filter(|was_in| key(ns, id, *was_in) != key(ns, id, state)) {
            txn.rows.delete(key(ns, id, was_in));
        }
        txn.rows.put(key(ns, id, state), &self.row);
        match state {
            TaskState::Dead | TaskState::Succeeded | TaskState::Cancelled => txn.recent.forget(id),
            _ => txn.recent.keep_row(ns, id, &self.row),
        }
        let is = Facts::of(&self.row);
        let was_of = self.was_of.take();
        if is != self.was || was_of.is_some() {
            let class = self.row.class.get_or_insert_default();
            if let Some(was) = self.was {
                txn.ix.remove_task(ns, id, &was, was_of.as_ref().unwrap_or(class))?;
            }
            if let Some(is) = is {
                txn.ix.insert_task(ns, id, &is, class)?;
            }
        }
        if state == TaskState::Ready && (self.was_in != Some(TaskState::Ready) || was_of.is_some()) {
            self.tell_ready(txn)?;
        }
        if self.was_in == Some(TaskState::Running) && state != TaskState::Running {
            let namespace = txn.ix.namespace(ns)?;
            if namespace.ready > 0 && namespace.running + 1 == namespace.row.max_running {
                txn.freed.insert(ns);
            }
        }
        self.was = is;
        self.was_in = Some(state);
        Ok(())
    }

    /// Brings the namespace's use up to date with the row.
    fn count(&mut self, txn: &mut Txn<'_>) -> Result<(), Fatal> {
        if txn.meta.version < quota::SINCE {
            return Ok(());
        }
        if self.row.stored_bytes == 0 {
            self.row.stored_bytes = quota::measure(txn, self.ns, self.id, &self.row)?;
        }
        let kept = |state| matches!(state, TaskState::Succeeded | TaskState::Cancelled);
        if kept(self.row.state()) && !self.was_in.is_some_and(kept) {
            quota::ended(txn, self.ns, true);
        }
        quota::replace(txn, self.ns, self.was_stored, self.row.stored_bytes);
        self.was_stored = self.row.stored_bytes;
        Ok(())
    }

    /// Notes that so many bytes are stored with it from now on, and so many no more. A task that is not counted yet is measured when it is
    /// saved.
    pub fn store(&mut self, more: usize, less: usize) {
        if self.row.stored_bytes != 0 {
            self.row.stored_bytes = (self.row.stored_bytes + more as u64).saturating_sub(less as u64);
        }
    }

    /// Deletes everything about the task, which has not ended or is dead.
    pub fn delete(mut self, txn: &mut Txn<'_>) -> Result<(), Fatal> {
        let (ns, id) = (self.ns, self.id);
        txn.recent.forget(id);
        if let Some(was) = self.was.take() {
            let class = self.row.class.get_or_insert_default();
            txn.ix.remove_task(ns, id, &was, self.was_of.as_ref().unwrap_or(class))?;
        }
        if let Some(was_in) = self.was_in {
            txn.rows.delete(key(ns, id, was_in));
        }
        quota::replace(txn, ns, self.was_stored, 0);
        delete_rows(txn, ns, id, &self.row)
    }

    /// Moves the task to another class, once it is saved.
    pub fn reclass(&mut self, class: Class) {
        let before = self.row.class.replace(class).unwrap_or_default();
        self.was_of.get_or_insert(before);
    }

    /// Tells an event about this task, and about its attempt if one runs.
    pub fn event(&self, txn: &mut Txn<'_>, kind: EventKind, detail: &str) -> Result<(), Fatal> {
        let namespace = txn.namespace_name(self.ns)?;
        let queue = txn.ix.queue(self.ns, self.row.queue)?.name.to_string();
        let running = self.row.attempts.last().filter(|_| self.row.token != 0);
        let event = txn.event(kind, Id(self.id).text());
        event.namespace = namespace;
        event.queue = queue;
        event.detail = detail.to_owned();
        if let Some(attempt) = running {
            event.worker = Id(attempt.worker).text();
            event.attempt = attempt.number;
        }
        Ok(())
    }

    /// Ends the present attempt, if there is one; gives its token, which is stale from here on, or 0.
    pub fn stop_running(&mut self) -> u64 {
        self.row.worker = 0;
        self.row.lease_expires_at_ms = 0;
        self.row.lease_asked_ms = 0;
        self.row.attempt_ends_at_ms = 0;
        std::mem::take(&mut self.row.token)
    }

    /// Makes a waiting task ready, or delayed if it may not start yet. The caller saves it.
    pub fn release(&mut self, now: u64) {
        let delayed = self.row.not_before_at_ms > now;
        self.row.eligible_at_ms = if delayed { self.row.not_before_at_ms } else { now };
        self.row.set_state(if delayed { TaskState::Delayed } else { TaskState::Ready });
    }

    fn tell_ready(&self, txn: &mut Txn<'_>) -> Result<(), Fatal> {
        let class = self.row.class();
        let queue = txn.ix.queue(self.ns, self.row.queue)?;
        if let Some((class, _)) = queue.groups.get_key_value(&class) {
            txn.became_ready.insert((self.ns, self.row.queue, class.clone()));
        }
        match self.was_in {
            Some(TaskState::Blocked | TaskState::Delayed) => self.event(txn, EventKind::TaskReady, ""),
            _ => Ok(()),
        }
    }
}

/// Deletes what lies beside a task's own row.
pub fn delete_rows(txn: &mut Txn<'_>, ns: u64, id: u64, row: &TaskRow) -> Result<(), Fatal> {
    let spec = specification(&txn.rows, ns, id, false)?;
    txn.rows.delete(Key::Spec { ns, id });
    if spec.payload_apart {
        txn.rows.delete(Key::Payload { ns, id });
    }
    if row.result_apart {
        txn.rows.delete(Key::Result { ns, id });
    }
    delete_logs(txn, ns, id, row.last_log);
    Ok(())
}

/// Deletes the logs of attempts up to this number.
pub fn delete_logs(txn: &mut Txn<'_>, ns: u64, id: u64, last: u32) {
    for attempt in logs_kept(last) {
        txn.rows.delete(Key::Log { ns, id, attempt });
    }
}

/// The attempts of which a log may be kept where this is the last that left one.
pub fn logs_kept(last: u32) -> impl Iterator<Item = u64> {
    let kept = crate::limits::ATTEMPTS_KEPT as u32;
    (last.saturating_sub(kept) + 1..=last).map(u64::from)
}

/// A failure that the kernel itself reports.
pub fn error(reason: &str, message: &str) -> TaskError {
    TaskError { reason: reason.to_owned(), message: message.to_owned() }
}

/// The result of an ended task.
pub fn result(rows: &impl Rows, ns: u64, id: u64, row: &TaskRow) -> Result<Bytes, Fatal> {
    match row.result_apart {
        true => Ok(rows.bytes(Key::Result { ns, id })?.unwrap_or_default()),
        false => Ok(row.result.clone()),
    }
}

/// Dependencies that a task still waits for, in order.
pub fn waits_for(ix: &Indices, dependencies: &[u64], id: u64) -> Vec<String> {
    dependencies.iter().filter(|dep| ix.edges.is_waiting(**dep, id)).map(|dep| Id(*dep).text()).collect()
}
