//! What a bundle says of itself.

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    limits::{DESCRIPTION_BYTES_MAX, NAME_BYTES_MAX, VERSION_BYTES_MAX},
};

/// What a bundle says of itself: the content of `bundle.toml`. Fields that are not known are refused, for whoever wrote one relies on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format's version, 1. Left out, it is 1.
    #[serde(default = "format")]
    pub format: u32,
    /// The bundle's name. At most one version of each name is active in an environment. `[a-z0-9]` then `[a-z0-9._-]`, up to 64 bytes.
    pub name: String,
    /// A semantic version, such as `1.4.0`.
    #[serde(with = "version")]
    pub version: semver::Version,
    /// The environment it is meant for: `dev`, `stage`, `prod`, or another name in the form that bundles' names have.
    pub environment: String,
    /// What it is about, for people. May be empty.
    #[serde(default)]
    pub description: String,
}

impl Manifest {
    /// A manifest without a description.
    pub fn new(name: impl Into<String>, version: semver::Version, environment: impl Into<String>) -> Self {
        Self { format: format(), name: name.into(), version, environment: environment.into(), description: String::new() }
    }

    /// Refuses malformed fields.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.format != super::FORMAT {
            return Err(Error::Format { found: self.format, known: super::FORMAT });
        }
        check_name("name", &self.name)?;
        check_name("environment", &self.environment)?;
        Error::at_most("version, in bytes", VERSION_BYTES_MAX, self.version.to_string().len())?;
        Error::at_most("description, in bytes", DESCRIPTION_BYTES_MAX, self.description.len())
    }
}

fn format() -> u32 {
    super::FORMAT
}

/// The form of tarn's names: one label of a host name, or a bit more.
fn check_name(field: &str, name: &str) -> Result<(), Error> {
    Error::at_most(format!("{field}, in bytes"), NAME_BYTES_MAX, name.len())?;
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit());
    if starts && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)) {
        return Ok(());
    }
    let form = "must start with a small letter or a digit, and go on with those, '.', '_' or '-'";
    Err(Error::malformed(field, format!("{name:?} {form}")))
}

/// Versions as text. The crate's own support for serde is a feature that nothing else needs.
mod version {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(version: &semver::Version, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(version)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<semver::Version, D::Error> {
        let text = String::deserialize(deserializer)?;
        let refused = |why| D::Error::custom(format!("{text:?} is no semantic version such as 1.4.0: {why}"));
        semver::Version::parse(&text).map_err(refused)
    }
}
