//! A driver that enqueues tasks at set times.
//!
//! Configuration:
//!
//! ```json
//! {
//!   "jobs": [
//!     {
//!       "name": "report",
//!       "schedule": "30 6 * * mon-fri",
//!       "missed": "skip",
//!       "task": { "queue": "reports", "runtime": "wasm", "wasm": { "artifact": "blake3:…" } }
//!     }
//!   ]
//! }
//! ```
//!
//! `schedule` has the five fields of cron (minute, hour, day of month, month, day of week), in UTC, or is one of `@hourly`, `@daily`,
//! `@weekly`, `@monthly`, `@yearly`. `task` is a TaskSpec of tarn's contract as JSON; its queue must be granted (`--queue reports`). A task
//! without a payload gets `{"job":"report","due_ms":…,"due":"2026-11-22T06:30Z"}`.
//!
//! Each time is enqueued exactly once: the task and the note that this time is done are one step of the cluster. What was due while nothing
//! ran is left out with `"missed": "skip"`, the default; with `"once"` one task stands for all that was missed. A time counts as missed a
//! minute after it.

pub mod jobs;
pub mod schedule;

#[cfg(target_family = "wasm")]
mod guest {
    use std::sync::Mutex;

    use super::jobs::{Jobs, Progress};

    wit_bindgen::generate!({ path: "../../../client/proto/wit", world: "driver-guest" });

    use exports::tarn::guest::driver::{Event, Guest};
    use tarn::guest::{log, state, tasks};

    struct Cron;

    static CRON: Mutex<Option<(Jobs, Progress)>> = Mutex::new(None);

    fn with<T>(work: impl FnOnce(&Jobs, &mut Progress) -> Result<T, String>) -> Result<T, String> {
        let mut cron = CRON.lock().map_err(|_| "the driver broke")?;
        let (jobs, progress) = cron.as_mut().ok_or("init comes first")?;
        work(jobs, progress)
    }

    impl Guest for Cron {
        fn init(_: String, config: String, state: Option<Vec<u8>>) -> Result<(), String> {
            let jobs = Jobs::parse(&config)?;
            let progress = Progress::parse(state.as_deref().unwrap_or_default())?;
            *CRON.lock().map_err(|_| "the driver broke")? = Some((jobs, progress));
            Ok(())
        }

        fn on_events(_: Vec<Event>) -> Result<(), String> {
            Ok(())
        }

        fn on_tick(now_ms: u64) -> Result<Option<u64>, String> {
            with(|jobs, progress| {
                // Counted only when all of it is taken: an error here leaves everything as it was.
                let mut next = progress.clone();
                let plan = jobs.plan(&mut next, now_ms);
                for line in &plan.lines {
                    log::write(log::Level::Warn, line);
                }
                for task in &plan.tasks {
                    tasks::enqueue(&task.spec, task.payload.as_deref())
                        .map_err(|why| format!("the task of the job {:?}: {why}", task.job))?;
                }
                if next != *progress {
                    state::save(next.to_json().as_bytes())?;
                    *progress = next;
                }
                Ok(plan.next_ms)
            })
        }

        fn call(method: String, _: Vec<u8>) -> Result<Vec<u8>, String> {
            with(|jobs, progress| match method.as_str() {
                "next" => Ok(jobs.next_times(progress).into_bytes()),
                _ => Err("this driver knows the method \"next\"".to_owned()),
            })
        }
    }

    export!(Cron);
}
