//! Filling the indices from the rows when a node starts.
//!
//! Reads what lives: ended tasks, fired timers, requests and events stay on disk, however many there are.

use bytes::Bytes;
use prost::Message;
use tarn_storage::{Engine, Range};

use super::{Facts, Indices, NamespaceIndex, QueueIndex, Wake, access, driver, federation, policy, transfer};
use crate::error::Fatal;
use crate::keys::{Key, first};
use crate::overlay::{Rows, STATE, decode};
use crate::rows::{ContextRow, JoinTokenRow, NamedLeaseRow, NamespaceRow, PassRow, QueueRow, TaskRow, TimerRow, UsageRow, WorkerRow};

/// The indices of this state.
pub fn rebuild(engine: &dyn Engine) -> Result<Indices, Fatal> {
    let mut indices = Indices::default();
    each(engine, first::NAMESPACE, |key, row: NamespaceRow| {
        let Key::Namespace { name } = key else {
            return Err(misplaced(key));
        };
        let ns = row.id;
        let pass: PassRow = engine.row(Key::Pass { ns })?.unwrap_or_default();
        let usage: UsageRow = engine.row(Key::Usage { ns })?.unwrap_or_default();
        let mut index = NamespaceIndex::new(name.into(), row, pass.pass);
        (index.stored_bytes, index.ended) = (usage.stored_bytes, usage.ended);
        indices.insert_namespace(ns, index);
        Ok(())
    })?;
    each(engine, first::QUEUE, |key, row: QueueRow| {
        let Key::Queue { ns, name } = key else {
            return Err(misplaced(key));
        };
        indices.insert_queue(ns, row.id, QueueIndex::new(name.into(), row.used_at_ms))
    })?;
    each(engine, first::WORKER, |key, row: WorkerRow| {
        let Key::Worker { id } = key else {
            return Err(misplaced(key));
        };
        indices.wakes.insert((row.expires_at_ms, Wake::Worker { id }));
        indices.workers.insert(id, row);
        Ok(())
    })?;
    for tasks in [first::LIVE_TASK, first::DEAD_TASK] {
        each(engine, tasks, |key, row: TaskRow| {
            let (Key::LiveTask { ns, id } | Key::DeadTask { ns, id }) = key else {
                return Err(misplaced(key));
            };
            let facts = Facts::of(&row).ok_or_else(|| misplaced(key))?;
            indices.insert_task(ns, id, &facts, &row.class())
        })?;
    }
    edges(engine, &mut indices)?;
    each(engine, first::NAMED_LEASE, |key, row: NamedLeaseRow| {
        let Key::NamedLease { ns, name } = key else {
            return Err(misplaced(key));
        };
        indices.namespace_mut(ns)?.named_leases += 1;
        indices.wakes.insert((row.expires_at_ms, Wake::NamedLease { ns, name: name.into() }));
        Ok(())
    })?;
    each(engine, first::PENDING_TIMER, |key, row: TimerRow| {
        let Key::PendingTimer { ns, id } = key else {
            return Err(misplaced(key));
        };
        indices.namespace_mut(ns)?.pending_timers += 1;
        indices.wakes.insert((row.wake_at_ms, Wake::Timer { ns, id }));
        Ok(())
    })?;
    each(engine, first::JOIN_TOKEN, |key, row: JoinTokenRow| {
        let Key::JoinToken { hash } = key else {
            return Err(misplaced(key));
        };
        indices.wakes.insert((row.expires_at_ms, Wake::JoinToken { hash: Box::new(*hash) }));
        indices.join_tokens.insert(*hash, row);
        Ok(())
    })?;
    each(engine, first::CONTEXT, |key, row: ContextRow| {
        let Key::Context { ns, name } = key else {
            return Err(misplaced(key));
        };
        indices.namespace_mut(ns)?.contexts += 1;
        if row.walked.is_some() {
            indices.walks.insert((ns, name.to_owned()));
        }
        if row.shared {
            indices.federation.shared.insert((ns, name.to_owned()));
        }
        if row.sharing.is_some() {
            indices.federation.sharing.insert((ns, name.to_owned()));
        }
        Ok(())
    })?;
    each_bytes(engine, first::GONE_CONTEXT, |key, _| {
        let Key::GoneContext { context } = key else {
            return Err(misplaced(key));
        };
        indices.gone.insert(context);
        Ok(())
    })?;
    access::fill(engine, &mut indices)?;
    policy::fill(engine, &mut indices)?;
    driver::fill(engine, &mut indices)?;
    federation::fill(engine, &mut indices)?;
    transfer::fill(engine, &mut indices)?;
    indices.chain = engine.row(Key::Chain)?.unwrap_or_default();
    indices.scheduler_settings = engine.row(Key::SchedulerSettings)?.unwrap_or_default();
    indices.audit_settings = engine.row(Key::AuditSettings)?.unwrap_or_default();
    indices.sweeps.ended_tasks = first_expiry(engine, first::ENDED_EXPIRY)?;
    indices.sweeps.fired_timers = first_expiry(engine, first::FIRED_TIMER_EXPIRY)?;
    indices.sweeps.requests = first_expiry(engine, first::REQUEST_EXPIRY)?;
    Ok(indices)
}

fn edges(engine: &dyn Engine, indices: &mut Indices) -> Result<(), Fatal> {
    each_bytes(engine, first::EDGE, |key, value| {
        let Key::Edge { ns, dependency, dependent } = key else {
            return Err(misplaced(key));
        };
        indices.namespace_mut(ns)?.edges += 1;
        match value.is_empty() {
            true => indices.edges.wait(dependency, dependent),
            false => indices.edges.settle(dependency, dependent),
        };
        Ok(())
    })?;
    each_bytes(engine, first::SETTLING, |key, value| {
        let Key::Settling { ns, id } = key else {
            return Err(misplaced(key));
        };
        indices.settling.insert((ns, id), value.first() == Some(&1));
        Ok(())
    })
}

/// The time in the first key of this kind.
fn first_expiry(engine: &dyn Engine, kind: u8) -> Result<Option<u64>, Fatal> {
    let Some(entry) = engine.scan(STATE, Range::prefix(&[kind])).next() else {
        return Ok(None);
    };
    let (key, _) = entry?;
    match Key::decode(&key) {
        Some(Key::EndedExpiry { at, .. } | Key::FiredTimerExpiry { at, .. } | Key::RequestExpiry { at, .. }) => Ok(Some(at)),
        _ => Err(Fatal::assertion(format!("the key {key:02x?} cannot be decoded"))),
    }
}

pub(super) fn each<R: Message + Default>(
    engine: &dyn Engine,
    kind: u8,
    mut see: impl FnMut(Key<'_>, R) -> Result<(), Fatal>,
) -> Result<(), Fatal> {
    each_bytes(engine, kind, |key, value| see(key, decode(&key, &value)?))
}

pub(super) fn each_bytes(engine: &dyn Engine, kind: u8, mut see: impl FnMut(Key<'_>, Bytes) -> Result<(), Fatal>) -> Result<(), Fatal> {
    for entry in engine.scan(STATE, Range::prefix(&[kind])) {
        let (key, value) = entry?;
        let decoded = Key::decode(&key).ok_or_else(|| Fatal::assertion(format!("the key {key:02x?} cannot be decoded")))?;
        see(decoded, value.into())?;
    }
    Ok(())
}

pub(super) fn misplaced(key: Key<'_>) -> Fatal {
    Fatal::assertion(format!("the row under {key:?} does not belong there"))
}
