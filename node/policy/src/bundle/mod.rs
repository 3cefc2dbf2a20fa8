//! A bundle: modules, data and a manifest, as one value with one digest.

mod directory;
mod encoding;
mod manifest;
mod path;
mod signed;

use std::{collections::BTreeMap, fmt, path::Path};

use serde_json::Value;

pub use encoding::FORMAT;
pub use manifest::Manifest;
pub use signed::{SIGNATURE_PREFIX, SignedBundle, Trust};

use crate::{
    Error, json,
    limits::{BUNDLE_BYTES_MAX, DATA_BYTES_MAX, MODULE_BYTES_MAX, MODULES_MAX},
};

/// BLAKE3 of a bundle's canonical bytes: its identity. Two bundles with one digest judge alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        blake3::Hash::from_bytes(self.0).to_hex().fmt(f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Policies in Rego with their tests and data. Cannot be changed once built, so that its digest stays true.
///
/// A bundle that exists is well-formed and within the limits; whether its modules compile is what [`Bundle::check`] and
/// [`Compiled::new`](crate::Compiled::new) say.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    manifest: Manifest,
    modules: BTreeMap<String, String>,
    data: String,
    digest: Digest,
}

impl Bundle {
    /// Puts a bundle together. `modules` are pairs of path and Rego text; modules whose path ends in `_test.rego`, or whose package's
    /// name ends in `_test`, are its tests.
    ///
    /// # Errors
    /// A manifest or path that is malformed, a path twice (also if they differ in case alone), data that is no object, and everything
    /// over the [limits](crate::limits).
    pub fn new(manifest: Manifest, modules: impl IntoIterator<Item = (String, String)>, data: &Value) -> Result<Self, Error> {
        manifest.check()?;
        let modules = gather(modules)?;
        if !data.is_object() {
            return Err(Error::malformed("data", "must be a JSON object, for its fields become `data.<field>`"));
        }
        json::check_depth("data", data)?;
        let data = json::canonical(data);
        Error::at_most("data, in bytes", DATA_BYTES_MAX, data.len())?;
        let mut bundle = Self { manifest, modules, data, digest: Digest([0; 32]) };
        let bytes = bundle.to_bytes();
        Error::at_most("the bundle, in bytes", BUNDLE_BYTES_MAX, bytes.len())?;
        bundle.digest = Digest::of(&bytes);
        Ok(bundle)
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// Bytes that are no bundle, that are not exactly what [`to_bytes`](Self::to_bytes) would write, or whose content
    /// [`new`](Self::new) would refuse.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        Error::at_most("the bundle, in bytes", BUNDLE_BYTES_MAX, bytes.len())?;
        let (manifest, modules, data) = encoding::decode(bytes)?;
        let bundle = Self::new(manifest, modules, &data)?;
        // One bundle has one digest: whatever else the bytes could say in another way is refused here.
        if bundle.digest != Digest::of(bytes) {
            return Err(Error::Encoding("its bytes are not in canonical form; build it again with tarn".into()));
        }
        Ok(bundle)
    }

    /// The canonical bytes: equal for equal bundles, on every machine. See [the format](crate#the-format-of-a-bundle).
    pub fn to_bytes(&self) -> Vec<u8> {
        encoding::encode(&self.manifest, &self.modules, &self.data)
    }

    /// Reads a folder: `bundle.toml` is the manifest, every `*.rego` below the folder a module, and `data.json`, if it is there, the data.
    /// Other files are ignored, and so is what has a name that starts with a dot. Symbolic links are refused.
    ///
    /// # Errors
    /// A folder that cannot be read, and what [`new`](Self::new) refuses.
    pub fn from_directory(folder: &Path) -> Result<Self, Error> {
        directory::read(folder)
    }

    /// Writes the bundle as a folder that [`from_directory`](Self::from_directory) reads. The folder is created; it must not hold
    /// anything yet.
    ///
    /// # Errors
    /// A folder that is not empty or cannot be written.
    pub fn to_directory(&self, folder: &Path) -> Result<(), Error> {
        directory::write(self, folder)
    }

    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// Its version.
    pub fn version(&self) -> &semver::Version {
        &self.manifest.version
    }

    /// The environment that it is meant for.
    pub fn environment(&self) -> &str {
        &self.manifest.environment
    }

    /// Path and text of every module, in ascending order of paths.
    pub fn modules(&self) -> impl Iterator<Item = (&str, &str)> {
        self.modules.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The text of one module.
    pub fn module(&self, path: &str) -> Option<&str> {
        self.modules.get(path).map(String::as_str)
    }

    /// The data document as canonical JSON; `{}` if there is none.
    pub fn data(&self) -> &str {
        &self.data
    }

    /// BLAKE3 of the canonical bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Manifest { name, version, .. } = &self.manifest;
        write!(f, "Bundle({name} {version}, {} modules, {})", self.modules.len(), self.digest)
    }
}

/// Checks paths and sizes, and refuses what is there twice.
fn gather(modules: impl IntoIterator<Item = (String, String)>) -> Result<BTreeMap<String, String>, Error> {
    let mut gathered = BTreeMap::new();
    let mut folded = std::collections::BTreeSet::new();
    for (path, text) in modules {
        path::check(&path)?;
        Error::at_most(format!("{path}, in bytes"), MODULE_BYTES_MAX, text.len())?;
        // Folders on some systems cannot hold both, so the bundle could not be written out.
        if !folded.insert(path.to_ascii_lowercase()) {
            return Err(Error::malformed(path, "is there twice; paths may not differ in case alone either"));
        }
        gathered.insert(path, text);
        Error::at_most("the number of modules", MODULES_MAX, gathered.len())?;
    }
    if gathered.is_empty() {
        return Err(Error::malformed("modules", "the bundle has none; it needs at least one file that ends in .rego"));
    }
    Ok(gathered)
}
