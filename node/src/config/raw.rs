//! Values as they were written, with the place where they were written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::{Problem, Sources};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the file.
    File {
        /// The file.
        path: Arc<Path>,
        /// Its line, from 1.
        line: usize,
    },
    /// An environment variable, by name.
    Environment(String),
    /// A flag, as the user wrote it.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A value before anybody has asked what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    /// From the environment or a flag: the setting's type decides how it reads.
    Word(String),
    /// A TOML string.
    Text(String),
    /// A TOML integer, in decimal.
    Integer(String),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array of strings.
    List(Vec<String>),
    /// A TOML array of tables: the keys of each, and their values.
    Tables(Vec<BTreeMap<String, Raw>>),
    /// Something that no setting takes, by the name of its type.
    Other(&'static str),
}

impl Raw {
    /// What to call it in a message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Word(_) | Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list of strings",
            Self::Tables(_) => "a list of tables",
            Self::Other(kind) => kind,
        }
    }
}

/// Values by key, of one place.
pub(super) type Layer = BTreeMap<String, (Raw, Origin)>;

/// Reads all three places; strongest layer first.
pub(super) fn gather(sources: &Sources) -> (Vec<Layer>, Vec<Problem>) {
    let mut problems = Vec::new();
    let file = sources.file.as_ref().map(|path| from_file(path, &mut problems)).unwrap_or_default();
    (vec![from_flags(sources), from_environment(sources, &mut problems), file], problems)
}

fn from_flags(sources: &Sources) -> Layer {
    let entry = |f: &super::Flag| (f.key.clone(), (Raw::Word(f.value.clone()), Origin::Flag(f.flag.clone())));
    sources.flags.iter().map(entry).collect()
}

fn from_environment(sources: &Sources, problems: &mut Vec<Problem>) -> Layer {
    let mut layer = Layer::new();
    for (name, value) in &sources.environment {
        let Some(name) = name.to_str() else { continue };
        // Variables without a double underscore, such as TARN_ADDRESS, belong to the command line's client commands.
        let Some((section, key)) = name.strip_prefix("TARN_").and_then(|rest| rest.split_once("__")) else {
            continue;
        };
        let key = format!("{section}.{key}").to_lowercase();
        let origin = Origin::Environment(name.to_owned());
        match value.to_str() {
            Some(value) => drop(layer.insert(key, (Raw::Word(value.to_owned()), origin))),
            None => problems.push(Problem { origin, key, message: "is not UTF-8".into() }),
        }
    }
    layer
}

fn from_file(path: &PathBuf, problems: &mut Vec<Problem>) -> Layer {
    let shared: Arc<Path> = path.as_path().into();
    let at = |line| Origin::File { path: shared.clone(), line };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(Problem { origin: at(1), key: String::new(), message: format!("cannot be read: {error}") });
            return Layer::new();
        }
    };
    let line_of = |offset: usize| 1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
    let (table, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        let line = error.span().map_or(1, |span| line_of(span.start));
        problems.push(Problem { origin: at(line), key: String::new(), message: error.message().to_owned() });
    }

    let mut layer = Layer::new();
    for (section, value) in table.get_ref() {
        match value.get_ref() {
            DeValue::Table(keys) => {
                for (key, value) in keys {
                    let origin = at(line_of(key.span().start));
                    layer.insert(format!("{}.{}", section.get_ref(), key.get_ref()), (from_toml(value.get_ref()), origin));
                }
            }
            other => {
                let origin = at(line_of(section.span().start));
                layer.insert(section.get_ref().to_string(), (from_toml(other), origin));
            }
        }
    }
    layer
}

fn from_toml(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Raw::Integer(number.to_string()),
            Err(_) => Raw::Other("an integer of more than 128 bits"),
        },
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Array(items) if matches!(items.first().map(toml::Spanned::get_ref), Some(DeValue::Table(_))) => tables(items),
        DeValue::Array(items) => {
            let text = |item: &toml::Spanned<DeValue<'_>>| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            };
            items.iter().map(text).collect::<Option<_>>().map_or(Raw::Other("a list of other things than strings"), Raw::List)
        }
        DeValue::Float(_) => Raw::Other("a number with a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

fn tables(items: &[toml::Spanned<DeValue<'_>>]) -> Raw {
    let table = |item: &toml::Spanned<DeValue<'_>>| match item.get_ref() {
        DeValue::Table(keys) => {
            let entries = keys.iter().map(|(key, value)| (key.get_ref().to_string(), from_toml(value.get_ref())));
            Some(entries.collect())
        }
        _ => None,
    };
    items.iter().map(table).collect::<Option<_>>().map_or(Raw::Other("a list of tables and other things"), Raw::Tables)
}

/// A value as it would be read from a file, for settings that are written in TOML in a variable or flag too.
pub(super) fn from_text(text: &str) -> Option<Raw> {
    let document = format!("value = {text}");
    let table = DeTable::parse(&document).ok()?;
    let only = (table.get_ref().len() == 1).then(|| table.get_ref().get("value")).flatten()?;
    Some(from_toml(only.get_ref()))
}
