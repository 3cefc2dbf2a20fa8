//! What somebody may present to prove who they are.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;
use http::HeaderValue;
use tarn::identity::JoinToken;
use tarn::identity::bearer::{Authenticator, BEARER_BYTES_MAX, IssuerSettings, KeySet, bearer_of};
use tarn_client::ApiToken;
use tarn_client::tls::Principal;
use tarn_machine::Access;
use tonic::metadata::MetadataMap;

use crate::target;

const NOW_S: u64 = 1_790_000_000;

/// An issuer with one key, and the one JWT that it ever signed.
struct Issuer {
    authenticator: Authenticator,
    signed: String,
}

/// Everything about it is fixed, so that the JWT in the corpus is the one that is taken.
static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("any 32 bytes are a seed");
    let x = BASE64URL_NOPAD.encode(key.public_key().as_ref());
    let dir = tempfile::tempdir().expect("a folder can be made");
    let jwks_file = dir.path().join("jwks.json");
    let set = serde_json::json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "k", "alg": "EdDSA"}]});
    std::fs::write(&jwks_file, set.to_string()).expect("the folder can be written");
    let settings = IssuerSettings { issuer: "https://id.example".into(), audience: "tarn".into(), jwks_file, name: String::new() };
    let now = || UNIX_EPOCH + Duration::from_secs(NOW_S);
    let authenticator = Authenticator::with_clock(&[settings], Duration::ZERO, now).expect("the keys are good");
    let header = BASE64URL_NOPAD.encode(br#"{"alg":"EdDSA","kid":"k"}"#);
    let claims =
        BASE64URL_NOPAD.encode(format!(r#"{{"iss":"https://id.example","aud":"tarn","sub":"ada","exp":{}}}"#, NOW_S + 60).as_bytes());
    let message = format!("{header}.{claims}");
    let signature = BASE64URL_NOPAD.encode(key.sign(message.as_bytes()).as_ref());
    Issuer { authenticator, signed: format!("{message}.{signature}") }
});

/// Nothing is taken but what was signed, byte for byte.
fn credential(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let answer = ISSUER.authenticator.authenticate(text, &Access::default(), NOW_S * 1_000);
    match answer {
        Ok(identity) => {
            assert_eq!(text, ISSUER.signed);
            assert_eq!(&*identity.principal, "jwt/ada");
        }
        Err(error) => assert!(text != ISSUER.signed, "it is good: {error}"),
    }
}

/// A header gives a credential of bearable length, or none.
fn authorization(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let headers = http::HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
    if let Ok(Some(bearer)) = bearer_of(&MetadataMap::from_headers(headers)) {
        assert!(bearer.len() <= BEARER_BYTES_MAX && !bearer.is_empty());
    }
}

/// A token that can be read is written as it was read.
fn api_token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<ApiToken>() {
        assert_eq!(token.reveal(), text);
    }
}

fn join_token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.reveal(), text.trim().to_ascii_lowercase());
    }
}

/// Keys that can be read are bounded in number.
fn key_set(bytes: &[u8]) {
    if let Ok(keys) = KeySet::parse(bytes) {
        assert!(keys.len() <= bytes.len());
    }
}

/// A certificate's subject that can be read is written as it was read.
fn principal(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(principal) = Principal::parse(text) {
        assert_eq!(principal.uri(), text);
    }
}

target!(any_credential, credential);
target!(any_authorization, authorization);
target!(any_api_token, api_token);
target!(any_join_token, join_token);
target!(any_key_set, key_set);
target!(any_principal, principal);

/// The corpus begins with what is good: from there the engine finds what is nearly so.
#[test]
fn the_corpus_has_the_jwt_that_is_taken() {
    let seed = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/targets/__fuzz__/credentials__any_credential/corpus/jwt");
    assert_eq!(std::fs::read_to_string(seed).unwrap(), ISSUER.signed);
    credential(ISSUER.signed.as_bytes());
}
