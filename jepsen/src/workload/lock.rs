//! Mutual exclusion through locks: workers write to a store outside of the cluster under the protection of a lock and its fencing token.
//!
//! Half of the clients hold the SDK's lock, which renews itself; the others take, renew and release by single calls. Now and then a holder
//! stalls for longer than its lease and writes then: the store must refuse that write once a newer token has written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use rand::Rng;
use serde_json::{Value, json};
use tarn_client::Client;
use tokio::time::Instant;

use super::outcome::settle;
use super::pace::{Pace, deadline};
use super::register::{asked, shown};
use super::{Scene, Workload};
use crate::checker::Verdict;
use crate::checker::fencing::{TOLD, WRITE, Write, excluded};
use crate::checker::register::{ACQUIRE, Ask, Held, RELEASE, RENEW};
use crate::history::{Event, Process, Recorder};

/// Few, so that clients wait for each other.
const LOCKS: u32 = 2;
/// The lease's length: short, so that pauses of nodes and clients outlast it.
const TTL: Duration = Duration::from_secs(2);
/// Turns a second of each client.
const RATE: f64 = 3.0;
/// How long the locks may stay unavailable after healing.
const DRAIN_WITHIN: Duration = Duration::from_secs(60);
/// How long each call may take then.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// How long the SDK's lock waits for another's to end.
const WAIT: Duration = Duration::from_secs(2);
/// How many holders with single calls walk away without releasing.
const WALKS_AWAY: f64 = 0.1;

/// The workload.
#[derive(Default)]
pub struct Locks {
    store: Arc<Store>,
}

/// The store that the locks protect: it takes a write only if its token is not older than the newest that it has seen.
#[derive(Default)]
struct Store {
    newest: Mutex<HashMap<String, u64>>,
}

impl Store {
    /// Writes, and records whether the store took it, in the order of the store.
    fn write(&self, recorder: &Recorder, process: u32, lock: &str, holder: &str, token: u64) -> bool {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = newest.entry(lock.to_owned()).or_default();
        let taken = token >= *known;
        *known = token.max(*known);
        let write = Write { token, holder: holder.to_owned(), taken };
        recorder.info_by(Process::Client(process), WRITE, Some(lock), json!(write));
        taken
    }
}

#[async_trait]
impl Workload for Locks {
    fn name(&self) -> &'static str {
        "lock"
    }

    async fn setup(&self, scene: &Scene) -> Result<()> {
        scene.clients.all()?.cluster().await.context("the cluster does not answer").map(drop)
    }

    async fn work(&self, process: u32, scene: &Scene) -> Result<()> {
        let (client, node) = scene.clients.client(process)?;
        let holder = Holder {
            client: client.with_deadline(deadline(process)),
            recorder: scene.recorder.with_deadline(deadline(process)),
            store: self.store.clone(),
            process,
            node,
        };
        let mut pace = Pace::new(scene, process, RATE);
        let mut turn = 0;
        while pace.next().await {
            turn += 1;
            let lock = format!("lock-{}", pace.rng.random_range(0..LOCKS));
            let name = format!("p{process}-{turn}");
            match process % 2 {
                0 => holder.by_calls(&lock, &name, &mut pace).await,
                _ => holder.by_lock(&lock, &name, &mut pace).await,
            }
        }
        Ok(())
    }

    async fn drain(&self, scene: &Scene) -> Result<()> {
        let holder = Holder {
            client: scene.clients.all()?.with_deadline(DRAIN_DEADLINE),
            recorder: scene.recorder.with_deadline(DRAIN_DEADLINE),
            store: self.store.clone(),
            process: u32::MAX,
            node: None,
        };
        let end = Instant::now() + DRAIN_WITHIN;
        for lock in 0..LOCKS {
            let lock = format!("lock-{lock}");
            // A holder that vanished with its answer lost keeps the lock until its lease ends.
            for turn in 0.. {
                if let Some(held) = holder.acquire(&lock, &format!("drain-{lock}-{turn}")).await {
                    holder.write(&lock, &held);
                    holder.release(&lock, held.token).await;
                    break;
                }
                anyhow::ensure!(Instant::now() < end, "{lock} could not be taken within {DRAIN_WITHIN:?} after healing");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    fn check(&self, history: &[Event]) -> Verdict {
        Verdict::of(excluded(history))
    }
}

/// A client that takes locks and writes under them.
struct Holder {
    client: Client,
    recorder: Recorder,
    store: Arc<Store>,
    process: u32,
    node: Option<u64>,
}

impl Holder {
    fn invoke(&self, op: &str, lock: &str, value: Value) -> crate::history::Pending {
        self.recorder.invoke_at(Process::Client(self.process), op, Some(lock), value, self.node)
    }

    fn write(&self, lock: &str, held: &Held) -> bool {
        self.store.write(&self.recorder, self.process, lock, &held.holder, held.token)
    }

    async fn acquire(&self, lock: &str, name: &str) -> Option<Held> {
        let pending = self.invoke(ACQUIRE, lock, ask_as(name));
        let result = self.client.acquire_lease(lock, name, TTL).await;
        settle(pending, &result, shown);
        let lease = result.ok()?;
        Some(Held { holder: lease.holder, token: lease.token, acquired_at_ms: lease.acquired_at_ms, expires_at_ms: lease.expires_at_ms })
    }

    async fn release(&self, lock: &str, token: u64) {
        let pending = self.invoke(RELEASE, lock, asked(token));
        let result = self.client.release_lease(lock, token).await;
        settle(pending, &result, |()| Value::Null);
    }

    /// One turn with single calls: a careless client, which renews but does not watch the time.
    async fn by_calls(&self, lock: &str, name: &str, pace: &mut Pace) {
        let Some(held) = self.acquire(lock, name).await else {
            return;
        };
        for _ in 0..pace.rng.random_range(1..5) {
            self.write(lock, &held);
            let stalls = pace.chance(0.08);
            let pause = if stalls { TTL.mul_f64(1.5) } else { pace.millis(20..500) };
            tokio::time::sleep(pause).await;
            if stalls {
                // It does not know how late it is: the store does.
                self.write(lock, &held);
                continue;
            }
            let pending = self.invoke(RENEW, lock, asked(held.token));
            let result = self.client.renew_lease(lock, held.token, TTL).await;
            settle(pending, &result, shown);
            if result.is_err() {
                break;
            }
        }
        if !pace.chance(WALKS_AWAY) {
            self.release(lock, held.token).await;
        }
    }

    /// Reads the lease and notes what it says, if it is still this holder's.
    async fn look_up(&self, lock: &str, token: u64) {
        let Ok(lease) = self.client.get_lease(lock).await else {
            return;
        };
        if lease.token == token {
            let process = Process::Client(self.process);
            self.recorder.info_by(process, TOLD, Some(lock), shown(&lease));
        }
    }

    /// One turn with the SDK's lock, which renews itself and says when it is lost.
    async fn by_lock(&self, lock: &str, name: &str, pace: &mut Pace) {
        let patient = self.recorder.with_deadline(self.client.deadline() + WAIT);
        let process = Process::Client(self.process);
        let pending = patient.invoke_at(process, ACQUIRE, Some(lock), ask_as(name), self.node);
        let result = self.client.lock(lock).holder(name).ttl(TTL).wait(WAIT).acquire().await;
        settle(pending, &result, |taken| json!(Held { holder: name.to_owned(), token: taken.token(), ..Held::default() }));
        let Ok(taken) = result else { return };
        let held = Held { holder: name.to_owned(), token: taken.token(), ..Held::default() };
        for _ in 0..pace.rng.random_range(1..5) {
            // Since when it is held, and for how long, which the SDK keeps to itself.
            self.look_up(lock, held.token).await;
            if taken.is_lost() {
                break;
            }
            self.write(lock, &held);
            tokio::time::sleep(pace.millis(20..800)).await;
        }
        let pending = self.invoke(RELEASE, lock, asked(held.token));
        let result = taken.release().await;
        settle(pending, &result, |()| Value::Null);
    }
}

fn ask_as(name: &str) -> Value {
    json!(Ask { holder: name.to_owned(), token: 0 })
}
