//! The list of tests that this harness works through, and what covers each today.
//!
//! The list was drawn from what fault injection has found in neighbouring systems. A test whose subject tarn has is covered by runs of a
//! workload under nemeses, or elsewhere in the workspace; the others name the feature that they wait for.

/// One test of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Its number, from 1.
    pub number: u32,
    /// What is tried, and what must hold.
    pub subject: &'static str,
    /// What covers it.
    pub by: By,
}

/// What covers a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Runs of these workloads under these nemeses. The note says what of the test is left out, if anything is.
    Runs {
        /// Names of workloads.
        workloads: &'static [&'static str],
        /// Names of nemeses.
        nemeses: &'static [&'static str],
        /// What of it is left out, or how it is done.
        note: &'static str,
    },
    /// Another part of the workspace.
    Elsewhere(&'static str),
    /// Nothing: tarn does not have this yet.
    Waits(&'static str),
}

/// All of them, by number.
pub const TESTS: &[Test] = &[];
