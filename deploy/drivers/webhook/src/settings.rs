//! The configuration.

use std::collections::BTreeMap;

use serde::Deserialize;

/// 128 bits, written in any way.
const SECRET_BYTES_MIN: usize = 16;
/// Half of what a call of a driver may take by default, so that a receiver that hangs is an error, and no broken driver.
const TIMEOUT_MS_DEFAULT: u32 = 10_000;
const TIMEOUT_MS: std::ops::RangeInclusive<u32> = 100..=60_000;

/// Where events go.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub url: String,
    #[serde(default)]
    pub secret: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default = "timeout_default")]
    pub timeout_ms: u32,
    #[serde(default)]
    pub rejected: Rejected,
}

/// What becomes of an event that the receiver says it will never take.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Rejected {
    #[default]
    Retry,
    Skip,
}

fn timeout_default() -> u32 {
    TIMEOUT_MS_DEFAULT
}

impl Settings {
    /// Reads them. The error says what to change.
    pub fn parse(config: &str) -> Result<Self, String> {
        let settings: Self = serde_json::from_str(config).map_err(|error| format!("the configuration: {error}"))?;
        if !settings.url.starts_with("https://") && !settings.url.starts_with("http://") {
            return Err(format!("url must begin with https:// or http://, and is {:?}", settings.url));
        }
        if settings.secret.as_ref().is_some_and(|secret| secret.len() < SECRET_BYTES_MIN) {
            return Err(format!("secret is too short: it needs at least {SECRET_BYTES_MIN} characters"));
        }
        if !TIMEOUT_MS.contains(&settings.timeout_ms) {
            return Err(format!("timeout_ms must be from {} to {}", TIMEOUT_MS.start(), TIMEOUT_MS.end()));
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        let settings = Settings::parse(r#"{"url":"https://a.b/c"}"#).unwrap();
        assert_eq!((settings.timeout_ms, settings.rejected), (TIMEOUT_MS_DEFAULT, Rejected::Retry));
        for (config, said) in [
            ("", "configuration"),
            ("{}", "url"),
            (r#"{"url":"ftp://a.b"}"#, "https://"),
            (r#"{"url":"https://a.b","secret":"short"}"#, "secret"),
            (r#"{"url":"https://a.b","timeout_ms":1}"#, "timeout_ms"),
            (r#"{"url":"https://a.b","retries":3}"#, "retries"),
        ] {
            let error = Settings::parse(config).unwrap_err();
            assert!(error.contains(said), "{config}: {error}");
        }
    }
}
