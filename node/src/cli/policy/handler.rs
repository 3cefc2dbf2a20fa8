//! Where violations are sent.

use tarn_client::Client;
use tarn_proto::v1::{PolicySeverity, PutPolicyHandlerRequest};

use super::super::exit::Failure;
use super::super::output::{Printer, time};
use super::violations::{parse_severity, severity_name};

/// Choose where violations are sent.
#[derive(Clone, Debug, clap::Subcommand)]
#[command(after_help = "\
Each violation is sent at least once as a POST with JSON, by the leader's node, until the receiver answers with success. The header
tarn-delivery has its id, the same in every repeat; tarn-signature reads t=SECONDS,v1=HEX: HMAC-SHA256 of SECONDS, a dot and the body,
under the handler's key. The key lies in a file of its name in each node's folder of secrets (policy.secrets_dir), and nowhere else.")]
pub enum HandlerCommand {
    /// Make or change a handler
    #[command(after_help = "\
Example:
  tarn policy handler put pager --url https://pager.example/tarn --secret pager --severity critical
and on each node, as the user that runs tarn, so that nobody else can read it:
  install -d -m 700 /var/lib/tarn/secrets
  (umask 077; head -c 32 /dev/urandom | base64 > /var/lib/tarn/secrets/pager)")]
    Put {
        /// Its name
        name: String,
        /// http:// or https://
        #[arg(long)]
        url: String,
        /// The name of the key that signs: a file on each node
        #[arg(long)]
        secret: String,
        /// This severity and above: low, medium, high or critical
        #[arg(long, default_value = "critical", value_parser = parse_severity)]
        severity: PolicySeverity,
        /// Of this bundle only
        #[arg(long)]
        policy: Option<String>,
        /// Of this environment only
        #[arg(long, short)]
        environment: Option<String>,
    },
    /// List the handlers, and how far each has been told
    List,
    /// Delete a handler
    Delete {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Runs `tarn policy handler …`.
pub async fn run(command: HandlerCommand, client: &Client, printer: Printer) -> Result<(), Failure> {
    match command {
        HandlerCommand::Put { name, url, secret, severity, policy, environment } => {
            let request = PutPolicyHandlerRequest {
                request_id: String::new(),
                name,
                environment: environment.unwrap_or_default(),
                policy: policy.unwrap_or_default(),
                url,
                min_severity: severity.into(),
                secret,
            };
            let answer = client.put_policy_handler(request).await?;
            printer.message(&answer, |answer| {
                let handler = answer.handler.clone().unwrap_or_default();
                let severity = severity_name(handler.min_severity());
                format!("{} tells {} of what is {severity} or worse", handler.name, handler.url)
            })
        }
        HandlerCommand::List => {
            let handlers = client.list_policy_handlers().await?;
            let head = ["name", "url", "severity", "policy", "environment", "key", "told up to", "put", "by"];
            printer.list(&handlers, &head, |handler| {
                let or_all = |text: &str| {
                    if text.is_empty() { "all".to_owned() } else { text.to_owned() }
                };
                vec![
                    handler.name.clone(),
                    handler.url.clone(),
                    severity_name(handler.min_severity()),
                    or_all(&handler.policy),
                    or_all(&handler.environment),
                    handler.secret.clone(),
                    handler.sent_up_to.clone(),
                    time(handler.put_at_ms),
                    handler.put_by.clone(),
                ]
            })
        }
        HandlerCommand::Delete { name, yes } => {
            super::super::confirm(&format!("Send no more violations to {name}?"), yes)?;
            client.delete_policy_handler(&name).await?;
            let done = format!("{name} is told no more");
            printer.value(&serde_json::json!({ "done": done }), || done.clone())
        }
    }
}
