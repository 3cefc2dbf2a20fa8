//! The hub: the replica in memory on the leader's node, and the sessions with the other clusters.
//!
//! It does one thing after the other: takes what came in, commits what that changed, and only then lets the sessions say it. When a commit
//! fails, because this node leads no more or another leader was quicker, what is in memory is worth nothing, and the hub ends; whoever leads
//! then begins with what the state holds.

use std::collections::BTreeMap;
use std::time::Duration;

use tarn_client::tls::random_bytes;
use tarn_crdt::{ClusterId, Commit, Identity, Received, Replica};
use tarn_machine::limits;
use tarn_proto::v1::{CommitReplica, EventKind, FederationStanding, LinkFrame, LinkPing, LinkPong, ReplicaRow, SharedEntry, link_frame};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::admit::names;
use super::dial::{dial, is_ours_to_dial};
use super::joint::Joint;
use super::link::{Event, Link};
use super::{Federation, members, now_ms, outbox};
use crate::gate::Refusal;
use crate::ops::FederationRefused;

/// What lies in the outbox is signed this long after the first of it came: what comes meanwhile goes into the same change set, which costs a
/// signature and a commit.
const GATHER: Duration = Duration::from_millis(10);

/// Without a link for so long, what is written is gathered for longer: nobody waits for it, and a change set costs its signature until its epoch is
/// closed, which needs the others. A long cut would fill the document otherwise.
const ALONE_AFTER: Duration = Duration::from_secs(10);
const GATHER_ALONE: Duration = Duration::from_secs(5);

/// While it cannot be signed, because this cluster's introduction has not come yet, it is tried again this often.
const RETRY: Duration = Duration::from_millis(200);

/// How often the hub looks whether an epoch is to be closed, a member to be dialled, a connection to be dropped.
const TICK: Duration = Duration::from_millis(100);

/// Limit on one commit.
const COMMIT: Duration = Duration::from_secs(10);

/// After a failure, the same member is dialled again this much later, and twice as late each time.
const REDIAL: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// A connection that has lasted so long was a good one.
const STOOD: Duration = Duration::from_secs(3);

/// A sign of life is asked for this often.
const PING_EVERY: Duration = Duration::from_secs(10);

/// Keys of the document that are looked at in one go for what can be shown only now.
const OFFER_AT_ONCE: usize = 256;

/// Events that are taken before they are committed together.
const EVENTS_AT_ONCE: usize = 64;

/// The hub ends: somebody else leads, or commits for this cluster.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The commit was refused, or nobody knows whether it took effect.
    #[error("the replica was not committed: {}: {}", .0.rejection.reason, .0.rejection.message)]
    NotCommitted(Refusal),
    /// This cluster has left the federation.
    #[error("this cluster is in no federation")]
    NoFederation,
    /// No majority confirms that this node leads.
    #[error("this node may lead no more")]
    Deposed,
    /// The state cannot be read.
    #[error("the replica cannot be loaded: {0}")]
    Unreadable(String),
}

/// See the module's page.
pub(super) struct Hub {
    pub(super) federation: Federation,
    pub(super) identity: Identity,
    pub(super) replica: Replica,
    pub(super) joints: BTreeMap<ClusterId, Joint>,
    /// Why each member's link was down last.
    pub(super) failures: BTreeMap<ClusterId, String>,
    revision: u64,
    inbox: mpsc::Receiver<Event>,
    events: mpsc::Sender<Event>,
    pending: Pending,
    dialling: JoinSet<DialEnded>,
    dialled: BTreeMap<ClusterId, Dialled>,
    pings: u64,
    /// Since when there has been no link.
    alone_since: Option<Instant>,
    /// When the conflicts with each member were last counted, which takes a look at each.
    pub(super) counted: Option<Instant>,
    /// Chosen at random: tells this hub's pieces of a commit from those of another one.
    number: u64,
    /// What the state was last told of this cluster.
    told: Option<FederationStanding>,
    /// While the document is looked through for what can be shown only now: behind which key to go on.
    offering: Option<String>,
}

/// Whether something of the document may be shown from now on that could not be before.
fn brings_room(event: &tarn_proto::v1::Event) -> bool {
    event.kind() == EventKind::NamespaceCreated || (event.kind() == EventKind::FederationChanged && event.subject.starts_with("context/"))
}

/// How long what is written now is gathered, where there has been no link since then.
fn gather(alone_since: Option<Instant>) -> Duration {
    let alone = alone_since.is_some_and(|since| since.elapsed() >= ALONE_AFTER);
    if alone { GATHER_ALONE } else { GATHER }
}

/// What a hub begins with.
pub(super) struct Loaded {
    /// The cluster's key.
    pub identity: Identity,
    /// Its copy of the document, as the rows have it.
    pub replica: Replica,
    /// Of the rows.
    pub revision: u64,
    /// What is to be committed first: of a cluster that has just founded or joined, the copy's beginning.
    pub commit: Commit,
}

/// What was changed in memory and is not committed yet.
#[derive(Default)]
struct Pending {
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    entries: BTreeMap<String, Option<Vec<u8>>>,
    taken: u64,
    standing: Option<FederationStanding>,
}

impl Pending {
    /// As commands: one, or several where it is too large for that. None if nothing has changed.
    fn pieces(self, expected_revision: u64, hub: u64) -> Vec<CommitReplica> {
        let rows = self.rows.into_iter().map(|(key, value)| Part::Row(ReplicaRow { key: key.into(), value: value.map(Into::into) }));
        let entries = self.entries.into_iter().map(|(key, value)| Part::Entry(SharedEntry { key, value: value.map(Into::into) }));
        let empty = || CommitReplica { expected_revision, taken: self.taken, hub, ..CommitReplica::default() };
        let (mut pieces, mut now, mut bytes) = (Vec::new(), empty(), 0);
        for part in rows.chain(entries) {
            let full =
                bytes + part.bytes() > limits::REPLICA_COMMIT_BYTES_MAX || now.rows.len() + now.entries.len() >= limits::REPLICA_ROWS_MAX;
            if full {
                let number = now.piece + 1;
                pieces.push(CommitReplica { more: true, ..std::mem::replace(&mut now, empty()) });
                (now.piece, bytes) = (number, 0);
            }
            bytes += part.bytes();
            match part {
                Part::Row(row) => now.rows.push(row),
                Part::Entry(entry) => now.entries.push(entry),
            }
        }
        now.standing = self.standing;
        if now.piece > 0 || now.taken > 0 || !now.rows.is_empty() || !now.entries.is_empty() || now.standing.is_some() {
            pieces.push(now);
        }
        pieces
    }
}

/// What a commit consists of.
enum Part {
    Row(ReplicaRow),
    Entry(SharedEntry),
}

impl Part {
    fn bytes(&self) -> usize {
        let of = |key: usize, value: &Option<bytes::Bytes>| key + value.as_ref().map_or(0, bytes::Bytes::len);
        match self {
            Self::Row(row) => of(row.key.len(), &row.value),
            Self::Entry(entry) => of(entry.key.len(), &entry.value),
        }
    }
}

/// Whom, whether there was a connection, and how long the try and the connection took.
type DialEnded = (ClusterId, Result<(), String>, Duration);

/// How dialling a member goes.
#[derive(Default)]
struct Dialled {
    under_way: bool,
    failures: u32,
    not_before: Option<Instant>,
}

impl Hub {
    /// A hub for what the state holds.
    pub fn new(federation: Federation, loaded: Loaded) -> Self {
        let Loaded { identity, replica, revision, commit } = loaded;
        let (events, inbox) = mpsc::channel(EVENTS_AT_ONCE);
        let mut hub = Self {
            federation,
            identity,
            replica,
            joints: BTreeMap::new(),
            failures: BTreeMap::new(),
            revision,
            inbox,
            events,
            pending: Pending::default(),
            dialling: JoinSet::new(),
            dialled: BTreeMap::new(),
            pings: 0,
            alone_since: None,
            counted: None,
            number: u64::from_le_bytes(random_bytes()),
            told: None,
            // Namespaces may have come while nobody looked.
            offering: Some(String::new()),
        };
        hub.note(commit);
        hub
    }

    /// The way to it.
    pub fn sender(&self) -> mpsc::Sender<Event> {
        self.events.clone()
    }

    /// Works until a commit fails.
    pub async fn run(mut self) -> Ended {
        let mut applied = self.federation.way().consensus().applied();
        let mut events = self.federation.way().consensus().events();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut flush_at = Some(Instant::now());
        loop {
            let flush = async {
                match flush_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let done = tokio::select! {
                Some(event) = self.inbox.recv() => {
                    self.take(event);
                    for _ in 1..EVENTS_AT_ONCE {
                        match self.inbox.try_recv() {
                            Ok(event) => self.take(event),
                            Err(_) => break,
                        }
                    }
                    // Somebody is there again, and waits for what was gathered.
                    if !self.joints.is_empty() && self.alone_since.take().is_some() && flush_at.is_some() {
                        flush_at = Some(Instant::now());
                    }
                    Ok(())
                }
                Some(ended) = self.dialling.join_next() => {
                    self.dial_ended(ended);
                    Ok(())
                }
                changed = applied.changed() => {
                    if changed.is_err() {
                        return Ended::NoFederation;
                    }
                    if flush_at.is_none() && self.has_outbox() {
                        flush_at = Some(Instant::now() + gather(self.alone_since));
                    }
                    continue;
                }
                heard = events.recv() => {
                    match heard {
                        Ok(batch) if !batch.events.iter().any(brings_room) => continue,
                        // Looked through bit by bit, and from the start again: many at once cost no more than one.
                        Ok(_) | Err(RecvError::Lagged(_)) => self.offering = Some(String::new()),
                        Err(RecvError::Closed) => return Ended::NoFederation,
                    }
                    Ok(())
                }
                () = flush => self.flush().map(|again| flush_at = again.map(|pause| Instant::now() + pause)),
                _ = tick.tick() => {
                    self.tick();
                    self.is_current()
                }
            };
            if let Err(ended) = done {
                return ended;
            }
            if let Err(ended) = self.settle().await {
                return ended;
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Up(link) => self.up(link),
            Event::Down { cluster, link, why } => self.down(cluster, link, why),
            Event::Frame { cluster, link, frame } => self.frame(cluster, link, *frame),
            Event::Ask(ask) => self.answer(ask),
        }
    }

    /// The latest connection counts: an earlier one may be dead without anybody's knowing.
    fn up(&mut self, link: Link) {
        tracing::info!(cluster = %link.cluster, address = link.address, "a link to another cluster stands");
        self.failures.remove(&link.cluster);
        self.federation.exchange().up(link.cluster, link.number, link.frames.downgrade());
        self.joints.insert(link.cluster, Joint::new(link, now_ms()));
    }

    fn down(&mut self, cluster: ClusterId, link: u64, why: String) {
        if self.joints.get(&cluster).is_some_and(|joint| joint.number() == link) {
            tracing::info!(%cluster, why, "a link to another cluster has ended");
            self.joints.remove(&cluster);
            self.failures.insert(cluster, why);
        }
    }

    fn frame(&mut self, cluster: ClusterId, link: u64, frame: LinkFrame) {
        let Some(joint) = self.joints.get_mut(&cluster).filter(|joint| joint.number() == link) else { return };
        match frame.frame {
            Some(link_frame::Frame::Sync(bytes)) => {
                let Received { commit, outcome } = joint.receive(&mut self.replica, &bytes, now_ms());
                self.note(commit);
                if let Err(why) = outcome {
                    self.down(cluster, link, why.to_string());
                }
            }
            Some(link_frame::Frame::Ping(LinkPing { number, digest })) => {
                let ours = self.replica.digest();
                joint.compare(Some(digest.into()), &ours, now_ms());
                joint.send(link_frame::Frame::Pong(LinkPong { number, digest: ours.to_vec().into() }));
            }
            Some(link_frame::Frame::Pong(LinkPong { number, digest })) => {
                joint.answered(number);
                joint.compare(Some(digest.into()), &self.replica.digest(), now_ms());
            }
            Some(link_frame::Frame::HandOver(said)) => self.federation.exchange().take(cluster, said),
            Some(link_frame::Frame::Hello(_)) | None => {}
        }
    }

    fn note(&mut self, commit: Commit) {
        for refusal in &commit.refusals {
            let label = FederationRefused { reason: refusal.reason.name() };
            self.federation.way().metrics().federation_refused.get_or_create(&label).inc();
            tracing::warn!(from = %refusal.from, author = %refusal.author, reason = refusal.reason.name(), detail = refusal.detail, "refused a change set");
        }
        self.pending.rows.extend(commit.rows);
        self.pending.entries.extend(commit.entries);
    }

    /// Shows readers what the document has of contexts that could not be shown before: their namespaces did not exist, or they were not shared.
    /// Some keys at a time, so that nobody waits for the state meanwhile.
    fn offer(&mut self) {
        let Some(after) = self.offering.take() else { return };
        let (entries, next) = self.replica.page("context/", &after, OFFER_AT_ONCE);
        self.offering = next;
        let lacking = self.federation.way().consensus().read(|machine| {
            let lacks = |entry: &(String, Vec<u8>)| machine.lacks_shared(&entry.0, &entry.1).unwrap_or(false);
            entries.into_iter().filter(lacks).collect::<Vec<_>>()
        });
        self.pending.entries.extend(lacking.unwrap_or_default().into_iter().map(|(key, value)| (key, Some(value))));
    }

    /// How this cluster stands, as its document says; `None` while that does not say. Of the room whole megabytes: it changes with each write.
    fn standing(&self) -> Option<FederationStanding> {
        let own = self.replica.about(self.identity.id())?;
        let room = self.replica.room() >> 20 << 20;
        Some(FederationStanding { scope: names(own.scope), removed: own.removed, room })
    }

    fn has_outbox(&self) -> bool {
        self.federation.way().consensus().read(tarn_machine::Machine::has_unsigned).unwrap_or(false)
    }

    /// Signs what lies in the outbox. Says when to look again, if not all of it could be.
    fn flush(&mut self) -> Result<Option<Duration>, Ended> {
        let after = self.pending.taken;
        let page = self.federation.way().consensus().read(|machine| machine.outbox(after, outbox::BATCH_MAX));
        let page = page.map_err(|error| Ended::Unreadable(error.to_string()))?.map_err(|error| Ended::Unreadable(error.to_string()))?;
        let batch = outbox::batch(page);
        let Some(last) = batch.last else { return Ok(None) };
        match outbox::write(&mut self.replica, &self.identity, batch.puts, now_ms()) {
            Ok(commits) => {
                commits.into_iter().for_each(|commit| self.note(commit));
                self.pending.taken = last;
                Ok(Some(Duration::ZERO))
            }
            // It waits until whoever invited this cluster has told of that.
            Err(why) => {
                tracing::debug!(%why, "what was written here cannot be signed yet");
                Ok(Some(RETRY))
            }
        }
    }

    /// Whether this cluster is still who it was when the hub began: it may have left, and founded or joined another federation.
    fn is_current(&self) -> Result<(), Ended> {
        match self.federation.own_id() {
            Some(id) if id == self.identity.id() => Ok(()),
            _ => Err(Ended::NoFederation),
        }
    }

    /// What is to be done now and then.
    fn tick(&mut self) {
        match self.joints.is_empty() {
            true => drop(self.alone_since.get_or_insert_with(Instant::now)),
            false => self.alone_since = None,
        }
        self.tend();
        self.offer();
        self.dial_others();
        self.measure();
        let ours = self.replica.digest();
        for joint in self.joints.values_mut() {
            joint.compare(None, &ours, now_ms());
            if joint.owes(&ours) || joint.pinged().is_none_or(|at| at.elapsed() >= PING_EVERY) {
                self.pings += 1;
                joint.ping(self.pings, ours);
            }
        }
        let failures = &mut self.failures;
        self.joints.retain(|cluster, joint| {
            if joint.is_broken() {
                failures.insert(*cluster, "it does not read what is sent to it".to_owned());
            }
            !joint.is_broken()
        });
    }

    /// Keeps the replica's books: what a cluster owes the others when an epoch is closed.
    fn tend(&mut self) {
        match self.replica.tend(&self.identity, now_ms()) {
            Ok(commit) => self.note(commit),
            Err(error) => tracing::debug!(%error, "the replica's books cannot be kept yet"),
        }
    }

    /// Commits what has changed; then the sessions may speak of it.
    async fn settle(&mut self) -> Result<(), Ended> {
        if !self.pending.rows.is_empty() {
            self.tend();
        }
        let standing = self.standing().filter(|now| self.told.as_ref() != Some(now));
        if standing.is_some() {
            self.told.clone_from(&standing);
            self.pending.standing = standing;
        }
        let pieces = std::mem::take(&mut self.pending).pieces(self.revision, self.number);
        for piece in pieces {
            let committed = self.federation.way().command(&self.federation.caller(), piece, Instant::now() + COMMIT).await;
            self.revision = committed.map_err(Ended::NotCommitted)?.revision;
        }
        for joint in self.joints.values_mut() {
            joint.speak(&mut self.replica);
        }
        Ok(())
    }

    /// Dials who is to be dialled and is not connected; drops who is not trusted any more.
    fn dial_others(&mut self) {
        let others = self.federation.others();
        // Whoever is removed hears of that first: it is signed a moment after the state says so.
        let replica = &self.replica;
        let unsigned = |cluster: &ClusterId| replica.about(*cluster).is_some_and(|about| !about.removed);
        self.joints.retain(|cluster, joint| match others.iter().find(|member| member.id == *cluster) {
            Some(member) => joint.is_of(member),
            None => unsigned(cluster),
        });
        self.dialled.retain(|cluster, _| others.iter().any(|member| member.id == *cluster));
        let can_be_dialled = self.federation.way().consensus().read(members::can_be_dialled).unwrap_or(false);
        let own = self.identity.id();
        if self.told.as_ref().is_some_and(|told| told.removed) {
            // Nobody listens.
            return;
        }
        for member in others {
            let known = self.dialled.entry(member.id).or_default();
            let ours = is_ours_to_dial(own, can_be_dialled, member.id, !member.addresses.is_empty());
            let early = known.not_before.is_some_and(|at| Instant::now() < at);
            if !ours || known.under_way || early || self.joints.contains_key(&member.id) {
                continue;
            }
            known.under_way = true;
            let (federation, events) = (self.federation.clone(), self.events.clone());
            self.dialling.spawn(async move {
                let began = Instant::now();
                let result = dial(&federation, &member, &events).await;
                (member.id, result, began.elapsed())
            });
        }
    }

    fn dial_ended(&mut self, ended: Result<DialEnded, tokio::task::JoinError>) {
        let Ok((cluster, result, took)) = ended else { return };
        let known = self.dialled.entry(cluster).or_default();
        known.under_way = false;
        // A connection that was over at once is as good as none: the two do not get on, and will not the next moment.
        let stood = result.is_ok() && took >= STOOD;
        known.failures = if stood { 0 } else { known.failures.saturating_add(1) };
        let (first, last) = REDIAL;
        let pause = first.saturating_mul(1 << known.failures.saturating_sub(1).min(8)).min(last);
        known.not_before = Some(Instant::now() + pause);
        if let Err(why) = result {
            tracing::debug!(%cluster, why, "another cluster cannot be reached");
            self.failures.insert(cluster, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_alone_for_long_gathers_for_longer() {
        let since = Some(Instant::now());
        assert_eq!((gather(None), gather(since)), (GATHER, GATHER));
        tokio::time::advance(ALONE_AFTER).await;
        assert_eq!((gather(None), gather(since)), (GATHER, GATHER_ALONE));
    }

    #[test]
    fn what_is_too_large_for_one_command_comes_in_pieces() {
        assert!(Pending::default().pieces(7, 1).is_empty());
        let taken = Pending { taken: 3, ..Pending::default() }.pieces(7, 1);
        assert!(taken.len() == 1 && taken[0].taken == 3 && !taken[0].more && taken[0].expected_revision == 7);
        let mut pending = Pending::default();
        for number in 0..100_u32 {
            pending.rows.insert(number.to_be_bytes().to_vec(), Some(vec![0; 64 << 10]));
            pending.entries.insert(number.to_string(), Some(vec![0; 64 << 10]));
        }
        let pieces = pending.pieces(7, 1);
        assert!(pieces.len() > 1);
        for (place, piece) in pieces.iter().enumerate() {
            assert_eq!((piece.piece as usize, piece.more), (place, place + 1 < pieces.len()));
            assert!(prost::Message::encoded_len(piece) < limits::COMMAND_BYTES_MAX);
        }
        assert_eq!(pieces.iter().map(|piece| piece.rows.len()).sum::<usize>(), 100);
        assert_eq!(pieces.iter().map(|piece| piece.entries.len()).sum::<usize>(), 100);
    }
}
