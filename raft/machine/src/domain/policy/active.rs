//! Which version of a bundle judges. At most one of each bundle does; those before it are remembered in the order in which they were left.

use tarn_proto::v1::{
    ActivateBundleRequest, ActivateBundleResponse, Bundle, DeactivateBundleRequest, DeactivateBundleResponse, Rejection,
    RollbackBundleRequest, RollbackBundleResponse,
};

use super::bundle::{message, not_found, read, require_trusted, subject};
use super::settings::write_settings;
use super::{changed, policies};
use crate::error::{Fatal, Refusal};
use crate::index::policy::{active_of, bundle_parts, history_of};
use crate::keys::Key;
use crate::limits;
use crate::reject;
use crate::txn::Txn;

/// The command: lets a version judge, instead of the one that does.
pub fn activate(txn: &mut Txn<'_>, by: &str, request: ActivateBundleRequest) -> Result<ActivateBundleResponse, Refusal> {
    let previous = current(txn, &request.environment, &request.name, request.expected.as_deref())?;
    let bundle = enter(txn, by, &request.environment, &request.name, &previous, &request.version)?;
    Ok(ActivateBundleResponse {
        bundle: Some(bundle),
        previous,
        // The kernel runs none.
        tests: 0,
    })
}

/// The command: back to the version that was left last. Done again, it goes back further.
pub fn rollback(txn: &mut Txn<'_>, by: &str, request: RollbackBundleRequest) -> Result<RollbackBundleResponse, Refusal> {
    let (environment, name) = (request.environment.as_str(), request.name.as_str());
    let previous = current(txn, environment, name, request.expected.as_deref())?;
    let Some(version) = history_of(&txn.ix.policies, environment, name).pop() else {
        let message = format!("no version of {name:?} was active before: activate the one that you mean");
        return Err(reject::precondition("NO_PREVIOUS_VERSION", "name", message).into());
    };
    let bundle = enter(txn, by, environment, name, &previous, &version)?;
    if !previous.is_empty() {
        // Who goes back does not want to come here again by going back once more.
        forget(txn, &bundle_parts(environment, name, &previous))?;
    }
    Ok(RollbackBundleResponse { bundle: Some(bundle), previous })
}

/// The command: no version judges any more. It is the first to which a rollback leads.
pub fn deactivate(txn: &mut Txn<'_>, request: DeactivateBundleRequest) -> Result<DeactivateBundleResponse, Refusal> {
    let previous = current(txn, &request.environment, &request.name, request.expected.as_deref())?;
    if previous.is_empty() {
        let message = format!("no version of {:?} is active in this environment", request.name);
        return Err(reject::precondition("BUNDLE_NOT_ACTIVE", "name", message).into());
    }
    leave(txn, &bundle_parts(&request.environment, &request.name, &previous))?;
    changed(txn, subject(&request.environment, &request.name), format!("{previous} deactivated"));
    write_settings(txn);
    Ok(DeactivateBundleResponse { previous })
}

/// The active version, empty if there is none, where it is the one that the asker expects.
fn current(txn: &Txn<'_>, environment: &str, name: &str, expected: Option<&str>) -> Result<String, Rejection> {
    let found = active_of(&txn.ix.policies, environment, name).unwrap_or_default();
    match expected {
        Some(expected) if expected != found => {
            let message = match found.as_str() {
                "" => format!("no version of {name:?} is active, and {expected:?} was expected: look again"),
                found => format!("version {found} of {name:?} is active, and {expected:?} was expected: look again"),
            };
            Err(reject::precondition("ACTIVE_VERSION_DIFFERS", "expected", message))
        }
        _ => Ok(found),
    }
}

/// Checks and makes a version the active one, in place of `previous`, which may be empty or the same.
fn enter(txn: &mut Txn<'_>, by: &str, environment: &str, name: &str, previous: &str, version: &str) -> Result<Bundle, Refusal> {
    let parts = bundle_parts(environment, name, version);
    let known = &txn.ix.policies;
    let Some(facts) = known.bundles.get(parts.as_str()) else {
        return Err(not_found(name, version).into());
    };
    if known.settings.require_signed {
        require_trusted(txn, &facts.signer)?;
    }
    if previous.is_empty() {
        let here = known.active.get(environment).map_or(0, |here| here.len());
        if here >= limits::ACTIVE_BUNDLES_MAX {
            let message = format!("the environment {environment:?} has too many active bundles: join some, or deactivate some");
            let limit = limits::ACTIVE_BUNDLES_MAX as u64;
            return Err(reject::full("TOO_MANY_ACTIVE_BUNDLES", "environment", limit, message).into());
        }
    }
    if previous == version {
        return Ok(message(&parts, facts).unwrap_or_default());
    }
    if !previous.is_empty() {
        leave(txn, &bundle_parts(environment, name, previous))?;
    }
    let mut row = read(txn, &parts)?;
    row.active = true;
    row.left = 0;
    row.activated_at_ms = txn.now;
    row.activated_by = by.to_owned();
    txn.rows.put(Key::Bundle { parts: &parts }, &row);
    let bundle = message(&parts, &row).unwrap_or_default();
    policies(txn).insert(&parts, row);
    changed(txn, subject(environment, name), format!("{version} activated"));
    write_settings(txn);
    Ok(bundle)
}

/// The active version is active no more, and the first to go back to.
fn leave(txn: &mut Txn<'_>, parts: &str) -> Result<(), Fatal> {
    let mut row = read(txn, parts)?;
    row.active = false;
    row.left = txn.next_id();
    txn.rows.put(Key::Bundle { parts }, &row);
    policies(txn).insert(parts, row);
    Ok(())
}

/// Takes a version out of those to go back to.
fn forget(txn: &mut Txn<'_>, parts: &str) -> Result<(), Fatal> {
    let mut row = read(txn, parts)?;
    row.left = 0;
    txn.rows.put(Key::Bundle { parts }, &row);
    policies(txn).insert(parts, row);
    Ok(())
}
