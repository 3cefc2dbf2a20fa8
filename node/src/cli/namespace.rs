//! `tarn namespace …`: tenants, what they may have and what they have.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use tarn_client::{Client, Error};
use tarn_proto::v1::{self as proto, GetNamespaceResponse, Isolation, Namespace, Quotas};

use super::connect::parse_bytes;
use super::exit::Failure;
use super::output::{Printer, table, time};
use super::task::short_name;

/// Manage namespaces: tenants.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum NamespaceCommand {
    /// Create a namespace
    #[command(after_help = CREATE_EXAMPLES)]
    Create {
        /// Its name
        name: String,
        /// Its share of leases when several namespaces have work, from 1 to 1,000; 0 stands for 100
        #[arg(long, default_value_t = 100)]
        weight: u32,
        #[command(flatten)]
        quotas: QuotaArgs,
        /// Whose workers run its tasks: strict, its own alone; shared, any, with a fair share by weight; none, any, without a share of its own
        #[arg(long, value_parser = isolations())]
        isolation: Option<Isolation>,
        /// Which policies judge what is asked of it: dev, stage, prod or another name; prod unless named
        #[arg(long)]
        environment: Option<String>,
    },
    /// Change what is named, and leave the rest as it is; a quota of 0 is none
    #[command(after_help = "Example:\n  tarn namespace update team --max-queued 5000 --max-running 0")]
    Update {
        /// Its name
        name: String,
        /// Its share of leases when several namespaces have work, from 1 to 1,000
        #[arg(long)]
        weight: Option<u32>,
        #[command(flatten)]
        quotas: QuotaArgs,
        /// Whose workers run its tasks: strict, shared or none; attempts that run already may finish
        #[arg(long, value_parser = isolations())]
        isolation: Option<Isolation>,
        /// Which policies judge what is asked of it
        #[arg(long)]
        environment: Option<String>,
    },
    /// Show a namespace: its settings and quotas
    Show {
        /// Its name
        name: String,
    },
    /// Show what a namespace has, and how much of its quotas it uses
    Usage {
        /// Its name
        name: String,
    },
    /// List the namespaces
    List,
    /// Delete a namespace that holds nothing any more, or has it drain
    #[command(after_help = DELETE_EXAMPLES)]
    Delete {
        /// Its name
        name: String,
        /// Take nothing new from now on, let what is in it end, and then delete it with results and dead letters; waits until it is gone
        #[arg(long)]
        drain: bool,
        /// With --drain: end its tasks, running ones too, its timers and its named leases instead of waiting for them
        #[arg(long, requires = "drain")]
        cancel: bool,
        /// With --drain: do not wait until it is gone
        #[arg(long, requires = "drain")]
        no_wait: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

const CREATE_EXAMPLES: &str = "\
Examples:
  tarn namespace create team --max-queued 10000 --max-running 50 --max-stored-bytes 1Gi
  tarn namespace create vault --isolation strict --environment prod";

const DELETE_EXAMPLES: &str = "\
Examples:
  tarn namespace delete team                    # refused while something is in it
  tarn namespace delete team --drain            # waits for its tasks
  tarn namespace delete team --drain --cancel   # ends them";

/// Quotas; what is not named stays, or is no limit.
#[derive(Clone, Debug, clap::Args)]
pub struct QuotaArgs {
    /// Attempts that run at the same time; 0: no limit
    #[arg(long)]
    max_running: Option<u64>,
    /// Tasks that have not ended; 0: no limit
    #[arg(long)]
    max_queued: Option<u64>,
    /// Bytes of payloads, results and logs of all tasks that are kept, such as 500Mi; 0: no limit
    #[arg(long, value_parser = parse_bytes)]
    max_stored_bytes: Option<u64>,
    /// Requests per minute; each node allows an equal share; 0: no limit
    #[arg(long)]
    requests_per_minute: Option<u64>,
}

impl QuotaArgs {
    /// As the contract has them; `None` if none is named, which also older clusters understand.
    fn message(&self) -> Option<Quotas> {
        let quotas = Quotas {
            max_running: self.max_running,
            max_queued: self.max_queued,
            max_stored_bytes: self.max_stored_bytes,
            requests_per_minute: self.requests_per_minute,
        };
        (quotas != Quotas::default()).then_some(quotas)
    }
}

fn isolations() -> impl TypedValueParser<Value = Isolation> {
    PossibleValuesParser::new(["strict", "shared", "none"]).map(|name| match name.as_str() {
        "strict" => Isolation::Strict,
        "none" => Isolation::None,
        _ => Isolation::Shared,
    })
}

/// Runs `tarn namespace …`.
pub async fn run(command: NamespaceCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        NamespaceCommand::Create { name, weight, quotas, isolation, environment } => {
            let request = proto::CreateNamespaceRequest {
                name,
                weight,
                quotas: quotas.message(),
                isolation: isolation.unwrap_or_default().into(),
                environment: environment.unwrap_or_default(),
                ..Default::default()
            };
            let namespace = client.create_namespace_with(request).await?;
            printer.message(&namespace, |namespace| format!("created {}", namespace.name))
        }
        NamespaceCommand::Update { name, weight, quotas, isolation, environment } => {
            let request = proto::UpdateNamespaceRequest {
                name,
                weight,
                quotas: quotas.message(),
                isolation: isolation.map(i32::from),
                environment,
                ..Default::default()
            };
            let namespace = client.update_namespace(request).await?;
            printer.message(&namespace, settings)
        }
        NamespaceCommand::Show { name } => {
            let namespace = client.get_namespace(name).await?.namespace.unwrap_or_default();
            printer.message(&namespace, settings)
        }
        NamespaceCommand::Usage { name } => printer.message(&client.get_namespace(name).await?, used),
        NamespaceCommand::List => {
            let head = ["namespace", "state", "weight", "isolation", "environment", "created"];
            printer.list(&client.list_namespaces().await?, &head, row)
        }
        NamespaceCommand::Delete { name, drain, cancel, no_wait, yes } => {
            super::confirm(&question(&name, drain, cancel), yes)?;
            match drain {
                false => client.delete_namespace(&name).await.inspect_err(|error| say_drain(error, printer))?,
                true => {
                    client.drain_namespace(&name, cancel).await?;
                    if no_wait {
                        let answer = proto::DeleteNamespaceResponse { draining: true };
                        return printer.message(&answer, |_| format!("draining {name}"));
                    }
                    until_gone(&client, printer, &name).await?;
                }
            }
            printer.message(&proto::DeleteNamespaceResponse::default(), |_| format!("deleted {name}"))
        }
    }
}

fn question(name: &str, drain: bool, cancel: bool) -> String {
    match (drain, cancel) {
        (_, true) => format!("Delete namespace {name}, and end everything in it now?"),
        (true, false) => {
            format!("Delete namespace {name} when its tasks have ended, with its results and dead letters?")
        }
        (false, false) => format!("Delete namespace {name}?"),
    }
}

/// Whoever deletes a namespace that is in use has to say what becomes of what is in it.
fn say_drain(error: &Error, printer: Printer) {
    if error.reason() == "NAMESPACE_NOT_EMPTY" {
        printer.note("with --drain it goes when what is in it has ended; with --drain --cancel that is ended at once");
    }
}

/// How often the state of a namespace that does not get on is told again, with what would help.
const REMIND_EVERY: Duration = Duration::from_secs(10);

/// How often a namespace that drains is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits until a namespace is gone, and says what it still holds whenever that has changed. An interrupted wait changes nothing: the
/// namespace goes all the same.
async fn until_gone(client: &Client, printer: Printer, name: &str) -> Result<(), Failure> {
    let mut last = String::new();
    let mut told = Instant::now();
    loop {
        let holds = match client.get_namespace(name).await {
            Ok(found) => holds(&found.usage.unwrap_or_default()),
            Err(Error::Refused(refusal)) if refusal.reason == "NAMESPACE_NOT_FOUND" => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // A log is spared what only a person wants to see move.
        if holds != last && (last.is_empty() || std::io::stderr().is_terminal()) {
            printer.note(&format!("draining {name}: {holds}"));
            (last, told) = (holds, Instant::now());
        } else if told.elapsed() >= REMIND_EVERY {
            printer.note(&format!(
                "still draining {name}: {holds}; `tarn namespace delete {name} --drain --cancel` ends it all, and \
                 `tarn explain task ID -n {name}` says what a task waits for"
            ));
            told = Instant::now();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn holds(usage: &proto::NamespaceUsage) -> String {
    format!(
        "{} tasks wait, {} run, {} timers are pending, {} named leases are held",
        usage.blocked + usage.delayed + usage.ready,
        usage.running,
        usage.pending_timers,
        usage.named_leases
    )
}

fn row(namespace: &Namespace) -> Vec<String> {
    vec![
        namespace.name.clone(),
        word(namespace.state().as_str_name(), "NAMESPACE_STATE_"),
        namespace.weight.to_string(),
        word(namespace.isolation().as_str_name(), "ISOLATION_"),
        match namespace.environment.as_str() {
            "" => "-".to_owned(),
            environment => environment.to_owned(),
        },
        time(namespace.created_at_ms),
    ]
}

/// A value's name; `-` where the cluster is too old to say.
fn word(name: &str, prefix: &str) -> String {
    match short_name(name, prefix) {
        word if word.eq_ignore_ascii_case("unspecified") => "-".to_owned(),
        word => word,
    }
}

fn limit(limit: Option<u64>) -> String {
    match limit.unwrap_or(0) {
        0 => "none".to_owned(),
        limit => limit.to_string(),
    }
}

fn settings(namespace: &Namespace) -> String {
    let quotas = namespace.quotas.unwrap_or_default();
    let [name, state, weight, isolation, environment, created] = row(namespace).try_into().unwrap_or_default();
    let rows = [
        ("name", name),
        ("state", state),
        ("created", created),
        ("weight", weight),
        ("isolation", isolation),
        ("environment", environment),
        ("max running", limit(quotas.max_running)),
        ("max queued", limit(quotas.max_queued)),
        ("max stored bytes", limit(quotas.max_stored_bytes)),
        ("requests per minute", limit(quotas.requests_per_minute)),
    ];
    rows.map(|(what, value)| format!("{what:<19}  {value}\n")).concat()
}

fn used(found: &GetNamespaceResponse) -> String {
    let usage = found.usage.unwrap_or_default();
    let counts = [
        ("blocked", usage.blocked),
        ("delayed", usage.delayed),
        ("ready", usage.ready),
        ("running", usage.running),
        ("dead letters", usage.dead),
        ("ended, still kept", usage.ended),
        ("bytes stored", usage.stored_bytes),
        ("pending timers", usage.pending_timers),
        ("named leases", usage.named_leases),
        ("contexts", usage.contexts),
        ("queues", usage.queues),
    ];
    let counts = counts.map(|(what, count)| format!("{what:<17}  {count}\n")).concat();
    let quotas = found.quotas.iter().map(|quota| {
        let share = match (quota.used * 100).checked_div(quota.limit) {
            Some(percent) => format!("{percent}%"),
            None => "-".to_owned(),
        };
        let (used, share) = match quota.quota.as_str() {
            // Every node counts its own share.
            "requests_per_minute" => ("-".to_owned(), "-".to_owned()),
            _ => (quota.used.to_string(), share),
        };
        vec![quota.quota.clone(), limit(Some(quota.limit)), used, share]
    });
    format!("{counts}\n{}", table(&["quota", "limit", "used", "share"], quotas))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_reads_well() {
        let found = GetNamespaceResponse {
            usage: Some(proto::NamespaceUsage { ready: 7, ..Default::default() }),
            quotas: [("max_queued", 10, 7), ("max_running", 0, 3), ("requests_per_minute", 60, 0)]
                .map(|(quota, limit, used)| proto::QuotaUse { quota: quota.into(), limit, used })
                .into(),
            ..Default::default()
        };
        let text = used(&found);
        assert!(text.contains("ready              7\n"), "{text}");
        assert!(text.contains("max_queued           10     7     70%\n"), "{text}");
        assert!(text.contains("max_running          none   3     -\n"), "{text}");
        assert!(text.contains("requests_per_minute  60     -     -\n"), "{text}");
    }

    #[test]
    fn an_old_cluster_says_less() {
        let namespace = Namespace { name: "team".into(), weight: 5, ..Default::default() };
        assert_eq!(row(&namespace), ["team", "-", "5", "-", "-", "-"]);
        assert!(settings(&namespace).contains("max queued           none\n"), "{}", settings(&namespace));
    }
}
