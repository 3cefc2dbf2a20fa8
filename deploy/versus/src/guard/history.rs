//! The file of recorded runs: one line of JSON each, oldest first.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// One recorded run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When, as a date in UTC.
    pub date: String,
    /// Of which sources.
    pub commit: String,
    /// Runs on another number of cores are not compared.
    pub cores: usize,
    /// The processor's name, for people.
    pub processor: String,
    /// Whether somebody else used the machine; such a run is not compared with either.
    pub disturbed: bool,
    /// Normalised medians by name; greater is better.
    pub figures: BTreeMap<String, f64>,
}

impl Line {
    /// Of now.
    pub fn new(machine: &Machine, figures: BTreeMap<String, f64>, disturbed: bool) -> Line {
        Line {
            date: time::OffsetDateTime::now_utc().date().to_string(),
            commit: machine.commit.clone().unwrap_or_else(|| "unknown".to_owned()),
            cores: machine.cores,
            processor: machine.processor.clone(),
            disturbed,
            figures: figures.into_iter().map(|(name, figure)| (name, (figure * 1e3).round() / 1e3)).collect(),
        }
    }
}

/// The recorded runs.
pub struct History {
    path: PathBuf,
    lines: Vec<Line>,
}

impl History {
    /// Reads the file; none is an empty history.
    ///
    /// # Errors
    /// If a line is not one of a history.
    pub fn read(path: &Path) -> Result<History> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        };
        let lines = text.lines().enumerate().map(|(at, line)| {
            serde_json::from_str(line).with_context(|| format!("line {} of {} is not a recorded run", at + 1, path.display()))
        });
        Ok(History { path: path.to_owned(), lines: lines.collect::<Result<_>>()? })
    }

    /// The runs that a run on so many cores is compared with, oldest first.
    pub fn comparable(&self, cores: usize) -> Vec<&Line> {
        self.lines.iter().filter(|line| line.cores == cores && !line.disturbed).collect()
    }

    /// Adds one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn append(&self, line: &Line) -> Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        Ok(writeln!(file, "{}", serde_json::to_string(line)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(cores: usize, disturbed: bool) -> Line {
        let figures = BTreeMap::from([("puts".to_owned(), 7.5)]);
        Line { date: "2026-01-02".into(), commit: "abc".into(), cores, processor: "x".into(), disturbed, figures }
    }

    #[test]
    fn what_is_recorded_is_read_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("history.jsonl");
        let empty = History::read(&path).expect("no file is no history");
        assert!(empty.comparable(2).is_empty());
        for recorded in [line(2, false), line(4, false), line(2, true)] {
            empty.append(&recorded).expect("it can be written");
        }
        let history = History::read(&path).expect("it was written here");
        assert_eq!(history.comparable(2), [&line(2, false)]);
        fs::write(&path, "{}\n").expect("it can be written");
        assert!(History::read(&path).is_err());
    }
}
