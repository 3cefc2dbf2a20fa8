//! Bearers' credentials: what is taken, and every way to forge one that we know of.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use tarn::identity::bearer::{Authenticator, BEARER_BYTES_MAX, BearerError, Identity, IssuerSettings, KeySet, Method};
use tarn_client::ApiToken;
use tarn_machine::Access;

const ISSUER: &str = "https://id.example";
const AUDIENCE: &str = "tarn-prod";
/// Some moment in 2026.
const NOW_S: u64 = 1_790_000_000;

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64URL_NOPAD.encode(bytes.as_ref())
}

/// A private key of an issuer.
enum Signer {
    Ed(Ed25519KeyPair),
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn rsa() -> Self {
        // Made once: a prime search takes a while.
        use std::sync::LazyLock;
        static KEY: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            AsDer::<Pkcs8V1Der<'static>>::as_der(&key).unwrap().as_ref().to_vec()
        });
        Self::Rsa(RsaKeyPair::from_pkcs8(&KEY).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed(_) => "EdDSA",
            Self::Ec(_) => "ES256",
            Self::Rsa(_) => "RS256",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Ec(key) => key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// The public key as a JWK without an id.
    fn jwk(&self) -> Value {
        match self {
            Self::Ed(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": b64(key.public_key())}),
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..])})
            }
            Self::Rsa(key) => {
                let public = key.public_key();
                json!({
                    "kty": "RSA",
                    "n": b64(public.modulus().big_endian_without_leading_zero()),
                    "e": b64(public.exponent().big_endian_without_leading_zero()),
                })
            }
        }
    }

    fn jwk_named(&self, id: &str) -> Value {
        let mut jwk = self.jwk();
        jwk["kid"] = id.into();
        jwk["use"] = "sig".into();
        jwk["alg"] = self.algorithm().into();
        jwk
    }

    fn header(&self, id: &str) -> Value {
        json!({"alg": self.algorithm(), "kid": id, "typ": "JWT"})
    }

    /// A token of this header and these claims.
    fn token(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "ada", "aud": AUDIENCE, "exp": NOW_S + 300, "nbf": NOW_S - 10, "iat": NOW_S - 10})
}

fn with(mut claims: Value, name: &str, value: impl Into<Value>) -> Value {
    claims[name] = value.into();
    claims
}

fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// An authenticator that trusts one issuer with one key of each kind.
struct Scene {
    dir: tempfile::TempDir,
    authenticator: Authenticator,
    ed: Signer,
    ec: Signer,
    rsa: Signer,
}

impl Scene {
    fn new() -> Self {
        let (ed, ec, rsa) = (Signer::ed(), Signer::ec(), Signer::rsa());
        let dir = tempfile::tempdir().unwrap();
        let set = json!({"keys": [ed.jwk_named("ed"), ec.jwk_named("ec"), rsa.jwk_named("rsa")]});
        std::fs::write(dir.path().join("jwks.json"), set.to_string()).unwrap();
        let authenticator = trusting(&[settings(&dir, ISSUER, "")]);
        Self { dir, authenticator, ed, ec, rsa }
    }

    fn ask(&self, token: &str) -> Result<Identity, BearerError> {
        self.authenticator.authenticate(token, &Access::default(), 0)
    }

    /// What becomes of claims that are signed well.
    fn judge(&self, claims: &Value) -> Result<Identity, BearerError> {
        self.ask(&self.ed.token(&self.ed.header("ed"), claims))
    }

    /// What becomes of a header that is signed well.
    fn judge_header(&self, header: &Value) -> Result<Identity, BearerError> {
        self.ask(&self.ed.token(header, &claims()))
    }

    fn write_keys(&self, text: &str) {
        std::fs::write(self.dir.path().join("jwks.json"), text).unwrap();
    }
}

fn settings(dir: &tempfile::TempDir, issuer: &str, name: &str) -> IssuerSettings {
    IssuerSettings { issuer: issuer.into(), audience: AUDIENCE.into(), jwks_file: dir.path().join("jwks.json"), name: name.into() }
}

fn trusting(issuers: &[IssuerSettings]) -> Authenticator {
    let now = || UNIX_EPOCH + Duration::from_secs(NOW_S);
    Authenticator::with_clock(issuers, Duration::from_secs(30), now).unwrap()
}

#[test]
fn each_algorithm_is_taken_with_its_own_kind_of_key() {
    let scene = Scene::new();
    for (signer, id) in [(&scene.ed, "ed"), (&scene.ec, "ec"), (&scene.rsa, "rsa")] {
        let identity = scene.ask(&signer.token(&signer.header(id), &with(claims(), "jti", "t-1"))).unwrap();
        assert_eq!(*identity.principal, *"jwt/ada");
        assert_eq!(identity.method, Method::Jwt);
        assert_eq!(identity.scopes, None);
        assert_eq!(identity.token_id.as_deref(), Some("t-1"));
        assert_eq!(identity.expires_at_ms, (NOW_S + 330) * 1_000);
    }
}

#[test]
fn the_header_cannot_choose_the_algorithm() {
    let scene = Scene::new();
    for algorithm in [
        "none",
        "None",
        "NONE",
        "",
        "HS256",
        "HS512",
        "RS512",
        "PS256",
        "ES384",
        "ES256K",
        "eddsa",
        "ES256",
        "RS256",
        "EdDSA ",
        "ML-DSA-65",
    ] {
        let header = json!({"alg": algorithm, "kid": "ed"});
        assert_eq!(scene.judge_header(&header), Err(BearerError::Algorithm), "{algorithm}");
    }
    // Each kind of key under the names of the others.
    for (signer, id, other) in [(&scene.ec, "rsa", "ES256"), (&scene.rsa, "ec", "RS256"), (&scene.ed, "rsa", "EdDSA")] {
        let token = signer.token(&json!({"alg": other, "kid": id}), &claims());
        assert_eq!(scene.ask(&token), Err(BearerError::Algorithm));
    }
    for header in [json!({"kid": "ed"}), json!({"alg": null, "kid": "ed"}), json!({"alg": ["EdDSA"], "kid": "ed"})] {
        assert!(matches!(scene.judge_header(&header), Err(BearerError::Malformed(_))), "{header}");
    }
}

#[test]
fn a_token_without_a_signature_is_nobodys() {
    let scene = Scene::new();
    let good = scene.ed.token(&scene.ed.header("ed"), &claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let unsigned = format!("{}.{}.", b64(json!({"alg": "none"}).to_string()), b64(claims().to_string()));
    for token in [unsigned.as_str(), signed, &format!("{signed}."), &format!("{good}."), &format!("{good}.x")] {
        assert!(matches!(scene.ask(token), Err(BearerError::Malformed(_))), "{token}");
    }
    // A signature of no bytes' worth, and one that is another's.
    assert_eq!(scene.ask(&format!("{signed}.AAAA")), Err(BearerError::Signature));
    let other = Signer::ed();
    let foreign = other.token(&other.header("ed"), &claims());
    assert_eq!(scene.ask(&foreign), Err(BearerError::Signature));
    assert_eq!(scene.ask(&format!("{signed}.{}", b64([0; 64]))), Err(BearerError::Signature));
    assert_eq!(scene.ask(&format!("{signed}.{signature}")).map(|who| who.method), Ok(Method::Jwt));
}

#[test]
fn the_public_key_is_no_secret_for_hmac() {
    let scene = Scene::new();
    let jwk = scene.rsa.jwk();
    let modulus = BASE64URL_NOPAD.decode(jwk["n"].as_str().unwrap().as_bytes()).unwrap();
    let spki = scene.rsa_spki();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", data_encoding::BASE64.encode(&spki));
    for secret in [modulus.as_slice(), &spki, pem.as_bytes(), jwk.to_string().as_bytes(), b""] {
        for algorithm in ["HS256", "RS256"] {
            let header = json!({"alg": algorithm, "kid": "rsa"});
            let signed = format!("{}.{}", b64(header.to_string()), b64(claims().to_string()));
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
            let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
            let answer = scene.ask(&format!("{signed}.{}", b64(tag)));
            let expected = match algorithm {
                "HS256" => BearerError::Algorithm,
                _ => BearerError::Signature,
            };
            assert_eq!(answer, Err(expected));
        }
    }
}

impl Scene {
    fn rsa_spki(&self) -> Vec<u8> {
        let Signer::Rsa(key) = &self.rsa else { unreachable!() };
        use aws_lc_rs::encoding::PublicKeyX509Der;
        AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap().as_ref().to_vec()
    }
}

#[test]
fn key_ids_are_names_and_nothing_else() {
    let scene = Scene::new();
    for id in [
        "../../../../dev/null",
        "/etc/passwd",
        "ed' OR '1'='1",
        "ed; DROP TABLE keys",
        "http://evil.example/jwks.json",
        "ed\u{0}",
        " ed",
        "ED",
        "\u{435}d",
        "",
    ] {
        assert_eq!(scene.judge_header(&json!({"alg": "EdDSA", "kid": id})), Err(BearerError::Key), "{id}");
    }
    let long = json!({"alg": "EdDSA", "kid": "a".repeat(500)});
    assert!(matches!(scene.judge_header(&long), Err(BearerError::JoseHeader(_))));
    let number = json!({"alg": "EdDSA", "kid": 1});
    assert!(matches!(scene.judge_header(&number), Err(BearerError::Malformed(_))));
    // Without an id it is not guessed which of several keys is meant.
    assert_eq!(scene.judge_header(&json!({"alg": "EdDSA"})), Err(BearerError::Key));
    scene.write_keys(&json!({"keys": [scene.ed.jwk()]}).to_string());
    assert!(scene.authenticator.reload()[0].change.as_ref().is_some_and(Result::is_ok));
    assert!(scene.judge_header(&json!({"alg": "EdDSA"})).is_ok(), "the only key needs no id");
    assert_eq!(scene.judge_header(&json!({"alg": "EdDSA", "kid": "ed"})), Err(BearerError::Key));
}

#[test]
fn keys_that_a_token_brings_along_are_not_looked_at() {
    let scene = Scene::new();
    let forger = Signer::ed();
    for (field, value) in [
        ("jwk", forger.jwk()),
        ("jku", json!("https://evil.example/jwks.json")),
        ("x5u", json!("https://evil.example/x.pem")),
        ("x5c", json!(["MII"])),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("enc", json!("A256GCM")),
        ("typ", json!("logout+jwt")),
        ("typ", json!("dpop+jwt")),
    ] {
        let header = with(scene.ed.header("ed"), field, value);
        // Signed by the forger, and, what is more, by the issuer.
        for signer in [&forger, &scene.ed] {
            let answer = scene.ask(&signer.token(&header, &claims()));
            assert!(matches!(answer, Err(BearerError::JoseHeader(_))), "{field}: {answer:?}");
        }
    }
    for typ in ["JWT", "jwt", "at+jwt"] {
        assert!(scene.judge_header(&with(scene.ed.header("ed"), "typ", typ)).is_ok());
    }
    // What means nothing here is passed over.
    assert!(scene.judge_header(&with(scene.ed.header("ed"), "x5t", "abc")).is_ok());
}

#[test]
fn claims_are_demanded_and_compared() {
    let scene = Scene::new();
    let claim = BearerError::Claim;
    let good = claims;
    let deep: Value = (0..100).fold(json!(1), |inner, _| json!([inner]));
    for (what, claims, expected) in [
        ("no issuer", without(good(), "iss"), claim("iss")),
        ("another issuer", with(good(), "iss", "https://id.example/"), BearerError::Issuer),
        ("a list of issuers", with(good(), "iss", json!([ISSUER])), claim("iss")),
        ("no audience", without(good(), "aud"), claim("aud")),
        ("another audience", with(good(), "aud", "tarn-stage"), BearerError::Audience),
        ("a part of the audience", with(good(), "aud", "tarn"), BearerError::Audience),
        ("no audiences", with(good(), "aud", json!([])), BearerError::Audience),
        ("other audiences", with(good(), "aud", json!(["a", "b"])), BearerError::Audience),
        ("no end", without(good(), "exp"), claim("exp")),
        ("an end of nothing", with(good(), "exp", Value::Null), claim("exp")),
        ("over", with(good(), "exp", NOW_S - 30), BearerError::Expired),
        ("over for long", with(good(), "exp", 0), BearerError::Expired),
        ("an end before time", with(good(), "exp", -1), claim("exp")),
        ("an end beyond time", with(good(), "exp", 1e300), claim("exp")),
        ("not begun", with(good(), "nbf", NOW_S + 31), BearerError::NotYetValid),
        ("issued tomorrow", with(good(), "iat", NOW_S + 86_400), BearerError::NotYetValid),
        ("nobody", without(good(), "sub"), claim("sub")),
        ("an empty name", with(good(), "sub", ""), claim("sub")),
        ("a pattern", with(good(), "sub", "a*"), claim("sub")),
        ("a space", with(good(), "sub", "a b"), claim("sub")),
        ("a line", with(good(), "sub", "ada\nroot"), claim("sub")),
        ("a look-alike", with(good(), "sub", "\u{430}da"), claim("sub")),
        ("a long name", with(good(), "sub", "a".repeat(300)), claim("sub")),
    ] {
        assert_eq!(scene.judge(&claims), Err(expected), "{what}");
    }
    for claims in
        [with(good(), "exp", "1790000300"), with(good(), "sub", 7), with(good(), "aud", json!({"a": 1})), with(good(), "nbf", json!([1]))]
    {
        assert!(matches!(scene.judge(&claims), Err(BearerError::Malformed(_))), "{claims}");
    }
    for claims in [
        with(good(), "aud", json!(["x", AUDIENCE])),
        // Within the clocks' difference.
        with(good(), "exp", NOW_S - 29),
        with(good(), "nbf", NOW_S + 30),
        with(good(), "exp", NOW_S as f64 + 0.5),
        without(without(good(), "nbf"), "iat"),
        with(good(), "groups", deep),
    ] {
        assert!(scene.judge(&claims).is_ok(), "{claims}");
    }
    assert_eq!(*scene.judge(&with(good(), "sub", "user/admin")).unwrap().principal, *"jwt/user/admin");
}

#[test]
fn a_claim_twice_or_no_object_is_refused() {
    let scene = Scene::new();
    let sign = |header: &str, payload: &str| {
        let signed = format!("{}.{}", b64(header), b64(payload));
        format!("{signed}.{}", b64(scene.ed.sign(signed.as_bytes())))
    };
    let header = scene.ed.header("ed").to_string();
    let twice = claims().to_string().replace(r#""sub":"ada""#, r#""sub":"ada","sub":"root""#);
    assert!(twice.contains("root"));
    assert!(matches!(scene.ask(&sign(&header, &twice)), Err(BearerError::Malformed(_))));
    let header_twice = header.replace(r#""alg":"EdDSA""#, r#""alg":"none","alg":"EdDSA""#);
    assert_ne!(header, header_twice);
    assert!(matches!(scene.ask(&sign(&header_twice, &claims().to_string())), Err(BearerError::Malformed(_))));
    let bomb = format!("{}1{}", "[".repeat(1_500), "]".repeat(1_500));
    for payload in ["", "null", "[]", r#"["https://id.example"]"#, "\"x\"", "{", &bomb] {
        assert!(sign(&header, payload).len() < BEARER_BYTES_MAX);
        assert_eq!(scene.ask(&sign(&header, payload)), Err(BearerError::Claim("iss")), "{payload:.20}");
    }
}

#[test]
fn what_is_too_long_is_not_looked_at() {
    let scene = Scene::new();
    let long = with(claims(), "groups", "x".repeat(BEARER_BYTES_MAX));
    assert_eq!(scene.judge(&long), Err(BearerError::TooLong));
    assert_eq!(scene.ask(&"a.".repeat(1 << 20)), Err(BearerError::TooLong));
    assert_eq!(scene.ask(&format!("tarn_{}", "a".repeat(1 << 20))), Err(BearerError::TooLong));
    let header = with(scene.ed.header("ed"), "x", "x".repeat(2_000));
    assert!(matches!(scene.judge_header(&header), Err(BearerError::Malformed(_))));
    for text in ["", ".", "..", "...", "a", "a.b.c", "Ω.Ω.Ω", "tarn_", "tarn_Ω"] {
        assert!(matches!(scene.ask(text), Err(BearerError::Malformed(_))), "{text}");
    }
}

#[test]
fn weak_and_ambiguous_keys_are_refused_when_they_are_read() {
    let (ed, ec, rsa) = (Signer::ed(), Signer::ec(), Signer::rsa());
    let small = |bytes: usize| {
        let mut modulus = vec![0xc3; bytes];
        modulus[bytes - 1] = 1;
        b64(modulus)
    };
    let rsa_of = |bytes: usize| with(rsa.jwk(), "n", small(bytes));
    let off_curve = with(ec.jwk(), "y", b64([7; 32]));
    let refused = |keys: Value, part: &str| {
        let error = KeySet::parse(keys.to_string().as_bytes()).err().expect(part);
        assert!(error.contains(part), "{part:?} in {error:?}");
    };
    let one = |key: Value| json!({"keys": [key]});
    refused(one(rsa_of(128)), "1024 bits");
    refused(one(rsa_of(255)), "2040 bits");
    refused(one(rsa_of(4096)), "32768 bits");
    // Zeros in front make no key longer.
    let padded = [vec![0; 200], vec![0xc3; 127], vec![1]].concat();
    refused(one(with(rsa.jwk(), "n", b64(padded))), "1024 bits");
    refused(one(with(rsa.jwk(), "e", b64([3]))), "exponent");
    refused(one(with(rsa.jwk(), "e", b64([1]))), "exponent");
    refused(one(with(rsa.jwk(), "n", b64([0xc2; 256]))), "even");
    refused(one(with(rsa.jwk(), "alg", "RS512")), "RS256");
    refused(one(with(rsa.jwk(), "alg", "HS256")), "RS256");
    refused(one(with(ed.jwk(), "alg", "none")), "EdDSA");
    refused(one(without(rsa.jwk(), "n")), "has no \"n\"");
    refused(one(with(rsa.jwk(), "n", "+/=")), "base64url");
    refused(one(off_curve), "P-256");
    refused(one(with(ec.jwk(), "crv", "P-384")), "kind");
    refused(one(with(ec.jwk(), "x", b64([1; 33]))), "P-256");
    refused(one(with(ed.jwk(), "x", b64([1; 31]))), "Ed25519");
    refused(one(with(ed.jwk(), "crv", "X25519")), "kind");
    refused(one(json!({"kty": "oct", "k": b64("secret")})), "secret");
    refused(one(with(ed.jwk(), "d", b64([1; 32]))), "secret");
    refused(one(with(ed.jwk(), "use", "enc")), "no key for signatures");
    refused(one(with(ed.jwk(), "use", "both")), "another use");
    refused(one(with(ed.jwk(), "key_ops", json!(["sign"]))), "key_ops");
    refused(one(with(ed.jwk(), "kid", "")), "id that is empty");
    refused(one(with(ed.jwk(), "kid", "x".repeat(129))), "longer than 128");
    refused(json!({"keys": []}), "no key for signatures");
    refused(json!({"keys": [ed.jwk_named("a"), ec.jwk_named("a")]}), "another key has too");
    refused(json!({"keys": [ed.jwk_named("a"), ec.jwk()]}), "no `kid`");
    refused(json!({"keys": [ed.jwk(), ec.jwk()]}), "no `kid`");
    let many: Vec<Value> = (0..65).map(|i| ed.jwk_named(&i.to_string())).collect();
    refused(json!({"keys": many}), "64 allowed");
    refused(json!([]), "not a JWKS");
    refused(json!({"key": []}), "not a JWKS");
    for text in ["", "{", "\u{0}", "null"] {
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
    }
    // Keys for encryption stand in the files of identity providers, and do not disturb.
    let mixed = json!({"keys": [
        ed.jwk_named("a"), {"kty": "RSA", "use": "enc", "alg": "RSA-OAEP", "kid": "a", "n": "AQAB", "e": "AQAB"},
    ]});
    assert_eq!(KeySet::parse(mixed.to_string().as_bytes()).map(|set| set.len()).ok(), Some(1));
}

#[test]
fn keys_are_read_again_when_the_file_changes_and_kept_when_it_is_bad() {
    let scene = Scene::new();
    let old = scene.ed.token(&scene.ed.header("ed"), &claims());
    let next = Signer::ed();
    let new = next.token(&next.header("ed-2"), &claims());
    let look = || scene.authenticator.reload().remove(0);
    assert!(look().change.is_none(), "nothing has changed");
    assert_eq!(scene.ask(&new), Err(BearerError::Key));

    // Good keys beside the old one, and then alone.
    scene.write_keys(&json!({"keys": [scene.ed.jwk_named("ed"), next.jwk_named("ed-2")]}).to_string());
    assert!(look().change.unwrap().is_ok());
    assert!(scene.ask(&old).is_ok() && scene.ask(&new).is_ok());
    scene.write_keys(&json!({"keys": [next.jwk_named("ed-2")]}).to_string());
    assert!(look().change.unwrap().is_ok());
    assert_eq!(scene.ask(&old), Err(BearerError::Key));

    // Bad files: told of once each, and the keys stay.
    for bad in ["", "{", r#"{"keys": []}"#, r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#] {
        scene.write_keys(bad);
        let looked = look();
        assert_eq!(looked.keys, 1);
        let error = looked.change.unwrap().unwrap_err().to_string();
        assert!(error.contains("jwks.json"), "{error}");
        assert!(look().change.is_none());
        assert!(scene.ask(&new).is_ok());
    }
    scene.write_keys(&" ".repeat(300 << 10));
    assert!(look().change.unwrap().unwrap_err().reason.contains("longer than"));
    std::fs::remove_file(scene.dir.path().join("jwks.json")).unwrap();
    assert!(look().change.unwrap().unwrap_err().reason.contains("cannot be read"));
    assert!(look().change.is_none());
    assert!(scene.ask(&new).is_ok());

    // And a good one heals.
    scene.write_keys(&json!({"keys": [scene.ed.jwk_named("ed")]}).to_string());
    assert!(look().change.unwrap().is_ok());
    assert!(scene.ask(&old).is_ok());
}

#[test]
fn a_bad_key_file_at_the_start_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = Authenticator::new(&[settings(&dir, ISSUER, "")], Duration::ZERO).err().unwrap().to_string();
    assert!(error.contains("jwks.json") && error.contains("cannot be read"), "{error}");
}

#[test]
fn one_issuer_cannot_speak_for_the_subjects_of_another() {
    let (a, b) = (Signer::ed(), Signer::ed());
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (dir, signer) in dirs.iter().zip([&a, &b]) {
        // The same key id at both: it is looked up at the issuer that the token names.
        std::fs::write(dir.path().join("jwks.json"), json!({"keys": [signer.jwk_named("k")]}).to_string()).unwrap();
    }
    let authenticator = trusting(&[settings(&dirs[0], "https://a", "a"), settings(&dirs[1], "https://b", "b")]);
    let ask = |signer: &Signer, issuer: &str, subject: &str| {
        let token = signer.token(&signer.header("k"), &with(with(claims(), "iss", issuer), "sub", subject));
        authenticator.authenticate(&token, &Access::default(), 0)
    };
    assert_eq!(*ask(&a, "https://a", "ada").unwrap().principal, *"jwt/a/ada");
    assert_eq!(*ask(&b, "https://b", "ada").unwrap().principal, *"jwt/b/ada");
    assert_eq!(ask(&a, "https://b", "ada"), Err(BearerError::Signature));
    assert_eq!(*ask(&a, "https://a", "b/ada").unwrap().principal, *"jwt/a/b/ada");
}

#[test]
fn without_issuers_no_jwt_is_taken() {
    let scene = Scene::new();
    let authenticator = trusting(&[]);
    assert!(!authenticator.has_issuers() && scene.authenticator.has_issuers());
    let token = scene.ed.token(&scene.ed.header("ed"), &claims());
    assert_eq!(authenticator.authenticate(&token, &Access::default(), 0), Err(BearerError::NoIssuers));
}

#[test]
fn api_tokens_are_known_by_their_hash_until_they_end() {
    let token = ApiToken::generate();
    let mut access = Access::default();
    let row = access.tokens.entry(7).or_default();
    row.principal = "user/ada".into();
    row.expires_at_ms = 1_000;
    access.secrets.insert(token.secret_hash(), 7);
    let authenticator = Authenticator::with_clock(&[], Duration::ZERO, SystemTime::now).unwrap();
    let ask = |text: &str, access: &Access, now_ms| authenticator.authenticate(text, access, now_ms);

    let identity = ask(&token.reveal(), &access, 999).unwrap();
    assert_eq!((&*identity.principal, identity.method), ("user/ada", Method::Token));
    assert_eq!((identity.scopes, identity.expires_at_ms), (None, 1_000));
    assert!(identity.token_id.is_some());
    assert_eq!(ask(&token.reveal(), &access, 1_000), Err(BearerError::Expired));
    assert_eq!(ask(&ApiToken::generate().reveal(), &access, 0), Err(BearerError::Unknown));
    let mut wrong = token.reveal();
    let last = if wrong.ends_with('a') { 'b' } else { 'a' };
    wrong.pop();
    wrong.push(last);
    assert_eq!(ask(&wrong, &access, 0), Err(BearerError::Damaged));

    let rule = tarn_proto::v1::Rule { verbs: vec!["submit".into()], resources: vec!["queue/mail".into()] };
    access.tokens.get_mut(&7).unwrap().scopes = vec![rule.clone()];
    assert_eq!(ask(&token.reveal(), &access, 0).unwrap().scopes, Some(Arc::from([rule])));

    access.tokens.remove(&7);
    assert_eq!(ask(&token.reveal(), &access, 0), Err(BearerError::Unknown), "revoked");
}

#[test]
fn errors_have_reasons_and_repeat_nothing() {
    let scene = Scene::new();
    let token = scene.ed.token(&json!({"alg": "EdDSA", "kid": "secret-kid"}), &claims());
    let error = scene.ask(&token).unwrap_err();
    assert_eq!(error.reason(), "JWT_KEY_UNKNOWN");
    assert!(!error.to_string().contains("secret-kid"));
}

#[test]
fn no_change_of_a_good_token_is_good() {
    let scene = Scene::new();
    let token = ApiToken::generate();
    let mut access = Access::default();
    let row = access.tokens.entry(7).or_default();
    (row.principal, row.expires_at_ms) = ("user/ada".into(), u64::MAX);
    access.secrets.insert(token.secret_hash(), 7);
    for good in [scene.ed.token(&scene.ed.header("ed"), &claims()), scene.ec.token(&scene.ec.header("ec"), &claims()), token.reveal()] {
        let ask = |text: &str| scene.authenticator.authenticate(text, &access, 0);
        assert!(ask(&good).is_ok());
        for place in 0..good.len() {
            // Another letter, a byte too many, a byte too few, and what is cut off here.
            let (before, after) = good.split_at(place);
            let other = if after.starts_with('A') { 'B' } else { 'A' };
            for changed in [
                format!("{before}{other}{}", &after[1..]),
                format!("{before}{other}{after}"),
                format!("{before}{}", &after[1..]),
                before.to_owned(),
            ] {
                assert!(ask(&changed).is_err(), "{changed}");
            }
        }
    }
}

#[test]
fn noise_is_refused_and_never_panics() {
    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};

    let scene = Scene::new();
    let good = scene.ed.token(&scene.ed.header("ed"), &claims());
    let mut rng = SmallRng::seed_from_u64(7);
    for _ in 0..20_000 {
        // Pieces of good tokens, of JSON, and of nothing, in any order.
        let mut text = String::new();
        for _ in 0..rng.random_range(0..6) {
            match rng.random_range(0..5) {
                0 => text.push_str(&good[rng.random_range(0..good.len())..]),
                1 => text.push('.'),
                2 => text.push_str("tarn_"),
                3 => text.push_str(&b64(&br#"{"alg":"none","iss":"https://id.example"}"#[..rng.random_range(0..41)])),
                _ => text.extend((0..rng.random_range(0..40)).map(|_| rng.random::<char>())),
            }
        }
        let answer = scene.ask(&text);
        assert!(answer.is_err() || text == good, "{text}");
    }
}
