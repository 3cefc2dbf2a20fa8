//! The command line.
//!
//! Noun, then verb. Data goes to standard output in the format that `--output` names; everything else goes to standard error. All commands
//! but those that run a node or make keys use the SDK, as any other program would: the command line has no way into a node of its own.

mod access;
mod artifact;
mod audit;
mod bench;
mod cluster;
mod connect;
mod context;
mod coordination;
mod driver;
mod event;
mod exit;
mod federation;
mod kernel;
mod keys;
mod kv;
mod namespace;
mod output;
mod placement;
mod policy;
mod queue;
mod rights;
mod scheduler;
mod server;
mod task;
mod transform;
mod work;

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use connect::ConnectArgs;
pub use exit::Failure;
use output::{Format, Printer};

use crate::printable;

const ABOUT: &str = "One binary that turns machines into a cluster that never loses work";
const FIRST_STEPS: &str = "\
First steps:
  tarn dev                                       a cluster of one node on this machine, ready in a second
  tarn task submit --queue q --payload hello     (in another terminal) submit a task
  tarn queue list                                see it wait for a worker
  tarn cluster status                            see the node";

/// The whole command line.
#[derive(Clone, Debug, Parser)]
#[command(name = "tarn", version, about = ABOUT, after_help = FIRST_STEPS, after_long_help = format!("{FIRST_STEPS}\n\n{}", exit::EXIT_CODES))]
#[command(subcommand_required = true, arg_required_else_help = true, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connect: ConnectArgs,
    /// How to print data; errors follow on standard error
    #[arg(long, short, global = true, value_enum, default_value = "text", env = "TARN_OUTPUT")]
    output: Format,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Run a node of a cluster
    Server(server::ServerArgs),
    /// Run a cluster of one node on this machine, keys and all, for a first try
    Dev(server::DevArgs),
    /// Submit tasks and follow them
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Look into queues, and deal with their dead letters
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// See who leases tasks
    #[command(subcommand)]
    Worker(coordination::WorkerCommand),
    /// Take, keep and give back named leases
    #[command(subcommand)]
    Lease(coordination::LeaseCommand),
    /// Keep the memory of agents and tasks: versioned keys and values, with snapshots
    #[command(subcommand)]
    Kv(kv::KvCommand),
    /// At a time, enqueue a task or mark an event
    #[command(subcommand)]
    Timer(coordination::TimerCommand),
    /// Manage namespaces
    #[command(subcommand)]
    Namespace(namespace::NamespaceCommand),
    /// See who you are to the cluster, and what you may do
    #[command(subcommand)]
    Auth(access::AuthCommand),
    /// Say what roles allow, and who has them
    #[command(subcommand)]
    Role(access::RoleCommand),
    /// Make and end API tokens
    #[command(subcommand)]
    Token(access::TokenCommand),
    /// End certificates before their time
    #[command(subcommand)]
    Certificate(access::CertificateCommand),
    /// See what was decided, and prove that the records are whole
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Say in plain sentences why something is as it is
    #[command(subcommand)]
    Explain(audit::ExplainCommand),
    /// Test, put and activate policies, and see what they found
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Extend the cluster by signed components
    #[command(subcommand)]
    Driver(driver::DriverCommand),
    /// Put and get WASM modules and other content-addressed bytes
    #[command(subcommand)]
    Artifact(artifact::ArtifactCommand),
    /// Tune the router, which chooses where tasks run that leave it open
    #[command(subcommand)]
    Scheduler(scheduler::SchedulerCommand),
    /// See the built-in transforms of numeric arrays, and try them
    #[command(subcommand)]
    Transform(transform::TransformCommand),
    /// Have clusters share what they know
    #[command(subcommand)]
    Federation(federation::FederationCommand),
    /// See and change the cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Bring new nodes into the cluster
    #[command(subcommand)]
    Node(keys::NodeCommand),
    /// Be the cluster's certificate authority
    #[command(subcommand)]
    Ca(keys::CaCommand),
    /// Choose which cluster commands talk to
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Check and show a node's configuration
    #[command(subcommand)]
    Config(server::ConfigCommand),
    /// Generate load and measure
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  tarn completion bash > /etc/bash_completion.d/tarn")]
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Parses the command line, runs the command, says what went wrong, and returns the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.output;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Said already, as data.
        Err(failure @ (Failure::No | Failure::NotKnown)) => ExitCode::from(failure.code()),
        Err(failure) => {
            match format {
                Format::Json | Format::Jsonl => eprintln!("{}", failure.to_json()),
                Format::Text | Format::None => eprintln!("error: {}", printable::lines(&failure.to_string())),
            }
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let printer = Printer::new(cli.output);
    let connect = cli.connect;
    connect::warn_of_token();
    // What needs no cluster needs no runtime either.
    match cli.command {
        Command::Server(args) => server::server(args),
        Command::Dev(args) => server::dev(args, printer),
        Command::Config(command) => server::config(command, printer),
        Command::Transform(command) => transform::run(command, printer),
        Command::Ca(command) => keys::ca(command, printer),
        Command::Context(command) => context::run(command, printer),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tarn", &mut script);
            printer.bytes(&script)
        }
        Command::Policy(command) => match policy::local(command, printer)? {
            Some(command) => block_on(policy::run(command, &connect, printer)),
            None => Ok(()),
        },
        Command::Driver(command) => match driver::local(command, printer)? {
            Some(command) => block_on(driver::run(command, &connect, printer)),
            None => Ok(()),
        },
        command => block_on(call(command, connect, printer)),
    }
}

/// The commands that talk to a cluster.
async fn call(command: Command, connect: ConnectArgs, printer: Printer) -> Result<(), Failure> {
    match command {
        Command::Task(command) => task::run(command, connect.client()?, printer).await,
        Command::Queue(command) => queue::run(command, connect.client()?, printer).await,
        Command::Worker(command) => coordination::worker(command, connect.client()?, printer).await,
        Command::Lease(command) => coordination::lease(command, connect.client()?, printer).await,
        Command::Kv(command) => kv::run(command, connect.client()?, printer).await,
        Command::Timer(command) => coordination::timer(command, connect.client()?, printer).await,
        Command::Namespace(command) => namespace::run(command, connect.client()?, printer).await,
        Command::Auth(command) => access::auth(command, &connect, connect.client()?, printer).await,
        Command::Role(command) => access::role(command, &connect, connect.client()?, printer).await,
        Command::Token(command) => access::token(command, connect.client()?, printer).await,
        Command::Certificate(command) => access::certificate(command, connect.client()?, printer).await,
        Command::Scheduler(command) => scheduler::run(command, connect.client()?, printer).await,
        Command::Federation(command) => federation::run(command, connect.client()?, printer).await,
        Command::Audit(command) => audit::audit(command, &connect, printer).await,
        Command::Explain(command) => audit::explain(command, connect.client()?, printer).await,
        Command::Artifact(command) => artifact::run(command, connect.client()?, printer).await,
        Command::Cluster(command) => cluster::run(command, connect.client()?, printer).await,
        Command::Node(command) => keys::node(command, &connect, printer).await,
        Command::Bench(args) => bench::run(args, &connect, printer).await,
        Command::Server(_)
        | Command::Policy(_)
        | Command::Driver(_)
        | Command::Dev(_)
        | Command::Config(_)
        | Command::Transform(_)
        | Command::Ca(_)
        | Command::Context(_)
        | Command::Completion { .. } => unreachable!("these run without a cluster"),
    }
}

/// How long what still runs in the background may keep a process whose command has ended.
const END_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Threads that serve the network: half as many as there are cores, because the log, executors, and the kernel for all but small entries have threads of their own.
/// With as many as cores, every small thing that one of them begins wakes another one to help, which costs more than the help is worth.
fn serving_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.div_ceil(2)
}

/// Runs a command on an asynchronous runtime.
pub(crate) fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(serving_threads()).enable_all().build()?;
    let result = runtime.block_on(command);
    // A guest that still runs, or a read that never returns, must not keep the process.
    runtime.shutdown_timeout(END_TIMEOUT);
    result
}

/// Asks before something that cannot be taken back. Where nobody can answer, `--yes` is needed.
pub(crate) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("{question} Nobody is there to answer: repeat the command with --yes")));
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Usage("nothing was done".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// clap hands the value of a global flag, or of its environment variable, to a command's own argument of the same id.
    #[test]
    fn no_argument_of_a_command_is_filled_by_a_global_one() {
        fn shared(command: &clap::Command, global: &[clap::Id], found: &mut Vec<String>) {
            let own = command.get_arguments().filter(|arg| !arg.is_global_set() && global.contains(arg.get_id()));
            found.extend(own.map(|arg| format!("{} {}", command.get_name(), arg.get_id())));
            command.get_subcommands().for_each(|command| shared(command, global, found));
        }
        let root = Cli::command();
        let global: Vec<clap::Id> = root.get_arguments().filter(|arg| arg.is_global_set()).map(|arg| arg.get_id().clone()).collect();
        let mut found = Vec::new();
        root.get_subcommands().for_each(|command| shared(command, &global, &mut found));
        // What a context is to hold, and where a role is bound, is what the environment names if the command does not.
        let meant = ["bind namespace", "unbind namespace", "add address", "add namespace", "add cacert", "add cert", "add key"];
        assert_eq!(found, meant);
    }

    #[test]
    fn noun_then_verb() {
        for line in [
            "tarn task submit --queue q --payload x -o json",
            "tarn task submit --queue q --wasm m.wat --microvm --arg x --env A=B --memory 1Mi --grant clock",
            "tarn task submit --queue q --wasm m.wat --export f --param -1 --memory 1Mi",
            "tarn task submit --queue q --native p --arg -x --env A=B --grant network",
            "tarn task submit --queue q --transform fft --params-json {} --on-device --device-memory 1Mi --memory 1Mi",
            "tarn task submit --queue q --cuda k.cu --kernel k --shared-bytes 64 --device-memory 1Mi",
            "tarn task list --state dead,running",
            "tarn queue purge q --state ready --yes",
            "tarn cluster transfer-leader",
            "tarn federation invite --ttl 7d --scope context,tasks",
            "tarn federation join tarn-invite-1.x --at 10.0.0.1:7613,10.0.0.2:7613",
            "tarn federation status -o json",
            "tarn federation conflicts",
            "tarn federation conflicts --resolve context/a/b/c --value x",
            "tarn federation conflicts --resolve context/a/b/c --delete",
            "tarn federation share memory -n team",
            "tarn federation remove east --yes",
            "tarn auth can-i submit queue/mail --as user/bob",
            "tarn role bind user/ada developer --in team-*",
            "tarn token create --name ci --scope submit:queue/build",
            "tarn audit list --kind refused,leased --since 1h -A",
            "tarn audit export --follow --after 5 --until 2026-01-31T12:00:00Z",
            "tarn audit settings --retention 90d --bytes 8Gi",
            "tarn audit verify",
            "tarn explain task x --level audit",
            "tarn explain request y -o json",
            "tarn policy put night --activate",
            "tarn policy put night --sign-with ann.key",
            "tarn policy activate night 1.4.0 -e stage --expect none",
            "tarn policy replay --bundle night --since 7d",
            "tarn policy handler put pager --url https://x/ --secret pager --severity high",
            "tarn policy violations -A --severity critical --since 1d -o jsonl",
            "tarn driver install hook webhook.wasm --sign-with a.key --on task_dead,task_succeeded --http https://a.b",
            "tarn driver upgrade hook --config {} --expect 3",
            "tarn driver call hook test --payload -",
            "tarn driver logs hook --follow -o jsonl",
            "tarn lease acquire n --holder me --ttl 5m",
            "tarn kv put memory plan/today text --expect 0 --fence 0000000040001:77",
            "tarn kv get memory plan/today --snapshot before -o json",
            "tarn kv restore memory before --yes",
            "tarn namespace create team --max-queued 5 --isolation strict --environment dev",
            "tarn namespace update team --weight 3 --max-running 0",
            "tarn namespace usage team",
            "tarn namespace delete team --drain --cancel --yes",
            "tarn timer schedule +5m --mark hello",
            "tarn ca issue --ca ca --user ann --out ann",
            "tarn bench work --rate 500",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "tarn task submit",
            "tarn timer schedule +5m",
            "tarn ca issue --ca ca --out x",
            "tarn task list --state lost",
            "tarn audit list --kind lost",
            "tarn explain task",
            "tarn token create --name x --ttl 0s",
            "tarn node token --ttl 0s",
            "tarn audit settings --retention 0s",
            "tarn audit settings --records 0",
            "tarn audit settings --bytes 0",
            "tarn driver install hook",
            "tarn driver install hook w.wasm --signature a --sign-with b",
            "tarn policy eval --input x",
            "tarn policy violations --severity bad",
            "tarn task submit --queue q --wasm m.wat --handler h",
            "tarn kv put memory",
            "tarn kv put memory key value --fence x",
            "tarn kv get memory key --at-version 1 --snapshot s",
            "tarn task submit --queue q --arg x",
            "tarn task submit --queue q --memory 1Mi",
            "tarn task submit --queue q --grant clock",
            "tarn task submit --queue q --wasm m.wat --params-json {}",
            "tarn task submit --queue q --wasm m.wat --shared-bytes 0",
            "tarn task submit --queue q --wasm m.wat --device-memory 1Mi",
            "tarn task submit --queue q --wasm m.wat --export f --arg x",
            "tarn task submit --queue q --wasm m.wat --on-device",
            "tarn task submit --queue q --native p --microvm",
            "tarn task submit --queue q --native p --param 1",
            "tarn task submit --queue q --native p --export f",
            "tarn task submit --queue q --transform fft --env A=B",
            "tarn timer schedule +5m --mark hello --payload x",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
