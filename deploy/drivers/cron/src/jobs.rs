//! Which jobs there are, how far each has come, and what is to be enqueued now.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::schedule::{Schedule, written};

/// A time that passed longer ago than this was missed.
const MISSED_AFTER_MS: u64 = 60_000;
const JOBS_MAX: usize = 64;

/// What to enqueue and when.
#[derive(Debug)]
pub struct Jobs(Vec<Job>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    jobs: Vec<Job>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    name: String,
    schedule: String,
    #[serde(default)]
    missed: Missed,
    task: serde_json::Map<String, serde_json::Value>,
    #[serde(skip)]
    times: Option<Schedule>,
}

/// What becomes of times that passed while nothing ran.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Missed {
    #[default]
    Skip,
    Once,
}

/// How far each job has come, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress(BTreeMap<String, Done>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    /// Another schedule is another job.
    schedule: String,
    /// Times up to this are done.
    up_to_ms: u64,
}

/// What is to be done now.
#[derive(Debug, Default)]
pub struct Plan {
    pub tasks: Vec<Due>,
    /// For the log.
    pub lines: Vec<String>,
    /// When to look again.
    pub next_ms: Option<u64>,
}

/// A task to enqueue.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    pub job: String,
    pub spec: String,
    pub payload: Option<Vec<u8>>,
}

impl Progress {
    /// What was saved; nothing was, the first time.
    pub fn parse(saved: &[u8]) -> Result<Self, String> {
        if saved.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(saved).map_err(|error| format!("the saved state is not this driver's: {error}"))
    }

    /// To be saved.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Jobs {
    /// Reads the configuration. The error says what to change.
    pub fn parse(config: &str) -> Result<Self, String> {
        let config: Config = serde_json::from_str(config).map_err(|error| format!("the configuration: {error}"))?;
        let mut jobs = config.jobs;
        if jobs.is_empty() || jobs.len() > JOBS_MAX {
            return Err(format!("there are {} jobs: name from 1 to {JOBS_MAX}", jobs.len()));
        }
        for place in 0..jobs.len() {
            let (before, rest) = jobs.split_at_mut(place);
            let job = &mut rest[0];
            if before.iter().any(|other| other.name == job.name) {
                return Err(format!("two jobs are called {:?}: give each a name of its own", job.name));
            }
            if !job.task.get("queue").is_some_and(serde_json::Value::is_string) {
                return Err(format!("the task of the job {:?} names no queue", job.name));
            }
            job.times = Some(Schedule::parse(&job.schedule).map_err(|why| format!("the job {:?}: {why}", job.name))?);
        }
        Ok(Self(jobs))
    }

    /// What is due now, and notes that it is done.
    pub fn plan(&self, progress: &mut Progress, now_ms: u64) -> Plan {
        let mut plan = Plan::default();
        progress.0.retain(|name, done| self.0.iter().any(|job| job.name == *name && job.schedule == done.schedule));
        for job in &self.0 {
            let Some(times) = &job.times else { continue };
            let new = || Done { schedule: job.schedule.clone(), up_to_ms: now_ms };
            let done = progress.0.entry(job.name.clone()).or_insert_with(new);
            if let Some(latest) = latest(times, done.up_to_ms, now_ms) {
                job.due(latest, now_ms, &mut plan);
                done.up_to_ms = latest;
            }
            let next = times.after(done.up_to_ms.max(now_ms));
            plan.next_ms = plan.next_ms.into_iter().chain(next).min();
        }
        plan
    }

    /// When each job is due next, as JSON.
    pub fn next_times(&self, progress: &Progress) -> String {
        let next = self.0.iter().filter_map(|job| {
            let up_to_ms = progress.0.get(&job.name)?.up_to_ms;
            Some((job.name.clone(), written(job.times.as_ref()?.after(up_to_ms)?)))
        });
        serde_json::to_string(&next.collect::<BTreeMap<_, _>>()).unwrap_or_default()
    }
}

impl Job {
    /// Its time has come, some while ago perhaps: of several times that passed this is the latest.
    fn due(&self, latest_ms: u64, now_ms: u64, plan: &mut Plan) {
        let (name, due) = (&self.name, written(latest_ms));
        if now_ms - latest_ms > MISSED_AFTER_MS {
            if self.missed == Missed::Skip {
                plan.lines.push(format!("the job {name:?} missed its time {due}, which is left out"));
                return;
            }
            plan.lines.push(format!("the job {name:?} missed its time {due}, which is made up for"));
        }
        let payload = serde_json::json!({ "job": name, "due_ms": latest_ms, "due": due });
        let own = self.task.contains_key("payload");
        plan.tasks.push(Due {
            job: name.clone(),
            spec: serde_json::to_string(&self.task).unwrap_or_default(),
            payload: (!own).then(|| payload.to_string().into_bytes()),
        });
    }
}

/// The latest time after one and not after another. Far back, the search begins later: all that counts is the latest.
fn latest(times: &Schedule, after_ms: u64, now_ms: u64) -> Option<u64> {
    const HOUR_MS: u64 = 3_600_000;
    let mut back = HOUR_MS;
    loop {
        let from = after_ms.max(now_ms.saturating_sub(back));
        let found = std::iter::successors(times.after(from), |at| times.after(*at)).take_while(|at| *at <= now_ms).last();
        if found.is_some() || from == after_ms {
            return found;
        }
        back *= 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    /// 2026-11-22T00:00Z.
    const DAY: u64 = 20_779 * 24 * HOUR;

    fn jobs(missed: &str) -> Jobs {
        let job = format!(r#"{{"name":"a","schedule":"0 * * * *","missed":"{missed}","task":{{"queue":"q"}}}}"#);
        Jobs::parse(&format!(r#"{{"jobs":[{job}]}}"#)).unwrap()
    }

    /// The times of the tasks that each look enqueues.
    fn looks(jobs: &Jobs, progress: &mut Progress, times: &[u64]) -> Vec<Vec<u64>> {
        let due_ms = |task: &Due| {
            let payload: serde_json::Value = serde_json::from_slice(task.payload.as_ref().unwrap()).unwrap();
            payload["due_ms"].as_u64().unwrap()
        };
        times.iter().map(|now| jobs.plan(progress, *now).tasks.iter().map(due_ms).collect()).collect()
    }

    #[test]
    fn each_time_is_enqueued_once_however_often_it_is_looked() {
        let (jobs, mut progress) = (jobs("skip"), Progress::default());
        let at = DAY + HOUR;
        assert_eq!(
            looks(&jobs, &mut progress, &[DAY + 5, at - 1, at, at, at + 1, at + HOUR]),
            [vec![], vec![], vec![at], vec![], vec![], vec![at + HOUR]]
        );
        // A clock that goes back changes nothing.
        assert_eq!(looks(&jobs, &mut progress, &[at - 2 * HOUR, at + HOUR, at + 2 * HOUR]), [vec![], vec![], vec![at + 2 * HOUR]]);
    }

    #[test]
    fn it_goes_on_from_what_was_saved() {
        let (jobs, mut progress) = (jobs("skip"), Progress::default());
        looks(&jobs, &mut progress, &[DAY + 5]);
        let mut restored = Progress::parse(progress.to_json().as_bytes()).unwrap();
        assert_eq!(restored, progress);
        assert_eq!(looks(&jobs, &mut restored, &[DAY + HOUR + 30_000]), [vec![DAY + HOUR]]);
        assert!(Progress::parse(b"nonsense").is_err());
    }

    #[test]
    fn missed_times_are_left_out_or_made_up_for_once() {
        for (missed, made_up) in [("skip", vec![]), ("once", vec![DAY + 5 * HOUR])] {
            let (jobs, mut progress) = (jobs(missed), Progress::default());
            let looked = looks(&jobs, &mut progress, &[DAY + 5, DAY + 5 * HOUR + 90_000, DAY + 6 * HOUR]);
            assert_eq!(looked, [vec![], made_up, vec![DAY + 6 * HOUR]], "{missed}");
        }
        let (jobs, mut progress) = (jobs("once"), Progress::default());
        looks(&jobs, &mut progress, &[DAY + 5]);
        let years = DAY + 5 * 366 * 24 * HOUR + 90_000;
        assert_eq!(looks(&jobs, &mut progress, &[years, years]), [vec![years - 90_000], vec![]]);
    }

    #[test]
    fn a_new_schedule_is_a_new_job_and_the_next_look_is_told() {
        let mut progress = Progress::default();
        assert_eq!(jobs("skip").plan(&mut progress, DAY + 5).next_ms, Some(DAY + HOUR));
        let other = Jobs::parse(r#"{"jobs":[{"name":"a","schedule":"30 * * * *","task":{"queue":"q","payload":"aGk="}}]}"#).unwrap();
        let plan = other.plan(&mut progress, DAY + 40 * 60_000);
        assert_eq!((plan.tasks.len(), plan.next_ms), (0, Some(DAY + HOUR + 30 * 60_000)));
        let plan = other.plan(&mut progress, DAY + HOUR + 30 * 60_000);
        assert_eq!(plan.tasks, [Due { job: "a".into(), spec: r#"{"queue":"q","payload":"aGk="}"#.into(), payload: None }]);
    }

    #[test]
    fn a_bad_configuration_is_refused_with_the_job() {
        let job = r#"{"name":"a","schedule":"0 * * * *","task":{"queue":"q"}}"#;
        for (config, said) in [
            ("{}".to_owned(), "jobs"),
            (r#"{"jobs":[]}"#.to_owned(), "from 1"),
            (format!(r#"{{"jobs":[{job},{job}]}}"#), "two jobs"),
            (r#"{"jobs":[{"name":"a","schedule":"x","task":{"queue":"q"}}]}"#.to_owned(), "five"),
            (r#"{"jobs":[{"name":"a","schedule":"@daily","task":{}}]}"#.to_owned(), "queue"),
            (r#"{"jobs":[{"name":"a","schedule":"@daily","missed":"all","task":{"queue":"q"}}]}"#.to_owned(), "`skip` or `once`"),
        ] {
            let error = Jobs::parse(&config).unwrap_err();
            assert!(error.contains(said), "{config}: {error}");
        }
    }
}
