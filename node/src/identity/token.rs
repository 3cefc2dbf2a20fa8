//! One-time join tokens.
//!
//! A token is one line of text that carries two secrets' worth of trust in 32 bytes each: the seed of a key pair, with which the new
//! machine proves that it was invited, and the fingerprint of the cluster's root certificate, by which it recognises the cluster. The
//! cluster knows only the hash of the public key, so whoever reads the cluster's state or its log cannot join.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType, SerialNumber};
use rustls::ClientConfig;
use tarn_client::tls::{CaCertificate, Identity, Principal, PrivateKey, SEED_BYTES, join_id, joiner_config, random_bytes, spki_hash};
use time::OffsetDateTime;

use super::authority::CLOCK_SKEW;
use super::signing::{Signer, key_id};

/// What every token starts with; the number is the version of the format.
const PREFIX: &str = "tarn-join-1";

/// Longest text that is looked at; a token has about 136 characters.
const TEXT_MAX: usize = 512;

/// What the dates in a joiner's certificate span. Nobody looks at them (the token's life is the cluster's to decide); X.509 wants some.
const NOMINAL_VALIDITY: std::time::Duration = std::time::Duration::from_secs(60 * 60);

/// Why a text is no join token. The text itself is not repeated, because it may be one with a typing error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Of another form.
    #[error("this is not a join token: expected {PREFIX}.<secret>.<fingerprint>.<id>, as `tarn node token` prints it")]
    Malformed,
    /// Of a later version.
    #[error("this join token has a format that this build does not know: use the tarn version of the cluster")]
    UnknownVersion,
    /// A part was damaged in copying.
    #[error("this join token is damaged: its id does not belong to its secret; copy it again, whole")]
    Damaged,
}

/// A one-time join token. Secret as a whole: only [`JoinToken::reveal`] shows it.
#[derive(Clone)]
pub struct JoinToken {
    seed: [u8; SEED_BYTES],
    key: PrivateKey,
    ca_fingerprint: [u8; 32],
}

impl JoinToken {
    /// A new random token for the cluster of this root certificate.
    pub fn generate(ca: &CaCertificate) -> Self {
        Self::new(random_bytes(), *ca.fingerprint())
    }

    fn new(seed: [u8; SEED_BYTES], ca_fingerprint: [u8; 32]) -> Self {
        Self { key: PrivateKey::from_seed(&seed), seed, ca_fingerprint }
    }

    /// The text to hand to the new machine. Secret.
    pub fn reveal(&self) -> String {
        let part = |bytes: &[u8]| BASE32_NOPAD.encode(bytes).to_ascii_lowercase();
        format!("{PREFIX}.{}.{}.{}", part(&self.seed), part(&self.ca_fingerprint), self.id())
    }

    /// What the cluster knows the token by: BLAKE3 of its public key (SPKI, DER). Not secret.
    pub fn spki_hash(&self) -> [u8; 32] {
        spki_hash(self.key.spki())
    }

    /// What people know the token by: the start of [`JoinToken::spki_hash`]. Not secret.
    pub fn id(&self) -> String {
        join_id(&self.spki_hash())
    }

    /// The fingerprint of the cluster's root certificate.
    pub fn ca_fingerprint(&self) -> &[u8; 32] {
        &self.ca_fingerprint
    }

    /// The joiner's side of the connection: proves the token's key, and accepts only nodes whose root certificate has the fingerprint.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        joiner_config(&self.identity(), self.ca_fingerprint)
    }

    /// Whether this root certificate, as received from the cluster, is the one that the token pins.
    pub fn pins(&self, ca: &CaCertificate) -> bool {
        *ca.fingerprint() == self.ca_fingerprint
    }

    /// A certificate that the token's own key signs, for the handshake.
    fn identity(&self) -> Identity {
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
        params.not_after = OffsetDateTime::from(now + NOMINAL_VALIDITY);
        params.serial_number = Some(SerialNumber::from(1));
        let uri = Principal::join(&self.spki_hash()).uri();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("the URI is ASCII"))];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_identifier_method = key_id(self.key.public_key());
        let certificate =
            params.self_signed(&Signer(self.key.clone())).expect("a certificate of fixed form can always be encoded and signed");
        Identity::new("the join certificate", vec![certificate.der().clone()], self.key.clone())
            .expect("the certificate was made for this key")
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// Reads a token; case and surrounding white space do not matter.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > TEXT_MAX {
            return Err(TokenError::Malformed);
        }
        let mut parts = text.split('.');
        let prefix = parts.next().unwrap_or_default().to_ascii_lowercase();
        if prefix != PREFIX {
            let later = prefix
                .strip_prefix("tarn-join-")
                .is_some_and(|version| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()));
            return Err(if later { TokenError::UnknownVersion } else { TokenError::Malformed });
        }
        let (Some(seed), Some(fingerprint), Some(id), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(TokenError::Malformed);
        };
        let token = Self::new(decode(seed)?, decode(fingerprint)?);
        if token.id() != id.to_ascii_lowercase() {
            return Err(TokenError::Damaged);
        }
        Ok(token)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id()).finish_non_exhaustive()
    }
}

fn decode(part: &str) -> Result<[u8; 32], TokenError> {
    BASE32_NOPAD_NOCASE.decode(part.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::super::CertificateAuthority;
    use super::*;

    #[test]
    fn round_trips() {
        let authority = CertificateAuthority::ephemeral("prod").unwrap();
        let token = JoinToken::generate(authority.certificate());
        let text = token.reveal();
        assert!(text.starts_with("tarn-join-1."), "{text}");
        assert!(text.len() < TEXT_MAX / 2);
        for spelling in [text.clone(), text.to_uppercase(), format!("  {text}\n")] {
            let read: JoinToken = spelling.parse().unwrap();
            assert_eq!(read.spki_hash(), token.spki_hash());
            assert!(read.pins(authority.certificate()));
        }
        assert_ne!(JoinToken::generate(authority.certificate()).spki_hash(), token.spki_hash());
        let shown = format!("{token:?}");
        let secret = text.split('.').nth(1).unwrap();
        assert!(!shown.contains(secret), "{shown}");
    }

    #[test]
    fn damaged_tokens_are_refused_without_being_repeated() {
        let authority = CertificateAuthority::ephemeral("prod").unwrap();
        let text = JoinToken::generate(authority.certificate()).reveal();
        let parts: Vec<&str> = text.split('.').collect();
        let parse = |text: &str| text.parse::<JoinToken>().map(|_| ());
        assert_eq!(parse(""), Err(TokenError::Malformed));
        assert_eq!(parse("tarn-join-1"), Err(TokenError::Malformed));
        assert_eq!(parse("tarn-join-2.x"), Err(TokenError::UnknownVersion));
        assert_eq!(parse("tarn-join-x.x"), Err(TokenError::Malformed));
        assert_eq!(parse(&text[..text.len() - 1]), Err(TokenError::Damaged));
        assert_eq!(parse(&format!("{text}.x")), Err(TokenError::Malformed));
        assert_eq!(parse(&"a.".repeat(1 << 16)), Err(TokenError::Malformed));
        let swapped = [parts[0], parts[2], parts[1], parts[3]].join(".");
        assert_eq!(parse(&swapped), Err(TokenError::Damaged));
        let short = [parts[0], &parts[1][1..], parts[2], parts[3]].join(".");
        let error = parse(&short).unwrap_err();
        assert!(!error.to_string().contains(&parts[1][1..]));
    }
}
