//! The cluster's machine version: it rises by a command, once every voter supports it.

use tarn_proto::v1::{EventKind, RaiseVersion, VersionRaised};

use crate::error::{Fatal, Refusal};
use crate::txn::Txn;

/// The command: from here on the cluster writes this version. A build that cannot read it stops before it applies the entry; nothing
/// changes where the version is reached already.
pub fn raise_version(txn: &mut Txn<'_>, request: RaiseVersion) -> Result<VersionRaised, Refusal> {
    if request.version > txn.versions.max {
        return Err(Fatal::UnknownVersion {
            what: "the cluster, from this entry on,",
            found: request.version,
            min: txn.versions.min,
            max: txn.versions.max,
        }
        .into());
    }
    if request.version > txn.meta.version {
        txn.meta.version = request.version;
        txn.event(EventKind::VersionRaised, "").detail = request.version.to_string();
    }
    Ok(VersionRaised {
        version: txn.meta.version,
    })
}
