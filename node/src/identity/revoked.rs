//! The revoked certificates: asked at each handshake, told of each change, and the one who cuts what stands on them.

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
        Self { live: LiveConnections::asking(Arc::new(list.clone())), list }
    }
}

impl Revoked {
    /// The connections that are cut when their certificate is revoked: where listeners and dialers enter theirs.
    #[must_use]
    pub fn live(&self) -> &LiveConnections {
        &self.live
    }

    /// Takes over the state's present list. From then on handshakes with a revoked certificate are refused. Tells whether the list is another
    /// than before: then [`Revoked::cut`] is due.
    pub fn update(&self, access: Arc<Access>) -> bool {
        if Arc::ptr_eq(&self.list.0.load(), &access) {
            return false;
        }
        self.list.0.store(access);
        true
    }

    /// Cuts the connections that stand on a revoked certificate. One whose handshake saw an older list, and that is entered too late to be
    /// found here, is judged by the present one when it is.
    pub fn cut(&self) {
        let cut = self.live.cut(|serial| self.list.is_revoked(serial));
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
