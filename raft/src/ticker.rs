//! Lets time pass when nothing else does.
//!
//! Leases expire, timers fire and back-offs end only when an entry with a later time is applied. While commands come,
//! they bring the time along. When the machine has something due and nothing comes, the leader proposes an entry without
//! commands, and again as long as more is due.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::leadership::{LeaderTime, Leadership};
use crate::propose::Proposer;

/// The least time from tick to tick, so that many close due times share one entry.
const INTERVAL_MIN: Duration = Duration::from_millis(5);

/// The longest sleep: the wall clock may jump meanwhile, and the leader's clock with it.
const SLEEP_MAX: Duration = Duration::from_millis(500);

/// How long one tick may take.
const DEADLINE: Duration = Duration::from_secs(5);

pub(crate) async fn run(
    proposer: Proposer,
    mut leadership: watch::Receiver<Leadership>,
    mut next_wake_ms: watch::Receiver<Option<u64>>,
    time: Arc<Mutex<LeaderTime>>,
) {
    loop {
        let term = match leadership.wait_for(|now| now.is_this_node).await {
            Ok(leadership) => leadership.term,
            Err(_) => return,
        };
        let due_ms = *next_wake_ms.borrow_and_update();
        let now_ms = time.lock().expect("no holder of this lock panics").now_ms(term);
        match due_ms {
            Some(due_ms) if due_ms <= now_ms => {
                proposer.tick(Instant::now() + DEADLINE).await;
                tokio::time::sleep(INTERVAL_MIN).await;
            }
            due_ms => {
                let until_due = due_ms.map_or(SLEEP_MAX, |due_ms| Duration::from_millis(due_ms - now_ms));
                tokio::select! {
                    () = tokio::time::sleep(until_due.min(SLEEP_MAX)) => {}
                    changed = next_wake_ms.changed() => if changed.is_err() {
                        return;
                    },
                }
            }
        }
    }
}
