//! The report folder: everything about one run, for people and for `jepsen check`.
//!
//! ```text
//! FOLDER/report.html      what happened, at a glance
//! FOLDER/verdict.json     options, verdict and figures
//! FOLDER/history.jsonl    what clients and nemeses did, one JSON line per event
//! FOLDER/node-N.log       what node N wrote to standard error, over all its starts
//! FOLDER/cluster/         keys, configuration and data of the nodes; kept where the run was not valid
//! ```

mod chart;
mod index;
mod page;
mod picture;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::checker::{Check, Outcome, Verdict};
use crate::figures::Figures;
use crate::history::Event;

pub use index::index;

/// What was run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The workload's name.
    pub workload: String,
    /// The nemeses' names.
    pub nemeses: Vec<String>,
    /// The seed.
    pub seed: u64,
    /// How many voters each cluster had at first.
    pub nodes: usize,
    /// How many clusters there were.
    #[serde(default = "one")]
    pub clusters: u64,
    /// How many clients worked.
    pub clients: u32,
    /// How long clients should work, in seconds.
    pub seconds: u64,
    /// How the nodes reached each other.
    pub network: String,
    /// What their data was on.
    pub disk: String,
    /// The nodes' settings that are not the defaults.
    pub settings: Vec<(String, String)>,
    /// What `tarn --version` said.
    pub tarn: String,
    /// When the run began, in RFC 3339.
    pub started: String,
    /// The command that does the same again.
    pub command: String,
}

fn one() -> u64 {
    1
}

/// What `verdict.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What the run has shown.
    pub outcome: Outcome,
    /// The checks.
    pub checks: Vec<Check>,
    /// The figures.
    pub figures: Figures,
    /// What was run.
    pub setting: Setting,
}

impl Report {
    /// Puts the parts together.
    pub fn new(setting: Setting, verdict: Verdict, figures: Figures) -> Self {
        Self { outcome: verdict.outcome, checks: verdict.checks, figures, setting }
    }

    /// Writes `verdict.json` and `report.html`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Folder, history: &[Event]) -> Result<()> {
        write(&folder.verdict(), &(serde_json::to_string_pretty(self)? + "\n"))?;
        write(&folder.page(), &page::page(self, history, &folder.logs()))
    }

    /// Reads a stored `verdict.json`.
    ///
    /// # Errors
    /// If the folder has none, or it cannot be read.
    pub fn read(folder: &Folder) -> Result<Self> {
        let path = folder.verdict();
        let text = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no verdict of this version", path.display()))
    }
}

/// One report folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// An existing folder.
    pub fn open(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Makes a new folder in this one.
    ///
    /// # Errors
    /// If it exists already or cannot be made.
    pub fn create(within: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(within).with_context(|| format!("{} cannot be made", within.display()))?;
        // Nodes are told their paths, and run in another directory perhaps.
        let path = within.canonicalize()?.join(name);
        fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The history.
    pub fn history(&self) -> PathBuf {
        self.0.join("history.jsonl")
    }

    /// Options, verdict and figures.
    pub fn verdict(&self) -> PathBuf {
        self.0.join("verdict.json")
    }

    /// The page for people.
    pub fn page(&self) -> PathBuf {
        self.0.join("report.html")
    }

    /// The cluster's own directory.
    pub fn cluster(&self) -> PathBuf {
        self.0.join("cluster")
    }

    /// The names of the nodes' logs in it.
    pub fn logs(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut logs: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.ends_with(".log")).collect();
        logs.sort_by_key(|name| (name.len(), name.clone()));
        logs
    }

    /// Takes the nodes' logs out of the cluster's directory.
    ///
    /// # Errors
    /// If one cannot be copied.
    pub fn collect_logs(&self) -> Result<()> {
        for (cluster, folder) in self.clusters() {
            for path in folder {
                if let (true, Some(name)) = (path.extension().is_some_and(|end| end == "log"), path.file_name()) {
                    let copy = self.0.join(format!("{cluster}{}", name.to_string_lossy()));
                    fs::copy(&path, copy).with_context(|| format!("{} cannot be copied", path.display()))?;
                }
            }
        }
        Ok(())
    }

    /// What lies in the cluster's folder; and in those of its parts, where it is a federation, with what the names of their logs begin with.
    fn clusters(&self) -> Vec<(String, Vec<PathBuf>)> {
        let all = listed(&self.cluster());
        let part = |path: &PathBuf| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            path.join("ca").is_dir().then(|| (format!("{name}-"), listed(path)))
        };
        let parts: Vec<_> = all.iter().filter_map(part).collect();
        parts.into_iter().chain([(String::new(), all)]).collect()
    }
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}
