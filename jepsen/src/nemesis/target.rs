//! Whom a fault hits.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use serde::Serialize;

use crate::cluster::Cluster;

/// How many nodes a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// The leader, or a random node while there is none.
    Leader,
    /// One node.
    One,
    /// As many as the cluster can lose.
    Minority,
    /// The fewest without which nothing goes.
    Majority,
    /// All of them.
    All,
}

impl Size {
    /// Mostly what a cluster survives, sometimes what it has to wait out.
    pub(super) fn drawn(rng: &mut StdRng) -> Self {
        let weighted =
            [Self::Leader, Self::Leader, Self::Leader, Self::One, Self::One, Self::Minority, Self::Minority, Self::Majority, Self::All];
        weighted.choose(rng).copied().unwrap_or(Self::One)
    }

    /// How many of a cluster of this size.
    fn of(self, nodes: usize) -> usize {
        match self {
            Self::Leader | Self::One => 1,
            Self::Minority => (nodes.saturating_sub(1) / 2).max(1),
            Self::Majority => nodes / 2 + 1,
            Self::All => nodes,
        }
        .min(nodes)
    }
}

/// Nodes that run and are not paused, as many as asked for.
pub(super) async fn drawn(size: Size, cluster: &Cluster, rng: &mut StdRng) -> Vec<u64> {
    let leader = match size {
        Size::Leader => cluster.leader().await,
        _ => None,
    };
    chosen(size, cluster.ids().len(), active(cluster), leader, rng)
}

/// Nodes that run and are not paused.
pub(super) fn active(cluster: &Cluster) -> Vec<u64> {
    let paused = cluster.paused();
    cluster.running().into_iter().filter(|id| !paused.contains(id)).collect()
}

fn chosen(size: Size, nodes: usize, mut active: Vec<u64>, leader: Option<u64>, rng: &mut StdRng) -> Vec<u64> {
    if let Some(leader) = leader.filter(|leader| active.contains(leader)) {
        return vec![leader];
    }
    active.shuffle(rng);
    active.truncate(size.of(nodes));
    active.sort_unstable();
    active
}

/// Two groups of these nodes, of which the first is a minority. Sometimes the leader is in it.
pub(super) fn halves(mut ids: Vec<u64>, leader: Option<u64>, rng: &mut StdRng) -> (Vec<u64>, Vec<u64>) {
    ids.shuffle(rng);
    if let Some(leader) = leader
        && rng.random_bool(0.5)
    {
        // To the front: what is in front is the minority.
        ids.sort_by_key(|id| *id != leader);
    }
    let majority = ids.split_off(Size::Minority.of(ids.len()));
    (ids, majority)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn sizes_are_what_they_say() {
        let sizes = [Size::One, Size::Minority, Size::Majority, Size::All];
        assert_eq!(sizes.map(|size| size.of(3)), [1, 1, 2, 3]);
        assert_eq!(sizes.map(|size| size.of(5)), [1, 2, 3, 5]);
        assert_eq!(sizes.map(|size| size.of(4)), [1, 1, 3, 4]);
        assert_eq!(sizes.map(|size| size.of(1)), [1, 1, 1, 1]);
    }

    #[test]
    fn targets_run_and_the_leader_is_hit_when_it_is_meant() {
        let rng = &mut StdRng::seed_from_u64(3);
        assert_eq!(chosen(Size::Leader, 3, vec![1, 2, 3], Some(2), rng), [2]);
        assert_eq!(chosen(Size::Leader, 3, vec![1], Some(2), rng), [1]);
        assert_eq!(chosen(Size::Majority, 5, vec![1, 4], None, rng), [1, 4]);
        assert_eq!(chosen(Size::All, 3, vec![1, 2, 3], None, rng), [1, 2, 3]);
        assert!(chosen(Size::One, 3, vec![], None, rng).is_empty());
    }

    #[test]
    fn every_size_comes_up() {
        let rng = &mut StdRng::seed_from_u64(1);
        let drawn: Vec<Size> = (0..200).map(|_| Size::drawn(rng)).collect();
        for size in [Size::Leader, Size::One, Size::Minority, Size::Majority, Size::All] {
            assert!(drawn.contains(&size), "{size:?}");
        }
    }

    #[test]
    fn the_first_half_is_a_minority_and_the_leader_is_on_either_side() {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut sides = [0, 0];
        for _ in 0..100 {
            let (minority, majority) = halves(vec![1, 2, 3, 4, 5], Some(3), rng);
            assert_eq!((minority.len(), majority.len()), (2, 3));
            sides[usize::from(minority.contains(&3))] += 1;
        }
        assert!(sides.iter().all(|times| *times > 10), "{sides:?}");
    }
}
