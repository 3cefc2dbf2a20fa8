//! What bundles are to do, said as plainly as possible.

use std::collections::BTreeMap;

use bytes::Bytes;
use tarn_machine::Machine;
use tarn_proto::v1::*;

pub const ENVIRONMENTS: [&str; 2] = ["dev", "prod"];
pub const NAMES: [&str; 2] = ["day", "night"];
pub const VERSIONS: [&str; 3] = ["1.0.0", "2.0.0", "10.0.0"];

pub fn public_key(letter: u8) -> Vec<u8> {
    vec![letter; tarn_machine::limits::PUBLIC_KEY_BYTES]
}

/// The fingerprint of a public key.
pub fn signer(letter: u8) -> Vec<u8> {
    blake3::hash(&public_key(letter)).as_bytes().to_vec()
}

/// One bundle of one environment.
#[derive(Default)]
struct Bundles {
    /// Content and signer, by version.
    versions: BTreeMap<String, (Bytes, Bytes)>,
    active: Option<String>,
    /// The version that was left last is at the end, and each is there once.
    history: Vec<String>,
}

#[derive(Default)]
pub struct Reference {
    bundles: BTreeMap<(String, String), Bundles>,
    settings: PolicySettings,
}

type Said<T> = Result<T, &'static str>;

impl Reference {
    fn of(&mut self, environment: &str, name: &str) -> &mut Bundles {
        self.bundles.entry((environment.to_owned(), name.to_owned())).or_default()
    }

    fn trusts(settings: &PolicySettings, by: &[u8]) -> bool {
        let known = |known: &PolicySigner| signer(known.public_key[0]) == by;
        !settings.require_signed || settings.signers.iter().any(known)
    }

    pub fn put(&mut self, r: &PutBundleRequest) -> Said<()> {
        if !Self::trusts(&self.settings, &r.signer) {
            return Err("POLICY_NOT_SIGNED");
        }
        let versions = &mut self.of(&r.environment, &r.name).versions;
        match versions.get_mut(&r.version) {
            Some((content, _)) if *content != r.content => Err("BUNDLE_VERSION_EXISTS"),
            Some((_, by)) if !by.is_empty() => Ok(()),
            Some((_, by)) => {
                *by = r.signer.clone();
                Ok(())
            }
            None => {
                versions.insert(r.version.clone(), (r.content.clone(), r.signer.clone()));
                Ok(())
            }
        }
    }

    fn expect(&mut self, environment: &str, name: &str, expected: &Option<String>) -> Said<String> {
        let active = self.of(environment, name).active.clone().unwrap_or_default();
        match expected {
            Some(expected) if *expected != active => Err("ACTIVE_VERSION_DIFFERS"),
            _ => Ok(active),
        }
    }

    fn may_judge(&mut self, environment: &str, name: &str, version: &str) -> Said<()> {
        let settings = self.settings.clone();
        let (_, by) = self.of(environment, name).versions.get(version).ok_or("BUNDLE_NOT_FOUND")?;
        Self::trusts(&settings, by).then_some(()).ok_or("POLICY_NOT_SIGNED")
    }

    /// Gives the version that was active before.
    pub fn activate(&mut self, r: &ActivateBundleRequest) -> Said<String> {
        let previous = self.expect(&r.environment, &r.name, &r.expected)?;
        self.may_judge(&r.environment, &r.name, &r.version)?;
        let bundles = self.of(&r.environment, &r.name);
        if previous != r.version {
            bundles.history.retain(|version| *version != r.version);
            if !previous.is_empty() {
                bundles.history.push(previous.clone());
            }
            bundles.active = Some(r.version.clone());
        }
        Ok(previous)
    }

    /// Gives the version that is active now.
    pub fn rollback(&mut self, r: &RollbackBundleRequest) -> Said<String> {
        self.expect(&r.environment, &r.name, &r.expected)?;
        let last = self.of(&r.environment, &r.name).history.last().cloned();
        let last = last.ok_or("NO_PREVIOUS_VERSION")?;
        self.may_judge(&r.environment, &r.name, &last)?;
        let bundles = self.of(&r.environment, &r.name);
        bundles.history.pop();
        bundles.active = Some(last.clone());
        Ok(last)
    }

    pub fn deactivate(&mut self, r: &DeactivateBundleRequest) -> Said<()> {
        let previous = self.expect(&r.environment, &r.name, &r.expected)?;
        if previous.is_empty() {
            return Err("BUNDLE_NOT_ACTIVE");
        }
        let bundles = self.of(&r.environment, &r.name);
        bundles.active = None;
        bundles.history.push(previous);
        Ok(())
    }

    pub fn delete(&mut self, r: &DeleteBundleRequest) -> Said<()> {
        let bundles = self.of(&r.environment, &r.name);
        if !bundles.versions.contains_key(&r.version) {
            return Err("BUNDLE_NOT_FOUND");
        }
        if bundles.active.as_ref() == Some(&r.version) {
            return Err("BUNDLE_ACTIVE");
        }
        bundles.versions.remove(&r.version);
        bundles.history.retain(|version| *version != r.version);
        Ok(())
    }

    pub fn settings(&mut self, settings: PolicySettings) -> Said<()> {
        for bundles in self.bundles.values() {
            let active = bundles.active.as_ref().map(|version| &bundles.versions[version]);
            if active.is_some_and(|(_, by)| !Self::trusts(&settings, by)) {
                return Err("ACTIVE_BUNDLE_NOT_SIGNED");
            }
        }
        self.settings = settings;
        Ok(())
    }

    /// The machine holds what the model holds: all versions, what judges with its bytes, and where a rollback leads.
    pub fn compare(&self, machine: &Machine) {
        let known = machine.policies();
        assert_eq!(known.settings, self.settings);
        let mut count = 0;
        for ((environment, name), bundles) in &self.bundles {
            count += bundles.versions.len();
            for (version, (content, by)) in &bundles.versions {
                let question = GetBundleRequest { environment: environment.clone(), name: name.clone(), version: version.clone() };
                let answer = machine.get_bundle(&question).expect("the model has it");
                let bundle = answer.bundle.expect("it is described");
                assert_eq!((&answer.content, &bundle.signer), (content, by));
                assert_eq!(bundle.active, bundles.active.as_ref() == Some(version));
                assert_eq!(*bundle.digest, *blake3::hash(content).as_bytes());
                assert_eq!(answer.history, bundles.history);
            }
            let judges = known.active.get(environment.as_str()).and_then(|here| here.get(name.as_str()));
            let wanted = bundles.active.as_ref().map(|version| (version.as_str(), &bundles.versions[version].0));
            assert_eq!(judges.map(|bundle| (&*bundle.version, &bundle.content)), wanted);
        }
        let listed = machine.list_bundles(&ListBundlesRequest::default()).expect("a list");
        assert_eq!(listed.bundles.len(), count);
        let judging: usize = known.active.values().map(BTreeMap::len).sum();
        assert_eq!(judging, self.bundles.values().filter(|bundles| bundles.active.is_some()).count());
    }
}
