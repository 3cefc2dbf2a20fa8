//! The cryptography that is allowed, and nothing else.

use std::sync::{Arc, LazyLock};

use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SecureRandom, WebPkiSupportedAlgorithms};
use rustls_pki_types::SignatureVerificationAlgorithm;

/// The one signature algorithm of certificates and handshakes: ML-DSA-65 (FIPS 204).
pub static ML_DSA_65: &dyn SignatureVerificationAlgorithm = webpki::aws_lc_rs::ML_DSA_65;

/// The same, in the shape that rustls wants.
pub(super) static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::aws_lc_rs::ML_DSA_65],
    mapping: &[(SignatureScheme::ML_DSA_65, &[webpki::aws_lc_rs::ML_DSA_65])],
};

/// Key size in bytes that a cipher suite must have. ML-KEM-768 and ML-DSA-65 aim at the strength of AES-192, so a suite with a
/// 128-bit key would be the weakest link.
const CIPHER_KEY_BYTES: usize = 32;

/// The process-wide cryptography provider: TLS 1.3 suites with 256-bit keys, key exchange X25519MLKEM768 only, signatures ML-DSA-65
/// only.
///
/// It is handed to every configuration explicitly and never installed as rustls's process default, so that no other code can swap it
/// and no other library is bent by it.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let base = default_provider();
        Arc::new(CryptoProvider {
            cipher_suites: base
                .cipher_suites
                .into_iter()
                .filter(|suite| suite.tls13().is_some_and(|suite| suite.aead_alg.key_len() >= CIPHER_KEY_BYTES))
                .collect(),
            kx_groups: vec![kx_group::X25519MLKEM768],
            signature_verification_algorithms: SIGNATURES,
            secure_random: base.secure_random,
            key_provider: base.key_provider,
        })
    });
    PROVIDER.clone()
}

/// Random bytes fit for keys.
///
/// # Panics
/// When the operating system's random source fails: nothing secret can be made without it.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let random: &dyn SecureRandom = provider().secure_random;
    let mut bytes = [0; N];
    random.fill(&mut bytes).expect("the operating system's random source works: no key can be made without it");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::NamedGroup;

    #[test]
    fn nothing_classical_is_offered() {
        let provider = provider();
        let groups: Vec<NamedGroup> = provider.kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, [NamedGroup::X25519MLKEM768]);
        assert_eq!(SIGNATURES.supported_schemes(), [SignatureScheme::ML_DSA_65]);
        assert!(!provider.cipher_suites.is_empty());
        for suite in &provider.cipher_suites {
            let name = format!("{:?}", suite.suite());
            assert!(name.starts_with("TLS13_"), "{name}");
            assert!(!name.contains("128_GCM"), "{name}");
        }
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random_bytes::<32>(), random_bytes::<32>());
    }
}
