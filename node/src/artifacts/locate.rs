//! Which nodes have an artifact.

use std::collections::BTreeSet;

use super::{ArtifactError, Artifacts, error};

impl Artifacts {
    /// The ids of the nodes that have this artifact on disk now, `own_id` among them if it is here. A peer that gives no answer counts as one
    /// that has not.
    ///
    /// # Errors
    /// A name that is none; what this node's disk refuses.
    pub async fn holders(&self, own_id: u64, name: &str) -> Result<BTreeSet<u64>, ArtifactError> {
        let hash = error::parse_name(name)?;
        let mut holders = BTreeSet::new();
        if self.list().await?.iter().any(|info| info.hash == hash) {
            holders.insert(own_id);
        }
        for member in self.shared.members.others() {
            // The page that begins at this very name.
            match self.shared.list_page(&member.peer, before(name)).await {
                Ok(page) if page.first().is_some_and(|first| first == name) => drop(holders.insert(member.peer.id)),
                Ok(_) => {}
                Err(fault) => {
                    tracing::debug!(peer = member.peer.id, %fault, "a peer did not say what artifacts it has")
                }
            }
        }
        Ok(holders)
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
