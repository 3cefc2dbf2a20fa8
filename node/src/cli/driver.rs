//! `tarn driver …`: signed components that extend the cluster.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use tarn_client::Client;
use tarn_client::tls::{PrivateKey, read_secret_file};
use tarn_executor::Hash;
use tarn_proto::v1::{Driver, DriverGrants, DriverLimits, DriverLogLine, DriverSettings, DriverSpec, DriverState, EventKind};

use super::connect::{ConnectArgs, parse_bytes, parse_duration};
use super::exit::Failure;
use super::output::{Printer, table, time};
use super::policy::{change_trust, key, trusted};
use super::task::short_name;
use crate::gate::driver::message;

/// Extend the cluster by signed WASM components.
#[derive(Clone, Debug, clap::Subcommand)]
#[command(after_help = "\
A driver is a component that is told of events in its namespace, enqueues tasks there, and serves calls; the leader's node runs it. It reaches
nothing but what it is granted. Only what a trusted key signed is installed, and the signature is looked at again before each load.

Example:
  tarn driver key ops                                       ops.key, to be kept secret, and ops.pub
  tarn driver settings --trust ops=ops.pub                  from now on this key's signature counts
  tarn driver install hook webhook.wasm --sign-with ops.key --config '{\"url\":\"https://hooks.example.com/tarn\"}' \\
      --http https://hooks.example.com --on task_dead,task_succeeded
  tarn driver list
  tarn driver logs hook --follow")]
pub enum DriverCommand {
    /// Install a driver: it is told of what happens from now on
    #[command(after_help = "\
Examples:
  tarn driver install hook webhook.wasm --signature webhook.sig --config @hook.json --http https://hooks.example.com --on task_dead
  tarn driver install clock cron.wasm --sign-with ops.key --queue reports \\
      --config '{\"jobs\":[{\"name\":\"daily\",\"schedule\":\"30 6 * * *\",\"task\":{\"queue\":\"reports\",\"handler\":\"report\"}}]}'
The component is put as an artifact first. Kinds of events are those of `tarn task watch`, such as task_dead.")]
    Install {
        /// Its name in the namespace
        name: String,
        #[command(flatten)]
        what: What,
    },
    /// Replace a driver's component, configuration and grants; it goes on where it stands, and calls under way are answered
    #[command(after_help = "\
Examples:
  tarn driver upgrade hook webhook2.wasm --sign-with ops.key         the rest stays as it is
  tarn driver upgrade hook --config @hook.json                       another configuration
  tarn driver upgrade hook --on task_dead --expect 3                 only if generation 3 runs now
A list that is named replaces the whole list; `--on none` empties it.")]
    Upgrade {
        /// Its name
        name: String,
        #[command(flatten)]
        what: Changes,
        /// Only if this is its generation now
        #[arg(long, value_name = "GENERATION", default_value_t = 0, hide_default_value = true)]
        expect: u64,
    },
    /// List the drivers, and how they are
    List {
        /// Of all namespaces
        #[arg(long, short = 'A')]
        all_namespaces: bool,
    },
    /// Show a driver: its settings, how it is, what it saved
    Show {
        /// Its name
        name: String,
    },
    /// Have a driver answer
    #[command(after_help = "\
Examples:
  tarn driver call hook test                   the webhook posts a test event
  tarn driver call clock next                  when the cron jobs are due
  echo '{\"id\":7}' | tarn driver call shop order --payload -")]
    Call {
        /// Its name
        name: String,
        /// What to call
        method: String,
        /// What to hand over; `@FILE` reads a file, `-` standard input
        #[arg(long, default_value = "", hide_default_value = true)]
        payload: String,
    },
    /// Print the latest lines of a driver's log
    Logs {
        /// Its name
        name: String,
        /// Go on with what comes
        #[arg(long, short)]
        follow: bool,
    },
    /// End a driver and forget what it saved
    Remove {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Sign a component, on this machine
    #[command(after_help = "Example:\n  tarn driver sign webhook.wasm --key ops.key --out webhook.sig")]
    Sign {
        /// The component
        file: PathBuf,
        /// The private key (PEM), such as `tarn driver key` makes
        #[arg(long = "key", value_name = "FILE")]
        with: PathBuf,
        /// Where to write the signature
        #[arg(long)]
        out: PathBuf,
    },
    /// Make a key that signs drivers: NAME.key, to be kept secret, and NAME.pub, for `tarn driver settings --trust`
    Key {
        /// The files' name, without its ending
        out: PathBuf,
    },
    /// Show or change whose signatures count; drivers of a key that is trusted no more stop
    #[command(
        after_help = "Examples:\n  tarn driver settings\n  tarn driver settings --trust ops=ops.pub\n  tarn driver settings --distrust ops"
    )]
    Settings {
        /// Take what this key signs: NAME=FILE
        #[arg(long, value_name = "NAME=FILE")]
        trust: Vec<String>,
        /// Take no more what the key of this name signs
        #[arg(long, value_name = "NAME")]
        distrust: Vec<String>,
    },
}

/// A component and who signed it.
#[derive(Clone, Debug, clap::Args)]
pub struct Signed {
    /// A file with its signature, as `tarn driver sign` wrote it
    #[arg(long, value_name = "FILE", conflicts_with = "sign_with")]
    signature: Option<PathBuf>,
    /// Sign it on the way with this key (PEM)
    #[arg(long, value_name = "FILE")]
    sign_with: Option<PathBuf>,
}

/// What a driver is.
#[derive(Clone, Debug, clap::Args)]
pub struct What {
    /// The component
    file: PathBuf,
    #[command(flatten)]
    signed: Signed,
    #[command(flatten)]
    settings: Settings,
}

/// What of a driver is to change.
#[derive(Clone, Debug, clap::Args)]
pub struct Changes {
    /// Another component [default: the present one]
    file: Option<PathBuf>,
    #[command(flatten)]
    signed: Signed,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Clone, Debug, clap::Args)]
struct Settings {
    /// Its configuration as JSON; `@FILE` reads a file
    #[arg(long)]
    config: Option<String>,
    /// Kinds of events that it is told of
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    on: Vec<String>,
    /// An origin that it may reach, such as https://hooks.example.com
    #[arg(long, value_name = "ORIGIN")]
    http: Vec<String>,
    /// A queue into which it may put tasks; a `*` at the end stands for any ending
    #[arg(long, value_name = "QUEUE")]
    queue: Vec<String>,
    /// Memory, such as 32Mi
    #[arg(long, value_parser = parse_bytes)]
    memory: Option<u64>,
    /// Time for one call of it
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    call_time: Option<std::time::Duration>,
    /// Units of computation for one call of it
    #[arg(long)]
    fuel: Option<u64>,
}

/// Runs what needs no cluster; gives back what does.
pub fn local(command: DriverCommand, printer: Printer) -> Result<Option<DriverCommand>, Failure> {
    match command {
        DriverCommand::Sign { file, with, out } => sign(&file, &with, &out, printer)?,
        DriverCommand::Key { out } => key(&out, printer)?,
        command => return Ok(Some(command)),
    }
    Ok(None)
}

/// Runs the rest of `tarn driver …`.
pub async fn run(command: DriverCommand, connect: &ConnectArgs, printer: Printer) -> Result<(), Failure> {
    let client = connect.client()?;
    match command {
        DriverCommand::Install { name, what } => {
            let mut spec = DriverSpec::default();
            bring(&client, &what.file, &what.signed, &mut spec).await?;
            what.settings.apply(&mut spec)?;
            let driver = client.install_driver(&name, spec).await?;
            printer.message(&driver, |driver| format!("installed {}/{}", driver.namespace, driver.name))
        }
        DriverCommand::Upgrade { name, what, expect } => {
            let present = client.get_driver(&name).await?.driver.unwrap_or_default();
            let mut spec = present.spec.unwrap_or_default();
            match &what.file {
                Some(file) => bring(&client, file, &what.signed, &mut spec).await?,
                None if what.signed.signature.is_some() || what.signed.sign_with.is_some() => {
                    return Err(Failure::Usage("a signature is of a component: name its file, too".to_owned()));
                }
                None => {}
            }
            what.settings.apply(&mut spec)?;
            // What was looked at is what is changed.
            let expected = if expect == 0 { present.generation } else { expect };
            let driver = client.upgrade_driver(&name, spec, expected).await?;
            printer.message(&driver, |driver| format!("{}/{} is generation {} now", driver.namespace, driver.name, driver.generation))
        }
        DriverCommand::List { all_namespaces } => {
            let head = ["namespace", "driver", "state", "generation", "restarts", "node", "events", "error"];
            printer.list(&client.list_drivers(all_namespaces).await?, &head, row)
        }
        DriverCommand::Show { name } => {
            let answer = client.get_driver(&name).await?;
            printer.message(&answer, |answer| show(answer.driver.as_ref(), &answer.state))
        }
        DriverCommand::Call { name, method, payload } => {
            let answer = client.call_driver(&name, &method, given(&payload)?, connect.deadline).await?;
            printer.result(&answer.payload)
        }
        DriverCommand::Logs { name, follow } => {
            let mut logs = client.driver_logs(&name, 0, follow).await?;
            while let Some(page) = logs.next().await? {
                for line in &page.lines {
                    printer.item(line, log_line)?;
                }
            }
            Ok(())
        }
        DriverCommand::Remove { name, yes } => {
            super::confirm(&format!("End the driver {name} and forget what it saved?"), yes)?;
            client.remove_driver(&name).await?;
            printer.value(&serde_json::json!({ "removed": name }), || format!("removed {name}"))
        }
        DriverCommand::Settings { trust, distrust } => settings(&client, &trust, &distrust, printer).await,
        DriverCommand::Sign { .. } | DriverCommand::Key { .. } => unreachable!("these run without a cluster"),
    }
}

fn sign(file: &Path, with: &Path, out: &Path, printer: Printer) -> Result<(), Failure> {
    let bytes = read(file)?;
    let artifact = Hash::of(&bytes);
    let (signature, signer) = signed_with(&artifact, with)?;
    std::fs::write(out, signature)?;
    let value = serde_json::json!({ "out": out, "artifact": artifact.to_string(), "signer": signer });
    printer.value(&value, || format!("signed {artifact}: {}", out.display()))
}

fn signed_with(artifact: &Hash, key: &Path) -> Result<(Vec<u8>, String), Failure> {
    let pem = read_secret_file(key).map_err(anyhow::Error::from)?;
    let key = PrivateKey::from_pem(&key.display().to_string(), &pem).map_err(anyhow::Error::from)?;
    let signature = key.sign(&message(artifact)).map_err(anyhow::Error::from)?;
    Ok((signature, HEXLOWER.encode(blake3::hash(key.public_key()).as_bytes())))
}

/// Puts the component as an artifact, and notes who signed it.
async fn bring(client: &Client, file: &Path, signed: &Signed, spec: &mut DriverSpec) -> Result<(), Failure> {
    let bytes = read(file)?;
    let artifact = Hash::of(&bytes);
    spec.signature = match (&signed.signature, &signed.sign_with) {
        (Some(path), _) => read(path)?.into(),
        (None, Some(key)) => signed_with(&artifact, key)?.0.into(),
        // The cluster says that it takes signed ones alone.
        (None, None) => bytes::Bytes::new(),
    };
    spec.artifact = client.put_artifact(bytes).await?;
    Ok(())
}

impl Settings {
    /// What is named takes the place of what was there.
    fn apply(&self, spec: &mut DriverSpec) -> Result<(), Failure> {
        if let Some(config) = &self.config {
            let text = String::from_utf8(given(config)?);
            spec.config = text.map_err(|_| Failure::Usage("the configuration is not UTF-8".to_owned()))?;
        }
        let list = |named: &[String]| -> Vec<String> { named.iter().filter(|one| *one != "none").cloned().collect() };
        if !self.on.is_empty() {
            spec.events = list(&self.on).iter().map(|kind| event_kind(kind)).collect::<Result<_, _>>()?;
        }
        let grants = spec.grants.get_or_insert_with(DriverGrants::default);
        if !self.http.is_empty() {
            grants.http = list(&self.http);
        }
        if !self.queue.is_empty() {
            grants.queues = list(&self.queue);
        }
        let limits = spec.limits.get_or_insert_with(DriverLimits::default);
        limits.memory_bytes = self.memory.unwrap_or(limits.memory_bytes);
        limits.fuel = self.fuel.unwrap_or(limits.fuel);
        if let Some(call_time) = self.call_time {
            limits.call_ms = u64::try_from(call_time.as_millis()).unwrap_or(u64::MAX);
        }
        Ok(())
    }
}

fn event_kind(text: &str) -> Result<i32, Failure> {
    let name = format!("EVENT_KIND_{}", text.to_ascii_uppercase().replace('-', "_"));
    let kind = EventKind::from_str_name(&name).filter(|kind| *kind != EventKind::Unspecified);
    kind.map(i32::from)
        .ok_or_else(|| Failure::Usage(format!("{text:?} is no kind of event: name one such as task_dead, task_succeeded or lease_expired")))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    Ok(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?)
}

/// The text itself, a file's content after `@`, or standard input for `-`.
fn given(text: &str) -> Result<Vec<u8>, Failure> {
    match text.strip_prefix('@') {
        Some(path) => read(Path::new(path)),
        None if text == "-" => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes)?;
            Ok(bytes)
        }
        None => Ok(text.as_bytes().to_vec()),
    }
}

async fn settings(client: &Client, trust: &[String], distrust: &[String], printer: Printer) -> Result<(), Failure> {
    let mut settings = client.get_driver_settings().await?;
    let before = settings.clone();
    change_trust(&mut settings.signers, trust, distrust)?;
    if settings != before {
        client.put_driver_settings(settings.clone()).await?;
    }
    printer.message(&settings, who_is_trusted)
}

fn who_is_trusted(settings: &DriverSettings) -> String {
    if settings.signers.is_empty() {
        return "no key is trusted: no driver can be installed (tarn driver settings --trust NAME=FILE)".to_owned();
    }
    settings.signers.iter().map(trusted).collect::<Vec<_>>().join("\n")
}

fn state(driver: &Driver) -> String {
    match driver.status.as_ref().map(|status| status.state()) {
        None | Some(DriverState::Unspecified) => "unknown".to_owned(),
        Some(state) => short_name(state.as_str_name(), "DRIVER_STATE_"),
    }
}

fn row(driver: &Driver) -> Vec<String> {
    let status = driver.status.clone().unwrap_or_default();
    vec![
        driver.namespace.clone(),
        driver.name.clone(),
        state(driver),
        driver.generation.to_string(),
        status.restarts.to_string(),
        status.node.to_string(),
        status.events.to_string(),
        status.last_error,
    ]
}

fn show(driver: Option<&Driver>, saved: &[u8]) -> String {
    let driver = driver.cloned().unwrap_or_default();
    let (spec, status) = (driver.spec.clone().unwrap_or_default(), driver.status.clone().unwrap_or_default());
    let (grants, limits) = (spec.grants.clone().unwrap_or_default(), spec.limits.unwrap_or_default());
    let events = spec.events().map(|kind| short_name(kind.as_str_name(), "EVENT_KIND_")).collect::<Vec<_>>();
    let or_default = |limit: u64| if limit == 0 { "default".to_owned() } else { limit.to_string() };
    let mut rows = vec![
        ("driver", format!("{}/{}", driver.namespace, driver.name)),
        ("state", state(&driver)),
        ("generation", format!("{} ({} runs)", driver.generation, status.generation)),
        ("node", status.node.to_string()),
        ("artifact", spec.artifact.clone()),
        ("signed by", HEXLOWER.encode(&spec.signer)),
        ("installed", format!("{} by {}", time(driver.installed_at_ms), driver.installed_by)),
        ("events", events.join(", ")),
        ("may reach", grants.http.join(", ")),
        ("queues", grants.queues.join(", ")),
        ("memory", or_default(limits.memory_bytes)),
        ("call ms", or_default(limits.call_ms)),
        ("config", spec.config.clone()),
        ("handled", format!("events up to revision {}; {} events, {} calls on this node", driver.cursor, status.events, status.calls)),
        ("saved", String::from_utf8_lossy(saved).into_owned()),
    ];
    if driver.upgraded_at_ms > 0 {
        rows.push(("upgraded", format!("{} by {}", time(driver.upgraded_at_ms), driver.upgraded_by)));
    }
    if status.restarts > 0 {
        rows.push(("restarts", status.restarts.to_string()));
    }
    if !status.last_error.is_empty() {
        rows.push(("last error", format!("{} {}", time(status.last_error_at_ms), status.last_error)));
    }
    if status.next_start_at_ms > 0 {
        rows.push(("next start", time(status.next_start_at_ms)));
    }
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    table(&["", ""], rows.map(|(name, value)| vec![name.to_owned(), value]))
}

fn log_line(line: &DriverLogLine) -> String {
    format!("{}  {:<5}  {}", time(line.at_ms), line.level, line.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_events_are_written_as_they_are_shown() {
        assert_eq!(event_kind("task_dead").unwrap(), i32::from(EventKind::TaskDead));
        assert_eq!(event_kind("lease-expired").unwrap(), i32::from(EventKind::LeaseExpired));
        assert!(event_kind("unspecified").is_err() && event_kind("lunch").is_err());
    }
}
