//! The types that a setting can have: how each is written, read and shown.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::raw::{Raw, from_text};
use crate::identity::bearer::IssuerSettings;

/// A type that a setting can have.
pub(super) trait Setting: Sized + Clone {
    /// What is expected, as in "expected …".
    const EXPECTED: &'static str;

    /// Reads a value; `None` if it is not of this type.
    fn read(raw: &Raw) -> Option<Self>;

    /// The value in TOML.
    fn show(&self) -> String;

    /// The value as a number, if it is one, to be checked against the setting's range.
    fn number(&self) -> Option<u64> {
        None
    }
}

/// Text, whether from the file, the environment or a flag.
fn text(raw: &Raw) -> Option<&str> {
    match raw {
        Raw::Word(text) | Raw::Text(text) => Some(text),
        _ => None,
    }
}

macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl Setting for $type {
            const EXPECTED: &'static str = "a whole number that is not negative";

            fn read(raw: &Raw) -> Option<Self> {
                match raw {
                    Raw::Word(digits) | Raw::Integer(digits) => digits.replace('_', "").parse().ok(),
                    _ => None,
                }
            }

            fn show(&self) -> String {
                self.to_string()
            }

            fn number(&self) -> Option<u64> {
                u64::try_from(*self).ok()
            }
        })*
    };
}
numbers!(u64, u32, usize);

/// Types that are written as a string and parse themselves.
macro_rules! texts {
    ($($type:ty, $expected:literal;)*) => {
        $(impl Setting for $type {
            const EXPECTED: &'static str = $expected;

            fn read(raw: &Raw) -> Option<Self> {
                text(raw)?.parse().ok()
            }

            fn show(&self) -> String {
                format!("{:?}", self.to_string())
            }
        })*
    };
}
texts! {
    String, "a string";
    SocketAddr, "an IP address and a port, such as \"0.0.0.0:7610\"";
    LogFormat, "\"text\" or \"json\"";
    Switch, "\"auto\", \"on\" or \"off\"";
    Bind, "an IP address and a port, such as \"0.0.0.0:7611\", or \"off\"";
    SourceAddress, "an IP address of this machine, such as \"10.0.0.1\", or nothing";
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Boolean(value) => Some(*value),
            Raw::Word(word) => word.parse().ok(),
            _ => None,
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn read(raw: &Raw) -> Option<Self> {
        text(raw).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    fn show(&self) -> String {
        format!("{:?}", self.display().to_string())
    }
}

impl<T: FromStr + fmt::Display + Clone> Setting for Vec<T> {
    const EXPECTED: &'static str = "a list such as [\"1=10.0.0.1:7610\", \"2=10.0.0.2:7610\"], or \"self\"";

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::List(items) => items.iter().map(|item| item.parse().ok()).collect(),
            // A list in a variable or flag is separated by commas.
            Raw::Word(text) | Raw::Text(text) => {
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(|item| item.parse().ok()).collect()
            }
            _ => None,
        }
    }

    fn show(&self) -> String {
        let items: Vec<String> = self.iter().map(|item| format!("{:?}", item.to_string())).collect();
        format!("[{}]", items.join(", "))
    }
}

/// Folders and files of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths(pub Vec<PathBuf>);

impl Setting for Paths {
    const EXPECTED: &'static str = "a list of absolute paths, such as [\"/opt/models\"]";

    fn read(raw: &Raw) -> Option<Self> {
        let paths: Vec<PathBuf> = Vec::<String>::read(raw)?.into_iter().map(PathBuf::from).collect();
        paths.iter().all(|path| path.is_absolute()).then_some(Self(paths))
    }

    fn show(&self) -> String {
        let items: Vec<String> = self.0.iter().map(|path| path.show()).collect();
        format!("[{}]", items.join(", "))
    }
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Where it can be done well.
    Auto,
    /// Wherever it can be done at all; a node where it cannot does not start.
    On,
    /// Never.
    Off,
}

impl FromStr for Switch {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// The issuers whose JWTs are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwtIssuers(pub Vec<IssuerSettings>);

impl Setting for JwtIssuers {
    const EXPECTED: &'static str = "tables [[auth.jwt]], or [{issuer = \"https://…\", audience = \"…\", jwks_file = \"/…\"}] in a variable: \
         issuer, audience and jwks_file are needed, name is not, and there is nothing else";

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Tables(tables) => tables.iter().map(issuer).collect::<Option<_>>().map(Self),
            Raw::List(items) if items.is_empty() => Some(Self::default()),
            Raw::Word(text) if text.trim().is_empty() => Some(Self::default()),
            Raw::Word(text) => Self::read(&from_text(text)?),
            _ => None,
        }
    }

    fn show(&self) -> String {
        let tables: Vec<String> = self.0.iter().map(show_issuer).collect();
        format!("[{}]", tables.join(", "))
    }
}

fn issuer(table: &BTreeMap<String, Raw>) -> Option<IssuerSettings> {
    let mut settings = IssuerSettings { issuer: String::new(), audience: String::new(), jwks_file: PathBuf::new(), name: String::new() };
    for (key, value) in table {
        let Raw::Text(value) = value else { return None };
        match key.as_str() {
            "issuer" => settings.issuer.clone_from(value),
            "audience" => settings.audience.clone_from(value),
            "jwks_file" => settings.jwks_file = value.into(),
            "name" => settings.name.clone_from(value),
            _ => return None,
        }
    }
    let whole = !settings.issuer.is_empty() && !settings.audience.is_empty() && settings.jwks_file != PathBuf::new();
    whole.then_some(settings)
}

fn show_issuer(settings: &IssuerSettings) -> String {
    let file = settings.jwks_file.display().to_string();
    let name = match settings.name.as_str() {
        "" => String::new(),
        name => format!(", name = {name:?}"),
    };
    format!("{{issuer = {:?}, audience = {:?}, jwks_file = {file:?}{name}}}", settings.issuer, settings.audience)
}

/// The local address of outgoing connections, if it was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceAddress(pub Option<IpAddr>);

impl FromStr for SourceAddress {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        text.parse().map(|address| Self(Some(address)))
    }
}

impl fmt::Display for SourceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |address| address.fmt(f))
    }
}

/// An address to listen on, if that was wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bind(pub Option<SocketAddr>);

impl FromStr for Bind {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|address| Self(Some(address)))
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// One voter of a new cluster: `1=10.0.0.1:7610`, or `self` for this node alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootstrapMember {
    /// This node, at its advertised address.
    Itself,
    /// A node by id and advertised address.
    Node {
        /// From 1.
        id: u64,
        /// What peers and clients dial: host and port.
        address: String,
    },
}

impl FromStr for BootstrapMember {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "self" {
            return Ok(Self::Itself);
        }
        let (id, address) = text.split_once('=').ok_or(())?;
        let id = id.parse().ok().filter(|id| *id > 0).ok_or(())?;
        let (host, port) = address.rsplit_once(':').ok_or(())?;
        port.parse::<u16>().map_err(drop)?;
        if host.is_empty() { Err(()) } else { Ok(Self::Node { id, address: address.to_owned() }) }
    }
}

impl fmt::Display for BootstrapMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Itself => f.write_str("self"),
            Self::Node { id, address } => write!(f, "{id}={address}"),
        }
    }
}
