//! Which nodes have an artifact.

use std::collections::BTreeSet;

use futures::future::join_all;
use tarn_raft::Peer;

use super::{ArtifactError, Artifacts, error, receive};

impl Artifacts {
    /// The ids of the nodes that have this artifact on disk now, `own_id` among them if it is here. A peer that gives no answer counts as one
    /// that has not.
    ///
    /// # Errors
    /// A name that is none; what this node's disk refuses.
    pub async fn holders(&self, own_id: u64, name: &str) -> Result<BTreeSet<u64>, ArtifactError> {
        let hash = error::parse_name(name)?;
        let store = self.shared.store.clone();
        let here = receive::blocking(move || store.contains(&hash)).await?;
        let peers = self.shared.members.others();
        let others = join_all(peers.iter().map(|member| self.holds(&member.peer, name))).await;
        Ok(others.into_iter().flatten().chain(here.then_some(own_id)).collect())
    }

    /// The peer's id if it has this artifact.
    async fn holds(&self, peer: &Peer, name: &str) -> Option<u64> {
        // The page that begins at this very name.
        match self.shared.list_page(peer, before(name)).await {
            Ok(page) => page.first().is_some_and(|first| first == name).then_some(peer.id),
            Err(fault) => {
                tracing::debug!(peer = peer.id, %fault, "a peer did not say what artifacts it has");
                None
            }
        }
    }
}

/// The name right before this one in the order of names; empty for the first.
fn before(name: &str) -> String {
    const DIGITS: &[u8] = b"0123456789abcdef";
    let (prefix, digits) = name.split_at(name.len().saturating_sub(64));
    let mut digits = digits.as_bytes().to_vec();
    for digit in digits.iter_mut().rev() {
        match DIGITS.iter().position(|known| known == digit) {
            // Borrows from the next one.
            Some(0) => *digit = b'f',
            Some(place) => {
                *digit = DIGITS[place - 1];
                return format!("{prefix}{}", String::from_utf8_lossy(&digits));
            }
            None => break,
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_before_borrows_where_it_must() {
        let name = |end: &str| format!("blake3:{}{end}", "3".repeat(64 - end.len()));
        assert_eq!(before(&name("5")), name("4"));
        assert_eq!(before(&name("a00")), name("9ff"));
        assert_eq!(before(&format!("blake3:{}", "0".repeat(64))), "");
    }
}
