//! Bundles of policies: which there are, and the bytes of those that judge.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use tarn_proto::v1::PolicySettings;
use tarn_storage::Engine;

use super::rebuild::{each, misplaced};
use super::{Indices, Wake};
use crate::error::Fatal;
use crate::keys::{Key, first};
use crate::limits;
use crate::rows::{BundleRow, HandlerRow, PolicySettingsRow, ViolationRow};

/// What judges commands, as the log has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    /// The log index at which what is active, or who may sign, last changed; 0 if never.
    pub revision: u64,
    /// Who may sign bundles, and whether they must be signed.
    pub settings: PolicySettings,
    /// The active bundles: by environment, then by name.
    pub active: BTreeMap<Arc<str>, BTreeMap<Arc<str>, ActiveBundle>>,
    /// All versions, without their bytes, under the names in their keys.
    pub(crate) bundles: BTreeMap<Arc<str>, BundleRow>,
    /// Bytes of all versions.
    pub(crate) bytes: u64,
}

/// A version of a bundle that judges.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveBundle {
    /// Its semantic version.
    pub version: Arc<str>,
    /// BLAKE3 of its bytes.
    pub digest: Bytes,
    /// Its bytes, as they were put.
    pub content: Bytes,
}

impl Policies {
    /// Puts a version in, or its changed row in place of the old one. The row has its bytes.
    pub(crate) fn insert(&mut self, parts: &str, mut row: BundleRow) {
        self.remove(parts);
        let content = std::mem::take(&mut row.content);
        self.bytes += row.size;
        if let Some((environment, name, version)) = split(parts).filter(|_| row.active) {
            let bundle = ActiveBundle { version: version.into(), digest: row.digest.clone(), content };
            self.active.entry(environment.into()).or_default().insert(name.into(), bundle);
        }
        self.bundles.insert(parts.into(), row);
    }

    /// Takes a version out.
    pub(crate) fn remove(&mut self, parts: &str) {
        let Some(row) = self.bundles.remove(parts) else {
            return;
        };
        self.bytes -= row.size;
        let Some((environment, name, _)) = split(parts).filter(|_| row.active) else {
            return;
        };
        if let Some(here) = self.active.get_mut(environment) {
            here.remove(name);
            if here.is_empty() {
                self.active.remove(environment);
            }
        }
    }
}

/// One version as the name in its key.
pub fn bundle_parts(environment: &str, name: &str, version: &str) -> String {
    format!("{environment}\0{name}\0{version}")
}

/// The environment, the name and the version in a key.
pub fn split(parts: &str) -> Option<(&str, &str, &str)> {
    let (environment, rest) = parts.split_once('\0')?;
    let (name, version) = rest.split_once('\0')?;
    Some((environment, name, version))
}

/// All versions of a bundle.
pub fn versions_of<'a>(policies: &'a Policies, environment: &str, name: &str) -> impl Iterator<Item = (&'a str, &'a BundleRow)> {
    let start = bundle_parts(environment, name, "");
    let from = policies.bundles.range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded));
    from.map_while(move |(parts, row)| Some((parts.strip_prefix(start.as_str())?, row)))
}

/// The version of a bundle that judges.
pub fn active_of(policies: &Policies, environment: &str, name: &str) -> Option<String> {
    let bundle = policies.active.get(environment)?.get(name)?;
    Some(bundle.version.to_string())
}

/// Versions that judged before, the one that was left last at the end.
pub fn history_of(policies: &Policies, environment: &str, name: &str) -> Vec<String> {
    let left = versions_of(policies, environment, name).filter(|(_, row)| row.left != 0);
    let mut left: Vec<(u64, &str)> = left.map(|(version, row)| (row.left, version)).collect();
    left.sort_unstable();
    left.into_iter().map(|(_, version)| version.to_owned()).collect()
}

/// Fills the indices from the rows.
pub(super) fn fill(engine: &dyn Engine, indices: &mut Indices) -> Result<(), Fatal> {
    let mut policies = Policies::default();
    each(engine, first::BUNDLE, |key, row: BundleRow| {
        let Key::Bundle { parts } = key else {
            return Err(misplaced(key));
        };
        if split(parts).is_none() {
            return Err(misplaced(key));
        }
        policies.insert(parts, row);
        Ok(())
    })?;
    each(engine, first::POLICY_SETTINGS, |_, row: PolicySettingsRow| {
        policies.revision = row.revision;
        policies.settings = row.settings.unwrap_or_default();
        Ok(())
    })?;
    indices.policies = Arc::new(policies);
    each(engine, first::POLICY_HANDLER, |key, row: HandlerRow| {
        let Key::PolicyHandler { name } = key else {
            return Err(misplaced(key));
        };
        indices.handlers.insert(name.into(), row);
        Ok(())
    })?;
    each(engine, first::VIOLATION, |key, row: ViolationRow| {
        let Key::Violation { id } = key else {
            return Err(misplaced(key));
        };
        let at = row.at_ms + limits::VIOLATION_KEPT_MS;
        indices.violations.insert(id, at);
        indices.wakes.insert((at, Wake::Violation { id }));
        Ok(())
    })
}
