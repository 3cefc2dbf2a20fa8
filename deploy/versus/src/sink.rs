//! Where measurements go as they come: to a file of JSON lines, to standard error for those who wait, and to memory for the report.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::machine::Machine;
use crate::record::Record;
use crate::system::System;

/// See the module's page.
pub struct Sink {
    folder: PathBuf,
    lines: File,
    /// Whether each line also goes to standard output.
    echo: bool,
    /// All of this run.
    pub records: Vec<Record>,
    /// Systems that took no part, and why.
    pub missing: BTreeMap<&'static str, String>,
}

impl Sink {
    /// Writes `results.jsonl` in this folder, which is made. Its first line describes the machine.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(folder: &Path, machine: &Machine, echo: bool) -> Result<Sink> {
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        for of_an_earlier_run in ["report.txt", "picture.svg"] {
            let _ = fs::remove_file(folder.join(of_an_earlier_run));
        }
        let lines = File::create(folder.join("results.jsonl"))?;
        let mut sink = Sink { folder: folder.to_owned(), lines, echo, records: Vec::new(), missing: BTreeMap::new() };
        sink.write(&serde_json::json!({ "machine": machine }).to_string())?;
        Ok(sink)
    }

    /// Keeps one measurement.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn take(&mut self, record: Record) -> Result<()> {
        self.note(&format!("  {}", record.line()));
        self.write(&serde_json::to_string(&record)?)?;
        self.records.push(record);
        Ok(())
    }

    /// A system takes no part, as it is installed here.
    pub fn missing(&mut self, system: System, why: &str) {
        self.note(&format!("  {}: {why}", system.name()));
        self.missing.insert(system.name(), why.to_owned());
    }

    /// Says something to those who wait.
    pub fn note(&self, text: &str) {
        eprintln!("{text}");
    }

    /// Writes a file beside the results, and returns its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    fn write(&mut self, line: &str) -> Result<()> {
        if self.echo {
            println!("{line}");
        }
        Ok(writeln!(self.lines, "{line}")?)
    }
}
