//! What is checked of a driver on this side of the log: whose signature its artifact bears, and what the kernel cannot read of it. The same
//! signature is checked again before the driver is loaded.

use tarn_client::tls::ML_DSA_65;
use tarn_executor::{Hash, HttpOrigin};
use tarn_proto::v1::{self, DriverSpec, PolicySigner};
use tonic::Code;

/// What comes before the artifact's digest in the message that is signed, so that a signature for one purpose never serves another.
const SIGNATURE_PREFIX: &[u8] = b"tarn driver v1\0";

/// The message that a driver's signature is over.
#[must_use]
pub fn message(artifact: &Hash) -> Vec<u8> {
    [SIGNATURE_PREFIX, artifact.as_bytes()].concat()
}

/// Whose signature it is: the first trusted key that it fits.
#[must_use]
pub fn signer<'a>(artifact: &Hash, signature: &[u8], trusted: &'a [PolicySigner]) -> Option<&'a PolicySigner> {
    let message = message(artifact);
    trusted.iter().find(|known| ML_DSA_65.verify_signature(&known.public_key, &message, signature).is_ok())
}

/// Fills in who signed, and refuses what could never run. What nobody signed, or nobody whom the cluster trusts, the kernel refuses, which
/// records it.
///
/// # Errors
/// What is wrong with the artifact's name, the configuration or the grants.
pub(super) fn prepare(spec: &mut DriverSpec, trusted: &[PolicySigner]) -> Result<(), v1::Rejection> {
    let artifact: Hash = spec.artifact.parse().map_err(|error| invalid("INVALID_ARTIFACT", "spec.artifact", &error))?;
    // Whoever asks does not say who signed.
    let signer = signer(&artifact, &spec.signature, trusted);
    spec.signer = signer.map_or_else(Vec::new, |key| blake3::hash(&key.public_key).as_bytes().to_vec()).into();
    if !spec.config.is_empty() {
        serde_json::from_str::<serde::de::IgnoredAny>(&spec.config)
            .map_err(|error| invalid("INVALID_CONFIG", "spec.config", &format_args!("it is not JSON: {error}")))?;
    }
    for origin in spec.grants.iter().flat_map(|grants| &grants.http) {
        origin.parse::<HttpOrigin>().map_err(|error| invalid("INVALID_ORIGIN", "spec.grants.http", &error))?;
    }
    Ok(())
}

fn invalid(reason: &str, field: &str, why: &dyn std::fmt::Display) -> v1::Rejection {
    v1::Rejection {
        code: Code::InvalidArgument as u32,
        reason: reason.to_owned(),
        field: field.to_owned(),
        message: why.to_string(),
        ..v1::Rejection::default()
    }
}

#[cfg(test)]
mod tests {
    use tarn_client::tls::PrivateKey;

    use super::*;

    #[test]
    fn a_signature_is_of_one_artifact_one_key_and_one_purpose() {
        let (ann, bob) = (PrivateKey::from_seed(&[1; 32]), PrivateKey::from_seed(&[2; 32]));
        let trusted = [PolicySigner { name: "ann".into(), public_key: ann.public_key().to_vec().into() }];
        let artifact = Hash::of(b"driver");
        let good = ann.sign(&message(&artifact)).unwrap();
        assert_eq!(signer(&artifact, &good, &trusted).unwrap().name, "ann");
        assert!(signer(&Hash::of(b"another"), &good, &trusted).is_none());
        assert!(signer(&artifact, &bob.sign(&message(&artifact)).unwrap(), &trusted).is_none());
        let policy = [b"tarn policy bundle v1\0".as_slice(), artifact.as_bytes()].concat();
        assert!(signer(&artifact, &ann.sign(&policy).unwrap(), &trusted).is_none());
        assert!(signer(&artifact, b"", &trusted).is_none());
    }

    #[test]
    fn what_could_never_run_is_refused() {
        let good = DriverSpec { artifact: Hash::of(b"driver").to_string(), ..DriverSpec::default() };
        prepare(&mut good.clone(), &[]).unwrap();
        for (change, reason) in [
            (DriverSpec { artifact: "blake3:x".into(), ..good.clone() }, "INVALID_ARTIFACT"),
            (DriverSpec { config: "{".into(), ..good.clone() }, "INVALID_CONFIG"),
            (
                DriverSpec { grants: Some(v1::DriverGrants { http: vec!["https://a.b/path".into()], queues: vec![] }), ..good },
                "INVALID_ORIGIN",
            ),
        ] {
            let mut change = change;
            assert_eq!(prepare(&mut change, &[]).unwrap_err().reason, reason);
        }
    }
}
