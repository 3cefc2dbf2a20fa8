//! Bugs planted on purpose, to show that simulation and fault injection find what they are there to find.
//!
//! In a normal build [`planted`] is a constant `false`, and the compiler removes what it guards. With the feature `canary`, one bug at a time
//! can be switched on: by [`plant`], or by the environment variable `TARN_CANARY` for a process of its own. The names belong to whoever
//! plants; this module knows none.

/// Never.
#[cfg(not(feature = "canary"))]
#[inline(always)]
pub fn planted(_bug: &str) -> bool {
    false
}

/// Whether this bug is switched on.
#[cfg(feature = "canary")]
pub fn planted(bug: &str) -> bool {
    PLANTED.get_or_init(|| std::env::var("TARN_CANARY").unwrap_or_default()) == bug
}

#[cfg(feature = "canary")]
static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Switches a bug on, for the rest of this process, whatever the environment says. Counts before the first visit to any bug.
#[cfg(feature = "canary")]
pub fn plant(bug: &str) {
    PLANTED.get_or_init(|| bug.to_owned());
}
