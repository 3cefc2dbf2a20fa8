//! What the hub tells of itself.

use std::time::Duration;

use data_encoding::HEXLOWER;
use prost::Message as _;
use tarn_crdt::{ClusterId, Conflict, Version};
use tarn_machine::Machine;
use tarn_proto::v1::{
    ClusterCapacity, ConflictingValue, GetFederationStatusResponse, LinkState, LinkStatus, ListConflictsResponse, SharedConflict,
    SharedRefusal,
};

use tokio::time::Instant;

use super::ask::Ask;
use super::hub::Hub;
use super::members::{self, card};
use super::now_ms;
use crate::ops::{FederationBytes, FederationLink};

/// Conflicts that are told of at once, and values of each that lost.
const CONFLICTS_MAX: (usize, usize) = (1_000, 16);

/// Bytes of these, but for the last one: with that they fit into one message.
const CONFLICTS_BYTES_MAX: usize = 2 << 20;

/// How often the conflicts with each member are counted for the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Tasks of another cluster that are counted.
const TASKS_MAX: usize = 4_096;

/// Tasks of a cluster that this one has taken over and not settled.
fn tasks_of(machine: &Machine, id: ClusterId) -> u64 {
    let (mut after, mut seen, mut count) = (String::new(), 0, 0);
    while seen < TASKS_MAX {
        let page = machine.transfers(&after, 256).unwrap_or_default();
        let Some(last) = page.last().and_then(|status| status.transfer.as_ref()) else { break };
        after.clone_from(&last.transfer_id);
        seen += page.len();
        let origins = page.iter().filter_map(|status| status.transfer.as_ref());
        count += origins.filter(|transfer| transfer.origin_cluster.as_ref() == id.0).count() as u64;
    }
    count
}

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
        let count = self.counted.is_none_or(|at| at.elapsed() >= COUNT_EVERY);
        if count {
            self.counted = Some(Instant::now());
        }
        for member in self.federation.others() {
            let label = FederationLink { cluster: member.name.clone() };
            if count {
                let conflicts = self.conflicts_with(member.id);
                metrics.federation_peer_conflicts.get_or_create(&label).set(i64::try_from(conflicts).unwrap_or(i64::MAX));
            }
            let joint = self.joints.get_mut(&member.id);
            metrics.federation_link_up.get_or_create(&label).set(joint.is_some().into());
            let Some(joint) = joint else { continue };
            let lag = joint.differs_since_ms.map_or(0, |since| now.saturating_sub(since));
            metrics.federation_lag_milliseconds.get_or_create(&label).set(i64::try_from(lag).unwrap_or(i64::MAX));
            let equal_at = joint.equal_at_ms as f64 / 1_000.0;
            metrics.federation_last_sync.get_or_create(&label).set(equal_at);
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
            removed: self.replica.about(self.replica.cluster()).is_some_and(|own| own.removed),
            room_bytes: self.replica.room(),
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
        let conflicts = self.conflicts_with(id);
        let last_error = self.failures.get(&id).cloned().unwrap_or_default();
        let (tasks_there, tasks_here, free_slots) = self.work_with(id, &name);
        let down = LinkStatus {
            cluster_id: id.to_string(),
            name,
            state: state.into(),
            conflicts,
            last_error,
            tasks_there,
            tasks_here,
            free_slots,
            ..LinkStatus::default()
        };
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

    /// Keys of which this cluster wrote one of the values that were written at once.
    fn conflicts_with(&self, id: ClusterId) -> u64 {
        let all = self.replica.conflicts();
        let with = all.filter(|conflict| conflict.losers.iter().chain([&conflict.winner]).any(|version| version.author == id));
        with.count() as u64
    }

    /// Tasks of this cluster there, tasks of that cluster here, and what it could take on.
    fn work_with(&self, id: ClusterId, name: &str) -> (u64, u64, u64) {
        let read = self.federation.way().consensus().read(|machine| {
            let stands_for = |load: &tarn_machine::WorkerLoad| load.capabilities.resources.as_ref().is_some_and(|has| has.cluster == name);
            let there = machine.worker_loads().into_iter().filter(stands_for).map(|load| load.running.len() as u64).sum();
            let said = members::capacities(machine).into_iter().find(|(known, ..)| *known == id).map(|(.., said)| said);
            let said = said.and_then(|said| ClusterCapacity::decode(said.as_slice()).ok()).unwrap_or_default();
            let free = said.workers.iter().filter_map(|group| group.resources.as_ref()).map(|resources| u64::from(resources.slots)).sum();
            (there, tasks_of(machine, id), free)
        });
        read.unwrap_or_default()
    }

    fn conflicts(&self) -> ListConflictsResponse {
        let refusals = self.replica.refusals().map(|refusal| SharedRefusal {
            at_ms: refusal.at_ms,
            from: self.name_of(refusal.from),
            author: self.name_of(refusal.author),
            reason: refusal.reason.name().to_owned(),
            detail: refusal.detail.clone(),
        });
        let (conflicts, truncated) = bounded(self.replica.conflicts());
        let conflicts = conflicts.into_iter().map(|conflict| self.conflict(conflict)).collect();
        ListConflictsResponse { refusals: refusals.collect(), conflicts, truncated }
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

/// As many conflicts as are told of at once, and whether that is less than all.
fn bounded(all: impl Iterator<Item = Conflict>) -> (Vec<Conflict>, bool) {
    let (conflicts_max, losers_max) = CONFLICTS_MAX;
    let (mut told, mut bytes, mut truncated) = (Vec::new(), 0, false);
    for mut conflict in all {
        if told.len() == conflicts_max || bytes > CONFLICTS_BYTES_MAX {
            return (told, true);
        }
        truncated |= conflict.losers.len() > losers_max;
        conflict.losers.truncate(losers_max);
        let values = conflict.losers.iter().chain([&conflict.winner]).map(|version| version.value.as_ref().map_or(0, Vec::len));
        bytes += conflict.key.len() + values.sum::<usize>();
        told.push(conflict);
    }
    (told, truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_conflicts_fits_into_a_message() {
        let version = Version { value: Some(vec![7; 64 << 10]), author: ClusterId([1; 16]), epoch: 0, seq: 1 };
        let conflict =
            |losers: usize| Conflict { key: "context/n/c/k".into(), winner: version.clone(), losers: vec![version.clone(); losers] };
        let (told, truncated) = bounded((0..3).map(|_| conflict(1)));
        assert!(told.len() == 3 && !truncated);
        let (told, truncated) = bounded((0..100).map(|_| conflict(40)));
        let bytes: usize = told.iter().map(|conflict| (conflict.losers.len() + 1) * (64 << 10)).sum();
        assert!(truncated && !told.is_empty() && bytes < 4 << 20, "{bytes}");
        let small = Conflict { losers: Vec::new(), winner: Version { value: None, ..version.clone() }, ..conflict(0) };
        let (told, truncated) = bounded((0..2_000).map(|_| small.clone()));
        assert!(truncated && told.len() == 1_000);
    }
}
