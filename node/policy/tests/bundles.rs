//! Bundles: their bytes, folders, signatures, limits and differences.

mod support;

use std::fs;

use proptest::prelude::*;
use serde_json::json;
use support::{bundle, manifest, try_bundle};
use tarn_policy::{Bundle, Diff, Error, SIGNATURE_PREFIX, SignedBundle, Trust, Version, limits};

const PASS: &str = "package tarn\n\ndeny contains \"no\" if input.verb == \"x\"\n";

fn reason<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
    result.unwrap_err().reason()
}

#[test]
fn bytes_and_digest_are_the_same_whatever_the_order() {
    let data = json!({"b": 1, "a": [2.5, {"y": 1, "x": null}]});
    let one = try_bundle(&[("b.rego", PASS), ("a.rego", "package a\n")], &data).unwrap();
    let two = try_bundle(&[("a.rego", "package a\n"), ("b.rego", PASS)], &data).unwrap();
    assert_eq!(one.to_bytes(), two.to_bytes());
    assert_eq!(one.digest(), two.digest());
    let read = Bundle::from_bytes(&one.to_bytes()).unwrap();
    assert_eq!(read, one);
    assert_eq!(read.module("a.rego"), Some("package a\n"));
    assert_eq!(read.data(), r#"{"a":[2.5,{"x":null,"y":1}],"b":1}"#);
}

/// The digest is in signatures and in the state of clusters: whoever changes the format makes a new one.
#[test]
fn the_format_is_pinned() {
    let bundle = bundle("package tarn\nallow := true\n");
    assert_eq!(bundle.digest().to_string(), "7b9c9dcc3215450a9f64d127261b82189c2118fe8e0e066721207846cef00a49");
}

#[test]
fn every_cut_and_every_added_byte_is_refused() {
    let bytes = bundle(PASS).to_bytes();
    for length in 0..bytes.len() {
        assert!(Bundle::from_bytes(&bytes[..length]).is_err(), "cut to {length}");
    }
    assert_eq!(reason(Bundle::from_bytes(&[bytes.as_slice(), b"x"].concat())), "POLICY_ENCODING");
}

#[test]
fn another_form_of_the_same_is_refused() {
    let bytes = bundle(PASS).to_bytes();
    let text = b"{\"format\":1,";
    let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
    let mut spaced = bytes.clone();
    spaced.splice(at + 11..at + 12, *b", ");
    // The length in front of the manifest.
    let length = u32::from_be_bytes(bytes[12..16].try_into().unwrap()) + 1;
    spaced.splice(12..16, length.to_be_bytes());
    assert_eq!(reason(Bundle::from_bytes(&spaced)), "POLICY_ENCODING");
    let mut newer = bytes;
    newer[11] = 2;
    assert_eq!(reason(Bundle::from_bytes(&newer)), "POLICY_FORMAT_UNKNOWN");
}

#[test]
fn limits_and_names_are_kept() {
    let long = "#".repeat(limits::MODULE_BYTES_MAX + 1);
    assert_eq!(reason(try_bundle(&[("a.rego", &long)], &json!({}))), "POLICY_TOO_LARGE");
    let much = "x".repeat(limits::DATA_BYTES_MAX);
    assert_eq!(reason(try_bundle(&[("a.rego", PASS)], &json!({"x": much}))), "POLICY_TOO_LARGE");
    let many = (0..=limits::MODULES_MAX).map(|index| (format!("m{index}.rego"), "package m\n".to_owned()));
    assert_eq!(reason(Bundle::new(manifest("many"), many, &json!({}))), "POLICY_TOO_LARGE");
    let heavy = (0..5).map(|index| (format!("m{index}.rego"), "#".repeat(limits::MODULE_BYTES_MAX)));
    assert_eq!(reason(Bundle::new(manifest("heavy"), heavy, &json!({}))), "POLICY_TOO_LARGE");
    assert_eq!(reason(try_bundle(&[], &json!({}))), "POLICY_MALFORMED");
    assert_eq!(reason(try_bundle(&[("a.rego", PASS)], &json!([1]))), "POLICY_MALFORMED");
    assert_eq!(reason(try_bundle(&[("a.rego", PASS), ("a.rego", PASS)], &json!({}))), "POLICY_MALFORMED");
    assert_eq!(reason(try_bundle(&[("a.rego", PASS), ("A.rego", PASS)], &json!({}))), "POLICY_MALFORMED");
    assert_eq!(reason(try_bundle(&[("../a.rego", PASS)], &json!({}))), "POLICY_MALFORMED");
    for name in ["", "../x", "Up", "a b", "-a", "ünder"] {
        let modules = [("a.rego".to_owned(), PASS.to_owned())];
        assert_eq!(reason(Bundle::new(manifest(name), modules, &json!({}))), "POLICY_MALFORMED", "{name:?}");
    }
    let modules = [("a.rego".to_owned(), PASS.to_owned())];
    assert_eq!(reason(Bundle::new(manifest(&"n".repeat(65)), modules, &json!({}))), "POLICY_TOO_LARGE");
}

#[test]
fn a_folder_gives_the_bundle_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/guardrails");
    let read = Bundle::from_directory(example.as_ref()).unwrap();
    assert_eq!((read.name(), read.version(), read.environment()), ("guardrails", &Version::new(1, 0, 0), "prod"));
    let written = folder.path().join("deep/er");
    read.to_directory(&written).unwrap();
    assert_eq!(Bundle::from_directory(&written).unwrap().digest(), read.digest());
    assert_eq!(reason(read.to_directory(&written)), "POLICY_MALFORMED", "it is not empty any more");
}

#[test]
fn folders_that_are_no_bundle_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert_eq!(reason(Bundle::from_directory(path)), "POLICY_FOLDER");
    let manifest = "name = \"x\"\nversion = \"1.2.3\"\nenvironment = \"dev\"\n";
    fs::write(path.join("bundle.toml"), manifest).unwrap();
    assert_eq!(reason(Bundle::from_directory(path)), "POLICY_MALFORMED", "no modules");
    fs::create_dir(path.join("lib")).unwrap();
    fs::write(path.join("lib/a.rego"), PASS).unwrap();
    fs::write(path.join(".hidden.rego"), "not rego").unwrap();
    fs::write(path.join("notes.txt"), "not rego").unwrap();
    let read = Bundle::from_directory(path).unwrap();
    assert_eq!(read.modules().map(|(path, _)| path).collect::<Vec<_>>(), ["lib/a.rego"]);

    for wrong in [
        format!("{manifest}colour = \"red\"\n"),
        manifest.replace("1.2.3", "1.2"),
        manifest.replace("1.2.3", "01.2.3"),
        manifest.replace("name = \"x\"\n", ""),
        "this is no toml".to_owned(),
    ] {
        fs::write(path.join("bundle.toml"), &wrong).unwrap();
        assert_eq!(reason(Bundle::from_directory(path)), "POLICY_MALFORMED", "{wrong}");
    }
    fs::write(path.join("bundle.toml"), format!("format = 2\n{manifest}")).unwrap();
    assert_eq!(reason(Bundle::from_directory(path)), "POLICY_FORMAT_UNKNOWN");
    fs::write(path.join("bundle.toml"), manifest).unwrap();

    fs::write(path.join("data.json"), "{\"a\": }").unwrap();
    assert_eq!(reason(Bundle::from_directory(path)), "POLICY_JSON");
    fs::write(path.join("data.json"), "{}").unwrap();
    fs::write(path.join("lib/b.rego"), [0xff, 0xfe]).unwrap();
    assert_eq!(reason(Bundle::from_directory(path)), "POLICY_MALFORMED");
    fs::remove_file(path.join("lib/b.rego")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path.join("lib/c.rego")).unwrap();
    assert_eq!(reason(Bundle::from_directory(path)), "POLICY_MALFORMED");
    fs::remove_file(path.join("lib/c.rego")).unwrap();
    // A folder that contains itself would never end.
    std::os::unix::fs::symlink("..", path.join("lib/up")).unwrap();
    assert_eq!(reason(Bundle::from_directory(path)), "POLICY_MALFORMED");
}

/// Stands for ML-DSA-65: BLAKE3 with a key.
fn tag(message: &[u8]) -> Vec<u8> {
    blake3::keyed_hash(&[7; 32], message).as_bytes().to_vec()
}

fn verify(message: &[u8], signature: &[u8]) -> bool {
    tag(message) == signature
}

#[test]
fn signatures_are_over_the_digest_and_must_fit() {
    let bundle = bundle(PASS);
    let signed = SignedBundle::sign(&bundle, |message| {
        assert_eq!(message, [SIGNATURE_PREFIX, &bundle.digest().0].concat());
        Ok::<_, Error>(tag(message))
    })
    .unwrap();
    let read = SignedBundle::from_bytes(&signed.to_bytes()).unwrap();
    assert_eq!(read, signed);
    assert_eq!(read.open(Trust::Required, verify).unwrap(), bundle);
    assert_eq!(read.open(Trust::Optional, verify).unwrap(), bundle);

    let unsigned = SignedBundle::from_bytes(&bundle.to_bytes()).unwrap();
    assert_eq!(unsigned.open(Trust::Optional, verify).unwrap(), bundle);
    assert_eq!(reason(unsigned.open(Trust::Required, verify)), "POLICY_SIGNATURE");
    assert_eq!(reason(SignedBundle::unsigned(&bundle).open(Trust::Required, |_, _| true)), "POLICY_SIGNATURE");

    // A signature that does not fit is refused also where none is asked for.
    let other = support::bundle("package tarn\nallow := true\n");
    let moved = SignedBundle::from_parts(other.to_bytes(), signed.signature().to_vec());
    for trust in [Trust::Optional, Trust::Required] {
        assert_eq!(reason(moved.open(trust, verify)), "POLICY_SIGNATURE");
    }
    // A signature over the bare digest, made for another purpose.
    let bare = SignedBundle::from_parts(bundle.to_bytes(), tag(&bundle.digest().0));
    assert_eq!(reason(bare.open(Trust::Required, verify)), "POLICY_SIGNATURE");
    let large = SignedBundle::from_parts(bundle.to_bytes(), vec![0; limits::SIGNATURE_BYTES_MAX + 1]);
    assert_eq!(reason(large.open(Trust::Optional, |_, _| true)), "POLICY_TOO_LARGE");
}

#[test]
fn one_changed_byte_breaks_a_signed_bundle() {
    let signed = SignedBundle::sign(&bundle(PASS), |message| Ok::<_, Error>(tag(message))).unwrap();
    let bytes = signed.to_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x20;
        let opened = SignedBundle::from_bytes(&changed).and_then(|read| read.open(Trust::Required, verify));
        assert!(opened.is_err(), "byte {at}");
    }
}

#[test]
fn differences_are_named() {
    let old = try_bundle(
        &[
            ("a.rego", "package tarn\n\ndeny contains \"a\" if input.verb == \"x\"\n\nhelp if input.verb == \"y\"\n"),
            ("gone.rego", "package tarn\n\nold := 1\n"),
        ],
        &json!({"limits": {"gpu": 1, "cpu": 2}, "list": [1], "same": true}),
    )
    .unwrap();
    let new_modules = [
        ("a.rego", "package tarn\n\n# A comment.\ndeny contains \"b\" if input.verb == \"x\"\n\nhelp if input.verb == \"y\"\n"),
        ("more.rego", "package tarn\n\nfresh(x) := x\n"),
    ]
    .map(|(path, text)| (path.to_owned(), text.to_owned()));
    let mut to = manifest("example");
    to.version = Version::new(1, 1, 0);
    let data = json!({"limits": {"gpu": 8, "ram": 2}, "list": [1, 2], "same": true});
    let new = Bundle::new(to, new_modules, &data).unwrap();
    let diff = Diff::between(&old, &new).unwrap();
    assert_eq!(diff.manifest, ["version: 1.0.0 -> 1.1.0"]);
    assert_eq!((&diff.modules.added[..], &diff.modules.removed[..]), (&["more.rego".to_owned()][..], &["gone.rego".to_owned()][..]));
    assert_eq!(diff.modules.changed, ["a.rego"]);
    assert_eq!((diff.rules.added, diff.rules.removed), (vec!["tarn.fresh".to_owned()], vec!["tarn.old".to_owned()]));
    assert_eq!(diff.rules.changed, ["tarn.deny"], "a comment beside a rule changes nothing");
    assert_eq!((diff.data.added, diff.data.removed), (vec!["limits.ram".to_owned()], vec!["limits.cpu".to_owned()]));
    assert_eq!(diff.data.changed, ["limits.gpu", "list"]);
    assert!(Diff::between(&old, &old).unwrap().is_empty());
}

#[test]
fn bundles_that_do_not_compile_can_be_compared() {
    let old = bundle("package tarn\n\nallow := true\n");
    let new = bundle("package tarn\n\nallow := := true\n");
    let diff = Diff::between(&old, &new).unwrap();
    assert_eq!((diff.modules.changed, diff.rules.removed), (vec!["policy.rego".to_owned()], vec!["tarn.allow".to_owned()]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Fuzz: whatever the bytes are, reading ends with a bundle that has these bytes, or with an error.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        if let Ok(read) = Bundle::from_bytes(&bytes) {
            prop_assert_eq!(read.to_bytes(), bytes.clone());
        }
        if let Ok(signed) = SignedBundle::from_bytes(&bytes) {
            let _ = signed.open(Trust::Optional, |_, _| false);
        }
    }

    /// Fuzz: the same from bytes that are nearly a bundle.
    #[test]
    fn nearly_a_bundle(changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6), cut in any::<proptest::sample::Index>()) {
        let mut bytes = bundle(PASS).to_bytes();
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        bytes.truncate(bytes.len() - cut.index(8));
        if let Ok(read) = Bundle::from_bytes(&bytes) {
            prop_assert_eq!(read.to_bytes(), bytes);
        }
    }
}
