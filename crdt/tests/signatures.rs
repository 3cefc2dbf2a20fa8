//! The two libraries agree: what one signs, the other verifies, with the same key from the same seed.

mod support;

use support::forge::Forged;
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

/// What is signed is automerge's hash of a change that the room builds from its own encoding: neither may change with a library or a compiler,
/// or a new build would refuse what an old one signed. (That the room and this test's forger agree the hostile tests show.)
#[test]
fn a_fixed_change_set_has_the_hash_that_it_always_had() {
    let change = Forged {
        author: ClusterId([7; 16]),
        epoch: 3,
        seq: 2,
        time_ms: 1_700_000_000_000,
        deps: vec![[1; 32], [2; 32]],
        puts: vec![("context/n/c/gone".to_owned(), None), ("context/n/c/k".to_owned(), Some(b"value".to_vec()))],
        start_op: 300,
    };
    assert_eq!(data_encoding::HEXLOWER.encode(&change.hash()), "895bdd97c000c8d01a270511ff3c62be9072c116ec08d67587cbf728670205d3");
    assert_eq!(blake3::hash(&change.body()).to_hex().as_str(), "010150d320b4a74999e217ef3ae04dbe8de3c3081fc43cec39b2b6e1fdc60e0e");
}
