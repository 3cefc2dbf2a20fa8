//! `tarn kv …`: contexts, the versioned key-value memory of agents and tasks.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use futures::{StreamExt, TryStreamExt};
use tarn_client::{Client, Context};
use tarn_machine::limits::VALUE_BYTES_MAX;
use tarn_proto::v1 as proto;

use super::confirm;
use super::connect::parse_count;
use super::exit::Failure;
use super::output::{Format, Printer, time};

// The ids of arguments are not `context` and `key`: clap would fill them from the global flags of those names.
/// Keep the memory of agents and tasks: versioned keys and values, with snapshots.
///
/// A context is a set of keys with a name, in a namespace; it begins with its first key. Every change of a key gives it a greater version.
/// The last 8 versions are kept, and those that a snapshot holds.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum KvCommand {
    /// Set a key, and print its new version
    #[command(after_help = "\
Examples:
  tarn kv put memory plan/today 'water the plants'
  tarn kv put memory report --file report.json             or --file - for standard input
  tarn kv put memory lock mine --expect 0                  only if the key has no value yet
  v=$(tarn kv get memory counter -o json | jq -r .version)
  tarn kv put memory counter 8 --expect $v                 only if nobody has changed it since; or VERSION_CONFLICT")]
    Put {
        /// The context
        #[arg(value_name = "CONTEXT")]
        memory: String,
        /// The key: 1 to 512 bytes
        #[arg(value_name = "KEY")]
        entry: String,
        /// The value, up to 1 MiB
        #[arg(required_unless_present = "file", conflicts_with = "file", allow_hyphen_values = true)]
        value: Option<String>,
        /// A file with the value; - stands for standard input
        #[arg(long)]
        file: Option<PathBuf>,
        #[command(flatten)]
        guard: GuardArgs,
    },
    /// Print the value of a key
    #[command(after_help = "\
Examples:
  tarn kv get memory plan/today
  tarn kv get memory plan/today --snapshot before           as it was when the snapshot was taken
  tarn kv get memory plan/today -o json                     with its version; the value is in base64")]
    Get {
        /// The context
        #[arg(value_name = "CONTEXT")]
        memory: String,
        /// The key
        #[arg(value_name = "KEY")]
        entry: String,
        /// This version, as `tarn kv versions` lists them
        #[arg(long, value_name = "VERSION", conflicts_with = "snapshot")]
        at_version: Option<u64>,
        /// As it was at this snapshot
        #[arg(long)]
        snapshot: Option<String>,
        /// Take what the node has at this moment, which may be older than what another has acknowledged
        #[arg(long)]
        stale: bool,
    },
    /// Remove a key, with its older versions except those that a snapshot holds
    Delete {
        /// The context
        #[arg(value_name = "CONTEXT")]
        memory: String,
        /// The key
        #[arg(value_name = "KEY")]
        entry: String,
        #[command(flatten)]
        guard: GuardArgs,
    },
    /// List the keys of a context, in the order of their bytes
    #[command(after_help = "Example:\n  tarn kv list memory --prefix plan/ -o jsonl | jq -r .key")]
    List {
        /// The context
        #[arg(value_name = "CONTEXT")]
        memory: String,
        /// Only keys that begin with this
        #[arg(long, default_value = "", hide_default_value = true)]
        prefix: String,
        /// As they were at this snapshot
        #[arg(long)]
        snapshot: Option<String>,
        /// At most this many
        #[arg(long, default_value = "1000", value_parser = parse_count)]
        limit: usize,
    },
    /// List the versions of a key that are kept, newest first
    Versions {
        /// The context
        #[arg(value_name = "CONTEXT")]
        memory: String,
        /// The key
        #[arg(value_name = "KEY")]
        entry: String,
    },
    /// List the contexts of the namespace
    Contexts,
    /// Keep a whole context as it is now, under a name
    #[command(after_help = "\
Takes the same short time however large the context is: nothing is copied.

Example:
  tarn kv snapshot memory before && ./agent || tarn kv restore memory before --yes")]
    Snapshot {
        /// The context
        #[arg(value_name = "CONTEXT")]
        memory: String,
        /// The snapshot's name
        name: String,
    },
    /// List the snapshots of a context
    Snapshots {
        /// The context
        #[arg(value_name = "CONTEXT")]
        memory: String,
    },
    /// Make a context what it was at a snapshot, at once for everybody
    Restore {
        /// The context
        #[arg(value_name = "CONTEXT")]
        memory: String,
        /// The snapshot's name
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Delete a snapshot, and what only it held
    DeleteSnapshot {
        /// The context
        #[arg(value_name = "CONTEXT")]
        memory: String,
        /// The snapshot's name
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Delete a context with all keys, versions and snapshots
    DeleteContext {
        /// The context
        #[arg(value_name = "CONTEXT")]
        memory: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// On what condition a key is changed.
#[derive(Clone, Debug, clap::Args)]
pub struct GuardArgs {
    /// Only if the key has this version now; 0: only if it has no value
    #[arg(long, value_name = "VERSION")]
    expect: Option<u64>,
    /// Only while an attempt at a task holds its lease: the task's id and the lease's token
    #[arg(long, value_name = "TASK:TOKEN", value_parser = parse_fence)]
    fence: Option<(String, u64)>,
}

impl GuardArgs {
    fn guard(&self, context: Context) -> Context {
        match &self.fence {
            Some((task_id, token)) => context.fenced(task_id, *token),
            None => context,
        }
    }
}

/// Runs `tarn kv …`.
pub async fn run(command: KvCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        KvCommand::Put { memory: context, entry: key, value, file, guard } => {
            let value = value_of(value, file.as_deref())?;
            let version = guard.guard(client.context(context)).put(key, value, guard.expect).await?;
            printer.message(&proto::PutKeyResponse { version }, |answer| answer.version.to_string())
        }
        KvCommand::Get { memory: context, entry: key, at_version, snapshot, stale } => {
            let (version, snapshot) = (at_version.unwrap_or_default(), snapshot.unwrap_or_default());
            let request = proto::GetKeyRequest { key, version, snapshot, stale, ..Default::default() };
            let found = client.context(context).find(request).await?;
            match printer.format() {
                Format::Text => printer.result(&found.value),
                _ => printer.message(&found, |_| String::new()),
            }
        }
        KvCommand::Delete { memory: context, entry: key, guard } => {
            let deleted = guard.guard(client.context(context)).delete(&key, guard.expect).await?;
            printer.message(&proto::DeleteKeyResponse { deleted }, |answer| match answer.deleted {
                true => format!("{key} is deleted"),
                false => format!("{key} had no value"),
            })
        }
        KvCommand::List { memory: context, prefix, snapshot, limit } => {
            let keys = client.context(context).keys(&prefix, snapshot.as_deref()).take(limit);
            let keys: Vec<proto::KeyInfo> = keys.try_collect().await?;
            printer.list(&keys, &["key", "version", "bytes", "changed"], |key| {
                vec![key.key.clone(), key.version.to_string(), key.bytes.to_string(), time(key.at_ms)]
            })
        }
        KvCommand::Versions { memory: context, entry: key } => {
            let versions = client.context(context).versions(key).await?;
            printer.list(&versions, &["version", "bytes", "changed"], |version| {
                let bytes = if version.deleted { "deleted".to_owned() } else { version.bytes.to_string() };
                vec![version.version.to_string(), bytes, time(version.at_ms)]
            })
        }
        KvCommand::Contexts => {
            let contexts: Vec<proto::ContextInfo> = client.list_contexts().try_collect().await?;
            printer.list(&contexts, &["context", "keys", "bytes", "snapshots", "changed"], |context| {
                vec![
                    context.name.clone(),
                    context.keys.to_string(),
                    context.bytes.to_string(),
                    context.snapshots.to_string(),
                    time(context.updated_at_ms),
                ]
            })
        }
        command => snapshots(command, client, printer).await,
    }
}

/// The commands about whole contexts.
async fn snapshots(command: KvCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        KvCommand::Snapshot { memory: context, name } => {
            let snapshot = client.context(context).snapshot(name).await?;
            printer.message(&snapshot, |snapshot| format!("{} holds {} keys", snapshot.name, snapshot.keys))
        }
        KvCommand::Snapshots { memory: context } => {
            let snapshots = client.context(context).snapshots().await?;
            printer.list(&snapshots, &["snapshot", "keys", "taken"], |snapshot| {
                vec![snapshot.name.clone(), snapshot.keys.to_string(), time(snapshot.at_ms)]
            })
        }
        KvCommand::Restore { memory: context, name, yes } => {
            let question = format!("What was written to {context} since the snapshot {name} will be lost. Restore it?");
            confirm(&question, yes)?;
            let restored = client.context(&context).restore(&name).await?;
            printer.message(&restored, |answer| format!("{context} is as it was at {name}: {} keys", answer.keys))
        }
        KvCommand::DeleteSnapshot { memory: context, name, yes } => {
            confirm(&format!("Delete the snapshot {name} of {context}?"), yes)?;
            client.context(context).delete_snapshot(&name).await?;
            printer.message(&proto::DeleteSnapshotResponse {}, |_| format!("{name} is deleted"))
        }
        KvCommand::DeleteContext { memory: context, yes } => {
            confirm(&format!("Delete the context {context} with all its keys, versions and snapshots?"), yes)?;
            client.context(&context).delete_all().await?;
            printer.message(&proto::DeleteContextResponse {}, |_| format!("{context} is deleted"))
        }
        _ => unreachable!("commands about keys were run before"),
    }
}

fn value_of(value: Option<String>, file: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let bytes = match (value, file) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(path)) if path.as_os_str() == "-" => bounded(std::io::stdin()).context("cannot read standard input")?,
        (None, Some(path)) => std::fs::File::open(path).and_then(bounded).with_context(|| format!("cannot read {}", path.display()))?,
        (None, None) => Vec::new(),
    };
    if bytes.len() > VALUE_BYTES_MAX {
        let message = format!("a value is at most {VALUE_BYTES_MAX} bytes: put larger data as an artifact, and keep its address");
        return Err(Failure::Usage(message));
    }
    Ok(bytes)
}

/// Reads no more than it takes to see that it is too much.
fn bounded(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse_fence(text: &str) -> Result<(String, u64), String> {
    let parts = text.split_once(':').and_then(|(task, token)| Some((task.to_owned(), token.parse().ok()?)));
    parts.ok_or_else(|| "write a task's id, a colon and the token of its lease".to_owned())
}
