//! Timers that enqueue tasks or leave marks, some of which are cancelled, often just when they are due.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use futures::TryStreamExt;
use rand::Rng;
use serde_json::{Value, json};
use tarn_client::proto::timer_action::Action;
use tarn_client::{Client, Error, When, proto};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::hands::Book;
use super::outcome::settle;
use super::pace::{Pace, deadline};
use super::queue::{begin_watching, drain_tasks, finish_watching, hand, keep_watching};
use super::submit::{name_of, task_of};
use super::watcher::Recording;
use super::{Scene, Workload};
use crate::checker::timers::{CANCEL, Plan, SCHEDULE, Scheduled, TIMER, TimerAtEnd, item, punctual};
use crate::checker::{Verdict, tasks};
use crate::history::{Event, Process, Recorder};

/// Timers a second of each client.
const RATE: f64 = 4.0;
/// The longest delay, in milliseconds.
const DELAY_MAX_MS: u64 = 6_000;
/// How long after healing timers may be overdue.
const DRAIN_WITHIN: Duration = Duration::from_secs(120);

/// The workload.
#[derive(Default)]
pub struct Timers {
    book: Arc<Book>,
    watcher: Mutex<Option<Recording>>,
}

#[async_trait]
impl Workload for Timers {
    fn name(&self) -> &'static str {
        "timers"
    }

    async fn setup(&self, scene: &Scene) -> Result<()> {
        begin_watching(scene, &self.watcher).await
    }

    async fn work(&self, process: u32, scene: &Scene) -> Result<()> {
        match process {
            0 => {
                let (scheduled, ()) = tokio::join!(schedule(process, scene), keep_watching(scene, &self.watcher));
                scheduled
            }
            _ if process % 4 == 1 => hand(scene, process, &self.book)?.run_sdk(&scene.stop).await,
            _ => schedule(process, scene).await,
        }
    }

    async fn drain(&self, scene: &Scene) -> Result<()> {
        let client = scene.clients.all()?;
        let fired = wait_until_fired(&client).await;
        let drained = drain_tasks(scene, &self.book).await;
        for timer in listed(&client).await? {
            scene.recorder.info(TIMER, json!(at_end(timer)));
        }
        fired.and(drained)?;
        finish_watching(scene, &self.watcher).await
    }

    fn check(&self, history: &[Event]) -> Verdict {
        let mut checks = punctual(history);
        checks.extend(tasks::ended_once(history));
        Verdict::of(checks)
    }
}

async fn schedule(process: u32, scene: &Scene) -> Result<()> {
    let (client, node) = scene.clients.client(process)?;
    let scheduler = Scheduler {
        client: client.with_deadline(deadline(process)),
        recorder: scene.recorder.with_deadline(deadline(process)),
        process: Process::Client(process),
        node,
    };
    let mut pace = Pace::new(scene, process, RATE);
    // Timers that will be cancelled, and when.
    let mut doomed: Vec<(Instant, String)> = Vec::new();
    let mut number = 0;
    while pace.next().await {
        while let Some(at) = doomed.iter().position(|(when, _)| *when <= Instant::now()) {
            let (_, id) = doomed.swap_remove(at);
            scheduler.cancel(&id).await;
        }
        number += 1;
        let plan = Plan { name: format!("p{process}-{number}"), delay_ms: pace.rng.random_range(1..DELAY_MAX_MS), task: pace.chance(0.5) };
        let delay = Duration::from_millis(plan.delay_ms);
        if let Ok(id) = scheduler.schedule(plan).await
            && pace.chance(0.3)
        {
            // About when it is due, so that the two race.
            let when = delay.mul_f64(if pace.chance(0.5) { 1.0 } else { pace.rng.random_range(0.0..1.0) });
            doomed.push((Instant::now() + when, id));
        }
    }
    Ok(())
}

struct Scheduler {
    client: Client,
    recorder: Recorder,
    process: Process,
    node: Option<u64>,
}

impl Scheduler {
    async fn schedule(&self, plan: Plan) -> Result<String, Error> {
        let pending = self.recorder.invoke_at(self.process, SCHEDULE, None, json!(plan), self.node);
        let when = When::After(Duration::from_millis(plan.delay_ms));
        let result = match plan.task {
            true => self.client.schedule_task(when, task_of(&item(&plan))).await,
            false => self.client.schedule_mark(when, plan.name.clone()).await,
        };
        settle(pending, &result, |timer| json!(Scheduled { id: timer.timer_id.clone(), due_at_ms: timer.due_at_ms }));
        Ok(result?.timer_id)
    }

    async fn cancel(&self, id: &str) {
        let pending = self.recorder.invoke_at(self.process, CANCEL, None, json!(id), self.node);
        let result = self.client.cancel_timer(id).await;
        settle(pending, &result, |()| Value::Null);
    }
}

async fn listed(client: &Client) -> Result<Vec<proto::Timer>, Error> {
    client.list_timers().try_collect().await
}

/// Waits until no timer is pending: none is due later than the longest delay after the last was scheduled.
async fn wait_until_fired(client: &Client) -> Result<()> {
    let end = Instant::now() + DRAIN_WITHIN;
    loop {
        let pending = match listed(client).await {
            Ok(timers) => timers.iter().filter(|timer| timer.state() == proto::TimerState::Pending).count(),
            Err(_) => usize::MAX,
        };
        if pending == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{pending} timers have not fired within {DRAIN_WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn at_end(timer: proto::Timer) -> TimerAtEnd {
    let name = match timer.action.and_then(|action| action.action) {
        Some(Action::Enqueue(spec)) => name_of(&spec),
        Some(Action::Mark(text)) => text,
        None => String::new(),
    };
    TimerAtEnd { id: timer.timer_id, name, due_at_ms: timer.due_at_ms, fired_at_ms: timer.fired_at_ms, task: timer.task_id }
}
