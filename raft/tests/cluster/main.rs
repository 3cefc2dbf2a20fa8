//! Whole clusters in one process.

#[path = "../support/mod.rs"]
mod support;

mod failures;
mod membership;
mod quotas;
mod service;
mod time;
mod versions;

/// Two threads for the nodes of a test, as on the smallest machine that is promised to work.
macro_rules! cluster_test {
    ($(#[$meta:meta])* async fn $name:ident() $body:block) => {
        $(#[$meta])*
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() $body
    };
}
pub(crate) use cluster_test;
