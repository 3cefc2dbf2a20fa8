//! Tasks: accepted means that it ends, once, by whoever held its current token.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::{Invariant, Verdict};

/// See [`no_task_lost`].
pub const NO_TASK_LOST: Invariant = Invariant {
    name: "no task lost",
    rule: "a task that was acknowledged is there until its retention is over",
    source: "design, first page: an accepted task is finished exactly once as far as anyone can observe",
};

/// See [`completed_once`].
pub const COMPLETED_ONCE: Invariant = Invariant {
    name: "completed once",
    rule: "of a task, one completion at most is accepted; a repeat of the same report under the same token counts as the same",
    source: "design, the kernel's rules: fenced and idempotent",
};

/// See [`leased_once`].
pub const LEASED_ONCE: Invariant = Invariant {
    name: "leased once",
    rule: "a token is given out for one attempt of one task to one worker, and a task's tokens only grow",
    source: "design, words: fencing token, a number that only grows",
};

/// See [`fenced`].
pub const FENCED: Invariant = Invariant {
    name: "fenced",
    rule: "only a report with the task's current token is accepted",
    source: "design, the kernel's rules: fenced",
};

/// See [`every_task_ends`].
pub const EVERY_TASK_ENDS: Invariant = Invariant {
    name: "every task ends",
    rule: "once a majority is healthy and workers run, every accepted task succeeds, is cancelled, or lies in the dead letters",
    source: "design, first page; README: a task that was accepted ends",
};

/// A lease on a task, as a worker got it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant<'a> {
    /// The task's id.
    pub task: &'a str,
    /// The fencing token.
    pub token: u64,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// The worker's id.
    pub worker: &'a str,
}

/// A report that the cluster accepted as the success of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion<'a> {
    /// The task's id.
    pub task: &'a str,
    /// The token that the report carried.
    pub token: u64,
    /// Any hash of the result that it carried.
    pub result: u64,
}

impl fmt::Display for Grant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task, token, attempt, worker } = self;
        write!(f, "attempt {attempt} of task {task} at worker {worker} under token {token}")
    }
}

impl fmt::Display for Completion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task, token, result } = self;
        write!(f, "the completion of task {task} under token {token} with the result {result:016x}")
    }
}

/// What was known before, in words.
fn told(before: Option<impl fmt::Display>) -> String {
    before.map_or("nothing".to_owned(), |before| before.to_string())
}

/// Every acknowledged task is among those that were found.
///
/// # Errors
///
/// The first that is not ([`NO_TASK_LOST`]).
pub fn no_task_lost<'a>(accepted: impl IntoIterator<Item = &'a str>, found: &BTreeSet<&str>) -> Verdict {
    let lost = accepted.into_iter().find(|task| !found.contains(task));
    NO_TASK_LOST.require(lost.is_none(), || format!("task {} was accepted and is gone", lost.unwrap_or_default()))
}

/// Every acknowledged task is among those that have ended. To be asked after the drain, never before.
///
/// # Errors
///
/// The first that is not ([`EVERY_TASK_ENDS`]).
pub fn every_task_ends<'a>(accepted: impl IntoIterator<Item = &'a str>, ended: &BTreeSet<&str>) -> Verdict {
    let open = accepted.into_iter().find(|task| !ended.contains(task));
    EVERY_TASK_ENDS.require(open.is_none(), || format!("task {} was accepted and has not ended", open.unwrap_or_default()))
}

/// A completion is accepted; `before` was accepted for the same task before, if any was.
///
/// # Errors
///
/// Another token or another result ([`COMPLETED_ONCE`]).
pub fn completed_once(before: Option<Completion<'_>>, completion: Completion<'_>) -> Verdict {
    COMPLETED_ONCE.require(before.is_none_or(|before| before == completion), || format!("{completion} is accepted after {}", told(before)))
}

/// A lease is given out; `last_token` is the highest token given out for that task before, 0 if none was.
///
/// # Errors
///
/// The token does not grow ([`LEASED_ONCE`]).
pub fn leased_once(last_token: u64, grant: Grant<'_>) -> Verdict {
    LEASED_ONCE.require(grant.token > last_token, || format!("{grant} is given out after token {last_token} of the same task"))
}

/// A lease is seen; `before` is the lease on which its token was seen before, if it was. For whoever sees leases in no certain order.
///
/// # Errors
///
/// Another lease has the token ([`LEASED_ONCE`]).
pub fn one_lease_a_token(before: Option<Grant<'_>>, grant: Grant<'_>) -> Verdict {
    LEASED_ONCE.require(before.is_none_or(|before| before == grant), || format!("{grant} has the token of {}", told(before)))
}

/// A report under `token` is accepted, while `current` is the task's token: `None` where nobody holds it.
///
/// # Errors
///
/// They differ ([`FENCED`]).
pub fn fenced(task: &str, current: Option<u64>, token: u64) -> Verdict {
    FENCED.require(current == Some(token), || {
        let current = current.map_or("none".to_owned(), |current| current.to_string());
        format!("a report under token {token} is accepted for task {task}, whose token is {current}")
    })
}

/// Monitor of [`completed_once`], over the completions that clients saw accepted, in any order.
#[derive(Clone, Default, Debug)]
pub struct Completions {
    accepted: BTreeMap<String, (u64, u64)>,
}

impl Completions {
    /// A completion was accepted. A repeat with the same token and result is the same completion.
    ///
    /// # Errors
    ///
    /// As [`completed_once`].
    pub fn observe(&mut self, completion: Completion<'_>) -> Verdict {
        let known =
            self.accepted.get(completion.task).map(|(token, result)| Completion { task: completion.task, token: *token, result: *result });
        completed_once(known, completion)?;
        self.accepted.insert(completion.task.to_owned(), (completion.token, completion.result));
        Ok(())
    }

    /// The token under which a task was completed, if it was.
    pub fn token(&self, task: &str) -> Option<u64> {
        self.accepted.get(task).map(|(token, _)| *token)
    }
}

/// Monitor of [`LEASED_ONCE`], over the leases that workers got, in any order: answers overtake each other on the way, so
/// only the tokens' uniqueness and their order by attempt can be asked of what clients see.
#[derive(Clone, Default, Debug)]
pub struct Grants {
    by_token: BTreeMap<u64, (String, u32, String)>,
    by_attempt: BTreeMap<(String, u32), u64>,
}

impl Grants {
    /// A worker got a lease. The same lease may be seen again: an answer that is repeated under one request id.
    ///
    /// # Errors
    ///
    /// The token was given out for something else, or a later attempt of the task has a lower token ([`LEASED_ONCE`]).
    pub fn observe(&mut self, grant: Grant<'_>) -> Verdict {
        let value = (grant.task.to_owned(), grant.attempt, grant.worker.to_owned());
        let known =
            self.by_token.get(&grant.token).map(|(task, attempt, worker)| Grant { task, token: grant.token, attempt: *attempt, worker });
        one_lease_a_token(known, grant)?;
        self.by_token.insert(grant.token, value);
        let task = grant.task.to_owned();
        // An attempt that was given back has not counted: its number is used again, under a higher token.
        let last = self.by_attempt.entry((task.clone(), grant.attempt)).or_insert(grant.token);
        *last = grant.token.max(*last);
        let lowest_later = self.by_attempt.range((task.clone(), grant.attempt + 1)..).next();
        let highest_earlier = self.by_attempt.range(..(task.clone(), grant.attempt)).next_back();
        let later = lowest_later.filter(|((of, _), token)| *of == task && **token < grant.token);
        let earlier = highest_earlier.filter(|((of, _), token)| *of == task && **token > grant.token);
        LEASED_ONCE.require(later.is_none() && earlier.is_none(), || {
            let other = later.or(earlier).map(|((_, attempt), token)| format!("attempt {attempt} under token {token}"));
            format!("{grant} is out of order with {}", told(other))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(task: &str, token: u64, attempt: u32) -> Grant<'_> {
        Grant { task, token, attempt, worker: "w" }
    }

    #[test]
    fn what_was_accepted_is_found_and_ends() {
        let found = BTreeSet::from(["a", "b"]);
        no_task_lost(["a", "b"], &found).unwrap();
        assert_eq!(no_task_lost(["a", "c"], &found).unwrap_err().invariant, NO_TASK_LOST);
        every_task_ends(["b"], &found).unwrap();
        assert_eq!(every_task_ends(["c"], &found).unwrap_err().invariant, EVERY_TASK_ENDS);
    }

    #[test]
    fn a_completion_may_be_repeated_but_not_replaced() {
        let mut completions = Completions::default();
        let completion = |task, token, result| Completion { task, token, result };
        completions.observe(completion("a", 5, 1)).unwrap();
        completions.observe(completion("a", 5, 1)).unwrap();
        completions.observe(completion("b", 6, 1)).unwrap();
        assert!(completions.observe(completion("a", 7, 1)).is_err());
        assert_eq!(completions.observe(completion("a", 5, 2)).unwrap_err().invariant, COMPLETED_ONCE);
        assert_eq!(completions.token("a"), Some(5));
    }

    #[test]
    fn a_token_names_one_grant() {
        let mut grants = Grants::default();
        grants.observe(grant("a", 5, 1)).unwrap();
        grants.observe(grant("a", 9, 3)).unwrap();
        grants.observe(grant("a", 7, 2)).unwrap();
        grants.observe(grant("a", 7, 2)).unwrap();
        grants.observe(grant("b", 6, 1)).unwrap();
        assert_eq!(grants.observe(grant("b", 7, 2)).unwrap_err().invariant, LEASED_ONCE);
        assert!(grants.observe(grant("a", 8, 4)).is_err(), "below the third attempt's");
        let other = Grant { worker: "x", ..grant("a", 5, 1) };
        assert!(grants.observe(other).is_err(), "another worker");
        one_lease_a_token(None, grant("a", 5, 1)).unwrap();
        one_lease_a_token(Some(grant("a", 5, 1)), grant("a", 5, 1)).unwrap();
        assert!(one_lease_a_token(Some(grant("a", 5, 1)), grant("b", 5, 1)).is_err());
        leased_once(4, grant("a", 5, 1)).unwrap();
        assert!(leased_once(5, grant("a", 5, 1)).is_err());
    }

    #[test]
    fn only_the_current_token_counts() {
        fenced("a", Some(3), 3).unwrap();
        assert_eq!(fenced("a", Some(4), 3).unwrap_err().invariant, FENCED);
        assert!(fenced("a", None, 3).is_err());
    }
}
