//! The revoked certificates: asked at each handshake, and told of each change, with which the connections of a revoked certificate are cut.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tarn_client::tls::{LiveConnections, Revocations};
use tarn_machine::Access;

/// What this node knows to be revoked. Clones share it.
#[derive(Clone)]
pub struct Revoked {
    list: List,
    live: LiveConnections,
}

#[derive(Clone, Default)]
struct List(Arc<ArcSwap<Access>>);

impl Default for Revoked {
    fn default() -> Self {
        let list = List::default();
        Self {
            live: LiveConnections::asking(Arc::new(list.clone())),
            list,
        }
    }
}

impl Revoked {
    /// The connections that are cut when their certificate is revoked: where listeners and dialers enter theirs.
    #[must_use]
    pub fn live(&self) -> &LiveConnections {
        &self.live
    }

    /// Takes over the state's present list. From then on handshakes with a revoked certificate are refused, and what stands on one is cut.
    pub fn update(&self, access: Arc<Access>) {
        if Arc::ptr_eq(&self.list.0.load(), &access) {
            return;
        }
        // In this order: a connection that is entered too late to be found here is judged by the new list when it is.
        self.list.0.store(access.clone());
        let cut = self.live.cut(|serial| access.revoked.contains_key(serial));
        if cut > 0 {
            tracing::warn!(connections = cut, "cut connections whose certificate is revoked");
        }
    }
}

impl Revocations for Revoked {
    fn is_revoked(&self, serial: &str) -> bool {
        self.list.is_revoked(serial)
    }
}

impl Revocations for List {
    fn is_revoked(&self, serial: &str) -> bool {
        self.0.load().revoked.contains_key(serial)
    }
}

impl fmt::Debug for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revoked({})", self.list.0.load().revoked.len())
    }
}
