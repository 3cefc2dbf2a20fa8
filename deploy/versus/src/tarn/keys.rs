//! Puts and gets: a context's keys.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use rand::Rng;

use super::Tarn;
use crate::drive;
use crate::measure::{Load, Samples};
use crate::scenario::GET_KEYS;

/// Puts at once while keys are made for gets.
const FILLERS: usize = 64;

/// Puts into one context before the next one is begun: a context has at most a million keys.
const CONTEXT_PUTS: u64 = 500_000;

/// Where keys are put.
#[derive(Clone, Copy, Debug)]
pub enum Contexts {
    /// All in the same context.
    One,
    /// Each client's in one of its own.
    OfEachClient,
}

impl Tarn {
    /// Puts a new key each time.
    ///
    /// # Errors
    /// If a put fails.
    pub async fn puts(&self, load: &Load, contexts: Contexts) -> Result<Samples> {
        let (clients, name) = (self.clients(load.connections)?, self.name("put"));
        let value = Bytes::from(vec![b'x'; load.payload]);
        let count = AtomicU64::new(0);
        drive::clients(load, move |client, done| {
            let number = match contexts {
                Contexts::One => count.fetch_add(1, Ordering::Relaxed) / CONTEXT_PUTS,
                Contexts::OfEachClient => client as u64,
            };
            let context = clients[client % clients.len()].context(format!("{name}-{number}"));
            let (key, value) = (format!("{client}/{done}"), value.clone());
            async move { Ok(context.put(key, value, None).await.map(drop)?) }
        })
        .await
    }

    /// Gets keys at random, after [`GET_KEYS`] of them were put. A get sees every write that was acknowledged before.
    ///
    /// # Errors
    /// If a put or a get fails, or a get finds another value than was put.
    pub async fn gets(&self, load: &Load) -> Result<Samples> {
        let (clients, name) = (self.clients(load.connections)?, self.name("get"));
        let value = Bytes::from(vec![b'x'; load.payload]);
        let context = clients[0].context(&name);
        let fill = stream::iter(0..GET_KEYS).map(|key| context.put(key.to_string(), value.clone(), None));
        fill.buffer_unordered(FILLERS).try_for_each(|_| async { Ok(()) }).await?;
        let contexts: Vec<_> = clients.iter().map(|client| client.context(&name)).collect();
        drive::clients(load, move |client, _| {
            let (context, value) = (contexts[client % contexts.len()].clone(), value.clone());
            let key = rand::rng().random_range(0..GET_KEYS);
            async move {
                let found = context.get(key.to_string()).await?.context("a key that was put is not found")?;
                ensure!(found.value == value, "tarn gave another value than was put");
                Ok(())
            }
        })
        .await
    }
}
