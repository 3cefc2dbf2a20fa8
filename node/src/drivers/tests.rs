//! A runner and a cluster that the test holds: its clock, its answers, its other nodes. The driver is a real component.

use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tarn_client::tls::PrivateKey;
use tarn_executor::{DriverConfig, DriverEngine, Hash};
use tarn_machine::DriverStanding;
use tarn_proto::v1::{
    self, AdvanceDriver, Driver, DriverAdvanced, DriverGrants, DriverSpec, DriverState, EventKind, PolicySigner, TaskSpec,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Code;

use super::Id;
use super::desk::{Answer, Desk, refusal};
use super::runner::Runner;
use super::world::{Page, Position, Record, World, page};
use crate::gate::{Refusal, driver};
use crate::ops::Metrics;

#[allow(dead_code, reason = "the program around it is for a script")]
#[path = "../../executor/examples/componentize.rs"]
mod componentize;

/// The test driver; its source says what it does.
pub(crate) fn probe() -> Bytes {
    static PROBE: LazyLock<Bytes> = LazyLock::new(|| {
        let core = wat::parse_str(include_str!("../../executor/tests/wasm/guests/probe.wat")).unwrap();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/proto/wit");
        componentize::componentize(&core, Some((&wit, "driver-guest"))).unwrap().into()
    });
    PROBE.clone()
}

static ENGINE: LazyLock<Arc<DriverEngine>> = LazyLock::new(|| Arc::new(DriverEngine::new(&DriverConfig::default()).unwrap()));

/// A cluster of which there is nothing but one driver.
struct Fake {
    held: Mutex<Held>,
    applied: watch::Sender<u64>,
    began: Instant,
}

#[derive(Default)]
struct Held {
    driver: Option<Driver>,
    state: Bytes,
    trusted: bool,
    events: Vec<v1::Event>,
    tasks: Vec<TaskSpec>,
    /// The next so many commands are refused, for want of room.
    refuses: usize,
    /// The next so many commands are taken and their answers lost.
    loses: usize,
}

impl Fake {
    /// A cluster with the probe, configured as a JSON string.
    fn new(config: &str) -> Arc<Self> {
        let artifact = Hash::of(&probe());
        let signature = key().sign(&driver::message(&artifact)).unwrap();
        let spec = DriverSpec {
            artifact: artifact.to_string(),
            signature: signature.into(),
            config: format!("\"{config}\""),
            events: vec![EventKind::TaskDead.into()],
            grants: Some(DriverGrants { http: vec![], queues: vec!["out".into()] }),
            ..DriverSpec::default()
        };
        let driver =
            Driver { namespace: "default".into(), name: "probe".into(), spec: Some(spec), generation: 1, step: 100, ..Driver::default() };
        let held = Held { driver: Some(driver), trusted: true, ..Held::default() };
        Arc::new(Self { held: Mutex::new(held), applied: watch::Sender::new(0), began: Instant::now() })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        let result = change(&mut self.held.lock().unwrap());
        self.applied.send_modify(|index| *index += 1);
        result
    }

    /// Something happens to a task.
    fn happens(&self, count: u32) {
        self.change(|held| {
            let revision = held.events.last().map_or(1, |event| event.revision + 1);
            let event = |ordinal| v1::Event {
                revision,
                ordinal,
                kind: EventKind::TaskDead.into(),
                namespace: "default".into(),
                ..v1::Event::default()
            };
            held.events.extend((0..count).map(event));
        });
    }

    fn upgrade(&self, config: &str) {
        self.change(|held| {
            let driver = held.driver.as_mut().unwrap();
            driver.generation += 1;
            driver.spec.as_mut().unwrap().config = format!("\"{config}\"");
        });
    }

    fn driver(&self) -> Driver {
        self.held.lock().unwrap().driver.clone().unwrap()
    }

    fn counted(&self) -> u64 {
        let state = self.held.lock().unwrap().state.clone();
        state.as_ref().try_into().map_or(0, u64::from_le_bytes)
    }

    fn tasks(&self) -> usize {
        self.held.lock().unwrap().tasks.len()
    }
}

fn key() -> PrivateKey {
    PrivateKey::from_seed(&[7; 32])
}

#[async_trait]
impl World for Fake {
    fn record(&self, _: &Id) -> Option<Record> {
        let held = self.held.lock().unwrap();
        Some(Record { driver: held.driver.clone()?, state: held.state.clone() })
    }

    fn standing(&self, _: &Id) -> Option<DriverStanding> {
        let held = self.held.lock().unwrap();
        let driver = held.driver.as_ref()?;
        Some(DriverStanding { generation: driver.generation, step: driver.step, trusted: held.trusted })
    }

    fn events(&self, id: &Id, after: Position, wanted: &[i32]) -> Result<Page, Refusal> {
        let held = self.held.lock().unwrap();
        let later: Vec<_> = held.events.iter().filter(|event| event.revision > after.revision).cloned().collect();
        let last = held.events.last().map_or(0, |event| event.revision);
        Ok(page(&later, after, last, &id.namespace, wanted))
    }

    async fn advance(&self, _: Arc<[String]>, change: AdvanceDriver) -> Result<DriverAdvanced, Refusal> {
        let lost = self.change(|held| {
            let driver = held.driver.as_mut().ok_or_else(|| refusal(Code::NotFound, "DRIVER_NOT_FOUND", "gone"))?;
            if (change.generation, change.step) != (driver.generation, driver.step) {
                return Err(refusal(Code::FailedPrecondition, "DRIVER_MOVED_ON", "moved on"));
            }
            if held.refuses > 0 {
                held.refuses -= 1;
                return Err(refusal(Code::ResourceExhausted, "QUOTA_QUEUED", "no room"));
            }
            driver.step += 1;
            (driver.cursor, driver.cursor_ordinal) = (change.cursor, change.cursor_ordinal);
            held.state = change.state.clone().unwrap_or(held.state.clone());
            held.tasks.extend(change.tasks.clone());
            let lost = held.loses > 0;
            held.loses = held.loses.saturating_sub(1);
            Ok(lost)
        })?;
        match lost {
            true => Err(refusal(Code::DeadlineExceeded, "OUTCOME_UNKNOWN", "who knows")),
            false => Ok(DriverAdvanced { step: self.driver().step, task_ids: vec![] }),
        }
    }

    async fn applied_after(&self, revision: u64) -> u64 {
        let mut applied = self.applied.subscribe();
        *applied.wait_for(|applied| *applied > revision).await.unwrap()
    }

    fn now_ms(&self) -> u64 {
        1_000_000 + u64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    async fn artifact(&self, _: Hash) -> Result<Bytes, String> {
        Ok(probe())
    }

    fn trusted(&self) -> Vec<PolicySigner> {
        match self.held.lock().unwrap().trusted {
            true => vec![PolicySigner { name: "ops".into(), public_key: key().public_key().to_vec().into() }],
            false => vec![],
        }
    }
}

/// A runner at work. Dropped, it ends.
struct Rig {
    desk: Arc<Desk>,
    at_hand: watch::Sender<u64>,
    running: JoinHandle<()>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Rig {
    fn new(world: Arc<Fake>) -> Self {
        let (desk, calls) = Desk::new(Id::new("default", "probe"), 1, Arc::new(Metrics::new()));
        let (at_hand, arrived) = watch::channel(world.driver().generation);
        let runner = Runner { world: world.clone(), engine: ENGINE.clone(), desk: desk.clone(), calls, at_hand: arrived };
        Self { desk, at_hand, running: tokio::spawn(runner.run()) }
    }

    fn state(&self) -> DriverState {
        self.desk.status().state()
    }

    async fn reaches(&self, state: DriverState) {
        until(|| self.state() == state).await;
    }

    async fn call(&self, method: &str, payload: &'static [u8]) -> Result<Answer, Refusal> {
        self.desk.call(method.to_owned(), Bytes::from_static(payload)).await
    }
}

/// Lets time pass, which costs none, until something holds.
async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came true");
}

#[tokio::test(start_paused = true)]
async fn events_are_handled_in_order_and_another_runner_goes_on_from_there() {
    let world = Fake::new("count");
    world.happens(3);
    let rig = Rig::new(world.clone());
    until(|| world.counted() == 3).await;
    // More than one turn takes, in one revision.
    world.happens(150);
    until(|| world.counted() == 153).await;
    assert_eq!((world.driver().cursor, world.driver().cursor_ordinal), (2, 0));
    drop(rig);
    world.happens(2);
    let rig = Rig::new(world.clone());
    until(|| world.counted() == 155).await;
    assert_eq!(rig.desk.status().events, 2);
    assert_eq!(rig.desk.status().restarts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_backs_off_and_an_upgrade_ends_it() {
    let world = Fake::new("xtrap");
    let rig = Rig::new(world.clone());
    rig.reaches(DriverState::Running).await;
    world.happens(1);
    let mut delays = Vec::new();
    for restarts in 0..6 {
        until(|| rig.desk.status().restarts == restarts && rig.state() == DriverState::BackingOff).await;
        let status = rig.desk.status();
        assert!(status.last_error.starts_with("WASM_TRAP"), "{}", status.last_error);
        delays.push(status.next_start_at_ms - status.last_error_at_ms);
        let refused = rig.call("echo", b"x").await.unwrap_err();
        assert_eq!(refused.reason(), "DRIVER_NOT_RUNNING");
        until(|| rig.desk.status().restarts > restarts).await;
    }
    assert!(delays.windows(2).all(|pair| pair[1] > pair[0]), "{delays:?}");
    assert!(delays[5] >= 32_000, "{delays:?}");
    assert_eq!(world.driver().cursor, 0, "nothing was taken for handled");
    until(|| rig.state() == DriverState::BackingOff).await;
    let before = Instant::now();
    rig.at_hand.send_replace(2);
    world.upgrade("count");
    until(|| world.counted() == 1).await;
    assert!(before.elapsed() < Duration::from_secs(2), "an upgrade does not wait for the back-off");
    assert_eq!(rig.call("echo", b"x").await.unwrap().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn refused_events_come_again_and_nothing_else_is_held_up() {
    let world = Fake::new("error");
    let rig = Rig::new(world.clone());
    rig.reaches(DriverState::Running).await;
    world.happens(1);
    until(|| rig.desk.status().last_error == "events: not now").await;
    assert_eq!(rig.call("echo", b"still here").await.unwrap().payload, b"still here");
    tokio::time::sleep(Duration::from_secs(600)).await;
    let lines = rig.desk.logs.after(0);
    let again = lines.iter().filter(|line| line.text.starts_with("events refused")).count();
    assert!((6..20).contains(&again), "{again} tries in ten minutes");
    assert_eq!((world.driver().cursor, rig.desk.status().restarts), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_turn_enqueues_is_enqueued_once_though_commands_fail_and_answers_are_lost() {
    for (refuses, loses) in [(0, 0), (3, 0), (0, 1), (2, 2)] {
        let world = Fake::new("queue");
        world.change(|held| (held.refuses, held.loses) = (refuses, loses));
        let _rig = Rig::new(world.clone());
        for revision in 1..=3 {
            world.happens(1);
            until(|| world.driver().cursor == revision).await;
        }
        assert_eq!(world.tasks(), 3, "{refuses} refused, {loses} lost");
    }
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_another_node_runs_too_goes_on_from_what_that_one_wrote() {
    let world = Fake::new("count");
    let rig = Rig::new(world.clone());
    rig.reaches(DriverState::Running).await;
    world.happens(1);
    until(|| world.counted() == 1).await;
    world.change(|held| {
        let driver = held.driver.as_mut().unwrap();
        driver.step += 5;
        held.state = Bytes::copy_from_slice(&41_u64.to_le_bytes());
    });
    world.happens(1);
    until(|| world.counted() == 42).await;
}

#[tokio::test(start_paused = true)]
async fn calls_are_answered_and_what_they_change_is_written_down_first() {
    let world = Fake::new("none");
    let rig = Rig::new(world.clone());
    assert_eq!(rig.call("name", b"").await.unwrap().payload, b"probe");
    rig.call("save", b"kept").await.unwrap();
    assert_eq!(world.held.lock().unwrap().state, "kept");
    rig.call("queue", br#"{"queue":"out"}"#).await.unwrap();
    assert_eq!(world.tasks(), 1);
    let refused = rig.call("queue", b"nonsense").await.unwrap_err();
    assert_eq!(refused.reason(), "DRIVER_REFUSED");
    let refused = rig.call("fail", b"").await.unwrap_err();
    assert_eq!((refused.reason(), refused.rejection.message.as_str()), ("DRIVER_REFUSED", "failed"));
    world.change(|held| held.refuses = 1);
    let refused = rig.call("save", b"lost").await.unwrap_err();
    assert_eq!(refused.reason(), "DRIVER_NOT_SAVED");
    assert_eq!(world.held.lock().unwrap().state, "kept");
    rig.reaches(DriverState::Running).await;
    assert_eq!(rig.call("read", b"").await.unwrap().payload, b"kept", "it started again from what was saved");
    assert_eq!(rig.call("trap", b"").await.unwrap_err().reason(), "DRIVER_BROKE");
    rig.reaches(DriverState::Running).await;
    let refused = rig.call("queue", br#"{"queue":"elsewhere"}"#).await.unwrap_err();
    assert!(refused.rejection.message.contains("CAPABILITY_NOT_GRANTED"), "{refused:?}");
    assert_eq!(world.tasks(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_drops_no_call_and_events_wait_for_it() {
    let world = Fake::new("count");
    let rig = Rig::new(world.clone());
    rig.reaches(DriverState::Running).await;
    world.upgrade("idle");
    world.happens(1);
    // It is not at hand yet: the old one answers, and handles nothing.
    for _ in 0..20 {
        assert_eq!(rig.call("config", b"").await.unwrap().payload, b"\"count\"");
    }
    assert_eq!((world.counted(), world.driver().cursor), (0, 0));
    let calls = futures::future::join_all((0..50).map(|_| rig.call("config", b"")));
    let (answers, _) = tokio::join!(calls, async { rig.at_hand.send_replace(2) });
    let mut last = 1;
    for answer in answers {
        let answer = answer.unwrap();
        assert!(answer.generation >= last, "from the old one to the new one, once");
        last = answer.generation;
    }
    until(|| world.driver().cursor == 1).await;
    assert_eq!(rig.call("config", b"").await.unwrap().payload, b"\"idle\"");
    assert_eq!(world.counted(), 0, "the new one does not count");
}

#[tokio::test(start_paused = true)]
async fn ticks_come_when_they_are_asked_for() {
    let world = Fake::new("kron");
    let rig = Rig::new(world.clone());
    rig.reaches(DriverState::Running).await;
    until(|| world.tasks() == 1).await;
    let started = Instant::now();
    until(|| world.tasks() == 11).await;
    let took = started.elapsed();
    assert!(took > Duration::from_secs(9) && took < Duration::from_secs(12), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_bad_configuration_stops_it_until_it_is_upgraded() {
    let world = Fake::new("bad");
    let rig = Rig::new(world.clone());
    rig.reaches(DriverState::Stopped).await;
    assert!(rig.desk.status().last_error.contains("bad configuration"));
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(rig.desk.status().restarts, 0);
    rig.at_hand.send_replace(2);
    world.upgrade("count");
    rig.reaches(DriverState::Running).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_whose_signer_is_not_trusted_or_not_any_more() {
    let world = Fake::new("count");
    world.change(|held| held.trusted = false);
    let rig = Rig::new(world.clone());
    rig.reaches(DriverState::Stopped).await;
    assert!(rig.desk.status().last_error.starts_with("DRIVER_SIGNATURE"));
    world.change(|held| held.trusted = true);
    rig.reaches(DriverState::Running).await;
    world.change(|held| held.trusted = false);
    rig.reaches(DriverState::Stopped).await;
    assert_eq!(rig.call("echo", b"x").await.unwrap_err().reason(), "DRIVER_NOT_RUNNING");
    world.change(|held| held.driver = None);
    until(|| rig.running.is_finished()).await;
    assert_eq!(rig.call("echo", b"x").await.unwrap_err().reason(), "DRIVER_GONE");
}
