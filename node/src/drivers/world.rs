//! What a runner needs of the cluster. A trait, so that tests can hold the clock and lose answers.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use tarn_executor::{DriverEvent, Hash};
use tarn_machine::DriverStanding;
use tarn_proto::v1::{self, AdvanceDriver, DriverAdvanced, EventKind, GetDriverRequest, PolicySigner};
use tokio::time::Instant;

use super::Id;
use crate::artifacts::Artifacts;
use crate::gate::Refusal;
use crate::way::Way;

/// Revisions that are looked at together.
const PAGE_REVISIONS: usize = 64;
/// Events that a driver is told of at once.
const EVENTS_PER_TURN_MAX: usize = 64;
/// How long one command may take.
const ADVANCE: Duration = Duration::from_secs(10);

/// Everything up to a revision, and of the one after it what has a lower ordinal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub revision: u64,
    pub ordinal: u32,
}

/// The next events.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub events: Vec<DriverEvent>,
    /// What is looked at with this page.
    pub up_to: Position,
    /// There may be more after it.
    pub more: bool,
    /// Some before it were gone already.
    pub lost: bool,
}

/// A driver as the cluster has it.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub driver: v1::Driver,
    pub state: Bytes,
}

#[async_trait]
pub(super) trait World: Send + Sync + 'static {
    /// The driver; `None` if it is gone.
    fn record(&self, id: &Id) -> Option<Record>;

    /// Where it stands; `None` if it is gone.
    fn standing(&self, id: &Id) -> Option<DriverStanding>;

    /// Events of the driver's namespace of these kinds.
    fn events(&self, id: &Id, after: Position, wanted: &[i32]) -> Result<Page, Refusal>;

    /// What one call changed.
    async fn advance(&self, queues: Arc<[String]>, change: AdvanceDriver) -> Result<DriverAdvanced, Refusal>;

    /// Returns when more was applied than up to this revision, and up to which.
    async fn applied_after(&self, revision: u64) -> u64;

    /// The time, Unix epoch, milliseconds: never before what the cluster has seen.
    fn now_ms(&self) -> u64;

    /// An artifact's bytes, or why they cannot be had.
    async fn artifact(&self, artifact: Hash) -> Result<Bytes, String>;

    /// Whose signatures count.
    fn trusted(&self) -> Vec<PolicySigner>;
}

/// The real one.
pub(super) struct Cluster {
    pub way: Way,
    pub artifacts: Artifacts,
}

#[async_trait]
impl World for Cluster {
    fn record(&self, id: &Id) -> Option<Record> {
        let question = GetDriverRequest { namespace: id.namespace.clone(), name: id.name.clone() };
        let found = self.way.look(|machine| machine.get_driver(&question)).ok()?;
        Some(Record { driver: found.driver?, state: found.state })
    }

    fn standing(&self, id: &Id) -> Option<DriverStanding> {
        self.way.look(|machine| Ok(machine.driver_standing(&id.namespace, &id.name))).ok()?
    }

    fn events(&self, id: &Id, after: Position, wanted: &[i32]) -> Result<Page, Refusal> {
        self.way.look(|machine| {
            if wanted.is_empty() {
                let present = Position { revision: machine.applied_index(), ordinal: 0 };
                return Ok(Page { up_to: after.max(present), ..Page::default() });
            }
            let oldest = machine.oldest_revision();
            let lost = after.revision < oldest;
            let start = if lost { Position { revision: oldest, ordinal: 0 } } else { after };
            let events = machine.events_after(start.revision, PAGE_REVISIONS)?;
            Ok(Page { lost, ..page(&events, start, machine.applied_index(), &id.namespace, wanted) })
        })
    }

    async fn advance(&self, queues: Arc<[String]>, change: AdvanceDriver) -> Result<DriverAdvanced, Refusal> {
        self.way.advance_driver(queues, change, Instant::now() + ADVANCE).await
    }

    async fn applied_after(&self, revision: u64) -> u64 {
        let mut applied = self.way.consensus().applied();
        let index = applied.wait_for(|applied| applied.index > revision).await.map(|applied| applied.index);
        match index {
            Ok(index) => index,
            // The node stops, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }

    fn now_ms(&self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        wall_ms.max(self.way.consensus().applied().borrow().now_ms)
    }

    async fn artifact(&self, artifact: Hash) -> Result<Bytes, String> {
        self.artifacts.get(artifact).await.map_err(|error| error.rejection().message)
    }

    fn trusted(&self) -> Vec<PolicySigner> {
        self.way.look(|machine| Ok(machine.driver_settings().signers)).unwrap_or_default()
    }
}

/// Cuts a page out of events that follow a position.
pub(super) fn page(events: &[v1::Event], start: Position, applied: u64, namespace: &str, wanted: &[i32]) -> Page {
    let mut page = Page::default();
    for event in events {
        if event.revision == start.revision + 1 && event.ordinal < start.ordinal {
            continue;
        }
        if page.events.len() == EVENTS_PER_TURN_MAX {
            // This one comes first the next time.
            page.up_to = Position { revision: event.revision - 1, ordinal: event.ordinal };
            page.more = true;
            return page;
        }
        if event.namespace == namespace && wanted.contains(&event.kind) {
            page.events.push(told(event));
        }
    }
    // A page that is not empty may have been cut, by revisions or by bytes: only an empty one says that there are no more.
    let last = events.last().map(|event| event.revision);
    page.more = last.is_some();
    page.up_to = match last {
        Some(revision) => Position { revision, ordinal: 0 },
        None => start.max(Position { revision: applied, ordinal: 0 }),
    };
    page
}

fn told(event: &v1::Event) -> DriverEvent {
    let kind = EventKind::try_from(event.kind).map_or("", |kind| kind.as_str_name());
    DriverEvent {
        id: format!("{}-{}", event.revision, event.ordinal),
        revision: event.revision,
        ordinal: event.ordinal,
        at_ms: event.at_ms,
        kind: kind.trim_start_matches("EVENT_KIND_").to_owned(),
        namespace: event.namespace.clone(),
        queue: event.queue.clone(),
        subject: event.subject.clone(),
        worker: event.worker.clone(),
        attempt: event.attempt,
        detail: event.detail.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, ordinal: u32, namespace: &str, kind: EventKind) -> v1::Event {
        v1::Event { revision, ordinal, namespace: namespace.into(), kind: kind.into(), ..v1::Event::default() }
    }

    #[test]
    fn pages_tell_every_event_once_also_of_one_huge_revision() {
        let kind = EventKind::TaskEnqueued;
        let mut events: Vec<v1::Event> = (0..200).map(|ordinal| event(7, ordinal, "a", kind)).collect();
        events.extend((0..3).map(|ordinal| event(9, ordinal, "a", kind)));
        let (mut start, mut seen) = (Position { revision: 5, ordinal: 0 }, Vec::new());
        loop {
            let after: Vec<_> = events.iter().filter(|event| event.revision > start.revision).cloned().collect();
            let page = page(&after, start, 12, "a", &[kind.into()]);
            seen.extend(page.events.iter().map(|event| event.id.clone()));
            assert!(page.up_to > start);
            start = page.up_to;
            if !page.more {
                break;
            }
        }
        let all: Vec<_> = events.iter().map(|event| format!("{}-{}", event.revision, event.ordinal)).collect();
        assert_eq!(seen, all);
        assert_eq!(start, Position { revision: 12, ordinal: 0 });
    }

    #[test]
    fn other_namespaces_and_kinds_are_not_told() {
        let events = [
            event(2, 0, "a", EventKind::TaskEnqueued),
            event(2, 1, "b", EventKind::TaskDead),
            event(2, 2, "", EventKind::TaskDead),
            event(2, 3, "a", EventKind::TaskDead),
        ];
        let page = page(&events, Position::default(), 2, "a", &[EventKind::TaskDead.into()]);
        let told: Vec<_> = page.events.iter().map(|event| (event.id.as_str(), event.kind.as_str())).collect();
        assert_eq!(told, [("2-3", "TASK_DEAD")]);
    }
}
