//! Version vectors: how far one knows each cluster's change sets.

use crate::codec::{Malformed, Reader, Writer, ascending};
use crate::id::ClusterId;
use crate::limits::CLUSTERS_MAX;

/// For each cluster, the number of its last change set that is known. Change sets of a cluster are numbered from 1 in every epoch, and each
/// knows the one before it: so a vector names a set of them exactly.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Vector(Vec<(ClusterId, u64)>);

impl Vector {
    /// The last number known of a cluster; 0 for none.
    pub fn get(&self, cluster: ClusterId) -> u64 {
        self.find(cluster).map_or(0, |at| self.0[at].1)
    }

    /// Clusters and their last numbers, in the order of the clusters.
    pub fn iter(&self) -> impl Iterator<Item = (ClusterId, u64)> {
        self.0.iter().copied()
    }

    /// Does it know everything that `other` knows?
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|(cluster, seq)| self.get(cluster) >= seq)
    }

    pub(crate) fn raise(&mut self, cluster: ClusterId, seq: u64) {
        match self.find(cluster) {
            Ok(at) => self.0[at].1 = self.0[at].1.max(seq),
            Err(at) => self.0.insert(at, (cluster, seq)),
        }
    }

    pub(crate) fn join(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
            return;
        }
        for (cluster, seq) in other.iter() {
            self.raise(cluster, seq);
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.0.len() as u64);
        for (cluster, seq) in self.iter() {
            out.extend_from_slice(&cluster.0);
            out.number(seq);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let list = reader.list(CLUSTERS_MAX, |r| Ok((ClusterId(r.array()?), r.number()?)))?;
        ascending(&list.iter().map(|(cluster, _)| cluster).collect::<Vec<_>>())?;
        match list.iter().all(|(_, seq)| *seq > 0) {
            true => Ok(Self(list)),
            false => Err(Malformed("a version vector names a cluster of which it knows nothing")),
        }
    }

    fn find(&self, cluster: ClusterId) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(&cluster))
    }
}
