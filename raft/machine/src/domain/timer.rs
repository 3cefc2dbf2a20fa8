//! Timers: at a time, enqueue a task or mark an event. Firing happens when time passes, inside `apply`.

use bytes::Bytes;
use tarn_invariants::{debug_holds, timers};
use tarn_proto::v1::{
    CancelTimerRequest, CancelTimerResponse, DecisionKind, EventKind, ScheduleTimerRequest, ScheduleTimerResponse, Timer, TimerState,
    timer_action,
};

use super::parse_id;
use super::queue::admit::{self, Dangling};
use super::quota;
use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::index::Wake;
use crate::keys::Key;
use crate::limits;
use crate::overlay::Rows;
use crate::reject;
use crate::rows::{DecisionRow, TimerRow};
use crate::txn::Txn;

/// The command: schedules a timer. One whose time has passed fires with the next entry.
pub fn schedule_timer(txn: &mut Txn<'_>, request: ScheduleTimerRequest) -> Result<ScheduleTimerResponse, Refusal> {
    let ns = txn.open_namespace(&request.namespace)?;
    let bytes = quota::of_action(request.action.as_deref());
    quota::room_for_bytes(txn, ns, bytes)?;
    if txn.ix.namespace(ns)?.pending_timers >= limits::TIMERS_MAX {
        let message = "this namespace has too many pending timers: cancel some, or wait until some have fired";
        return Err(reject::full("TOO_MANY_TIMERS", "namespace", limits::TIMERS_MAX, message).into());
    }
    let due_at_ms = match request.delay_ms {
        0 => request.due_at_ms,
        delay => txn.now + delay,
    };
    let id = txn.next_id();
    let row = TimerRow {
        due_at_ms,
        wake_at_ms: due_at_ms,
        action: request.action.map(|action| *action),
        stored_bytes: if txn.meta.version >= quota::SINCE { bytes } else { 0 },
        ..TimerRow::default()
    };
    quota::replace(txn, ns, 0, row.stored_bytes);
    txn.ix.namespace_mut(ns)?.pending_timers += 1;
    txn.ix.wakes.insert(wake(ns, id, &row));
    txn.rows.put(Key::PendingTimer { ns, id }, &row);
    tell(txn, EventKind::TimerScheduled, &request.namespace, id, "");
    Ok(ScheduleTimerResponse { timer_id: Id(id).to_string(), due_at_ms })
}

/// The command: cancels a timer that has not fired.
pub fn cancel_timer(txn: &mut Txn<'_>, request: CancelTimerRequest) -> Result<CancelTimerResponse, Refusal> {
    let ns = txn.namespace(&request.namespace)?;
    let id = parse_id(&request.timer_id, "timer_id")?;
    let Some(row) = txn.rows.row(Key::PendingTimer { ns, id })? else {
        return Err(match txn.rows.bytes(Key::FiredTimer { ns, id })? {
            Some(_) => reject::precondition("TIMER_FIRED", "timer_id", "the timer has fired: cancel the task that it enqueued, if any"),
            None => reject::timer_not_found(&request.timer_id),
        }
        .into());
    };
    discard(txn, ns, id, &row)?;
    Ok(CancelTimerResponse {})
}

/// The timer will never fire.
pub fn discard(txn: &mut Txn<'_>, ns: u64, id: u64, row: &TimerRow) -> Result<(), Fatal> {
    remove_pending(txn, ns, id, row)?;
    let namespace = txn.namespace_name(ns)?;
    tell(txn, EventKind::TimerCancelled, &namespace, id, "");
    Ok(())
}

/// The timer's time has come.
pub fn fire(txn: &mut Txn<'_>, ns: u64, id: u64) -> Result<(), Fatal> {
    let Some(mut row) = txn.rows.row::<TimerRow>(Key::PendingTimer { ns, id })? else {
        return Err(Fatal::assertion(format!("an index has timer {}, which does not exist", Id(id))));
    };
    debug_holds!(timers::never_early(&Id(id).to_string(), row.due_at_ms, txn.now));
    let namespace = txn.namespace_name(ns)?;
    match row.action.clone().and_then(|action| action.action) {
        Some(timer_action::Action::Enqueue(spec)) => match admit::admit(txn, ns, vec![spec], Dangling::Fail, row.stored_bytes) {
            Ok(ids) => {
                row.task = ids.first().copied().unwrap_or(0);
                tell(txn, EventKind::TimerFired, &namespace, id, &Id(row.task).to_string());
                txn.decide(DecisionRow {
                    kind: DecisionKind::Admitted.into(),
                    namespace: namespace.clone(),
                    action: "FireTimer".to_owned(),
                    resource: format!("timer/{}", Id(id)),
                    task: row.task,
                    ..DecisionRow::default()
                });
            }
            Err(Refusal::Rejected(_)) => return postpone(txn, ns, id, row),
            Err(Refusal::Fatal(fatal)) => return Err(fatal),
        },
        Some(timer_action::Action::Mark(text)) => tell(txn, EventKind::TimerFired, &namespace, id, &text),
        None => tell(txn, EventKind::TimerFired, &namespace, id, ""),
    }
    remove_pending(txn, ns, id, &row)?;
    row.fired_at_ms = txn.now;
    row.stored_bytes = 0;
    if let Some(timer_action::Action::Enqueue(spec)) = row.action.as_mut().and_then(|action| action.action.as_mut()) {
        // The task has it now.
        spec.payload = Bytes::new();
    }
    txn.rows.put(Key::FiredTimer { ns, id }, &row);
    let at = txn.now + limits::FIRED_TIMER_KEPT_MS;
    txn.rows.put_bytes(Key::FiredTimerExpiry { at, ns, id }, []);
    let sweep = &mut txn.ix.sweeps.fired_timers;
    *sweep = Some(sweep.map_or(at, |known| known.min(at)));
    Ok(())
}

/// There is no room for the task: the timer stays pending and tries again, so that nothing is lost.
fn postpone(txn: &mut Txn<'_>, ns: u64, id: u64, mut row: TimerRow) -> Result<(), Fatal> {
    txn.ix.wakes.remove(&wake(ns, id, &row));
    row.wake_at_ms = txn.now + limits::TIMER_RETRY_MS;
    txn.ix.wakes.insert(wake(ns, id, &row));
    txn.rows.put(Key::PendingTimer { ns, id }, &row);
    Ok(())
}

/// The timer as clients see it.
pub fn message(namespace: &str, id: u64, row: TimerRow) -> Timer {
    let state = if row.fired_at_ms == 0 { TimerState::Pending } else { TimerState::Fired };
    Timer {
        namespace: namespace.to_owned(),
        timer_id: Id(id).to_string(),
        due_at_ms: row.due_at_ms,
        state: state.into(),
        fired_at_ms: row.fired_at_ms,
        task_id: if row.task == 0 { String::new() } else { Id(row.task).to_string() },
        action: row.action,
    }
}

fn remove_pending(txn: &mut Txn<'_>, ns: u64, id: u64, row: &TimerRow) -> Result<(), Fatal> {
    txn.ix.namespace_mut(ns)?.pending_timers -= 1;
    quota::replace(txn, ns, row.stored_bytes, 0);
    txn.ix.wakes.remove(&wake(ns, id, row));
    txn.rows.delete(Key::PendingTimer { ns, id });
    Ok(())
}

fn wake(ns: u64, id: u64, row: &TimerRow) -> (u64, Wake) {
    (row.wake_at_ms, Wake::Timer { ns, id })
}

fn tell(txn: &mut Txn<'_>, kind: EventKind, namespace: &str, id: u64, detail: &str) {
    let event = txn.event(kind, Id(id).to_string());
    event.namespace = namespace.to_owned();
    event.detail = detail.to_owned();
}
