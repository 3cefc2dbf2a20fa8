//! Keys, signatures, and whom the cluster trusts.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use data_encoding::HEXLOWER;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use tarn_client::Client;
use tarn_client::tls::{PrivateKey, encode_pem, read_public_file, read_secret_file};
use tarn_policy::{Bundle, SignedBundle};
use tarn_proto::v1::{PolicySettings, PolicySigner};

use super::super::exit::Failure;
use super::super::output::Printer;
use super::{load, said};

/// Signs a bundle.
pub fn sign(path: &Path, key: &Path, out: &Path, printer: Printer) -> Result<(), Failure> {
    let bundle = Bundle::from_bytes(load(path)?.bundle_bytes()).map_err(said)?;
    let pem = read_secret_file(key).map_err(anyhow::Error::from)?;
    let key = PrivateKey::from_pem(&key.display().to_string(), &pem).map_err(anyhow::Error::from)?;
    let signed = SignedBundle::sign(&bundle, |message| key.sign(message)).map_err(anyhow::Error::from)?;
    std::fs::write(out, signed.to_bytes())?;
    let signer = HEXLOWER.encode(blake3::hash(key.public_key()).as_bytes());
    let value = serde_json::json!({ "out": out, "digest": bundle.digest().to_string(), "signer": signer });
    printer.value(&value, || format!("signed {} {} as {}", bundle.name(), bundle.version(), out.display()))
}

/// Makes a key.
pub fn key(out: &Path, printer: Printer) -> Result<(), Failure> {
    let key = PrivateKey::generate();
    let (secret, public) = (out.with_extension("key"), out.with_extension("pub"));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&secret)?;
    file.write_all(key.to_pem().as_bytes())?;
    std::fs::write(&public, encode_pem("PUBLIC KEY", key.spki()))?;
    let value = serde_json::json!({ "key": secret, "public": public });
    printer.value(&value, || format!("made {} (keep it secret) and {} (for `settings --trust`)", secret.display(), public.display()))
}

/// Shows or changes the settings.
pub async fn settings(
    client: &Client,
    require_signed: Option<bool>,
    trust: &[String],
    distrust: &[String],
    printer: Printer,
) -> Result<(), Failure> {
    let mut settings = client.get_policy_settings().await?;
    let before = settings.clone();
    change_trust(&mut settings.signers, trust, distrust)?;
    if let Some(required) = require_signed {
        settings.require_signed = required;
    }
    if settings != before {
        client.put_policy_settings(settings.clone()).await?;
    }
    printer.message(&settings, |settings| {
        let mut lines = vec![match settings.require_signed {
            true => "bundles must be signed".to_owned(),
            false => "bundles need not be signed".to_owned(),
        }];
        lines.extend(settings.signers.iter().map(trusted));
        lines.join("\n")
    })
}

/// Forgets the keys of these names, and takes those of `NAME=FILE`.
pub fn change_trust(signers: &mut Vec<PolicySigner>, trust: &[String], distrust: &[String]) -> Result<(), Failure> {
    for name in distrust {
        let known = signers.len();
        signers.retain(|signer| signer.name != *name);
        if signers.len() == known {
            return Err(Failure::Usage(format!("no trusted key is called {name:?}")));
        }
    }
    for named in trust {
        let Some((name, file)) = named.split_once('=') else {
            return Err(Failure::Usage(format!("{named:?}: write NAME=FILE, such as ann=ann.pub")));
        };
        signers.retain(|signer| signer.name != name);
        signers.push(PolicySigner { name: name.to_owned(), public_key: public_key(Path::new(file))?.into() });
    }
    Ok(())
}

/// A line about a key that is trusted.
pub fn trusted(signer: &PolicySigner) -> String {
    format!("trusted: {}  {}", signer.name, HEXLOWER.encode(blake3::hash(&signer.public_key).as_bytes()))
}

/// What people call the key that signed.
pub fn signer_name(settings: &PolicySettings, signer: &[u8]) -> String {
    if signer.is_empty() {
        return "no".to_owned();
    }
    let known = settings.signers.iter().find(|known| blake3::hash(&known.public_key).as_bytes() == signer);
    match known {
        Some(known) => format!("by {}", known.name),
        None => format!("by a key that is not trusted any more, {}", HEXLOWER.encode(signer)),
    }
}

/// Reads a public key (PEM, `PUBLIC KEY`) of ML-DSA-65.
pub fn public_key(path: &Path) -> Result<Vec<u8>, Failure> {
    let wrong = || Failure::Usage(format!("{} is no public key of ML-DSA-65: give the .pub file that `key` made", path.display()));
    let pem = read_public_file(path).map_err(anyhow::Error::from)?;
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(&pem).map_err(|_| wrong())?;
    // All keys of the kind begin alike, and differ in what follows.
    let any = PrivateKey::from_seed(&[0; 32]);
    let start = &any.spki()[..any.spki().len() - any.public_key().len()];
    let key = spki.as_ref().strip_prefix(start).filter(|key| key.len() == any.public_key().len());
    key.map(<[u8]>::to_vec).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_made_is_read_and_another_file_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let made = PrivateKey::generate();
        let public = dir.path().join("ann.pub");
        std::fs::write(&public, encode_pem("PUBLIC KEY", made.spki())).expect("it is written");
        assert_eq!(public_key(&public).expect("it is a key"), made.public_key());
        for text in [encode_pem("PUBLIC KEY", &made.spki()[1..]), made.to_pem(), String::new()] {
            std::fs::write(&public, text).expect("it is written");
            assert!(public_key(&public).is_err());
        }
    }
}
