//! Who may sign bundles, and whether they must be signed. The same row counts every change of what judges, so that whoever has compiled
//! the bundles knows when to do so again.

use tarn_proto::v1::{PutPolicySettingsRequest, PutPolicySettingsResponse};

use super::{changed, policies};
use crate::error::Refusal;
use crate::keys::Key;
use crate::reject;
use crate::rows::PolicySettingsRow;
use crate::txn::Txn;

/// The command. What is active must satisfy the new settings, or it would judge in their spite.
pub fn put_settings(txn: &mut Txn<'_>, request: PutPolicySettingsRequest) -> Result<PutPolicySettingsResponse, Refusal> {
    let settings = request.settings.unwrap_or_default();
    if settings.require_signed {
        let trusted: Vec<_> = settings.signers.iter().map(|signer| blake3::hash(&signer.public_key)).collect();
        let is_trusted = |signer: &[u8]| trusted.iter().any(|known| known.as_bytes() == signer);
        let found = txn.ix.policies.bundles.iter().find(|(_, row)| row.active && !is_trusted(&row.signer));
        if let Some((parts, _)) = found {
            let name = parts.replace('\0', "/");
            let message = format!("{name} is active and none of these signers signed it: put it again, signed, or deactivate it");
            return Err(reject::precondition("ACTIVE_BUNDLE_NOT_SIGNED", "settings.require_signed", message).into());
        }
    }
    if settings == txn.ix.policies.settings {
        return Ok(PutPolicySettingsResponse {});
    }
    let must = if settings.require_signed { "signatures required" } else { "signatures not required" };
    changed(txn, "settings".to_owned(), format!("{must}, {} signers", settings.signers.len()));
    policies(txn).settings = settings;
    write_settings(txn);
    Ok(PutPolicySettingsResponse {})
}

/// Notes that what judges, or who may sign, has changed.
pub(super) fn write_settings(txn: &mut Txn<'_>) {
    let row = PolicySettingsRow { revision: txn.index, settings: Some(txn.ix.policies.settings.clone()) };
    txn.rows.put(Key::PolicySettings, &row);
    policies(txn).revision = row.revision;
}
