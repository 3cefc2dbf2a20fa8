//! How soon a change at one cluster is visible at the other.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use tarn_client::proto::EventKind;
use tarn_client::{Client, Watcher};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{BenchArgs, millis, payload, quantile};
use crate::side::{PLAN, Side, wait_until_equal};

/// How long the last changes may take to arrive.
const REST: Duration = Duration::from_secs(15);
/// Between two handfuls of changes.
const STEP: Duration = Duration::from_millis(10);

/// How soon changes were visible.
#[derive(Debug, Clone, Serialize)]
pub struct Delay {
    /// Changes that were acknowledged, a second.
    pub rate: f64,
    /// From the moment in which a client sent a change to the moment in which one at the other cluster heard of it: median and 99th in a
    /// hundred, in milliseconds.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// The same from the acknowledgement on: what the link adds.
    pub after_acknowledgement_p50_ms: f64,
    pub after_acknowledgement_p99_ms: f64,
    /// Changes that were seen, and those that were not in time.
    pub seen: usize,
    pub missed: usize,
}

impl Delay {
    pub fn text(&self) -> String {
        format!(
            "{:.0} changes/s: visible after {:.0} ms in the median, {:.0} ms at the 99th in a hundred ({:.0} and {:.0} ms after their acknowledgement); {} missed",
            self.rate, self.p50_ms, self.p99_ms, self.after_acknowledgement_p50_ms, self.after_acknowledgement_p99_ms, self.missed
        )
    }
}

/// A change under way.
#[derive(Clone, Copy)]
struct Change {
    sent: Instant,
    acknowledged: Option<Instant>,
    seen: Option<Instant>,
}

/// All changes of one cluster, and by key those that the other has not seen.
#[derive(Default)]
struct Book {
    changes: Vec<Change>,
    waiting: HashMap<String, VecDeque<usize>>,
}

type Shared = Arc<Mutex<Book>>;

/// Offers changes at both clusters and watches at both.
///
/// # Errors
/// If a change is refused or a watcher fails.
pub async fn measure(args: &BenchArgs, sides: &[Side; 2]) -> Result<Delay> {
    let mut working = JoinSet::new();
    let (mut watching, mut books) = (JoinSet::new(), Vec::new());
    for (from, to) in [(&sides[0], &sides[1]), (&sides[1], &sides[0])] {
        let book = Shared::default();
        let mut watcher = to.client.watch().start();
        // The stream stands before the first change is made.
        from.client.context(PLAN).put(format!("ready/{}", from.name), "yes", None).await?;
        let ready = format!("ready/{}", from.name);
        let opened = timeout(REST, async {
            loop {
                if key_of(&mut watcher).await? == Some(ready.clone()) {
                    return anyhow::Ok(());
                }
                from.client.context(PLAN).put(ready.clone(), Instant::now().elapsed().as_nanos().to_string(), None).await?;
            }
        });
        opened.await.context("nothing is seen at the other cluster")??;
        watching.spawn(watch(watcher, book.clone()));
        books.push((from, book));
    }
    let began = Instant::now();
    for (from, book) in &books {
        working.spawn(offer(args.clone(), from.client.clone(), from.name, book.clone()));
    }
    while let Some(ended) = working.join_next().await {
        ended??;
    }
    let took = began.elapsed();
    let rest = Instant::now() + REST;
    while Instant::now() < rest && books.iter().any(|(_, book)| !lock(book).waiting.is_empty()) {
        tokio::time::sleep(STEP).await;
    }
    watching.abort_all();
    let changes: Vec<Change> = books.iter().flat_map(|(_, book)| lock(book).changes.clone()).collect();
    wait_until_equal(&sides[0], &sides[1]).await?;
    Ok(summary(&changes, took))
}

fn summary(changes: &[Change], took: Duration) -> Delay {
    let after = |from: fn(&Change) -> Option<Instant>| {
        let times = changes.iter().filter_map(|change| Some(millis(change.seen?.saturating_duration_since(from(change)?))));
        let mut times: Vec<f64> = times.collect();
        times.sort_by(f64::total_cmp);
        times
    };
    let (sent, acknowledged) = (after(|change| Some(change.sent)), after(|change| change.acknowledged));
    Delay {
        rate: changes.iter().filter(|change| change.acknowledged.is_some()).count() as f64 / took.as_secs_f64(),
        p50_ms: quantile(&sent, 500),
        p99_ms: quantile(&sent, 990),
        after_acknowledgement_p50_ms: quantile(&acknowledged, 500),
        after_acknowledgement_p99_ms: quantile(&acknowledged, 990),
        seen: sent.len(),
        missed: changes.len() - sent.len(),
    }
}

/// Offers half of the rate, whether or not earlier changes have been acknowledged.
async fn offer(args: BenchArgs, client: Client, name: &'static str, book: Shared) -> Result<()> {
    let began = Instant::now();
    let total = args.rate * args.seconds / 2;
    let mut ticks = interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut puts = JoinSet::new();
    let mut number = 0;
    while number < total {
        ticks.tick().await;
        let due = (began.elapsed().as_secs_f64() * args.rate as f64 / 2.0) as u64;
        while number < due.min(total) {
            number += 1;
            let key = format!("{name}/{}", number % args.keys.max(1));
            let place = {
                let mut book = lock(&book);
                book.changes.push(Change { sent: Instant::now(), acknowledged: None, seen: None });
                let place = book.changes.len() - 1;
                book.waiting.entry(key.clone()).or_default().push_back(place);
                place
            };
            let (context, value, book) = (client.context(PLAN), payload(&args, number), book.clone());
            puts.spawn(async move {
                context.put(key, value, None).await?;
                lock(&book).changes[place].acknowledged = Some(Instant::now());
                anyhow::Ok(())
            });
        }
        while let Some(ended) = puts.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = puts.join_next().await {
        ended??;
    }
    Ok(())
}

/// Notes when the other cluster's changes are heard of. Several of one key that wait are seen with the last of them.
async fn watch(mut watcher: Watcher, book: Shared) -> Result<()> {
    loop {
        let Some(key) = key_of(&mut watcher).await? else { continue };
        let now = Instant::now();
        let mut book = lock(&book);
        for place in book.waiting.remove(&key).unwrap_or_default() {
            book.changes[place].seen = Some(now);
        }
    }
}

/// The key that the next event is about, if it is about one.
async fn key_of(watcher: &mut Watcher) -> Result<Option<String>> {
    let event = watcher.next().await?;
    Ok((event.kind() == EventKind::ContextKeyPut && event.subject == PLAN).then_some(event.detail))
}

fn lock(book: &Shared) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
