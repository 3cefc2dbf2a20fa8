//! Keeps this cluster's own entry in the directory true: where its gateways listen.

use std::collections::BTreeSet;
use std::time::Duration;

use tarn_crdt::Entry;
use tarn_proto::v1::peer_federation_answer::Answer;
use tarn_proto::v1::peer_federation_question::Question;
use tarn_proto::v1::{PeerFederationGateway, PeerFederationQuestion, SharedEntry, WriteShared};
use tokio::time::Instant;

use super::{Federation, members};
use crate::peer::Traffic;

/// How often the nodes are asked where their gateways listen.
const EVERY: Duration = Duration::from_secs(5);

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Works until it is dropped.
pub(super) async fn run(federation: Federation) {
    loop {
        publish(&federation).await;
        tokio::time::sleep(EVERY).await;
    }
}

async fn publish(federation: &Federation) {
    let known = federation.way().consensus().read(own_entry).ok().flatten();
    let Some((id, known)) = known else { return };
    let (mut gateways, all_answered) = gateways(federation).await;
    let before = known.clone().unwrap_or_default().gateways;
    if !all_answered {
        // A node that is away may come back.
        gateways.extend(before);
    }
    let name = federation.credentials().ca().cluster().to_owned();
    let entry = Entry { name, gateways: gateways.into_iter().collect() };
    if known.as_ref() == Some(&entry) {
        return;
    }
    let (key, value) = tarn_crdt::Write::Entry(entry).put(id);
    let writes = vec![SharedEntry { key, value: value.map(Into::into) }];
    let (caller, write) = (federation.caller(), WriteShared { writes, ..WriteShared::default() });
    if let Err(refusal) = federation.way().command(&caller, write, Instant::now() + PATIENCE).await {
        tracing::debug!(reason = refusal.rejection.reason, "this cluster's entry in the directory is not written yet");
    }
}

/// Where the gateways of this cluster listen, and whether every node said so.
pub(super) async fn gateways(federation: &Federation) -> (BTreeSet<String>, bool) {
    let mut gateways: BTreeSet<String> = federation.gateway().into_iter().collect();
    let mut all_answered = true;
    let peers = federation.way().consensus().members();
    for (peer, _) in peers.into_iter().filter(|(peer, _)| peer.id != federation.node_id()) {
        let question = PeerFederationQuestion { question: Some(Question::Gateway(PeerFederationGateway::default())) };
        let asked = federation
            .links()
            .exchange(&peer, Traffic::Control, PATIENCE, |mut client| async move { client.ask_federation(question).await });
        match asked.await.map(|answered| answered.body.answer) {
            Ok(Some(Answer::Gateway(PeerFederationGateway { address }))) => gateways.extend((!address.is_empty()).then_some(address)),
            _ => all_answered = false,
        }
    }
    (gateways, all_answered)
}

/// This cluster's id, and what it says of itself.
fn own_entry(machine: &tarn_machine::Machine) -> Option<(tarn_crdt::ClusterId, Option<Entry>)> {
    let own = members::own_id(machine)?;
    let entry = members::clusters(machine).into_iter().find(|cluster| cluster.id == own).and_then(|cluster| cluster.entry);
    Some((own, entry))
}
