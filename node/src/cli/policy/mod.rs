//! `tarn policy …`: bundles of policies on this machine and in the cluster, what they found, and who is told.

mod handler;
mod local;
mod remote;
mod replay;
mod signing;
mod violations;

pub(super) use signing::{change_trust, key, trusted};

use std::path::{Path, PathBuf};
use std::time::Duration;

use tarn_policy::{Bundle, SignedBundle};

use super::connect::{ConnectArgs, parse_duration};
use super::exit::Failure;
use super::output::Printer;

/// Test, put and activate policies, and see what they found.
#[derive(Clone, Debug, clap::Subcommand)]
#[command(after_help = "\
A bundle is a folder: bundle.toml names it (name, version, environment), *.rego are its rules in package tarn, *_test.rego its tests,
data.json its tables. `deny` holds what is refused and `warn` what is only noted: texts, or objects {message, code, severity}; if there
is an `allow`, it must be true.

Example:
  tarn policy test night/                              compile it and run its tests, here
  tarn policy eval night/ --input request.json         what would it say to this?
  tarn policy put night/ --activate                    from now on it judges, on every node
  tarn policy rollback night                           back to the version before
  tarn policy violations --severity high --since 1d")]
pub enum PolicyCommand {
    /// Put a version of a bundle into the cluster; it does not judge yet
    #[command(after_help = "\
Examples:
  tarn policy put night/                         a folder
  tarn policy put night.tarnpol --activate       what `tarn policy sign` wrote, and let it judge
  tarn policy put night/ --sign-with ann.key     sign it on the way")]
    Put {
        /// A folder, or a file that `tarn policy sign` wrote
        bundle: PathBuf,
        /// Sign it with this key (PEM), such as `tarn policy key` makes
        #[arg(long, value_name = "FILE")]
        sign_with: Option<PathBuf>,
        /// Activate it at once
        #[arg(long)]
        activate: bool,
    },
    /// Let a version judge; a node compiles it and runs its tests first
    #[command(after_help = "Example:\n  tarn policy activate night 1.4.0 --expect 1.3.0      only if 1.3.0 is active now")]
    Activate {
        #[command(flatten)]
        which: Which,
        /// Its version
        version: String,
        /// Only if this version is active now; `none`: only if none is
        #[arg(long, value_name = "VERSION")]
        expect: Option<String>,
    },
    /// Go back to the version that was active before
    Rollback {
        #[command(flatten)]
        which: Which,
        /// Only if this version is active now
        #[arg(long, value_name = "VERSION")]
        expect: Option<String>,
    },
    /// Let no version of a bundle judge; rollback undoes it
    Deactivate {
        #[command(flatten)]
        which: Which,
        /// Only if this version is active now
        #[arg(long, value_name = "VERSION")]
        expect: Option<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Delete a version that is not active
    Delete {
        #[command(flatten)]
        which: Which,
        /// Its version
        version: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// List bundles and their versions
    List {
        /// Of this name only
        name: Option<String>,
        /// Of this environment only
        #[arg(long, short)]
        environment: Option<String>,
    },
    /// Show a version: who put it, who signed it, what is in it
    #[command(
        after_help = "Examples:\n  tarn policy show night                        the active version\n  tarn policy show night 1.3.0 --out old/        write it as a folder"
    )]
    Show {
        #[command(flatten)]
        which: Which,
        /// Its version [default: the active one]
        version: Option<String>,
        /// Write it to this folder, which must not hold anything
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Compile a bundle and run its tests, on this machine
    #[command(after_help = "It exits with 0 if all passed, and with 1 if not.")]
    Test {
        /// A folder, or a file that `tarn policy sign` wrote
        bundle: PathBuf,
    },
    /// Ask bundles about an input, on this machine
    #[command(after_help = "\
Examples:
  tarn policy eval night/ --input request.json
  echo '{\"principal\":\"user/ada\",\"verb\":\"submit\",\"resource\":{\"kind\":\"queue\",\"name\":\"gpu\"}}' | tarn policy eval night/ --input -
It exits with 0 if it is allowed, and with 1 if not.")]
    Eval {
        /// Folders or files; all must allow it
        #[arg(required = true)]
        bundles: Vec<PathBuf>,
        /// The input as JSON; `-`: standard input
        #[arg(long)]
        input: PathBuf,
    },
    /// Say what differs between two bundles, on this machine
    Diff {
        /// The old one: a folder or a file
        old: PathBuf,
        /// The new one
        new: PathBuf,
    },
    /// Judge stored decisions again by a candidate, and list what would have been different
    #[command(after_help = "\
Example:
  tarn policy replay --bundle night/ --since 7d        who would be refused now, and who let in?
Decisions that policies had no part in are not among them; those whose facts do not suffice are counted.")]
    Replay {
        /// A candidate: a folder or a file; several judge together
        #[arg(long = "bundle", required = true)]
        bundles: Vec<PathBuf>,
        /// Decisions of this long ago and younger
        #[arg(long, default_value = "7d", value_parser = parse_duration)]
        since: Duration,
        /// Time for each decision
        #[arg(long, default_value = "50ms", value_parser = parse_duration)]
        budget: Duration,
    },
    /// List what policies refused or warned of, newest first
    Violations(violations::ViolationsArgs),
    /// Choose where violations are sent
    #[command(subcommand)]
    Handler(handler::HandlerCommand),
    /// Sign a bundle, on this machine
    #[command(after_help = "Example:\n  tarn policy sign night/ --key ann.key --out night.tarnpol")]
    Sign {
        /// A folder, or a file without a signature
        bundle: PathBuf,
        /// The private key (PEM), such as `tarn policy key` makes
        #[arg(long = "key", value_name = "FILE")]
        with: PathBuf,
        /// Where to write the signed bundle
        #[arg(long)]
        out: PathBuf,
    },
    /// Make a key that signs bundles: NAME.key, to be kept secret, and NAME.pub, for `tarn policy settings --trust`
    Key {
        /// The files' name, without its ending
        out: PathBuf,
    },
    /// Show or change who may sign bundles, and whether bundles must be signed
    #[command(after_help = "\
Examples:
  tarn policy settings                                           as they are
  tarn policy settings --trust ann=ann.pub --require-signed true
  tarn policy settings --distrust ann")]
    Settings {
        /// Whether only signed bundles are taken
        #[arg(long)]
        require_signed: Option<bool>,
        /// Take what this key signs: NAME=FILE
        #[arg(long, value_name = "NAME=FILE")]
        trust: Vec<String>,
        /// Take no more what the key of this name signs
        #[arg(long, value_name = "NAME")]
        distrust: Vec<String>,
    },
}

/// Which bundle.
#[derive(Clone, Debug, clap::Args)]
pub struct Which {
    /// Its name
    name: String,
    /// Its environment
    #[arg(long, short, default_value = "prod")]
    environment: String,
}

/// Runs what needs no cluster; gives back what does.
pub fn local(command: PolicyCommand, printer: Printer) -> Result<Option<PolicyCommand>, Failure> {
    match command {
        PolicyCommand::Test { bundle } => local::test(&bundle, printer)?,
        PolicyCommand::Eval { bundles, input } => local::eval(&bundles, &input, printer)?,
        PolicyCommand::Diff { old, new } => local::diff(&old, &new, printer)?,
        PolicyCommand::Sign { bundle, with, out } => signing::sign(&bundle, &with, &out, printer)?,
        PolicyCommand::Key { out } => signing::key(&out, printer)?,
        command => return Ok(Some(command)),
    }
    Ok(None)
}

/// Runs the rest of `tarn policy …`.
pub async fn run(command: PolicyCommand, connect: &ConnectArgs, printer: Printer) -> Result<(), Failure> {
    let client = connect.client()?;
    match command {
        PolicyCommand::Put { bundle, sign_with, activate } => remote::put(&client, &bundle, sign_with.as_deref(), activate, printer).await,
        PolicyCommand::Activate { which, version, expect } => remote::activate(&client, which, version, expect, printer).await,
        PolicyCommand::Rollback { which, expect } => remote::rollback(&client, which, expect, printer).await,
        PolicyCommand::Deactivate { which, expect, yes } => {
            super::confirm(&format!("Let no version of {} judge in {} any more?", which.name, which.environment), yes)?;
            remote::deactivate(&client, which, expect, printer).await
        }
        PolicyCommand::Delete { which, version, yes } => {
            super::confirm(&format!("Delete version {version} of {} for good?", which.name), yes)?;
            remote::delete(&client, which, version, printer).await
        }
        PolicyCommand::List { name, environment } => remote::list(&client, name, environment, printer).await,
        PolicyCommand::Show { which, version, out } => remote::show(&client, which, version, out, printer).await,
        PolicyCommand::Replay { bundles, since, budget } => replay::replay(&client, &bundles, since, budget, printer).await,
        PolicyCommand::Violations(args) => violations::violations(&client, args, connect, printer).await,
        PolicyCommand::Handler(command) => handler::run(command, &client, printer).await,
        PolicyCommand::Settings { require_signed, trust, distrust } => {
            signing::settings(&client, require_signed, &trust, &distrust, printer).await
        }
        PolicyCommand::Test { .. }
        | PolicyCommand::Eval { .. }
        | PolicyCommand::Diff { .. }
        | PolicyCommand::Sign { .. }
        | PolicyCommand::Key { .. } => unreachable!("these run without a cluster"),
    }
}

/// Reads a bundle from a folder or a file.
fn load(path: &Path) -> Result<SignedBundle, Failure> {
    if path.is_dir() {
        let bundle = Bundle::from_directory(path).map_err(said)?;
        return Ok(SignedBundle::unsigned(&bundle));
    }
    let bytes = std::fs::read(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    SignedBundle::from_bytes(&bytes).map_err(said)
}

/// The bundle itself; whether its signature fits is the cluster's to say.
fn bundle(path: &Path) -> Result<Bundle, Failure> {
    Bundle::from_bytes(load(path)?.bundle_bytes()).map_err(said)
}

fn said(error: tarn_policy::Error) -> Failure {
    Failure::Other(anyhow::anyhow!("{}: {error}", error.reason()))
}
