//! API tokens: what a program authenticates with where it has no certificate.
//!
//! ```text
//!   tarn_ + 52 characters of base32 (32 random bytes) + 8 characters of base32 (checksum)
//! ```
//!
//! The prefix and the fixed alphabet let scanners find tokens that lie where they should not (`tarn_[a-z2-7]{60}`). The checksum lets a
//! mistyped or cut token be told from one that was revoked, without asking anybody. The cluster knows only the BLAKE3 hash of the random
//! bytes ([`ApiToken::secret_hash`]): who reads its state or its log learns nothing that could be presented. A lookup by that hash needs no
//! comparison in constant time, because whoever measures it learns of the hash, from which no secret follows.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::{BASE32_NOPAD, Encoding, Specification};

use crate::tls::random_bytes;

/// What every API token starts with.
pub const API_TOKEN_PREFIX: &str = "tarn_";

/// Random bytes in a token.
const SECRET_BYTES: usize = 32;

/// Bytes of the checksum: one typing error in a billion passes.
const CHECKSUM_BYTES: usize = 5;

/// Characters of base32 of the secret and of the checksum.
const SECRET_CHARS: usize = (SECRET_BYTES * 8).div_ceil(5);
const CHECKSUM_CHARS: usize = CHECKSUM_BYTES * 8 / 5;

/// Characters of a whole token.
pub const API_TOKEN_CHARS: usize = API_TOKEN_PREFIX.len() + SECRET_CHARS + CHECKSUM_CHARS;

/// Keeps the checksum's hashes apart from all others: the lookup hash of a token says nothing about its checksum.
const CHECKSUM_CONTEXT: &str = "tarn 2026 API token checksum";

/// Why a text is no API token. The text itself is not repeated, because it may be one with a typing error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiTokenError {
    /// Of another form.
    #[error("this is not an API token: expected {API_TOKEN_PREFIX} and 60 characters a-z and 2-7, as `tarn token create` prints it")]
    Malformed,
    /// A character is wrong.
    #[error("this API token is damaged: its checksum does not match; copy it again, whole")]
    Damaged,
}

/// An API token. Secret as a whole: only [`ApiToken::reveal`] shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiToken {
    secret: [u8; SECRET_BYTES],
}

impl ApiToken {
    /// A new random token. It is worth something once its [hash](ApiToken::secret_hash) is known to a cluster.
    #[must_use]
    pub fn generate() -> Self {
        Self { secret: random_bytes() }
    }

    /// The text to present. Secret.
    #[must_use]
    pub fn reveal(&self) -> String {
        let alphabet = alphabet();
        let secret = alphabet.encode(&self.secret);
        let checksum = alphabet.encode(&self.checksum());
        format!("{API_TOKEN_PREFIX}{secret}{checksum}")
    }

    /// What the cluster knows the token by: BLAKE3 of its random bytes. Not secret.
    #[must_use]
    pub fn secret_hash(&self) -> [u8; 32] {
        *blake3::hash(&self.secret).as_bytes()
    }

    fn checksum(&self) -> [u8; CHECKSUM_BYTES] {
        let hash = blake3::derive_key(CHECKSUM_CONTEXT, &self.secret);
        let mut checksum = [0; CHECKSUM_BYTES];
        checksum.copy_from_slice(&hash[..CHECKSUM_BYTES]);
        checksum
    }
}

impl FromStr for ApiToken {
    type Err = ApiTokenError;

    /// Reads a token exactly as it was printed: there is one spelling of each.
    fn from_str(text: &str) -> Result<Self, ApiTokenError> {
        let body = text
            .strip_prefix(API_TOKEN_PREFIX)
            .filter(|body| body.len() == SECRET_CHARS + CHECKSUM_CHARS)
            .ok_or(ApiTokenError::Malformed)?;
        let (secret, checksum) = body.split_at_checked(SECRET_CHARS).ok_or(ApiTokenError::Malformed)?;
        let alphabet = alphabet();
        let checksum = alphabet.decode(checksum.as_bytes()).map_err(|_| ApiTokenError::Malformed)?;
        // Characters of the alphabet that do not end on a whole byte are a typing error in the last one.
        let secret = alphabet.decode(secret.as_bytes()).map_err(|error| match error.kind {
            data_encoding::DecodeKind::Trailing => ApiTokenError::Damaged,
            _ => ApiTokenError::Malformed,
        })?;
        let secret = secret.try_into().map_err(|_| ApiTokenError::Malformed)?;
        let token = Self { secret };
        if token.checksum().as_slice() != checksum {
            return Err(ApiTokenError::Damaged);
        }
        Ok(token)
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiToken").finish_non_exhaustive()
    }
}

/// Base32 in small letters (RFC 4648, without padding).
fn alphabet() -> &'static Encoding {
    static SMALL: LazyLock<Encoding> = LazyLock::new(|| {
        let mut specification: Specification = BASE32_NOPAD.specification();
        specification.symbols = specification.symbols.to_ascii_lowercase();
        specification.encoding().expect("the standard alphabet in small letters is an alphabet")
    });
    &SMALL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_printing_and_reading() {
        let token = ApiToken::generate();
        let text = token.reveal();
        assert_eq!(text.len(), API_TOKEN_CHARS);
        assert!(text.starts_with("tarn_"));
        let scanned = |c: char| c.is_ascii_lowercase() || ('2'..='7').contains(&c);
        assert!(text["tarn_".len()..].chars().all(scanned), "the alphabet that scanners look for");
        let read: ApiToken = text.parse().unwrap();
        assert_eq!(read, token);
        assert_eq!(read.secret_hash(), token.secret_hash());
        assert_ne!(ApiToken::generate().secret_hash(), token.secret_hash());
        assert!(!format!("{token:?}").contains(&text[5..20]));
    }

    #[test]
    fn the_hash_of_a_known_secret_is_known() {
        let token = ApiToken { secret: [7; 32] };
        assert_eq!(token.secret_hash(), *blake3::hash(&[7; 32]).as_bytes());
        // Tokens of old clusters must stay readable: this text never changes.
        assert_eq!(token.reveal().parse::<ApiToken>().unwrap(), token);
        assert!(token.reveal().starts_with("tarn_a4dqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dq"));
    }

    #[test]
    fn each_wrong_character_is_noticed() {
        let text = ApiToken::generate().reveal();
        for place in API_TOKEN_PREFIX.len()..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[place] = if wrong[place] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(wrong.parse::<ApiToken>(), Err(ApiTokenError::Damaged), "place {place}");
        }
    }

    #[test]
    fn other_texts_are_not_tokens() {
        let text = ApiToken::generate().reveal();
        let body = &text[5..];
        for wrong in [
            String::new(),
            "tarn_".to_owned(),
            body.to_owned(),
            text.to_uppercase(),
            format!(" {text}"),
            format!("{text}\n"),
            format!("{text}a"),
            text[..text.len() - 1].to_owned(),
            format!("tarn_{}", "1".repeat(60)),
            format!("tarn_{}", "ä".repeat(30)),
            format!("tarn_{}é", "a".repeat(58)),
            format!("tarn_{}", "a".repeat(1 << 20)),
        ] {
            assert_eq!(wrong.parse::<ApiToken>(), Err(ApiTokenError::Malformed), "{:.80}", wrong);
        }
    }
}
