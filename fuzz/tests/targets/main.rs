//! Fuzz targets: whatever comes in from outside is refused, or is what it says it is, and never brings a node down.
//!
//! `cargo test` gives each target the inputs in `__fuzz__/<target>/corpus`, and some thousand that are made up anew in each run; a failure
//! prints the `BOLERO_RANDOM_SEED` that repeats it. No engine that is guided by coverage has been let loose on them yet. An input that once
//! failed stays in the corpus.

mod commands;
mod credentials;
mod federation;
mod names;
mod policies;

/// Inputs that are made up in a run of the tests.
const ROUNDS: usize = 3_000;
/// Limit on their length, in bytes.
const LENGTH_MAX: usize = 1_024;

/// A target: feeds `$judge` with whatever the engine finds.
macro_rules! target {
    ($name:ident, $judge:expr) => {
        #[test]
        fn $name() {
            bolero::check!().with_iterations(crate::ROUNDS).with_max_len(crate::LENGTH_MAX).for_each($judge);
        }
    };
}
pub(crate) use target;
