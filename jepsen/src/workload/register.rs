//! Registers that are read, compared and set: named leases of a day, read and changed by clients at all nodes.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use rand::Rng;
use serde_json::{Value, json};
use tarn_client::{Client, proto};
use tokio::time::Instant;

use super::outcome::{settle, settle_read};
use super::pace::{Pace, deadline};
use super::{Scene, Workload};
use crate::checker::Verdict;
use crate::checker::linear::Limits;
use crate::checker::register::{ACQUIRE, Ask, GET, Held, RELEASE, RENEW, linearizable};
use crate::history::{Event, Process, Recorder};

/// Few, so that clients meet at each.
const KEYS: u32 = 4;
/// Operations a second of each client.
const RATE: f64 = 15.0;
/// Longer than any run, so that nothing expires.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the final reads may take, all together.
const DRAIN_WITHIN: Duration = Duration::from_secs(60);

/// The workload.
pub struct Registers;

#[async_trait]
impl Workload for Registers {
    fn name(&self) -> &'static str {
        "register"
    }

    async fn setup(&self, scene: &Scene) -> Result<()> {
        scene.clients.all()?.cluster().await.context("the cluster does not answer").map(drop)
    }

    async fn work(&self, process: u32, scene: &Scene) -> Result<()> {
        let (client, node) = scene.clients.client(process)?;
        let mut user = User::new(client.with_deadline(deadline(process)), scene.recorder.clone(), process, node);
        let mut pace = Pace::new(scene, process, RATE);
        while pace.next().await {
            let key = format!("register-{}", pace.rng.random_range(0..KEYS));
            match pace.rng.random_range(0..10) {
                0..4 => user.get(&key).await,
                4..7 => user.acquire(&key, DAY).await,
                7..9 => user.release(&key).await,
                _ => user.renew(&key, DAY).await,
            }
        }
        Ok(())
    }

    async fn drain(&self, scene: &Scene) -> Result<()> {
        let client = scene.clients.all()?.with_deadline(Duration::from_secs(10));
        let mut user = User::new(client, scene.recorder.clone(), u32::MAX, None);
        let end = Instant::now() + DRAIN_WITHIN;
        for key in 0..KEYS {
            let key = format!("register-{key}");
            while !user.try_get(&key).await {
                anyhow::ensure!(Instant::now() < end, "{key} could not be read within {DRAIN_WITHIN:?} after healing");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    fn check(&self, history: &[Event]) -> Verdict {
        Verdict::of(vec![linearizable(history, Limits::default())])
    }
}

/// A client of registers, and what it believes about each.
pub(super) struct User {
    client: Client,
    recorder: Recorder,
    process: u32,
    node: Option<u64>,
    /// The token that it saw last, by key.
    seen: HashMap<String, u64>,
    acquired: u64,
}

impl User {
    pub(super) fn new(client: Client, recorder: Recorder, process: u32, node: Option<u64>) -> Self {
        Self { recorder: recorder.with_deadline(client.deadline()), client, process, node, seen: HashMap::new(), acquired: 0 }
    }

    fn invoke(&self, op: &str, key: &str, value: Value) -> crate::history::Pending {
        self.recorder.invoke_at(Process::Client(self.process), op, Some(key), value, self.node)
    }

    pub(super) async fn get(&mut self, key: &str) {
        self.try_get(key).await;
    }

    /// Reads; false if there was no answer. That nobody holds it is an answer.
    async fn try_get(&mut self, key: &str) -> bool {
        let pending = self.invoke(GET, key, Value::Null);
        let result = self.client.get_lease(key).await;
        settle_read(pending, &result, shown);
        match &result {
            Ok(lease) => {
                self.seen.insert(key.to_owned(), lease.token);
            }
            Err(error) => {
                self.seen.remove(key);
                return error.refusal().is_some();
            }
        }
        true
    }

    /// Takes it if it is nobody's, under a holder's name that is used once.
    pub(super) async fn acquire(&mut self, key: &str, ttl: Duration) {
        self.acquired += 1;
        let holder = format!("p{}-{}", self.process, self.acquired);
        let ask = Ask { holder: holder.clone(), token: 0 };
        let pending = self.invoke(ACQUIRE, key, json!(ask));
        let result = self.client.acquire_lease(key, &holder, ttl).await;
        settle(pending, &result, shown);
        if let Ok(lease) = result {
            self.seen.insert(key.to_owned(), lease.token);
        }
    }

    /// Empties it, if it still has the token that was seen last.
    pub(super) async fn release(&mut self, key: &str) {
        let Some(token) = self.seen.get(key).copied() else {
            return self.get(key).await;
        };
        let pending = self.invoke(RELEASE, key, asked(token));
        let result = self.client.release_lease(key, token).await;
        settle(pending, &result, |()| Value::Null);
    }

    /// Asks whether it still has the token that was seen last, through the log.
    pub(super) async fn renew(&mut self, key: &str, ttl: Duration) {
        let Some(token) = self.seen.get(key).copied() else {
            return self.get(key).await;
        };
        let pending = self.invoke(RENEW, key, asked(token));
        let result = self.client.renew_lease(key, token, ttl).await;
        settle(pending, &result, shown);
    }
}

/// What an operation with a token asks.
pub(super) fn asked(token: u64) -> Value {
    json!(Ask { holder: String::new(), token })
}

/// A lease as a history shows it.
pub(super) fn shown(lease: &proto::NamedLease) -> Value {
    json!(Held {
        holder: lease.holder.clone(),
        token: lease.token,
        acquired_at_ms: lease.acquired_at_ms,
        expires_at_ms: lease.expires_at_ms,
    })
}
