//! What policies found.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tarn_client::Client;
use tarn_proto::v1::{ListViolationsRequest, PolicySeverity, Violation};

use super::super::connect::{ConnectArgs, parse_count, parse_duration};
use super::super::exit::Failure;
use super::super::output::{Printer, time};

/// Which violations.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tarn policy violations                                    of your namespace, the newest first
  tarn policy violations -A --severity critical --since 1d   of all, the worst of today
  tarn policy violations --policy night -o jsonl")]
pub struct ViolationsArgs {
    /// Of all namespaces and of the cluster itself
    #[arg(long = "all-namespaces", short = 'A', visible_alias = "all")]
    all: bool,
    /// Of this bundle only
    #[arg(long)]
    policy: Option<String>,
    /// Of this environment only
    #[arg(long, short)]
    environment: Option<String>,
    /// This and above: low, medium, high or critical
    #[arg(long, default_value = "low", value_parser = parse_severity)]
    severity: PolicySeverity,
    /// Of this long ago and younger
    #[arg(long, value_parser = parse_duration)]
    since: Option<Duration>,
    /// Older than this
    #[arg(long, value_parser = parse_duration)]
    until: Option<Duration>,
    /// At most so many
    #[arg(long, default_value = "100", value_parser = parse_count)]
    limit: usize,
}

/// Lists them.
pub async fn violations(client: &Client, args: ViolationsArgs, connect: &ConnectArgs, printer: Printer) -> Result<(), Failure> {
    let mut request = ListViolationsRequest {
        namespace: if args.all { String::new() } else { connect.namespace()? },
        policy: args.policy.unwrap_or_default(),
        environment: args.environment.unwrap_or_default(),
        min_severity: args.severity.into(),
        since_ms: args.since.map_or(0, ago),
        until_ms: args.until.map_or(0, ago),
        ..ListViolationsRequest::default()
    };
    let mut found: Vec<Violation> = Vec::new();
    while found.len() < args.limit {
        request.page_size = u32::try_from((args.limit - found.len()).min(1_000)).unwrap_or(1_000);
        let page = client.list_violations(request.clone()).await?;
        found.extend(page.violations);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let head = ["time", "severity", "policy", "code", "who", "what", "times", "refused", "message"];
    printer.list(&found, &head, |found| {
        vec![
            time(found.at_ms),
            severity_name(found.severity()),
            format!("{} {}", found.policy, found.version),
            found.code.clone(),
            found.principal.clone(),
            format!("{} {}", found.verb, found.resource),
            found.count.to_string(),
            if found.blocking { "yes" } else { "-" }.to_owned(),
            found.message.clone(),
        ]
    })
}

/// The time so long ago, in milliseconds of the Unix epoch.
pub(super) fn ago(length: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.saturating_sub(length).as_millis()).unwrap_or(u64::MAX)
}

/// Parses a severity.
pub(super) fn parse_severity(text: &str) -> Result<PolicySeverity, String> {
    let all = [PolicySeverity::Low, PolicySeverity::Medium, PolicySeverity::High, PolicySeverity::Critical];
    let found = all.into_iter().find(|severity| severity_name(*severity) == text);
    found.ok_or_else(|| format!("{text:?} is no severity: low, medium, high or critical"))
}

pub(super) fn severity_name(severity: PolicySeverity) -> String {
    severity.as_str_name().trim_start_matches("POLICY_SEVERITY_").to_lowercase()
}
