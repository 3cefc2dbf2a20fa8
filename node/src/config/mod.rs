//! The configuration: one table of settings, three places to set them.
//!
//! A value comes from, weakest first: its default, the TOML file, an environment variable `TARN_SECTION__KEY`, a flag. Every value
//! remembers where it came from, so that `tarn config show` can say it and a complaint can point at it. All complaints come at once.
//!
//! ```text
//! file ──► Raw, line ┐
//! environment ► Raw, │──► Reader: take by key, parse, check range ──► Config + Vec<Shown>
//!              name  │            └► what was never taken is unknown ──► Problems
//! flags ───► Raw     ┘
//! ```
//!
//! Invariants: nothing outside of this module reads the file or a `TARN_…__…` variable; every key, its default, range and meaning stand
//! once, in `settings`.

mod check;
mod raw;
mod reader;
mod settings;
mod types;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

pub use raw::Origin;
pub use settings::{Auth, Cluster, Config, Executors, Federation, Https, Identity, KEYS, Limits, Listen, Log, Network, Node, Raft};
pub use types::{Bind, BootstrapMember, JwtIssuers, LogFormat, Paths, SourceAddress, Switch};

/// Where to look for settings.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The TOML file. `None`: no file. A named file that does not exist is a problem.
    pub file: Option<PathBuf>,
    /// The environment, as `std::env::vars_os` gives it. Only names that start with `TARN_` and contain `__` are looked at.
    pub environment: Vec<(OsString, OsString)>,
    /// Settings given on the command line: the key (`listen.bind`), the value, and how the user wrote the flag (`--bind`), for messages.
    pub flags: Vec<Flag>,
}

/// One setting from the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The key it sets, such as `listen.bind`.
    pub key: String,
    /// The value, as text.
    pub value: String,
    /// How the user wrote it, such as `--bind`.
    pub flag: String,
}

impl Sources {
    /// The given file and this process's environment, without flags.
    #[must_use]
    pub fn from_process(file: Option<PathBuf>) -> Self {
        Self { file, environment: std::env::vars_os().collect(), flags: Vec::new() }
    }

    /// Adds a setting from the command line.
    #[must_use]
    pub fn flag(mut self, key: &str, value: impl Into<String>, flag: &str) -> Self {
        self.flags.push(Flag { key: key.into(), value: value.into(), flag: flag.into() });
        self
    }
}

/// A configuration together with where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Every setting, in the order of the sections, for `tarn config show`.
    pub values: Vec<Shown>,
}

/// One setting as `tarn config show` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The key, such as `listen.bind`.
    pub key: &'static str,
    /// The value in TOML.
    pub value: String,
    /// Where the value came from.
    pub origin: Origin,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}  # {}", self.key, self.value, self.origin)
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the offending value was given.
    pub origin: Origin,
    /// The key, or empty where the whole file is concerned.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.origin, self.message),
            key => write!(f, "{}: {key}: {}", self.origin, self.message),
        }
    }
}

/// Everything that is wrong with a configuration: at least one problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems(pub Vec<Problem>);

/// Reads the configuration.
///
/// # Errors
/// All problems at once: an unreadable file, bad TOML, unknown keys, values of the wrong type or out of range, values that contradict
/// each other.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let (layers, mut problems) = raw::gather(sources);
    let mut reader = reader::Reader::new(layers);
    let config = Config::read(&mut reader);
    let (values, unfit) = reader.finish(KEYS);
    problems.extend(unfit);
    if problems.is_empty() {
        problems.extend(check::across(&config, &values));
    }
    if problems.is_empty() { Ok(Loaded { config, values }) } else { Err(Problems(problems)) }
}

/// What is wrong with the configuration; empty if nothing is.
#[must_use]
pub fn check(sources: &Sources) -> Vec<Problem> {
    load(sources).err().map(|problems| problems.0).unwrap_or_default()
}

#[cfg(test)]
mod tests;
