//! Named points in the code at which a test build dies, to show that a crash there loses nothing.
//!
//! Each durable step has a point on both sides of it. In a normal build [`point`] is an empty function that the
//! compiler removes. With the feature `crash-points`, a process whose environment has [`VARIABLE`] set to the name of
//! a point aborts when it reaches it: no destructor runs, no buffer is flushed, as after `kill -9`.
//!
//! `TARN_CRASH_POINT=log.append.before` dies at the first visit, `TARN_CRASH_POINT=log.append.before:3` at the third.
//! The names belong to whoever places the points; this module knows none.

/// The environment variable that names the point to die at.
pub const VARIABLE: &str = "TARN_CRASH_POINT";

/// Does nothing.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn point(_name: &str) {}

/// Aborts the process if the environment asks for it at this point.
#[cfg(feature = "crash-points")]
pub fn point(name: &str) {
    use std::sync::OnceLock;

    static ARMED: OnceLock<Option<armed::Armed>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let setting = std::env::var(VARIABLE).ok()?;
        Some(armed::Armed::parse(&setting))
    });
    if armed.as_ref().is_some_and(|armed| armed.visit(name)) {
        eprintln!("crash point {name:?} reached: aborting, as {VARIABLE} asks");
        std::process::abort();
    }
}

#[cfg(any(test, feature = "crash-points"))]
mod armed {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The one point that the environment armed, and how often it is still to be passed unharmed.
    #[derive(Debug)]
    pub(super) struct Armed {
        name: String,
        visits_before_crash: AtomicU64,
    }

    impl Armed {
        /// Reads `name` or `name:visit`, counting visits from one.
        ///
        /// Panics on a visit that is not a positive number: a test that arms nothing would prove nothing.
        pub(super) fn parse(setting: &str) -> Self {
            let (name, visit) = match setting.rsplit_once(':') {
                None => (setting, 1),
                Some((name, visit)) => (
                    name,
                    visit
                        .parse::<u64>()
                        .ok()
                        .filter(|visit| *visit > 0)
                        .expect("the visit after the colon of a crash point is a positive number"),
                ),
            };
            Self { name: name.to_owned(), visits_before_crash: AtomicU64::new(visit - 1) }
        }

        /// Counts a visit, and says whether it is the one to die at.
        pub(super) fn visit(&self, name: &str) -> bool {
            name == self.name
                && self.visits_before_crash.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::armed::Armed;

    #[test]
    fn a_bare_name_dies_at_the_first_visit() {
        let armed = Armed::parse("append");
        assert!(!armed.visit("other"));
        assert!(armed.visit("append"));
    }

    #[test]
    fn a_number_says_at_which_visit() {
        let armed = Armed::parse("append:3");
        assert!(!armed.visit("append"));
        assert!(!armed.visit("other"));
        assert!(!armed.visit("append"));
        assert!(armed.visit("append"));
    }

    #[test]
    #[should_panic(expected = "positive number")]
    fn a_setting_that_arms_nothing_is_refused() {
        Armed::parse("append:soon");
    }
}
