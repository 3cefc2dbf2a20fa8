//! What the hub tells of itself.

use data_encoding::HEXLOWER;
use tarn_crdt::{ClusterId, Conflict, Version};
use tarn_proto::v1::{
    ConflictingValue, GetFederationStatusResponse, LinkState, LinkStatus, ListConflictsResponse, SharedConflict, SharedRefusal,
};

use super::ask::Ask;
use super::hub::Hub;
use super::members::{self, card};
use super::now_ms;
use crate::ops::{FederationBytes, FederationLink};

/// Conflicts that are told of at once.
const CONFLICTS_MAX: usize = 1_000;

impl Hub {
    /// Answers; whoever asked may have gone.
    pub(super) fn answer(&self, ask: Ask) {
        match ask {
            Ask::Status(answer) => drop(answer.send(self.status())),
            Ask::Conflicts(answer) => drop(answer.send(self.conflicts())),
        }
    }

    /// Tells the metrics how the links are.
    pub(super) fn measure(&mut self) {
        let metrics = self.federation.way().metrics().clone();
        let now = now_ms();
        for member in self.federation.others() {
            let label = FederationLink { cluster: member.name.clone() };
            let joint = self.joints.get_mut(&member.id);
            metrics.federation_link_up.get_or_create(&label).set(joint.is_some().into());
            let Some(joint) = joint else { continue };
            let lag = joint.differs_since_ms.map_or(0, |since| now.saturating_sub(since));
            metrics.federation_lag_milliseconds.get_or_create(&label).set(i64::try_from(lag).unwrap_or(i64::MAX));
            for (direction, bytes) in joint.bytes_since_measured() {
                let label = FederationBytes { cluster: member.name.clone(), direction };
                metrics.federation_bytes.get_or_create(&label).inc_by(bytes);
            }
        }
        metrics.federation_conflicts.set(i64::try_from(self.replica.conflict_count()).unwrap_or(i64::MAX));
        let unsigned = self.federation.way().consensus().read(|machine| machine.federation().map_or(0, |now| now.unsigned));
        metrics.federation_unsigned.set(i64::try_from(unsigned.unwrap_or_default()).unwrap_or(i64::MAX));
    }

    fn status(&self) -> GetFederationStatusResponse {
        let size = self.replica.size();
        let consensus = self.federation.way().consensus();
        let unsigned = consensus.read(|machine| machine.federation().map_or(0, |now| now.unsigned));
        GetFederationStatusResponse {
            federation_id: self.replica.federation().to_string(),
            cluster_id: self.replica.cluster().to_string(),
            name: self.name_of(self.replica.cluster()),
            digest: HEXLOWER.encode(&self.replica.digest()),
            unsigned_writes: unsigned.unwrap_or_default(),
            keys: self.replica.range("").count() as u64,
            live_bytes: size.base,
            history_bytes: size.history + size.retired,
            epoch: self.replica.epochs().1,
            conflicts: self.replica.conflict_count() as u64,
            refusals: self.replica.refusals().count() as u64,
            links: self.links(),
        }
    }

    fn links(&self) -> Vec<LinkStatus> {
        let clusters = self.federation.way().consensus().read(members::clusters).unwrap_or_default();
        let mut ids: Vec<(ClusterId, String, bool)> =
            clusters.iter().map(|cluster| (cluster.id, card(cluster).name, cluster.removed)).collect();
        // Whoever it joined by, until the document says who that is.
        ids.extend(
            self.federation
                .others()
                .into_iter()
                .filter(|member| clusters.iter().all(|known| known.id != member.id))
                .map(|member| (member.id, member.name, false)),
        );
        ids.retain(|(id, ..)| *id != self.replica.cluster());
        ids.into_iter().map(|(id, name, removed)| self.link(id, name, removed)).collect()
    }

    fn link(&self, id: ClusterId, name: String, removed: bool) -> LinkStatus {
        let joint = self.joints.get(&id);
        let state = match joint {
            _ if removed => LinkState::Removed,
            None => LinkState::Down,
            Some(joint) if joint.differs_since_ms.is_some() => LinkState::Syncing,
            Some(_) => LinkState::Equal,
        };
        let conflicts = self
            .replica
            .conflicts()
            .filter(|conflict| conflict.losers.iter().chain([&conflict.winner]).any(|version| version.author == id));
        let conflicts = conflicts.count() as u64;
        let last_error = self.failures.get(&id).cloned().unwrap_or_default();
        let down = LinkStatus { cluster_id: id.to_string(), name, state: state.into(), conflicts, last_error, ..LinkStatus::default() };
        let Some(joint) = joint else { return down };
        LinkStatus {
            address: joint.address().to_owned(),
            lag_ms: joint.differs_since_ms.map_or(0, |since| now_ms().saturating_sub(since)),
            bytes_sent: joint.bytes_sent,
            bytes_received: joint.bytes_received,
            equal_at_ms: joint.equal_at_ms,
            round_trip_us: joint.round_trip_us,
            ..down
        }
    }

    fn conflicts(&self) -> ListConflictsResponse {
        let refusals = self.replica.refusals().map(|refusal| SharedRefusal {
            at_ms: refusal.at_ms,
            from: self.name_of(refusal.from),
            author: self.name_of(refusal.author),
            reason: refusal.reason.name().to_owned(),
            detail: refusal.detail.clone(),
        });
        ListConflictsResponse {
            refusals: refusals.collect(),
            conflicts: self.replica.conflicts().take(CONFLICTS_MAX).map(|conflict| self.conflict(conflict)).collect(),
        }
    }

    fn conflict(&self, Conflict { key, winner, losers }: Conflict) -> SharedConflict {
        let later = losers.iter().all(|loser| loser.epoch < winner.epoch);
        let reason = match later {
            true => "it was written after the others' epoch had been closed where it was written",
            false => "of those written at once, it has the higher number, or the greater cluster id where those are equal",
        };
        SharedConflict {
            key,
            winner: Some(self.version(winner)),
            losers: losers.into_iter().map(|loser| self.version(loser)).collect(),
            reason: reason.to_owned(),
        }
    }

    fn version(&self, version: Version) -> ConflictingValue {
        ConflictingValue { cluster: self.name_of(version.author), value: version.value.map(Into::into) }
    }

    /// What people call a cluster; its id if nobody introduced it.
    fn name_of(&self, id: ClusterId) -> String {
        let introduced = self.replica.about(id).map(|cluster| card(&cluster).name).filter(|name| !name.is_empty());
        introduced.unwrap_or_else(|| id.to_string())
    }
}
