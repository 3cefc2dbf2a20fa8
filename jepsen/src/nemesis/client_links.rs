//! Clients lose nodes from sight, while the nodes still see each other.
//!
//! A node that no client reaches may lead; one that clients reach and that cannot answer does what it is asked, and nobody hears of it: the
//! outcomes stay unknown. What the harness itself asks the nodes goes the same way, as an operator's questions would.

use anyhow::Result;
use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde::Serialize;
use serde_json::{Value, json};

use super::target::{Size, drawn};
use super::{Injected, Nemesis, Rhythm, slow};
use crate::cluster::Cluster;
use crate::cluster::net::{Link, OUTSIDE};

/// What becomes of the links between clients and a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// Nothing gets through.
    Cut,
    /// Requests are lost.
    Deaf,
    /// Answers are lost.
    Mute,
    /// Everything gets through, and late.
    Slow,
}

const WAYS: [Way; 4] = [Way::Cut, Way::Deaf, Way::Mute, Way::Slow];
/// A majority that clients reach is left.
const SIZES: [Size; 3] = [Size::Leader, Size::One, Size::Minority];

/// Cuts or slows links between clients and some nodes, and takes it back.
#[derive(Default)]
pub struct ClientLinks {
    cut: Vec<Link>,
    slowed: Vec<Link>,
}

#[async_trait]
impl Nemesis for ClientLinks {
    fn name(&self) -> &'static str {
        "client-links"
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        let way = WAYS.choose(rng).copied().unwrap_or(Way::Cut);
        let size = SIZES.choose(rng).copied().unwrap_or(Size::One);
        let targets = drawn(size, cluster, rng).await;
        let links = links(way, &targets);
        let mut what = json!({ "way": way, "size": size, "nodes": targets });
        // Noted first: what is harmed only in part is healed too.
        if way == Way::Slow {
            let (kind, slowness) = slow::slowness(rng);
            self.slowed.extend(&links);
            cluster.net().slow(&links, slowness)?;
            what["kind"] = json!(kind);
            what["slowness"] = json!(slowness);
        } else {
            self.cut.extend(&links);
            cluster.net().cut(&links)?;
        }
        Ok(Injected::when(!links.is_empty(), what))
    }

    async fn heal(&mut self, cluster: &Cluster) -> Result<Value> {
        cluster.net().uncut(&self.cut)?;
        cluster.net().unslow(&self.slowed)?;
        let mut nodes: Vec<u64> = self.cut.drain(..).chain(self.slowed.drain(..)).map(node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        Ok(json!({ "reached": nodes }))
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(8, 6)
    }
}

/// The links between clients and these nodes that are harmed.
fn links(way: Way, nodes: &[u64]) -> Vec<Link> {
    let (requests, answers) = (way != Way::Mute, way != Way::Deaf);
    let both = nodes.iter().flat_map(|node| [(OUTSIDE, *node), (*node, OUTSIDE)]);
    both.filter(|(from, _)| if *from == OUTSIDE { requests } else { answers }).collect()
}

/// The node at a link's end.
fn node((from, to): Link) -> u64 {
    if from == OUTSIDE { to } else { from }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_are_harmed_each_alone_or_together() {
        assert_eq!(links(Way::Deaf, &[2, 3]), [(OUTSIDE, 2), (OUTSIDE, 3)]);
        assert_eq!(links(Way::Mute, &[2]), [(2, OUTSIDE)]);
        for way in [Way::Cut, Way::Slow] {
            assert_eq!(links(way, &[2]), [(OUTSIDE, 2), (2, OUTSIDE)]);
        }
        assert!(links(Way::Cut, &[]).is_empty());
    }

    #[test]
    fn no_link_between_nodes_is_touched_and_each_has_its_node() {
        for way in WAYS {
            let links = links(way, &[1, 2]);
            assert!(links.iter().all(|(from, to)| (*from == OUTSIDE) != (*to == OUTSIDE)));
            assert!(links.into_iter().all(|link| [1, 2].contains(&node(link))));
        }
    }
}
