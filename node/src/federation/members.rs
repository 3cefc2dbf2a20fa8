//! Who is in the federation, as this node's state has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use tarn_client::tls::{CaCertificate, ForeignRoots, JoinGate};
use tarn_crdt::{Cluster, ClusterId, Scope, clusters_of};
use tarn_machine::Machine;
use tarn_proto::v1::{ClusterCard, FederatedCluster};
use tarn_raft::Consensus;

use super::admit::names;

/// A trusted member.
#[derive(Clone)]
pub(super) struct Member {
    pub id: ClusterId,
    /// Its authority's name, which is its own in the federation.
    pub name: String,
    pub root: Arc<CaCertificate>,
    /// Where its gateways listen, as host:port.
    pub addresses: Vec<String>,
}

/// All clusters that were ever introduced, removed ones too. The room bounds how many there can be.
pub(super) fn clusters(machine: &Machine) -> Vec<Cluster> {
    let sections = ["directory/", "member/", "removed/"];
    let entries = sections.iter().flat_map(|section| machine.shared_entries(section).unwrap_or_default());
    clusters_of(entries)
}

/// What the other members that are trusted could take on, in the encoding of `ClusterCapacity`, with their names.
pub(super) fn capacities(machine: &Machine) -> Vec<(ClusterId, String, Vec<u8>)> {
    let own = own_id(machine);
    let said = machine.shared_entries("capacity/").unwrap_or_default();
    let mut said: BTreeMap<String, Vec<u8>> = said.into_iter().collect();
    let others = clusters(machine).into_iter().filter(|known| Some(known.id) != own && !known.removed);
    others.filter_map(|known| Some((known.id, card(&known).name, said.remove(&format!("capacity/{}", known.id))?))).collect()
}

/// The card with which a cluster was introduced.
pub(super) fn card(cluster: &Cluster) -> ClusterCard {
    ClusterCard::decode(cluster.card.as_slice()).unwrap_or_default()
}

/// This cluster's id in its federation.
pub(super) fn own_id(machine: &Machine) -> Option<ClusterId> {
    id_of(&machine.federation()?.identity.card.unwrap_or_default())
}

fn id_of(card: &ClusterCard) -> Option<ClusterId> {
    Some(ClusterId(card.cluster_id.as_ref().try_into().ok()?))
}

/// The members that are trusted now, this cluster not among them. The inviter counts until the document says more.
pub(super) fn others(machine: &Machine) -> Vec<Member> {
    let (Some(own), Some(federation)) = (own_id(machine), machine.federation()) else { return Vec::new() };
    let known = clusters(machine);
    let is_known = |card: &ClusterCard| known.iter().any(|cluster| Some(cluster.id) == id_of(card));
    let inviter = federation.identity.inviter.filter(|card| !is_known(card));
    let inviter = inviter.and_then(|card| member(&card, &[]));
    let introduced = known.iter().filter(|cluster| !cluster.removed).filter_map(|cluster| {
        let gateways = cluster.entry.as_ref().map(|entry| entry.gateways.as_slice()).unwrap_or_default();
        member(&card(cluster), gateways)
    });
    introduced.chain(inviter).filter(|member| member.id != own).collect()
}

/// What this cluster may write; `None` while it has not heard of its own introduction.
pub(super) fn own_scope(machine: &Machine) -> Option<Scope> {
    let own = own_id(machine)?;
    clusters(machine).into_iter().find(|cluster| cluster.id == own).map(|cluster| cluster.scope)
}

/// Where the gateways of this cluster listen, as its own entry says.
pub(super) fn own_addresses(machine: &Machine) -> Vec<String> {
    let own = own_id(machine);
    let entry = clusters(machine).into_iter().find(|cluster| Some(cluster.id) == own).and_then(|cluster| cluster.entry);
    entry.unwrap_or_default().gateways
}

/// Whether others can dial this cluster.
pub(super) fn can_be_dialled(machine: &Machine) -> bool {
    !own_addresses(machine).is_empty()
}

/// All members, for people.
#[must_use]
pub fn list(machine: &Machine) -> Vec<FederatedCluster> {
    let (own, known) = (own_id(machine), clusters(machine));
    let name_of = |id: &ClusterId| known.iter().find(|cluster| cluster.id == *id).map(|cluster| card(cluster).name);
    let told = known.iter().map(|cluster| {
        let card = card(cluster);
        let by = cluster.introduced_by.iter().filter(|by| **by != cluster.id).filter_map(name_of);
        FederatedCluster {
            cluster_id: cluster.id.to_string(),
            name: card.name,
            addresses: cluster.entry.as_ref().map(|entry| entry.gateways.clone()).unwrap_or(card.addresses),
            scope: names(cluster.scope),
            introduced_by: by.collect::<Vec<_>>().join(", "),
            is_this: Some(cluster.id) == own,
            removed: cluster.removed,
        }
    });
    told.collect()
}

fn member(card: &ClusterCard, addresses: &[String]) -> Option<Member> {
    let root = CaCertificate::from_pem("a member's root certificate", card.ca_certificate.as_bytes()).ok()?;
    let addresses = if addresses.is_empty() { &card.addresses } else { addresses };
    Some(Member {
        id: id_of(card)?,
        name: card.name.clone(),
        root: Arc::new(root),
        addresses: addresses.iter().take(tarn_machine::limits::GATEWAYS_MAX).cloned().collect(),
    })
}

/// The members' root certificates, for handshakes.
pub struct Roots {
    /// The state.
    pub consensus: Consensus,
}

impl ForeignRoots for Roots {
    fn roots_of(&self, cluster: &str) -> Vec<Arc<CaCertificate>> {
        let others = self.consensus.read(others).unwrap_or_default();
        others.into_iter().filter(|member| member.name == cluster).map(|member| member.root).collect()
    }
}

/// Which invitations may open a connection. One that was used stays until it expires, because a cluster whose answer was lost asks again;
/// whom it admits is decided by the command.
pub struct Invited {
    /// The state.
    pub consensus: Consensus,
}

impl JoinGate for Invited {
    fn is_outstanding(&self, spki_hash: &[u8; 32]) -> bool {
        self.consensus.read(|machine| machine.invitation_scope(spki_hash).is_some()).unwrap_or(false)
    }
}
