//! `tarn scheduler`: how the router weighs workers against each other.

use std::time::Duration;

use tarn_client::{Client, proto};

use super::Failure;
use super::connect::parse_duration;
use super::output::{Printer, table};
use crate::router;

/// Subcommands of `tarn scheduler`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum SchedulerCommand {
    /// See or set how much each part of a score counts
    #[command(subcommand)]
    Weights(WeightsCommand),
    /// See or set how long tasks hold out for a runtime, and what time is worth
    #[command(after_help = "Examples:
  tarn scheduler settings
  tarn scheduler settings --chain-patience 10s --settle 30s")]
    Settings {
        /// What a second of run time is worth, in the unit of `executors.cost_per_second`
        #[arg(long, value_name = "COST")]
        time_value: Option<u64>,
        /// How long a task holds out for a busy runtime that it names before others
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        chain_patience: Option<Duration>,
        /// The same where the task names none
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        auto_patience: Option<Duration>,
        /// How long a runtime that was lost must be back before it is relied on again
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        settle: Option<Duration>,
        /// How long a task that may run in any cluster waits for room here before it is handed to another
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        away_patience: Option<Duration>,
        /// Whether every task of the runtime `auto` may run in any cluster, or only those submitted with --any-cluster
        #[arg(long, value_name = "true|false")]
        any_cluster: Option<bool>,
    },
}

/// Subcommands of `tarn scheduler weights`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum WeightsCommand {
    /// Show the weights and what raising each does
    Get,
    /// Set some weights, from 0, not at all, to 100; the others stay. They count from the next placement on
    #[command(after_help = "Example:
  tarn scheduler weights set cost=90 performance=10")]
    Set {
        /// A weight and its value
        #[arg(required = true, value_name = "NAME=NUMBER", value_parser = parse_weight)]
        weights: Vec<(String, u32)>,
    },
    /// Go back to the defaults
    Reset,
}

/// What raising each weight does, in the order of the parts of a score.
const MEANINGS: [(&str, &str); 8] = [
    ("performance", "workers on which this artifact runs fast, even where they cost more"),
    ("cost", "workers on which the task costs least until it has succeeded"),
    ("quality", "workers on which this artifact seldom fails, and whose results are good"),
    ("priority", "urgent tasks get the fast workers"),
    ("locality", "nodes that hold the task's data, workers with the labels that it prefers"),
    ("dependencies", "nodes on which the tasks that it depends on ran"),
    ("balance", "load is spread"),
    ("thrift", "tasks keep off workers with devices that they do not need"),
];

/// Runs a subcommand.
pub async fn run(command: SchedulerCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    let mut settings = client.scheduler_settings().await?;
    match command {
        SchedulerCommand::Weights(WeightsCommand::Get) => show_weights(&settings, printer),
        SchedulerCommand::Weights(WeightsCommand::Set { weights }) => {
            let present = settings.weights.get_or_insert_default();
            for (name, value) in weights {
                *weight(present, &name).ok_or_else(|| Failure::Usage(unknown(&name)))? = Some(value);
            }
            put(&client, settings).await?;
            show_weights(&settings, printer)
        }
        SchedulerCommand::Weights(WeightsCommand::Reset) => {
            settings.weights = None;
            put(&client, settings).await?;
            show_weights(&settings, printer)
        }
        SchedulerCommand::Settings { time_value, chain_patience, auto_patience, settle, away_patience, any_cluster } => {
            let before = settings;
            let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            settings.time_value_per_second = time_value.or(settings.time_value_per_second);
            settings.chain_patience_ms = chain_patience.map(ms).or(settings.chain_patience_ms);
            settings.auto_patience_ms = auto_patience.map(ms).or(settings.auto_patience_ms);
            settings.settle_ms = settle.map(ms).or(settings.settle_ms);
            settings.away_patience_ms = away_patience.map(ms).or(settings.away_patience_ms);
            settings.any_cluster = any_cluster.or(settings.any_cluster);
            if settings != before {
                put(&client, settings).await?;
            }
            show_settings(&settings, printer)
        }
    }
}

async fn put(client: &Client, settings: proto::SchedulerSettings) -> Result<(), Failure> {
    Ok(client.put_scheduler_settings(settings).await?)
}

fn show_weights(settings: &proto::SchedulerSettings, printer: Printer) -> Result<(), Failure> {
    let all = router::tuning(settings).weights.all();
    let json: serde_json::Map<_, _> = all.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    printer.value(&serde_json::Value::Object(json), || {
        let rows =
            all.iter().zip(MEANINGS).map(|((name, value), (_, meaning))| vec![(*name).to_owned(), value.to_string(), meaning.to_owned()]);
        table(&["WEIGHT", "VALUE", "RAISED"], rows)
    })
}

fn show_settings(settings: &proto::SchedulerSettings, printer: Printer) -> Result<(), Failure> {
    let tuning = router::tuning(settings);
    let all = [
        ("time_value_per_second", tuning.time_value_per_second),
        ("chain_patience_ms", tuning.chain_patience_ms),
        ("auto_patience_ms", tuning.auto_patience_ms),
        ("settle_ms", tuning.settle_ms),
        ("away_patience_ms", router::away_patience_ms(settings)),
    ];
    let any_cluster = settings.any_cluster();
    let mut json: serde_json::Map<_, _> = all.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    json.insert("any_cluster".to_owned(), any_cluster.into());
    printer.value(&serde_json::Value::Object(json), || {
        let mut rows: Vec<_> = all.iter().map(|(name, value)| vec![(*name).to_owned(), value.to_string()]).collect();
        rows.push(vec!["any_cluster".to_owned(), any_cluster.to_string()]);
        table(&["SETTING", "VALUE"], rows.into_iter())
    })
}

fn weight<'w>(weights: &'w mut proto::SchedulerWeights, name: &str) -> Option<&'w mut Option<u32>> {
    Some(match name {
        "performance" => &mut weights.performance,
        "cost" => &mut weights.cost,
        "quality" => &mut weights.quality,
        "priority" => &mut weights.priority,
        "locality" => &mut weights.locality,
        "dependencies" => &mut weights.dependencies,
        "balance" => &mut weights.balance,
        "thrift" => &mut weights.thrift,
        _ => return None,
    })
}

fn unknown(name: &str) -> String {
    let names: Vec<&str> = MEANINGS.iter().map(|(name, _)| *name).collect();
    format!("there is no weight {name:?}: there are {}", names.join(", "))
}

fn parse_weight(text: &str) -> Result<(String, u32), String> {
    let parts = text.split_once('=').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
    parts.ok_or_else(|| "write NAME=NUMBER, such as cost=90".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_of_a_score_can_be_set_and_has_a_meaning() {
        let mut weights = proto::SchedulerWeights::default();
        for (place, (name, _)) in tarn_scheduler::Weights::default().all().iter().enumerate() {
            assert_eq!(MEANINGS[place].0, *name);
            *weight(&mut weights, name).unwrap() = Some(place as u32);
        }
        let settings = proto::SchedulerSettings { weights: Some(weights), ..proto::SchedulerSettings::default() };
        for (place, (_, value)) in router::tuning(&settings).weights.all().iter().enumerate() {
            assert_eq!(usize::from(*value), place);
        }
        assert!(weight(&mut weights, "costs").is_none());
    }

    #[test]
    fn a_weight_is_a_name_and_a_number() {
        assert_eq!(parse_weight("cost=90"), Ok(("cost".into(), 90)));
        for bad in ["cost", "cost=", "cost=-1", "cost=much"] {
            assert!(parse_weight(bad).is_err(), "{bad}");
        }
    }
}
