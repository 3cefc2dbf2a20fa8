//! The two libraries agree: what one signs, the other verifies, with the same key from the same seed.

use tarn_crdt::{AwsLc, ClusterId, Identity, PUBLIC_KEY_BYTES, Pqcrypto, SIGNATURE_BYTES, Scheme};

const SCHEMES: [&'static dyn Scheme; 2] = [&Pqcrypto, &AwsLc];

#[test]
fn each_verifies_what_the_other_signs() {
    for seed in 0..8 {
        for signing in SCHEMES {
            let identity = Identity::from_seed(signing, &[seed; 32]);
            for length in [0, 1, 100, 10_000] {
                let message = vec![seed; length];
                let signature = identity.sign(&message);
                assert_eq!((identity.public_key().len(), signature.len()), (PUBLIC_KEY_BYTES, SIGNATURE_BYTES));
                for verifying in SCHEMES {
                    assert!(verifying.verify(identity.public_key(), &message, &signature));
                }
            }
        }
    }
}

#[test]
fn both_refuse_the_same() {
    let [first, second] = [7, 8].map(|seed| Identity::from_seed(&Pqcrypto, &[seed; 32]));
    let signature = first.sign(b"message");
    let key = first.public_key();
    let changed = |at: usize| {
        let mut signature = signature.clone();
        signature[at] ^= 1;
        signature
    };
    for scheme in SCHEMES {
        assert!(scheme.verify(key, b"message", &signature));
        assert!(!scheme.verify(key, b"massage", &signature));
        assert!(!scheme.verify(second.public_key(), b"message", &signature));
        assert!(!scheme.verify(&key[1..], b"message", &signature));
        assert!(!scheme.verify(key, b"message", &[]));
        assert!(!scheme.verify(key, b"message", &signature[..SIGNATURE_BYTES - 1]));
        assert!(!scheme.verify(key, b"message", &[signature.as_slice(), &[0]].concat()));
        for at in (0..SIGNATURE_BYTES).step_by(97) {
            assert!(!scheme.verify(key, b"message", &changed(at)), "byte {at}");
        }
    }
}

#[test]
fn a_seed_gives_the_same_cluster_for_ever() {
    let [by_pqcrypto, by_aws] = SCHEMES.map(|scheme| Identity::from_seed(scheme, &[7; 32]));
    assert_eq!(by_pqcrypto.public_key(), by_aws.public_key());
    assert_eq!(by_pqcrypto.id(), ClusterId::of(by_aws.public_key()));
    assert_eq!(by_pqcrypto.id().to_string().parse(), Ok(by_pqcrypto.id()));
    assert!("not an id".parse::<ClusterId>().is_err());
    // A change here would make every directory and every stored document useless.
    assert_eq!(by_pqcrypto.id().to_string(), "96992560c50216b416144a17ff7ddcc0");
    assert!(!format!("{by_pqcrypto:?}").contains("public"));
}
