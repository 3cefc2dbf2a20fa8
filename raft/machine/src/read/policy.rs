//! Reads of bundles, violations and handlers.

use std::sync::Arc;

use tarn_proto::v1::{
    GetBundleRequest, GetBundleResponse, GetPolicySettingsRequest, GetPolicySettingsResponse, ListBundlesRequest, ListBundlesResponse,
    ListPolicyHandlersRequest, ListPolicyHandlersResponse, ListViolationsRequest, ListViolationsResponse, PolicyHandler, Violation,
};
use tarn_storage::Range;

use super::{PAGE_ROWS_MAX, page_size, page_start};
use crate::domain::policy::{handler, message, violation};
use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::index::policy::{active_of, bundle_parts, history_of};
use crate::keys::{Key, first, prefix};
use crate::overlay::{Rows, STATE, decode};
use crate::rows::{BundleRow, HandlerRow, ViolationRow};
use crate::{Machine, Policies, reject};

/// What a handler is still to be told.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Escalations {
    /// Oldest first.
    pub violations: Vec<Violation>,
    /// Everything up to this id was looked at: go on from here.
    pub looked_up_to: u64,
}

impl Machine {
    /// What judges commands, as it is now. Holding it does not hold up anything: what changes is copied.
    pub fn policies(&self) -> Arc<Policies> {
        self.ix.policies.clone()
    }

    /// Bundles without their bytes, by environment, name and version.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn list_bundles(&self, request: &ListBundlesRequest) -> Result<ListBundlesResponse, Refusal> {
        let wanted = |asked: &str, found: &str| asked.is_empty() || asked == found;
        let mut bundles: Vec<_> = self
            .ix
            .policies
            .bundles
            .iter()
            .filter_map(|(parts, row)| message(parts, row))
            .filter(|bundle| wanted(&request.environment, &bundle.environment) && wanted(&request.name, &bundle.name))
            .collect();
        bundles.sort_by_cached_key(|bundle| {
            let version = precedence(&bundle.version);
            (bundle.environment.clone(), bundle.name.clone(), version, bundle.version.clone())
        });
        Ok(ListBundlesResponse { bundles, revision: self.applied_index() })
    }

    /// One version of a bundle, with its bytes.
    ///
    /// # Errors
    ///
    /// `BUNDLE_NOT_FOUND`.
    pub fn get_bundle(&self, request: &GetBundleRequest) -> Result<GetBundleResponse, Refusal> {
        let (known, environment, name) = (&self.ix.policies, &request.environment, &request.name);
        let version = match request.version.as_str() {
            "" => active_of(known, environment, name),
            version => Some(version.to_owned()),
        };
        let parts = version.map(|version| bundle_parts(environment, name, &version));
        let parts = parts.filter(|parts| known.bundles.contains_key(parts.as_str()));
        let Some(parts) = parts else {
            let message = "there is no such bundle, or none that is active: list the bundles, or name a version";
            return Err(reject::not_found("BUNDLE_NOT_FOUND", "version", message).into());
        };
        let row: Option<BundleRow> = self.rows().row(Key::Bundle { parts: &parts })?;
        let row = row.ok_or_else(|| Fatal::assertion(format!("an index has the bundle {parts:?}, which is gone")))?;
        Ok(GetBundleResponse {
            bundle: message(&parts, &row),
            content: row.content,
            signature: row.signature,
            history: history_of(known, environment, name),
            revision: self.applied_index(),
        })
    }

    /// Versions of a bundle that judged before, the one to which a rollback leads at the end.
    pub fn bundle_history(&self, environment: &str, name: &str) -> Vec<String> {
        history_of(&self.ix.policies, environment, name)
    }

    /// A page of violations, newest first.
    ///
    /// # Errors
    ///
    /// `INVALID_PAGE_TOKEN`.
    pub fn list_violations(&self, request: &ListViolationsRequest) -> Result<ListViolationsResponse, Refusal> {
        let before = match page_start(&request.page_token)? {
            0 => u64::MAX,
            before => before,
        };
        let size = page_size(request.page_size);
        let mut answer = ListViolationsResponse { revision: self.applied_index(), ..ListViolationsResponse::default() };
        for (looked, id) in self.ix.violations.range(..before).rev().map(|(id, _)| *id).enumerate() {
            let found = self.violation(id)?;
            if found.at_ms < request.since_ms {
                break;
            }
            if matches(request, &found) {
                answer.violations.push(found);
            }
            if answer.violations.len() == size || looked + 1 == PAGE_ROWS_MAX {
                answer.next_page_token = Id(id).to_string();
                break;
            }
        }
        Ok(answer)
    }

    fn violation(&self, id: u64) -> Result<Violation, Fatal> {
        let row: Option<ViolationRow> = self.rows().row(Key::Violation { id })?;
        let row = row.ok_or_else(|| Fatal::assertion(format!("an index has the violation {id}, which is gone")))?;
        Ok(violation(id, row))
    }

    /// All handlers, by name.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn list_policy_handlers(&self, _request: &ListPolicyHandlersRequest) -> Result<ListPolicyHandlersResponse, Refusal> {
        Ok(ListPolicyHandlersResponse { handlers: self.policy_handlers(), revision: self.applied_index() })
    }

    /// All handlers, by name.
    pub fn policy_handlers(&self) -> Vec<PolicyHandler> {
        let handlers = self.ix.handlers.iter();
        handlers.map(|(name, row)| handler(name, row)).collect()
    }

    /// What a handler is still to be told, from an id on, or from where it has acknowledged if that is later: at most `max` violations.
    /// Empty for a handler that does not exist. Cheap where nothing new has come.
    ///
    /// # Errors
    ///
    /// [`Refusal::Fatal`] if they cannot be read.
    pub fn escalations(&self, name: &str, after: u64, max: usize) -> Result<Escalations, Refusal> {
        let Some(row) = self.ix.handlers.get(name) else {
            return Ok(Escalations::default());
        };
        let mut found = Escalations { violations: Vec::new(), looked_up_to: after.max(row.sent_up_to) };
        let newest = self.ix.violations.last_key_value().map_or(0, |(id, _)| *id);
        if newest <= found.looked_up_to {
            return Ok(found);
        }
        let start = prefix(first::VIOLATION, &[found.looked_up_to + 1]);
        let end = [first::VIOLATION + 1];
        for entry in self.engine.scan(STATE, Range::between(&start, &end)) {
            let (key, bytes) = entry?;
            let Some(key @ Key::Violation { id }) = Key::decode(&key) else {
                return Err(Fatal::assertion("a key of a violation cannot be decoded").into());
            };
            let one = violation(id, decode(&key, &bytes)?);
            if escalates(row, &one) {
                found.violations.push(one);
            }
            found.looked_up_to = id;
            if found.violations.len() >= max {
                break;
            }
        }
        Ok(found)
    }

    /// Who may sign bundles, and whether they must be signed.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn get_policy_settings(&self, _request: &GetPolicySettingsRequest) -> Result<GetPolicySettingsResponse, Refusal> {
        Ok(GetPolicySettingsResponse { settings: Some(self.ix.policies.settings.clone()), revision: self.applied_index() })
    }
}

fn matches(request: &ListViolationsRequest, found: &Violation) -> bool {
    let wanted = |asked: &str, found: &str| asked.is_empty() || asked == found;
    wanted(&request.namespace, &found.namespace)
        && wanted(&request.environment, &found.environment)
        && wanted(&request.policy, &found.policy)
        && found.severity >= request.min_severity
        && (request.until_ms == 0 || found.at_ms < request.until_ms)
}

fn escalates(row: &HandlerRow, found: &Violation) -> bool {
    let wanted = |asked: &str, found: &str| asked.is_empty() || asked == found;
    wanted(&row.environment, &found.environment) && wanted(&row.policy, &found.policy) && found.severity >= row.min_severity
}

/// The three numbers of a semantic version, for sorting; a pre-release comes before its release.
fn precedence(version: &str) -> ([u64; 3], bool) {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = [0; 3];
    for (place, number) in numbers.iter_mut().zip(core.split('.')) {
        *place = number.parse().unwrap_or(0);
    }
    (numbers, !version.split('+').next().unwrap_or_default().contains('-'))
}
