//! The name of an artifact: the BLAKE3 hash of its bytes.

use std::fmt;
use std::str::FromStr;

/// The prefix that says which hash function a name was made with, so that another one can be added later.
const PREFIX: &str = "blake3:";

/// The BLAKE3 hash (32 bytes) of an artifact, which is also its name in the whole cluster.
///
/// Its text form is `blake3:` and 64 lower-case hexadecimal digits; parsing also takes the bare digits, in either
/// case, because that is what `b3sum` prints.
///
/// ```
/// use tarn_executor::Hash;
/// let hash = Hash::of(b"hello");
/// let text = hash.to_string();
/// assert!(text.starts_with("blake3:ea8f163d"));
/// assert_eq!(text.parse::<Hash>().unwrap(), hash);
/// assert_eq!(hash.to_hex().parse::<Hash>().unwrap(), hash);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Takes over a hash that was computed elsewhere, for example one that arrived in a message.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 lower-case hexadecimal digits without a prefix: the name of the artifact's file.
    #[must_use]
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.to_hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = HashParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(PREFIX).unwrap_or(text);
        let hash = blake3::Hash::from_hex(digits).map_err(|_| HashParseError)?;
        Ok(Self(*hash.as_bytes()))
    }
}

/// The text is not the name of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an artifact is named `blake3:` followed by 64 hexadecimal digits: copy the name that `put` printed")]
pub struct HashParseError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_in_every_accepted_form() {
        let hash = Hash::of(b"some bytes");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.to_hex().parse(), Ok(hash));
        assert_eq!(hash.to_hex().to_uppercase().parse(), Ok(hash));
        assert_eq!(Hash::from_bytes(*hash.as_bytes()), hash);
    }

    #[test]
    fn other_text_is_refused() {
        let hex = Hash::of(b"some bytes").to_hex();
        for bad in ["", "blake3:", "sha256:00", &hex[1..], &format!("{hex}0"), &format!("g{}", &hex[1..]), "../../etc/passwd"] {
            assert_eq!(bad.parse::<Hash>(), Err(HashParseError), "{bad:?}");
        }
    }
}
