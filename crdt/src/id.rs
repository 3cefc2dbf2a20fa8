//! Who is who: clusters and federations.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

/// Bytes of a [`ClusterId`].
pub const CLUSTER_ID_BYTES: usize = 16;

/// A cluster: the first 16 bytes of BLAKE3, with its own context, over its public key. Whoever has the id can check the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; CLUSTER_ID_BYTES]);

impl ClusterId {
    /// The id that belongs to a raw public key.
    pub fn of(public_key: &[u8]) -> Self {
        Self(short(&blake3::derive_key("tarn federation 1: id of a cluster", public_key)))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

/// A text is no [`ClusterId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a cluster's id is 32 lower-case hexadecimal digits")]
pub struct NotAClusterId;

impl FromStr for ClusterId {
    type Err = NotAClusterId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| NotAClusterId)?;
        Ok(Self(bytes.try_into().map_err(|_| NotAClusterId)?))
    }
}

/// A federation: the cluster that founded it, and a digest of its name. The founder alone introduces itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FederationId(pub [u8; 2 * CLUSTER_ID_BYTES]);

impl FederationId {
    /// The federation of that name which `founder` founds.
    pub fn new(founder: ClusterId, name: &str) -> Self {
        let mut bytes = [0; 2 * CLUSTER_ID_BYTES];
        bytes[..CLUSTER_ID_BYTES].copy_from_slice(&founder.0);
        let name = blake3::derive_key("tarn federation 1: name of a federation", name.as_bytes());
        bytes[CLUSTER_ID_BYTES..].copy_from_slice(&short(&name));
        Self(bytes)
    }

    /// Who founded it.
    pub fn founder(&self) -> ClusterId {
        ClusterId(short(&self.0))
    }
}

impl fmt::Display for FederationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

fn short(digest: &[u8; 32]) -> [u8; CLUSTER_ID_BYTES] {
    digest[..CLUSTER_ID_BYTES].try_into().expect("a digest is longer")
}
