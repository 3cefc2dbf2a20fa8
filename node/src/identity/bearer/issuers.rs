//! The issuers whose JWTs are taken, and their key files.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::jwks::{JwksError, KeySet, read};

/// An issuer of JWTs, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    /// What its tokens say in `iss`, to the letter.
    pub issuer: String,
    /// What its tokens must say in `aud`, alone or among others.
    pub audience: String,
    /// The file with its public keys (JWKS).
    pub jwks_file: PathBuf,
    /// What stands before the subject in its principals, `jwt/<name>/<subject>`. Empty: nothing, `jwt/<subject>`; with several issuers,
    /// one could then speak for the subjects of another, so each needs a name.
    pub name: String,
}

/// What a look at a key file gave.
#[derive(Debug)]
pub struct Reloaded {
    /// Whose file it is.
    pub issuer: Arc<str>,
    /// How many keys are in force now, whether or not the file has changed.
    pub keys: usize,
    /// `None`: the file is as it was at the last look.
    pub change: Option<Result<(), JwksError>>,
}

/// An issuer and the keys that are in force.
pub(super) struct Issuer {
    pub issuer: Arc<str>,
    pub audience: String,
    pub name: String,
    path: PathBuf,
    keys: ArcSwap<KeySet>,
    /// What the last look at the file found: a hash of its bytes, or that it could not be read. A file that stays as it is, be it good
    /// or bad, is told of once.
    seen: Mutex<Seen>,
}

#[derive(Clone, PartialEq, Eq)]
enum Seen {
    Bytes([u8; 32]),
    Unreadable(String),
}

impl Issuer {
    fn load(settings: &IssuerSettings) -> Result<Self, JwksError> {
        let (keys, text) = KeySet::from_file(&settings.jwks_file)?;
        Ok(Self {
            issuer: settings.issuer.as_str().into(),
            audience: settings.audience.clone(),
            name: settings.name.clone(),
            path: settings.jwks_file.clone(),
            keys: ArcSwap::from_pointee(keys),
            seen: Mutex::new(seen(&text)),
        })
    }

    /// The keys in force.
    pub fn keys(&self) -> Arc<KeySet> {
        self.keys.load_full()
    }

    fn reload(&self) -> Reloaded {
        let change = self.change();
        Reloaded { issuer: self.issuer.clone(), keys: self.keys.load().len(), change }
    }

    fn change(&self) -> Option<Result<(), JwksError>> {
        // One look at a time: an older set must not take the place of a newer one.
        let mut last = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let text = read(&self.path);
        let now = match &text {
            Ok(text) => seen(text),
            Err(reason) => Seen::Unreadable(reason.clone()),
        };
        if *last == now {
            return None;
        }
        *last = now;
        let parsed = text.and_then(|text| KeySet::parse(&text));
        Some(match parsed {
            Ok(keys) => {
                self.keys.store(Arc::new(keys));
                Ok(())
            }
            Err(reason) => Err(failed(&self.path, reason)),
        })
    }
}

fn seen(text: &[u8]) -> Seen {
    Seen::Bytes(*blake3::hash(text).as_bytes())
}

fn failed(path: &Path, reason: String) -> JwksError {
    JwksError { path: path.to_owned(), reason }
}

/// All issuers.
pub(super) struct Issuers(Vec<Issuer>);

impl Issuers {
    pub fn load(settings: &[IssuerSettings]) -> Result<Self, JwksError> {
        settings.iter().map(Issuer::load).collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn find(&self, issuer: &str) -> Option<&Issuer> {
        self.0.iter().find(|known| *known.issuer == *issuer)
    }

    pub fn reload(&self) -> Vec<Reloaded> {
        self.0.iter().map(Issuer::reload).collect()
    }
}
