//! `tarn server`, `tarn dev` and `tarn config …`: running a node, and what it is configured to.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::block_on;
use super::context::{Context, Contexts};
use super::exit::Failure;
use super::output::Printer;
use crate::config::{self, Bind, Config, Sources};
use crate::daemon;
use crate::ops;

/// The context that `tarn dev` makes.
const DEV_CONTEXT: &str = "dev";

/// A node's settings from the command line.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgs {
    /// The configuration file (TOML)
    #[arg(long, short, env = "TARN_CONFIG")]
    config: Option<PathBuf>,
    /// Where the node keeps everything [node.data_dir]
    #[arg(long)]
    data_dir: Option<String>,
    /// Where to listen for clients and peers [listen.bind]
    #[arg(long)]
    bind: Option<String>,
    /// What clients and peers dial to reach this node [listen.advertise]
    #[arg(long)]
    advertise: Option<String>,
    /// Where to listen for bearers of tokens, in HTTPS; `off`: nowhere [listen.https_bind]
    #[arg(long)]
    https_bind: Option<String>,
    /// Where to listen for health checks and metrics, in plain HTTP [listen.ops_bind]
    #[arg(long)]
    ops_bind: Option<String>,
    /// The first voters of a new cluster, ID=HOST:PORT, separated by commas [cluster.bootstrap]
    #[arg(long)]
    bootstrap: Option<String>,
    /// Any other setting, such as raft.snapshot_entries=1000
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    fn sources(self) -> Result<Sources, Failure> {
        let mut sources = Sources::from_process(self.config);
        let named = [
            ("node.data_dir", "--data-dir", self.data_dir),
            ("listen.bind", "--bind", self.bind),
            ("listen.advertise", "--advertise", self.advertise),
            ("listen.https_bind", "--https-bind", self.https_bind),
            ("listen.ops_bind", "--ops-bind", self.ops_bind),
            ("cluster.bootstrap", "--bootstrap", self.bootstrap),
        ];
        for (key, flag, value) in named {
            if let Some(value) = value {
                sources = sources.flag(key, value, flag);
            }
        }
        for setting in self.set {
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| Failure::Usage(format!("--set {setting}: write it as KEY=VALUE, such as raft.snapshot_entries=1000")))?;
            sources = sources.flag(key, value, "--set");
        }
        Ok(sources)
    }
}

/// Run a node of a cluster.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Every setting can stand in the file, in the environment (TARN_SECTION__KEY) or on the command line; `tarn config show` lists them all.
SIGTERM ends the node in good order: it finishes or gives back what it runs and hands leadership over. A second signal ends it at once.

Example, the first of three nodes:
  tarn ca init --dir ca
  tarn ca issue --ca ca --node 1 --data-dir /var/lib/tarn       likewise for nodes 2 and 3, on their machines
  tarn server --data-dir /var/lib/tarn --bootstrap 1=10.0.0.1:7610,2=10.0.0.2:7610,3=10.0.0.3:7610")]
pub struct ServerArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Run a cluster of one node on this machine.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "The keys and the data are kept in the folder and used again. The context `dev` points to it, so that other commands find it.\nVariables such as TARN_EXECUTORS__NATIVE=off set its executors, and TARN_FEDERATION__BIND where it listens for other clusters (tarn config show)."
)]
pub struct DevArgs {
    /// Where to keep keys and data [default: ~/.local/share/tarn/dev]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where to listen; port 0 takes any free port
    #[arg(long, default_value = "127.0.0.1:7610")]
    bind: SocketAddr,
    /// Where to listen for bearers of tokens, in HTTPS; `off`: nowhere
    #[arg(long, default_value = "127.0.0.1:7611")]
    https_bind: Bind,
    /// Where to listen for health checks and metrics
    #[arg(long, default_value = "127.0.0.1:7612")]
    ops_bind: SocketAddr,
}

/// Check and show a node's configuration.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Say what is wrong with the configuration, all of it at once
    Check(ConfigArgs),
    /// Print each setting with its value and where that came from
    Show(ConfigArgs),
}

/// Runs `tarn config …`.
pub fn config(command: ConfigCommand, printer: Printer) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(args) => {
            let problems = config::check(&args.sources()?);
            if problems.is_empty() {
                return printer.value(&serde_json::json!({ "ok": true }), || "the configuration is good".into());
            }
            Err(Failure::Usage(config::Problems(problems).to_string()))
        }
        ConfigCommand::Show(args) => {
            let loaded = load(args)?;
            let values: serde_json::Map<String, serde_json::Value> = loaded
                .values
                .iter()
                .map(|shown| (shown.key.to_owned(), serde_json::json!({ "value": shown.value, "origin": shown.origin.to_string() })))
                .collect();
            printer.value(&values.into(), || loaded.values.iter().map(|shown| format!("{shown}\n")).collect())
        }
    }
}

fn load(args: ConfigArgs) -> Result<config::Loaded, Failure> {
    config::load(&args.sources()?).map_err(|problems| Failure::Usage(problems.to_string()))
}

/// Runs `tarn server`.
pub fn server(args: ServerArgs) -> Result<(), Failure> {
    run_node(load(args.config)?.config, || {})
}

/// Runs `tarn dev`.
pub fn dev(args: DevArgs, printer: Printer) -> Result<(), Failure> {
    let dir = match args.dir {
        Some(dir) => std::path::absolute(dir)?,
        None => default_dev_dir()?,
    };
    let mut dev = daemon::prepare_dev(&dir, args.bind, args.ops_bind).map_err(anyhow::Error::from)?;
    dev.config.listen.https_bind = args.https_bind;
    // A first try of a runtime may need a setting; everything else of a first try is settled.
    let settings = config::load(&Sources::from_process(None)).map_err(|problems| Failure::Usage(problems.to_string()))?;
    dev.config.executors = settings.config.executors;
    dev.config.federation = settings.config.federation;
    let context = Context {
        addresses: vec![args.bind.to_string()],
        namespace: None,
        cacert: Some(dev.ca),
        cert: Some(dev.certificate),
        key: Some(dev.key),
    };
    printer.note(&format!("keys and data are in {}", dir.display()));
    // One that does not come to listen must not point other commands to whoever has its port.
    run_node(dev.config, || {
        if args.bind.port() != 0
            && let Err(failure) = remember(context, printer)
        {
            eprintln!("warning: there is no context `dev`: {failure}");
        }
    })
}

/// Makes the context `dev`, and uses it unless another is in use already.
fn remember(context: Context, printer: Printer) -> Result<(), Failure> {
    let mut contexts = Contexts::load()?;
    contexts.contexts.insert(DEV_CONTEXT.into(), context);
    match contexts.current.as_deref() {
        None | Some(DEV_CONTEXT) => {
            contexts.current = Some(DEV_CONTEXT.into());
            printer.note("the context `dev` is in use: other commands on this machine find this node by themselves");
        }
        Some(other) => printer.note(&format!("the context {other:?} stays in use; reach this node with --context dev")),
    }
    Ok(contexts.save()?)
}

/// Where `tarn dev` keeps everything unless told otherwise.
pub(super) fn default_dev_dir() -> Result<PathBuf, Failure> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    Ok(data.ok_or_else(|| Failure::Usage("HOME is not set: name a folder with --dir".into()))?.join("tarn/dev"))
}

fn run_node(config: Config, started: impl FnOnce()) -> Result<(), Failure> {
    ops::init_logs(&config.log).map_err(|error| Failure::Usage(error.to_string()))?;
    let ending = block_on(async {
        let run = daemon::run(config, started);
        run.await.map_err(|error| Failure::Other(error.into()))
    })?;
    match ending.exit_code() {
        0 => Ok(()),
        _ => Err(Failure::Node("the node stopped itself, because going on could have lost data: its log says why".into())),
    }
}
