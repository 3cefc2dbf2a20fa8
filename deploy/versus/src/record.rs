//! One measurement, as it is kept: a line of JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::measure::{Load, Summary};
use crate::scenario::Scenario;
use crate::usage::{Memory, Usage};

/// One measurement of one system in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// What kind of work, by its name.
    pub scenario: &'static str,
    /// Which load of it.
    pub case: String,
    /// Whose figures.
    pub system: &'static str,
    /// Rounds count from 1.
    pub round: usize,
    /// How often it was measured in this round until nobody disturbed it, or there were no more tries.
    pub tries: usize,
    /// Rate and latencies; none where what was measured is in `figures` alone, or where it failed.
    #[serde(flatten)]
    pub summary: Option<Summary>,
    /// Other figures, by name with the unit at its end.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<&'static str, f64>,
    /// Who used the processors, in cores.
    pub cpu: Option<Usage>,
    /// Servers' processor time for one operation, in microseconds.
    pub server_micros_per_operation: Option<f64>,
    /// Whether others used more of the machine than is allowed, in every try.
    pub disturbed: bool,
    /// Why there are no figures: something was lost, or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// The load's own numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Shape>,
    /// The servers' memory after the load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Version, replication, fsync and what else is to be known.
    pub facts: BTreeMap<&'static str, String>,
}

/// A load's numbers, with their units in the names.
#[derive(Clone, Debug, Serialize)]
pub struct Shape {
    /// Measured, without the warm-up.
    pub seconds: f64,
    /// Not measured, before.
    pub warm_up_seconds: f64,
    /// Clients at once.
    pub clients: usize,
    /// Shared by them.
    pub connections: usize,
    /// Consumers.
    pub workers: usize,
    /// Tasks submitted and not completed, at most.
    pub outstanding: usize,
    /// None: as many as possible.
    pub rate_per_second: Option<u32>,
    /// Of a value or a task.
    pub payload_bytes: usize,
}

impl From<&Load> for Shape {
    fn from(load: &Load) -> Shape {
        Shape {
            seconds: load.time.as_secs_f64(),
            warm_up_seconds: load.warm_up.as_secs_f64(),
            clients: load.clients,
            connections: load.connections,
            workers: load.workers,
            outstanding: load.outstanding,
            rate_per_second: load.rate,
            payload_bytes: load.payload,
        }
    }
}

impl Record {
    /// Without figures yet.
    pub fn new(scenario: Scenario, case: &str, system: &'static str, round: usize) -> Record {
        Record {
            scenario: scenario.name(),
            case: case.to_owned(),
            system,
            round,
            tries: 1,
            summary: None,
            figures: BTreeMap::new(),
            cpu: None,
            server_micros_per_operation: None,
            disturbed: false,
            failed: None,
            load: None,
            memory: None,
            facts: BTreeMap::new(),
        }
    }

    /// One line for people who wait.
    pub fn line(&self) -> String {
        let mut line = format!("{:<8} {:<28} {:<20}", self.scenario, self.case, self.system);
        if let Some(failed) = &self.failed {
            return line + "FAILED: " + failed;
        }
        if let Some(summary) = &self.summary {
            line += &format!("{:>9.0}/s  p50 {:>8.2} ms  p99 {:>8.2} ms", summary.per_second, summary.p50_ms, summary.p99_ms);
        }
        for (name, figure) in &self.figures {
            line += &format!("  {name} {figure:.2}");
        }
        if let Some(cpu) = self.cpu {
            line += &format!(
                "  cores: {:.1} servers, {:.1} load, {:.1} kernel, {:.1} others",
                cpu.servers, cpu.generator, cpu.kernel, cpu.others
            );
        }
        if self.disturbed {
            line += "  DISTURBED";
        }
        line
    }
}
