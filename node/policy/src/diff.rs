//! What differs between two bundles.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::{
    Bundle, Digest, Error, json,
    limits::{COMPILE_BUDGET, DIFFERENCES_MAX},
    rego::{Outcome, Purpose, rule_texts, run},
};

/// Names that one side has, that the other has, and that both have with different content, each in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Only in the new bundle.
    pub added: Vec<String>,
    /// Only in the old bundle.
    pub removed: Vec<String>,
    /// In both, with different content.
    pub changed: Vec<String>,
    /// Names beyond [`DIFFERENCES_MAX`] of a list that are not listed.
    pub omitted: usize,
}

impl Changes {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn between<T: PartialEq>(old: &BTreeMap<String, T>, new: &BTreeMap<String, T>) -> Self {
        let mut changes = Self::default();
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names {
            let list = match (old.get(name), new.get(name)) {
                (None, _) => &mut changes.added,
                (_, None) => &mut changes.removed,
                (Some(old), Some(new)) if old != new => &mut changes.changed,
                _ => continue,
            };
            if list.len() < DIFFERENCES_MAX {
                list.push(name.clone());
            } else {
                changes.omitted += 1;
            }
        }
        changes
    }
}

/// What differs between two bundles, from an old one to a new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// The old bundle's digest.
    pub from: Digest,
    /// The new bundle's digest.
    pub to: Digest,
    /// Fields of the manifest: `version: 1.0.0 -> 1.1.0`.
    pub manifest: Vec<String>,
    /// Modules by path, compared as text.
    pub modules: Changes,
    /// Rules and functions by package and name, compared by the texts of their parts. Moving a rule to another module of the same package
    /// changes nothing; neither does a comment outside of it. Of modules that do not parse, there are no rules.
    pub rules: Changes,
    /// Data by path, such as `limits.gpu`. Lists are compared as wholes.
    pub data: Changes,
}

impl Diff {
    /// Compares two bundles. They need not compile.
    ///
    /// # Errors
    /// If no thread was free to read the modules.
    pub fn between(old: &Bundle, new: &Bundle) -> Result<Self, Error> {
        let (old_rules, new_rules) = rules(old.clone(), new.clone())?;
        let modules = |bundle: &Bundle| -> BTreeMap<String, String> {
            bundle.modules().map(|(path, text)| (path.to_owned(), text.to_owned())).collect()
        };
        Ok(Self {
            from: old.digest(),
            to: new.digest(),
            manifest: manifest(old, new),
            modules: Changes::between(&modules(old), &modules(new)),
            rules: Changes::between(&old_rules, &new_rules),
            data: Changes::between(&leaves(old)?, &leaves(new)?),
        })
    }

    /// Whether the bundles are one and the same.
    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }
}

fn manifest(old: &Bundle, new: &Bundle) -> Vec<String> {
    let fields = |bundle: &Bundle| {
        let manifest = bundle.manifest();
        [
            ("name", manifest.name.clone()),
            ("version", manifest.version.to_string()),
            ("environment", manifest.environment.clone()),
            ("description", manifest.description.clone()),
        ]
    };
    let pairs = fields(old).into_iter().zip(fields(new));
    let differ = pairs.filter(|((_, old), (_, new))| old != new);
    differ.map(|((field, old), (_, new))| format!("{field}: {old} -> {new}")).collect()
}

type Rules = BTreeMap<String, Vec<String>>;

/// Modules are parsed where there is stack for them.
fn rules(old: Bundle, new: Bundle) -> Result<(Rules, Rules), Error> {
    match run(Purpose::Trying, COMPILE_BUDGET, move || (rule_texts(&old), rule_texts(&new)), || ()) {
        Outcome::Done(rules) => Ok(rules),
        Outcome::Panicked(said) => Err(Error::Unfinished(format!("the modules could not be read: {said}"))),
        Outcome::Stuck => Err(Error::Unfinished("reading the modules takes too long".into())),
        Outcome::Busy => Err(Error::Unfinished("too many policies are being evaluated; try again".into())),
    }
}

/// Every value of the data that is no object with fields, by its path.
fn leaves(bundle: &Bundle) -> Result<BTreeMap<String, String>, Error> {
    let data = json::parse("data", bundle.data().as_bytes())?;
    let mut leaves = BTreeMap::new();
    collect(&data, "", &mut leaves);
    Ok(leaves)
}

fn collect(value: &Value, path: &str, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(field, &below, leaves);
            }
        }
        // A document without anything has nothing to compare.
        _ if path.is_empty() => {}
        leaf => drop(leaves.insert(path.to_owned(), json::canonical(leaf))),
    }
}
