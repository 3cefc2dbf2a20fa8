//! Disks fail.
//!
//! A node that its disk fails has to stop itself with a message that says what is wrong, and to lose nothing that was acknowledged. So each
//! nemesis here expects nodes to end by themselves, and excuses them if they do it in that way: with the exit code for it, or with a refusal
//! to start, and with words about the disk. Ends of any other kind stay what they are for every run: violations.
//!
//! - [`power`]: the machine loses its power. - [`sick`]: the disk is full, slow, or has errors. - [`damage`]: it returns something else than was
//!   written.

pub mod damage;
pub mod power;
pub mod sick;

use anyhow::Result;
use serde::Serialize;

use crate::cluster::{Cluster, Ending};
use crate::disk::FaultyDisk;

/// The exit codes of a node that stopped itself, and of one that refused to start.
const STOPPED: i32 = 70;
const REFUSED: i32 = 1;
/// How the last line begins that a process writes which ends because of an error.
const LAST_WORDS: &str = "error: ";

/// What one node made of its disk's fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Took {
    node: u64,
    /// How many operations failed.
    #[serde(skip_serializing_if = "is_zero")]
    struck: u64,
    /// How it ended, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
    /// The line of its log that says why, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    said: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Does something to a disk that may wait for the kernel, beside everything else.
async fn on_disk<T: Send + 'static>(cluster: &Cluster, id: u64, what: impl FnOnce(&FaultyDisk) -> Result<T> + Send + 'static) -> Result<T> {
    let disk = cluster.disk(id)?;
    tokio::task::spawn_blocking(move || what(&disk)).await?
}

/// Says how a node took its fault, and excuses those of its ends that are as they should be. Others stay: another nemesis may have brought
/// them about and excuse them when it heals.
fn judged(cluster: &Cluster, node: u64, struck: u64, words: &[&str]) -> Took {
    let last = cluster.endings().into_iter().rfind(|end| end.node == node);
    let excused = cluster.forgive(node, |end| reason(end, words).is_some());
    Took { node, struck, ended: last.map(|end| end.how), said: excused.last().and_then(|end| reason(end, words)) }
}

/// The line that says why, if a node ended as it should.
fn reason(end: &Ending, words: &[&str]) -> Option<String> {
    if !matches!(end.code, Some(STOPPED | REFUSED)) {
        return None;
    }
    let lines: Vec<&str> = end.log.lines().collect();
    // Its last words are an error. What stands before the last words of an earlier life is about something else.
    let (_, lived) = lines.split_last()?;
    let began = lived.iter().rposition(|line| line.starts_with(LAST_WORDS)).map_or(0, |at| at + 1);
    let names_it = |line: &&&str| {
        let line = line.to_lowercase();
        words.iter().any(|word| line.contains(word))
    };
    lines[began..].iter().rev().find(names_it).map(|line| (**line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stop_that_says_why_is_excused() {
        let end = |code: i32, log: &str| Ending {
            node: 1,
            how: format!("exit code {code} after SIGTERM"),
            code: Some(code),
            signal: None,
            log: log.to_owned(),
        };
        let log = "INFO started\nERROR No space left on device\nINFO ends";
        assert_eq!(reason(&end(70, log), &["no space"]).as_deref(), Some("ERROR No space left on device"));
        assert!(reason(&end(1, log), &["no space"]).is_some());
        assert_eq!(reason(&end(101, log), &["no space"]), None, "a panic");
        let aborted = Ending { code: None, signal: Some(6), ..end(0, log) };
        assert_eq!(reason(&aborted, &["no space"]), None, "an abort");
        assert_eq!(reason(&end(70, "something is wrong"), &["no space"]), None);
        let earlier = format!("{log}\nerror: stopped\nINFO started\nERROR a digest differs\nerror: stopped");
        assert_eq!(reason(&end(70, &earlier), &["no space"]), None, "an earlier life's words");
    }
}
