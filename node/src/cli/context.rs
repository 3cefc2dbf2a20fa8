//! Contexts: named clusters that the user works with, in a file of the user's own.
//!
//! The file is `$XDG_CONFIG_HOME/tarn/contexts.toml`, or `~/.config/tarn/contexts.toml`; `TARN_CONTEXTS` names another. It holds paths of
//! keys, never keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use tarn_client::tls::Credentials;

use super::exit::Failure;
use super::output::{Printer, table};

/// Longest name of a context.
const NAME_BYTES_MAX: usize = 64;

/// One cluster, and who the user is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Addresses of nodes, `host:port`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The namespace that commands refer to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The cluster's CA certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cacert: Option<PathBuf>,
    /// The user's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The user's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// All contexts, and the one in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The context in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

impl Contexts {
    fn path() -> anyhow::Result<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = set("TARN_CONTEXTS") {
            return Ok(path);
        }
        let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
        let config =
            config.ok_or_else(|| anyhow!("neither HOME nor XDG_CONFIG_HOME is set: name the file of contexts with TARN_CONTEXTS"))?;
        Ok(config.join("tarn/contexts.toml"))
    }

    /// Reads the file; no file means no contexts.
    pub fn load() -> anyhow::Result<Self> {
        let path = Self::path()?;
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("{} does not hold contexts", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes the file whole, so that an interruption leaves the old one.
    pub fn save(&self) -> anyhow::Result<()> {
        let path = Self::path()?;
        let folder = path.parent().ok_or_else(|| anyhow!("{} has no folder", path.display()))?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let text = toml::to_string_pretty(self).context("contexts have a TOML form")?;
        tarn_storage::dir::write_atomically(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The context in use, or the named one.
    pub fn pick(&self, name: Option<&str>) -> Result<Context, Failure> {
        let Some(name) = name.or(self.current.as_deref()) else {
            return Ok(Context::default());
        };
        self.contexts.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            Failure::Usage(format!("there is no context {name:?}; there are: {}", known.join(", ")))
        })
    }
}

/// Which cluster, and who the user is there.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ContextCommand {
    /// Add or replace a context, and use it
    Add {
        /// Its name
        name: String,
        /// Addresses of nodes, host:port, separated by commas
        #[arg(long, value_delimiter = ',', required = true)]
        address: Vec<String>,
        /// The namespace that commands refer to
        #[arg(long)]
        namespace: Option<String>,
        /// The cluster's CA certificate (PEM)
        #[arg(long)]
        cacert: PathBuf,
        /// Your certificate (PEM)
        #[arg(long)]
        cert: PathBuf,
        /// Your key (PEM), readable by you alone
        #[arg(long)]
        key: PathBuf,
    },
    /// Use a context from now on
    Use {
        /// Its name
        name: String,
    },
    /// List the contexts
    List,
    /// Remove a context; certificates and keys stay where they are
    Remove {
        /// Its name
        name: String,
    },
}

/// A name that needs no quotes, neither in a shell nor in the file.
fn check_name(name: &str) -> Result<(), Failure> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(fits) && !name.starts_with('-') {
        return Ok(());
    }
    Err(Failure::Usage(format!("{name:?} is no name of a context: write letters, digits, `-`, `_` and `.`, up to {NAME_BYTES_MAX}")))
}

/// Runs `tarn context …`.
pub fn run(command: ContextCommand, printer: Printer) -> Result<(), Failure> {
    let mut contexts = Contexts::load()?;
    match command {
        ContextCommand::Add { name, address, namespace, cacert, cert, key } => {
            check_name(&name)?;
            for one in &address {
                one.parse::<tarn_client::tls::Address>().map_err(|error| Failure::Usage(format!("{one}: {error}")))?;
            }
            let whole = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
            let [cacert, cert, key] = [cacert, cert, key].map(whole);
            // What cannot be read would make every command fail from now on.
            Credentials::from_files(&cacert, &cert, &key).map_err(|error| Failure::Usage(error.to_string()))?;
            let context = Context { addresses: address, namespace, cacert: Some(cacert), cert: Some(cert), key: Some(key) };
            contexts.contexts.insert(name.clone(), context);
            printer.note(&format!("using context {name}"));
            contexts.current = Some(name);
        }
        ContextCommand::Use { name } => {
            contexts.pick(Some(&name))?;
            contexts.current = Some(name);
        }
        ContextCommand::List => {
            let current = contexts.current.as_deref();
            let value = serde_json::to_value(&contexts).map_err(anyhow::Error::from)?;
            return printer.value(&value, || {
                table(
                    &["", "name", "addresses", "namespace"],
                    contexts.contexts.iter().map(|(name, context)| {
                        let mark = if current == Some(name) { "*" } else { "" };
                        vec![mark.into(), name.clone(), context.addresses.join(","), context.namespace.clone().unwrap_or_default()]
                    }),
                )
            });
        }
        ContextCommand::Remove { name } => {
            contexts.pick(Some(&name))?;
            contexts.contexts.remove(&name);
            contexts.current = contexts.current.filter(|current| *current != name);
        }
    }
    contexts.save()?;
    Ok(())
}
