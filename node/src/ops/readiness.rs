//! Is the node ready for traffic? Named checks, each with its own answer.

use std::sync::{Arc, RwLock};

/// One check: `Ok`, or why not.
pub type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The checks behind `/readyz`. Clones share them.
#[derive(Clone, Default)]
pub struct Readiness {
    checks: Arc<RwLock<Vec<(&'static str, Check)>>>,
}

impl Readiness {
    /// Adds a check. The node is ready when all pass.
    pub fn add(&self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.checks.write().expect("no holder of this lock panics").push((name, Box::new(check)));
    }

    /// The answers of all checks but the excluded ones.
    #[must_use]
    pub fn answers(&self, exclude: &[&str]) -> Vec<(&'static str, Result<(), String>)> {
        let checks = self.checks.read().expect("no holder of this lock panics");
        checks.iter().filter(|(name, _)| !exclude.contains(name)).map(|(name, check)| (*name, check())).collect()
    }

    /// Whether every check passes.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.answers(&[]).iter().all(|(_, answer)| answer.is_ok())
    }
}
