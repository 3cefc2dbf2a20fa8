//! What of a command about the federation can be refused without the state.

use tarn_proto::v1::{ClusterCard, CommitReplica, ConsumeInvitation, FederationIdentity, PutInvitation, SharedEntry};

use super::{Check, count, hash, invalid, length, range_or_zero};
use crate::limits;

/// Sections outside of contexts that are written by commands. The document has books of its own beside them.
const SECTIONS: [&str; 6] = ["agent/", "capacity/", "directory/", "member/", "policy/", "removed/"];

/// A key, a hash, an id: as long as it is, and not left out.
pub(super) fn sized(field: &str, found: usize, wanted: usize) -> Check {
    if found == wanted {
        return Ok(());
    }
    Err(invalid("INVALID_LENGTH", field, format!("{field} is {found} bytes long: it has {wanted}")))
}

pub(super) fn identity(given: Option<&FederationIdentity>) -> Check {
    let Some(identity) = given else {
        return Err(invalid("NO_IDENTITY", "identity", "say who this cluster is in the federation"));
    };
    sized("identity.federation_id", identity.federation_id.len(), 32)?;
    sized("identity.secret_seed", identity.secret_seed.len(), 32)?;
    let Some(card) = &identity.card else {
        return Err(invalid("NO_IDENTITY", "identity.card", "say who this cluster is in the federation"));
    };
    self::card(card)?;
    count("TOO_MANY_SECTIONS", "identity.scope", identity.scope.len(), SECTIONS.len())?;
    identity.inviter.as_ref().map_or(Ok(()), self::card)
}

fn card(given: &ClusterCard) -> Check {
    sized("card.cluster_id", given.cluster_id.len(), limits::CLUSTER_ID_BYTES)?;
    sized("card.public_key", given.public_key.len(), limits::PUBLIC_KEY_BYTES)?;
    length("NAME_TOO_LONG", "card.name", given.name.len(), limits::NAME_BYTES_MAX)?;
    length("CERTIFICATE_TOO_LARGE", "card.ca_certificate", given.ca_certificate.len(), limits::CERTIFICATE_BYTES_MAX)?;
    count("TOO_MANY_ADDRESSES", "card.addresses", given.addresses.len(), limits::GATEWAYS_MAX)?;
    given.addresses.iter().try_for_each(|address| length("ADDRESS_TOO_LONG", "card.addresses", address.len(), limits::LABEL_BYTES_MAX))
}

pub(super) fn writes(given: &[SharedEntry]) -> Check {
    if given.is_empty() {
        return Err(invalid("NOTHING_TO_WRITE", "writes", "name at least one key"));
    }
    count("TOO_MANY_WRITES", "writes", given.len(), limits::SHARED_WRITES_MAX)?;
    given.iter().try_for_each(|entry| {
        if !SECTIONS.iter().any(|section| entry.key.starts_with(section)) {
            let message = format!("the key {:?} is in no section that is written so: contexts are written as contexts", entry.key);
            return Err(invalid("INVALID_SECTION", "writes.key", message));
        }
        self::entry(entry)
    })
}

fn entry(given: &SharedEntry) -> Check {
    length("KEY_TOO_LONG", "key", given.key.len(), limits::SHARED_KEY_BYTES_MAX)?;
    let bytes = given.value.as_ref().map_or(0, bytes::Bytes::len);
    length("VALUE_TOO_LARGE", "value", bytes, limits::SHARED_VALUE_BYTES_MAX)
}

pub(super) fn commit(given: &CommitReplica) -> Check {
    if given.rows.is_empty() && given.entries.is_empty() && given.taken == 0 && given.piece == 0 && given.standing.is_none() {
        return Err(invalid("NOTHING_TO_COMMIT", "rows", "nothing has changed: leave the commit out"));
    }
    count("TOO_MANY_ROWS", "rows", given.rows.len(), limits::REPLICA_ROWS_MAX)?;
    count("TOO_MANY_ENTRIES", "entries", given.entries.len(), limits::REPLICA_ROWS_MAX)?;
    let bytes = |value: &Option<bytes::Bytes>| value.as_ref().map_or(0, bytes::Bytes::len);
    let rows: usize = given.rows.iter().map(|row| row.key.len() + bytes(&row.value)).sum();
    let entries: usize = given.entries.iter().map(|entry| entry.key.len() + bytes(&entry.value)).sum();
    length("COMMIT_TOO_LARGE", "rows", rows + entries, limits::REPLICA_COMMIT_BYTES_MAX)?;
    let sections = given.standing.as_ref().map_or(0, |standing| standing.scope.len());
    count("TOO_MANY_SECTIONS", "standing.scope", sections, SECTIONS.len())?;
    given.rows.iter().try_for_each(|row| length("KEY_TOO_LONG", "rows.key", row.key.len(), limits::REPLICA_KEY_BYTES_MAX))?;
    given.entries.iter().try_for_each(entry)
}

pub(super) fn invitation(given: &PutInvitation) -> Check {
    hash("key_hash", &given.key_hash)?;
    range_or_zero("ttl_ms", given.ttl_ms, limits::INVITATION_MS)?;
    count("TOO_MANY_SECTIONS", "scope", given.scope.len(), SECTIONS.len())?;
    given.scope.iter().try_for_each(|section| length("LABEL_TOO_LONG", "scope", section.len(), limits::LABEL_BYTES_MAX))
}

pub(super) fn consume(given: &ConsumeInvitation) -> Check {
    hash("key_hash", &given.key_hash)?;
    sized("cluster_id", given.cluster_id.len(), limits::CLUSTER_ID_BYTES)?;
    writes(&given.writes)
}
