//! The users of the simulated cluster: clients that submit and ask, workers that lease and report, and the ledger of what they were told.

pub mod client;
pub mod ledger;
pub mod session;
pub mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What everybody does at the moment. Clones share it.
#[derive(Clone, Default)]
pub struct Phase(Arc<AtomicU8>);

/// See [`Phase`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Doing {
    /// Clients submit, workers misbehave now and then.
    Work,
    /// Clients only try whether the cluster takes writes; workers finish what there is, and behave.
    Drain,
    /// Everybody stops.
    Rest,
}

impl Phase {
    /// What everybody does.
    pub fn get(&self) -> Doing {
        match self.0.load(Ordering::Relaxed) {
            0 => Doing::Work,
            1 => Doing::Drain,
            _ => Doing::Rest,
        }
    }

    /// Everybody does something else from now on.
    pub fn set(&self, doing: Doing) {
        self.0.store(doing as u8, Ordering::Relaxed);
    }
}

/// The one namespace of the simulation.
pub const NAMESPACE: &str = "default";

/// The principal of everybody in the simulation: a request id belongs to it.
pub const PRINCIPAL: &str = "tarn://sim/user/sim";

/// What a worker answers for a payload under a token: so that a result names the attempt that it came from.
pub fn result_of(payload: &[u8], token: u64) -> Vec<u8> {
    let mut result = token.to_be_bytes().to_vec();
    result.extend_from_slice(&crate::dice::hash(payload).to_be_bytes());
    result
}
