//! `tarn audit …` and `tarn explain …`: what was decided, whether the records are whole, and why things are as they are.

use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use tarn_client::Client;
use tarn_machine::limits::{AUDIT_BYTES, AUDIT_RECORDS, AUDIT_RETENTION_MS};
use tarn_proto::v1::{self as proto, AuditSettings, Decision, DecisionKind, ListDecisionsRequest, VerifyDecisionsResponse};

use super::connect::{ConnectArgs, parse_bytes, parse_duration, parse_duration_in, parse_time};
use super::exit::Failure;
use super::output::{Format, Printer, table, time};
use super::task::short_name;
use crate::printable;

/// See what was decided, and prove that the records are whole.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum AuditCommand {
    /// List records, oldest first
    #[command(after_help = "\
Examples:
  tarn audit list --kind refused --since 1h
  tarn audit list --principal user/ada -o jsonl
  tarn audit list --task 00000002w0001 --all-namespaces")]
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Walk the chain of records on every node, and compare what they have
    #[command(after_help = "\
Every row of records begins with the hash of the row before. Each node walks its own rows and says where the chain is broken; then what the
nodes have at the same log index is compared. It exits with 0 if all is whole and alike, with 1 if not, and with 4 if that is not known because a node could not be asked.")]
    Verify,
    /// Write records as JSON lines, to be kept for longer than the cluster keeps them
    #[command(after_help = "\
Examples:
  tarn audit export --since 24h > yesterday.jsonl
  tarn audit export --follow --after 12345 >> archive.jsonl      goes on where it stopped
Records are dropped when they are older, or more, than `tarn audit settings` say. Whoever needs them for longer lets an export run.")]
    Export {
        #[command(flatten)]
        filter: FilterArgs,
        /// After this log index, as an earlier export told it
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// Go on with the records that come
        #[arg(long)]
        follow: bool,
    },
    /// Show how long records are kept, or change it
    Settings {
        /// Drop what is older, such as 90d
        #[arg(long, value_parser = |text: &str| parse_duration_in(text, AUDIT_RETENTION_MS))]
        retention: Option<Duration>,
        /// Keep at most so many records
        #[arg(long, value_parser = clap::value_parser!(u64).range(AUDIT_RECORDS.0..=AUDIT_RECORDS.1))]
        records: Option<u64>,
        /// Keep at most so many bytes of them, such as 8Gi
        #[arg(long, value_parser = parse_kept_bytes)]
        bytes: Option<u64>,
    },
}

/// Which records.
#[derive(Clone, Debug, clap::Args)]
pub struct FilterArgs {
    /// Of this kind only: admitted, refused, leased, retried, dead, cancelled, returned, requeued, worker, members
    #[arg(long = "kind", value_delimiter = ',', value_parser = parse_kind)]
    kinds: Vec<DecisionKind>,
    /// Who asked
    #[arg(long)]
    principal: Option<String>,
    /// About this task
    #[arg(long)]
    task: Option<String>,
    /// With this request id
    #[arg(long)]
    request: Option<String>,
    /// With this trace id
    #[arg(long)]
    trace: Option<String>,
    /// Judged by this policy
    #[arg(long)]
    policy: Option<String>,
    /// From this time on: 2026-01-31T12:00:00Z, or 24h ago
    #[arg(long, value_parser = parse_since)]
    since: Option<SystemTime>,
    /// Before this time
    #[arg(long, value_parser = parse_since)]
    until: Option<SystemTime>,
    /// Of all namespaces, and of the cluster itself
    #[arg(long, short = 'A', visible_alias = "all")]
    all_namespaces: bool,
}

impl FilterArgs {
    fn filter(&self, client: &Client) -> ListDecisionsRequest {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let ms = |time: &Option<SystemTime>| {
            let since_epoch = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
            since_epoch.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        };
        ListDecisionsRequest {
            kinds: self.kinds.iter().map(|kind| (*kind).into()).collect(),
            principal: text(&self.principal),
            namespace: if self.all_namespaces { String::new() } else { client.namespace().to_owned() },
            task_id: text(&self.task),
            request_id: text(&self.request),
            trace: text(&self.trace),
            policy: text(&self.policy),
            since_ms: ms(&self.since),
            until_ms: ms(&self.until),
            ..ListDecisionsRequest::default()
        }
    }
}

/// The kinds' names, as the command line writes them.
fn kinds() -> Vec<String> {
    let all = (1..=i32::from(u8::MAX)).filter_map(|number| DecisionKind::try_from(number).ok());
    all.map(|kind| short_name(kind.as_str_name(), "DECISION_KIND_")).collect()
}

fn parse_kind(text: &str) -> Result<DecisionKind, String> {
    let name = format!("DECISION_KIND_{}", text.to_uppercase());
    let kind = DecisionKind::from_str_name(&name).filter(|kind| *kind != DecisionKind::Unspecified);
    kind.ok_or_else(|| format!("{text:?} is no kind of record: {}", kinds().join(", ")))
}

/// A number of bytes that records may take: zero would stand for the default.
fn parse_kept_bytes(text: &str) -> Result<u64, String> {
    let (least, most) = AUDIT_BYTES;
    match parse_bytes(text)? {
        bytes if (least..=most).contains(&bytes) => Ok(bytes),
        _ => Err(format!("{text:?} is not from {least} to {most} bytes")),
    }
}

/// A time, or how long ago.
fn parse_since(text: &str) -> Result<SystemTime, String> {
    match parse_duration(text) {
        Ok(ago) => SystemTime::now().checked_sub(ago).ok_or_else(|| format!("{text:?} is too long ago")),
        Err(_) => {
            parse_time(text).map_err(|_| format!("{text:?} is not a time: write how long ago, such as 24h or 7d, or 2026-01-31T12:00:00Z"))
        }
    }
}

/// Runs `tarn audit …`.
pub async fn audit(command: AuditCommand, connect: &ConnectArgs, printer: Printer) -> Result<(), Failure> {
    let client = connect.client()?;
    match command {
        AuditCommand::List { filter, limit } => list(&client, filter.filter(&client), limit, printer).await,
        AuditCommand::Verify => verify(connect, &client, printer).await,
        AuditCommand::Export { filter, after, follow } => {
            let filter = ListDecisionsRequest { after_index: after, ..filter.filter(&client) };
            export(&client, filter, follow, printer).await
        }
        AuditCommand::Settings { retention, records, bytes } => settings(&client, retention, records, bytes, printer).await,
    }
}

async fn list(client: &Client, filter: ListDecisionsRequest, limit: usize, printer: Printer) -> Result<(), Failure> {
    let mut records = std::pin::pin!(client.list_decisions(filter));
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(record) = records.try_next().await?
    {
        found.push(record);
    }
    if found.len() == limit && records.try_next().await?.is_some() {
        printer.note(&format!("only the oldest {limit} are shown: begin later with --since, such as --since 1h, or raise --limit"));
    }
    let head = ["time", "index", "kind", "principal", "action", "of", "why"];
    printer.list(&found, &head, row)
}

fn row(record: &Decision) -> Vec<String> {
    let dash = |text: &str| {
        if text.is_empty() { "-".to_owned() } else { text.to_owned() }
    };
    let of = match (record.resource.as_str(), record.task_id.as_str()) {
        ("", "") => record.worker.clone(),
        ("", task) => format!("task/{task}"),
        (resource, _) => resource.to_owned(),
    };
    let times = if record.count > 1 { format!(" x{}", record.count) } else { String::new() };
    vec![
        time(record.at_ms),
        format!("{}.{}", record.index, record.ordinal),
        short_name(record.kind().as_str_name(), "DECISION_KIND_"),
        dash(&record.principal),
        dash(&record.action),
        dash(&of),
        format!("{}{times}", dash(&record.reason)),
    ]
}

async fn export(client: &Client, filter: ListDecisionsRequest, follow: bool, printer: Printer) -> Result<(), Failure> {
    let mut position = filter.after_index;
    let mut export = client.export_decisions(filter, follow).await?;
    loop {
        let message = tokio::select! {
            message = export.next() => message,
            _ = tokio::signal::ctrl_c() => Ok(None),
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => {
                printer.note(&format!("go on with --after {position}"));
                return Ok(());
            }
            Err(error) => {
                printer.note(&format!("go on with --after {position}"));
                return Err(error.into());
            }
        };
        // JSON lines in every format but none: an export is for machines.
        let lines = match printer.format() {
            Format::None => Format::None,
            Format::Text | Format::Json | Format::Jsonl => Format::Jsonl,
        };
        for record in &message.decisions {
            Printer::new(lines).item(record, |_| String::new())?;
        }
        position = message.index;
    }
}

async fn settings(
    client: &Client,
    retention: Option<Duration>,
    records: Option<u64>,
    bytes: Option<u64>,
    printer: Printer,
) -> Result<(), Failure> {
    let present = client.audit_settings().await?;
    if retention.is_none() && records.is_none() && bytes.is_none() {
        return printer.message(&present, |answer| {
            let settings = answer.settings.unwrap_or_default();
            let chain = answer.chain.clone().unwrap_or_default();
            format!(
                "{}\n{} records in {} bytes are kept, of log entries after {} up to {}",
                told(&settings),
                answer.records,
                answer.bytes,
                chain.start_index,
                chain.head_index
            )
        });
    }
    let now = present.settings.unwrap_or_default();
    let wanted = AuditSettings {
        retention_ms: retention.map_or(now.retention_ms, |retention| u64::try_from(retention.as_millis()).unwrap_or(u64::MAX)),
        records_max: records.unwrap_or(now.records_max),
        bytes_max: bytes.unwrap_or(now.bytes_max),
    };
    let put = client.put_audit_settings(wanted).await?;
    printer.message(&put, told)
}

fn told(settings: &AuditSettings) -> String {
    format!(
        "records are kept for {} h, at most {} of them, in at most {} bytes",
        settings.retention_ms / 3_600_000,
        settings.records_max,
        settings.bytes_max
    )
}

// --- Verification ----------------------------------------------------------------------------------------------------------------------

/// Every node walks its own chain, up to the same log index; then what they have there is compared.
async fn verify(connect: &ConnectArgs, client: &Client, printer: Printer) -> Result<(), Failure> {
    let head = client.audit_settings().await?.chain.unwrap_or_default().head_index;
    let (credentials, _, _) = connect.resolved()?;
    let mut reports = Vec::new();
    let mut unreachable = Vec::new();
    for member in client.cluster().await?.members {
        let address = member.address;
        let node = Client::builder().credentials(credentials.clone()).addresses([&address]).deadline(connect.deadline).connect_lazy()?;
        match node.verify_decisions(head).await {
            Ok(report) => reports.push(report),
            Err(error) => unreachable.push((member.node_id, why_not_asked(&error, &address))),
        }
    }
    let apart = apart(&reports);
    let whole = verdict(&reports, apart, !unreachable.is_empty());
    let text = |reports: &[VerifyDecisionsResponse]| {
        let head = ["node", "rows", "records", "after", "through", "hash", "chain"];
        let mut text = table(&head, reports.iter().map(report_row));
        for report in reports {
            for fault in &report.faults {
                text.push_str(&format!("node {}: {}: {}\n", report.node_id, fault.reason, fault.message));
            }
        }
        if apart {
            text.push_str("the nodes have different records at the same log index: compare with an export from before\n");
        }
        for (node, error) in &unreachable {
            text.push_str(&format!("node {node} was not asked: {error}\n"));
        }
        text.push_str(match whole {
            Some(true) => "all is whole and alike\n",
            Some(false) => "not all is whole and alike\n",
            None => "whether all is whole is not known: not every node was asked\n",
        });
        text
    };
    let value = serde_json::json!({
        "whole": whole,
        "alike": !apart,
        "nodes": reports.iter().map(super::output::to_json).collect::<Vec<_>>(),
        "not_asked": unreachable.iter().map(|(node, error)| serde_json::json!({ "node_id": node, "message": error })).collect::<Vec<_>>(),
    });
    printer.value(&value, || text(&reports))?;
    match whole {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::No),
        None => Err(Failure::NotKnown),
    }
}

/// Whether all is whole and alike; `None` where nothing that was seen is broken, and not everything was seen.
fn verdict(reports: &[VerifyDecisionsResponse], apart: bool, some_not_asked: bool) -> Option<bool> {
    let broken = apart || reports.iter().any(|report| !report.faults.is_empty());
    match (broken, some_not_asked || reports.is_empty()) {
        (true, _) => Some(false),
        (false, true) => None,
        (false, false) => Some(true),
    }
}

fn why_not_asked(error: &tarn_client::Error, address: &str) -> String {
    match error.to_string() {
        text if text.contains("Connection refused") => format!("nothing listens at {address}: does the node run?"),
        text => text,
    }
}

/// Whether nodes that are whole up to the same index have different records there.
fn apart(reports: &[VerifyDecisionsResponse]) -> bool {
    let mut whole = reports.iter().filter(|report| report.faults.is_empty());
    let Some(first) = whole.next() else { return false };
    whole.any(|other| (other.through_index, &other.through_hash) != (first.through_index, &first.through_hash))
}

fn report_row(report: &VerifyDecisionsResponse) -> Vec<String> {
    let hash = data_encoding::HEXLOWER.encode(&report.through_hash);
    vec![
        report.node_id.to_string(),
        report.rows.to_string(),
        report.records.to_string(),
        report.chain.as_ref().map_or(0, |chain| chain.start_index).to_string(),
        report.through_index.to_string(),
        hash.get(..16).unwrap_or(&hash).to_owned(),
        match report.faults.len() {
            0 => "whole".to_owned(),
            faults => format!("broken in {faults} places"),
        },
    ]
}

// --- Stories ---------------------------------------------------------------------------------------------------------------------------

/// Say in plain sentences why something is as it is.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ExplainCommand {
    /// Why a task waits or waited, ran where it ran, was tried again, and who did what with it
    #[command(after_help = "Example:\n  tarn explain task 00000002w0001 --level technical")]
    Task {
        /// Its id
        task_id: String,
        #[command(flatten)]
        level: LevelArg,
    },
    /// Why a request was refused, or let through
    #[command(
        after_help = "The id is the request id of a command, or the trace id that every refusal and every log line of the request has."
    )]
    Request {
        /// Its request id or trace id
        id: String,
        #[command(flatten)]
        level: LevelArg,
    },
}

/// How much to tell.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LevelArg {
    /// How much to tell
    #[arg(long, value_enum, default_value = "detailed")]
    level: LevelName,
}

/// The levels' names.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LevelName {
    /// How it stands, and what would unblock it
    Brief,
    /// And all that happened
    Detailed,
    /// And the numbers that decided
    Technical,
    /// And every record
    Audit,
}

impl From<LevelArg> for proto::ExplainLevel {
    fn from(level: LevelArg) -> Self {
        match level.level {
            LevelName::Brief => Self::Brief,
            LevelName::Detailed => Self::Detailed,
            LevelName::Technical => Self::Technical,
            LevelName::Audit => Self::Audit,
        }
    }
}

/// Runs `tarn explain …`.
pub async fn explain(command: ExplainCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        ExplainCommand::Task { task_id, level } => {
            let answer = client.explain_task(task_id, level.into()).await?;
            printer.message(&answer, |answer| story(&answer.sentences))
        }
        ExplainCommand::Request { id, level } => {
            let answer = client.explain_request(id, level.into()).await?;
            printer.message(&answer, |answer| story(&answer.sentences))
        }
    }
}

/// One sentence a line, with the time of what happened.
fn story(sentences: &[proto::Sentence]) -> String {
    let line = |sentence: &proto::Sentence| match sentence.at_ms {
        0 => printable::line(&sentence.text).into_owned(),
        at_ms => format!("{}  {}", time(at_ms), printable::line(&sentence.text)),
    };
    sentences.iter().map(line).collect::<Vec<_>>().join("\n")
}
