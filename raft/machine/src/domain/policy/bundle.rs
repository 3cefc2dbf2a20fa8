//! Versions of bundles: put once, never changed, deleted while they do not judge.

use bytes::Bytes;
use tarn_proto::v1::{Bundle, DeleteBundleRequest, DeleteBundleResponse, PutBundleRequest, PutBundleResponse, Rejection};

use super::{changed, policies};
use crate::error::{Fatal, Refusal};
use crate::index::policy::{bundle_parts, versions_of};
use crate::keys::Key;
use crate::limits;
use crate::overlay::Rows;
use crate::reject;
use crate::rows::BundleRow;
use crate::txn::Txn;

/// The command: keeps a version. Put again, it changes nothing, except that a signature can be added to one that has none.
pub fn put(txn: &mut Txn<'_>, by: &str, request: PutBundleRequest) -> Result<PutBundleResponse, Refusal> {
    let parts = bundle_parts(&request.environment, &request.name, &request.version);
    if txn.ix.policies.settings.require_signed {
        require_trusted(txn, &request.signer)?;
    }
    let digest = Bytes::copy_from_slice(blake3::hash(&request.content).as_bytes());
    if let Some(known) = txn.ix.policies.bundles.get(parts.as_str()) {
        if known.digest != digest {
            let message = format!(
                "version {} of {:?} has other bytes already, and a version never changes: put a new version",
                request.version, request.name
            );
            return Err(reject::exists("BUNDLE_VERSION_EXISTS", "version", message).into());
        }
        if known.signer.is_empty() && !request.signer.is_empty() {
            return sign(txn, &parts, request);
        }
        let bundle = message(&parts, known);
        return Ok(PutBundleResponse { bundle, existed: true });
    }
    require_room(txn, &request)?;
    let row = BundleRow {
        digest,
        size: request.content.len() as u64,
        signature: request.signature,
        signer: request.signer,
        put_at_ms: txn.now,
        put_by: by.to_owned(),
        content: request.content,
        ..BundleRow::default()
    };
    txn.rows.put(Key::Bundle { parts: &parts }, &row);
    changed(txn, subject(&request.environment, &request.name), format!("{} put", request.version));
    let bundle = message(&parts, &row);
    policies(txn).insert(&parts, row);
    Ok(PutBundleResponse { bundle, existed: false })
}

/// The same bytes came again, and this time somebody signed them.
fn sign(txn: &mut Txn<'_>, parts: &str, request: PutBundleRequest) -> Result<PutBundleResponse, Refusal> {
    let mut row = read(txn, parts)?;
    row.signature = request.signature;
    row.signer = request.signer;
    txn.rows.put(Key::Bundle { parts }, &row);
    changed(txn, subject(&request.environment, &request.name), format!("{} signed", request.version));
    let bundle = message(parts, &row);
    policies(txn).insert(parts, row);
    Ok(PutBundleResponse { bundle, existed: true })
}

/// The command: forgets a version that does not judge.
pub fn delete(txn: &mut Txn<'_>, request: DeleteBundleRequest) -> Result<DeleteBundleResponse, Refusal> {
    let parts = bundle_parts(&request.environment, &request.name, &request.version);
    let Some(row) = txn.ix.policies.bundles.get(parts.as_str()) else {
        return Err(not_found(&request.name, &request.version).into());
    };
    if row.active {
        let message = format!("version {} of {:?} is active: activate another one or deactivate it first", request.version, request.name);
        return Err(reject::precondition("BUNDLE_ACTIVE", "version", message).into());
    }
    txn.rows.delete(Key::Bundle { parts: &parts });
    changed(txn, subject(&request.environment, &request.name), format!("{} deleted", request.version));
    policies(txn).remove(&parts);
    Ok(DeleteBundleResponse {})
}

/// A version with its bytes, of which the index knows.
pub(super) fn read(txn: &Txn<'_>, parts: &str) -> Result<BundleRow, Fatal> {
    let row = txn.rows.row(Key::Bundle { parts })?;
    row.ok_or_else(|| Fatal::assertion(format!("an index has the bundle {parts:?}, which does not exist")))
}

/// Refuses what no trusted signer signed. That the signature is right was the gate's to see.
pub(super) fn require_trusted(txn: &Txn<'_>, signer: &[u8]) -> Result<(), Rejection> {
    let signers = &txn.ix.policies.settings.signers;
    if signers.iter().any(|known| blake3::hash(&known.public_key).as_bytes() == signer) {
        return Ok(());
    }
    let message = "this cluster takes only policies that a trusted signer signed: sign the bundle with `tarn policy sign`";
    Err(reject::precondition("POLICY_NOT_SIGNED", "signature", message))
}

fn require_room(txn: &Txn<'_>, request: &PutBundleRequest) -> Result<(), Rejection> {
    let known = &txn.ix.policies;
    if versions_of(known, &request.environment, &request.name).count() >= limits::BUNDLE_VERSIONS_MAX {
        let message = format!("{:?} has too many versions: delete some that are not needed", request.name);
        return Err(reject::full("TOO_MANY_VERSIONS", "version", limits::BUNDLE_VERSIONS_MAX as u64, message));
    }
    if known.bundles.len() >= limits::BUNDLES_MAX {
        let message = "the cluster has too many bundles: delete versions that are not needed";
        return Err(reject::full("TOO_MANY_BUNDLES", "", limits::BUNDLES_MAX as u64, message));
    }
    if known.bytes + request.content.len() as u64 > limits::BUNDLES_BYTES_MAX {
        let message = "the cluster's bundles are too large together: delete versions that are not needed";
        return Err(reject::full("TOO_MANY_BUNDLES", "content", limits::BUNDLES_BYTES_MAX, message));
    }
    Ok(())
}

/// A version as users see it, without its bytes; `None` if the key is none.
pub fn message(parts: &str, row: &BundleRow) -> Option<Bundle> {
    let mut names = parts.split('\0').map(str::to_owned);
    Some(Bundle {
        environment: names.next()?,
        name: names.next()?,
        version: names.next()?,
        digest: row.digest.clone(),
        size: row.size,
        signer: row.signer.clone(),
        active: row.active,
        put_at_ms: row.put_at_ms,
        put_by: row.put_by.clone(),
        activated_at_ms: row.activated_at_ms,
        activated_by: row.activated_by.clone(),
    })
}

pub(super) fn subject(environment: &str, name: &str) -> String {
    format!("bundle/{environment}/{name}")
}

pub(super) fn not_found(name: &str, version: &str) -> Rejection {
    let message = format!("there is no version {version} of the bundle {name:?} in this environment: put it first");
    reject::not_found("BUNDLE_NOT_FOUND", "version", message)
}
