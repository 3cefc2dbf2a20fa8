//! When each peer was last in touch, in either direction.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tarn_raft::NodeId;
use tokio::sync::watch;

use super::limits::CONTACT_FRESH;

/// Remembers the last sign of life of each peer, and tells when one is back after a silence.
#[derive(Debug)]
pub struct Contacts {
    last: Mutex<BTreeMap<NodeId, Instant>>,
    returns: watch::Sender<u64>,
}

impl Default for Contacts {
    fn default() -> Self {
        Self { last: Mutex::default(), returns: watch::Sender::new(0) }
    }
}

impl Contacts {
    /// Notes a sign of life. `peer` is authenticated: only nodes of this cluster get here, so the map stays as small as the
    /// cluster.
    pub fn mark(&self, peer: NodeId) {
        let before = self.lock().insert(peer, Instant::now());
        if before.is_none_or(|instant| instant.elapsed() > CONTACT_FRESH) {
            self.returns.send_modify(|count| *count += 1);
        }
    }

    /// Forgets a peer that failed to answer, so that its return is noticed.
    pub fn lost(&self, peer: NodeId) {
        self.lock().remove(&peer);
    }

    /// Whether the peer was in touch lately.
    pub fn is_fresh(&self, peer: NodeId) -> bool {
        self.lock().get(&peer).is_some_and(|instant| instant.elapsed() <= CONTACT_FRESH)
    }

    /// Changes whenever a peer appears for the first time or after a silence.
    pub fn returns(&self) -> watch::Receiver<u64> {
        self.returns.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_is_told_once() {
        let contacts = Contacts::default();
        let mut returns = contacts.returns();
        assert!(!contacts.is_fresh(2));
        contacts.mark(2);
        assert!(contacts.is_fresh(2) && returns.has_changed().unwrap());
        returns.mark_unchanged();
        contacts.mark(2);
        assert!(!returns.has_changed().unwrap(), "it was here all the time");
        contacts.lost(2);
        assert!(!contacts.is_fresh(2));
        contacts.mark(2);
        assert!(returns.has_changed().unwrap());
    }
}
