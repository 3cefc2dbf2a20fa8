//! Bugs planted on purpose, to show that the simulation finds what it is there to find.
//!
//! In a normal build [`planted`] is a constant `false`, and the compiler removes what it guards. With the feature `canary`, one bug at a time
//! can be switched on by [`plant`]. The names belong to whoever plants; this module knows none.

/// Never.
#[cfg(not(feature = "canary"))]
#[inline(always)]
pub fn planted(_bug: &str) -> bool {
    false
}

/// Whether this bug is switched on.
#[cfg(feature = "canary")]
pub fn planted(bug: &str) -> bool {
    PLANTED.get().is_some_and(|planted| planted == bug)
}

#[cfg(feature = "canary")]
static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Switches a bug on, for the rest of this process. The first call counts.
#[cfg(feature = "canary")]
pub fn plant(bug: &str) {
    PLANTED.get_or_init(|| bug.to_owned());
}
