//! One driver's life on this node: loaded, run turn by turn, started again when it broke, replaced when it is upgraded.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tarn_executor::{
    DriverEngine, DriverEvent, DriverInstance, DriverServices, DriverStart, ExecutionError, Grants, Hash, HttpOrigin, Limits, LogLevel,
};
use tarn_proto::v1::{AdvanceDriver, DriverLimits, DriverSpec, DriverState};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Code;

use super::backoff::Backoff;
use super::desk::{Answer, Call, Desk, refusal};
use super::turn::{Effects, Turn};
use super::world::{Position, Record, World};
use crate::gate::{Refusal, driver};
use crate::way::fresh_id;

/// What a driver gets that asks for nothing else.
const MEMORY_BYTES_DEFAULT: u64 = 64 << 20;
const CALL_MS_DEFAULT: u64 = 30_000;
/// Looks at the state are at least this far apart.
const LOOK_APART: Duration = Duration::from_millis(10);
/// After it was found to stand elsewhere, this node may still have to hear where.
const MOVED: Duration = Duration::from_millis(100);
/// The clock is looked at this often, however far away the next tick is: it may be set.
const CLOCK_LOOK: Duration = Duration::from_secs(15);
/// Where nothing concerns the driver, how far it has looked is written down only this often: well before those revisions are forgotten.
const CURSOR_EVERY: u64 = tarn_machine::limits::EVENT_REVISIONS_KEPT / 8;
/// The longest answer of a driver.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// What of an error is told.
const ERROR_BYTES_MAX: usize = 1 << 10;

/// Runs one driver.
pub(super) struct Runner {
    pub world: Arc<dyn World>,
    pub engine: Arc<DriverEngine>,
    pub desk: Arc<Desk>,
    pub calls: mpsc::Receiver<Call>,
    /// The latest generation that is at hand, compiled: it can take the place of the one that runs.
    pub at_hand: watch::Receiver<u64>,
}

/// Why an instance is not used any more.
enum End {
    /// The driver was removed.
    Gone,
    /// Another generation is at hand to take its place.
    Upgraded,
    /// The cluster has it elsewhere than this instance believes: start again from there.
    Moved,
    /// It broke; another instance may do better.
    Broken(String),
    /// It can never work as it is.
    Useless(String),
}

/// What an instance is to do.
enum Todo {
    Events(Vec<DriverEvent>),
    Tick(u64),
    Call(String, Bytes),
}

/// What it said.
enum Said {
    Done,
    Next(Option<u64>),
    Answer(Vec<u8>),
}

/// An instance at work.
struct Live {
    instance: DriverInstance,
    turn: Arc<Turn>,
    generation: u64,
    step: u64,
    wanted: Vec<i32>,
    /// Written down in the cluster.
    handled: Position,
    /// Looked at; what lies between is of no concern to the driver.
    looked: Position,
    /// Unix epoch, milliseconds.
    tick_at_ms: Option<u64>,
    /// After an error, not before.
    tick_from: Instant,
    events_from: Instant,
    ticks: Backoff,
    events: Backoff,
    /// The last turn was a call.
    called: bool,
    /// When it was last looked for events.
    looked_at: Instant,
}

impl Runner {
    /// Ends when the driver is removed; dropped, it ends at once.
    pub async fn run(mut self) {
        let mut failures = Backoff::default();
        loop {
            let Some(record) = self.world.record(&self.desk.id) else { return };
            let generation = record.driver.generation;
            let end = match self.start(&record).await {
                Ok(live) => self.serve(live).await,
                Err(end) => end,
            };
            match end {
                End::Gone => return,
                End::Upgraded => {}
                End::Moved => tokio::time::sleep(MOVED).await,
                End::Broken(error) => {
                    let delay = failures.failed();
                    self.failed(generation, DriverState::BackingOff, &error, Some(delay));
                    if self.pause(generation, Some(delay)).await {
                        failures.works();
                    }
                    self.desk.tell(|status| status.restarts += 1);
                }
                End::Useless(error) => {
                    self.failed(generation, DriverState::Stopped, &error, None);
                    self.pause(generation, None).await;
                    failures.works();
                }
            }
        }
    }

    fn failed(&self, generation: u64, state: DriverState, error: &str, delay: Option<Duration>) {
        let now_ms = self.world.now_ms();
        let error = cut(error);
        self.desk.count("run", if state == DriverState::Stopped { "stopped" } else { "broken" });
        self.desk.tell(|status| {
            status.state = state.into();
            status.generation = generation;
            status.last_error.clone_from(&error);
            status.last_error_at_ms = now_ms;
            status.next_start_at_ms = delay.map_or(0, |delay| now_ms + millis(delay));
        });
        let text = match delay {
            Some(delay) => format!("the driver broke, and is started again in {:.1} s: {error}", delay.as_secs_f64()),
            None => format!("the driver has stopped, until it is upgraded: {error}"),
        };
        self.desk.log(LogLevel::Error, now_ms, generation, &text);
    }

    /// Waits, and tells callers that nobody is there. True when the driver was changed meanwhile; without a delay, it waits for that.
    async fn pause(&mut self, generation: u64, delay: Option<Duration>) -> bool {
        let world = self.world.clone();
        let was_trusted = world.standing(&self.desk.id).is_some_and(|standing| standing.trusted);
        let over = delay.map(|delay| Instant::now() + delay);
        let mut seen = 0;
        loop {
            let standing = world.standing(&self.desk.id);
            let same = standing.is_some_and(|now| now.generation == generation && now.trusted == was_trusted);
            if !same {
                return true;
            }
            tokio::select! {
                () = until(over) => return false,
                call = self.calls.recv() => match call {
                    Some(call) => drop(call.answer.send(Err(self.desk.not_running()))),
                    None => std::future::pending().await,
                },
                now = world.applied_after(seen) => seen = now,
            }
        }
    }

    /// Verifies, loads and initialises the driver as the cluster has it.
    async fn start(&self, record: &Record) -> Result<Live, End> {
        let (generation, spec) = (record.driver.generation, record.driver.spec.clone().unwrap_or_default());
        self.desk.tell(|status| {
            status.state = DriverState::Starting.into();
            status.generation = generation;
        });
        let (artifact, bytes) = load(&*self.world, &spec).await.map_err(|why| match why.starts_with("DRIVER_SIGNATURE") {
            true => End::Useless(why),
            false => End::Broken(why),
        })?;
        let grants = spec.grants.clone().unwrap_or_default();
        let turn = Arc::new(Turn {
            queues: grants.queues.into(),
            generation,
            desk: self.desk.clone(),
            world: self.world.clone(),
            effects: Default::default(),
        });
        let http = grants.http.iter().map(|origin| origin.parse::<HttpOrigin>()).collect::<Result<_, _>>();
        let start = DriverStart {
            artifact,
            bytes,
            limits: limits(spec.limits.unwrap_or_default()),
            grants: Grants { http: http.map_err(|error| End::Useless(error.to_string()))?, ..Grants::default() },
            services: turn.clone() as Arc<dyn DriverServices>,
        };
        let mut instance = self.engine.start(start).await.map_err(broken)?;
        let state = Some(record.state.clone()).filter(|state| !state.is_empty());
        let said = instance.init(&self.desk.id.name, &spec.config, state).await.map_err(broken)?;
        said.map_err(|why| End::Useless(format!("it refused its configuration: {why}")))?;
        let driver = &record.driver;
        let handled = Position { revision: driver.cursor, ordinal: driver.cursor_ordinal };
        let now = Instant::now();
        let mut live = Live {
            instance,
            turn,
            generation,
            step: driver.step,
            wanted: spec.events,
            handled,
            looked: handled,
            tick_at_ms: Some(0),
            tick_from: now,
            events_from: now,
            ticks: Backoff::default(),
            events: Backoff::default(),
            called: false,
            looked_at: now,
        };
        // It may have saved something already.
        self.commit(&mut live, None).await?;
        self.desk.tell(|status| {
            status.state = DriverState::Running.into();
            status.next_start_at_ms = 0;
        });
        self.desk.log(LogLevel::Info, self.world.now_ms(), generation, "the driver runs");
        Ok(live)
    }

    /// Turn after turn, until the instance is not to be used any more.
    async fn serve(&mut self, mut live: Live) -> End {
        let mut seen = 0;
        loop {
            let takes_events = match self.world.standing(&self.desk.id) {
                None => return End::Gone,
                // Another node runs it too, or another driver has its name.
                Some(standing) if standing.step != live.step => return End::Moved,
                Some(standing) if standing.generation != live.generation => {
                    if *self.at_hand.borrow_and_update() >= standing.generation {
                        return End::Upgraded;
                    }
                    // The next one is being loaded: this one answers those who call meanwhile.
                    false
                }
                Some(standing) if !standing.trusted => {
                    return End::Useless("DRIVER_SIGNATURE: the key that signed it is not trusted any more".to_owned());
                }
                Some(_) => true,
            };
            if let Err(end) = self.turn(&mut live, takes_events, &mut seen).await {
                return end;
            }
        }
    }

    /// One turn, or a while of waiting for one.
    async fn turn(&mut self, live: &mut Live, takes_events: bool, seen: &mut u64) -> Result<(), End> {
        // Callers wait, so they come first; but not twice in a row.
        if !std::mem::replace(&mut live.called, false)
            && let Ok(call) = self.calls.try_recv()
        {
            return self.answer(live, call).await;
        }
        if takes_events && self.tell(live).await? {
            return Ok(());
        }
        let now = Instant::now();
        let tick_due = live.tick_at_ms.map(|at_ms| {
            let left = Duration::from_millis(at_ms.saturating_sub(self.world.now_ms()));
            (now + left.min(CLOCK_LOOK)).max(live.tick_from)
        });
        if takes_events && tick_due.is_some_and(|due| due <= now) {
            return self.tick(live).await;
        }
        let events_due = Some(live.events_from).filter(|due| *due > now);
        let look_from = live.looked_at + LOOK_APART;
        let world = self.world.clone();
        tokio::select! {
            call = self.calls.recv() => match call {
                Some(call) => self.answer(live, call).await,
                None => std::future::pending().await,
            },
            () = until(tick_due.filter(|_| takes_events)) => Ok(()),
            () = until(events_due) => Ok(()),
            Ok(()) = self.at_hand.changed() => Ok(()),
            now = later(look_from, world.applied_after(*seen)) => {
                *seen = now;
                live.looked_at = Instant::now();
                Ok(())
            }
        }
    }

    /// Tells the driver of the next events. False where there is nothing to tell now.
    async fn tell(&mut self, live: &mut Live) -> Result<bool, End> {
        if Instant::now() < live.events_from {
            return Ok(false);
        }
        let page = self.world.events(&self.desk.id, live.looked, &live.wanted);
        let page = page.map_err(|refusal| End::Broken(said(&refusal)))?;
        if page.lost {
            self.lost(live);
        }
        if page.events.is_empty() {
            live.looked = page.up_to;
            if live.looked.revision - live.handled.revision > CURSOR_EVERY {
                self.commit(live, Some(live.looked)).await?;
            }
            return Ok(page.more);
        }
        let count = page.events.len() as u64;
        match self.act(live, "events", Todo::Events(page.events)).await? {
            Ok(_) => {
                self.commit(live, Some(page.up_to)).await?;
                live.events.works();
                self.desk.tell(|status| status.events += count);
                Ok(true)
            }
            Err(why) => {
                let delay = live.events.failed();
                live.events_from = Instant::now() + delay;
                self.again(live, "events", delay, &why);
                Ok(false)
            }
        }
    }

    async fn tick(&mut self, live: &mut Live) -> Result<(), End> {
        match self.act(live, "tick", Todo::Tick(self.world.now_ms())).await? {
            Ok(told) => {
                self.commit(live, None).await?;
                live.ticks.works();
                live.tick_at_ms = if let Said::Next(next) = told { next } else { None };
            }
            Err(why) => {
                let delay = live.ticks.failed();
                live.tick_from = Instant::now() + delay;
                live.tick_at_ms = Some(0);
                self.again(live, "tick", delay, &why);
            }
        }
        Ok(())
    }

    /// Answers a caller, once what the call changed is written down.
    async fn answer(&mut self, live: &mut Live, call: Call) -> Result<(), End> {
        live.called = true;
        if call.answer.is_closed() {
            // Nobody waits any more.
            return Ok(());
        }
        let acted = self.act(live, "call", Todo::Call(call.method, call.payload)).await;
        let (answer, end) = match acted {
            Err(end) => (Err(refusal(Code::Internal, "DRIVER_BROKE", format!("the driver broke: {}", end.why()))), Err(end)),
            Ok(Err(why)) => (Err(refusal(Code::FailedPrecondition, "DRIVER_REFUSED", why)), Ok(())),
            Ok(Ok(told)) => match self.commit(live, None).await {
                Ok(()) => (answer(told, live.generation), Ok(())),
                Err(end) => {
                    let message = format!("what the driver did is not written down, and perhaps done again: {}", end.why());
                    (Err(refusal(Code::Unavailable, "DRIVER_NOT_SAVED", message)), Err(end))
                }
            },
        };
        if answer.is_ok() {
            self.desk.tell(|status| status.calls += 1);
        }
        // Who has given up meanwhile wants no answer.
        let _ = call.answer.send(answer);
        end
    }

    /// One call of the instance. What it wants changed is forgotten when it says no.
    async fn act(&self, live: &mut Live, what: &'static str, todo: Todo) -> Result<Result<Said, String>, End> {
        live.turn.take();
        let said = match todo {
            Todo::Events(events) => live.instance.events(events).await.map(|said| said.map(|()| Said::Done)),
            Todo::Tick(now_ms) => live.instance.tick(now_ms).await.map(|said| said.map(Said::Next)),
            Todo::Call(method, payload) => live.instance.call(method, payload).await.map(|said| said.map(Said::Answer)),
        };
        match said {
            Ok(Ok(said)) => {
                self.desk.count(what, "ok");
                Ok(Ok(said))
            }
            Ok(Err(why)) => {
                live.turn.take();
                self.desk.count(what, "refused");
                Ok(Err(cut(&why)))
            }
            Err(error) => {
                self.desk.count(what, "broken");
                Err(broken(error))
            }
        }
    }

    /// Writes down what a turn changed: all of it in one command, or nothing.
    async fn commit(&self, live: &mut Live, handled: Option<Position>) -> Result<(), End> {
        let Effects { state, tasks, .. } = live.turn.take();
        if handled.is_none() && state.is_none() && tasks.is_empty() {
            return Ok(());
        }
        let position = handled.unwrap_or(live.handled);
        let change = AdvanceDriver {
            request_id: fresh_id(),
            namespace: self.desk.id.namespace.clone(),
            name: self.desk.id.name.clone(),
            generation: live.generation,
            step: live.step,
            cursor: position.revision,
            cursor_ordinal: position.ordinal,
            state,
            tasks,
        };
        match self.world.advance(live.turn.queues.clone(), change).await {
            Ok(advanced) => {
                live.step = advanced.step;
                live.handled = position;
                live.looked = live.looked.max(position);
                Ok(())
            }
            Err(refusal) if refusal.reason() == "DRIVER_MOVED_ON" => Err(End::Moved),
            // Its memory may hold what the cluster does not have: it starts again from what was saved.
            Err(refusal) => Err(End::Broken(format!("what it did was not taken: {}", said(&refusal)))),
        }
    }

    fn again(&self, live: &Live, what: &str, delay: Duration, why: &str) {
        let now_ms = self.world.now_ms();
        self.desk.tell(|status| {
            status.last_error = format!("{what}: {why}");
            status.last_error_at_ms = now_ms;
        });
        let text = format!("{what} refused, and tried again in {:.1} s: {why}", delay.as_secs_f64());
        self.desk.log(LogLevel::Warn, now_ms, live.generation, &text);
    }

    /// Events were forgotten before the driver came to them.
    fn lost(&self, live: &Live) {
        let text = format!(
            "events after revision {} are gone: the driver was behind for longer than the cluster keeps them, and goes on with what is left",
            live.looked.revision
        );
        self.desk.count("events", "lost");
        self.desk.tell(|status| status.events_lost = true);
        self.desk.log(LogLevel::Error, self.world.now_ms(), live.generation, &text);
    }
}

impl End {
    fn why(&self) -> &str {
        match self {
            Self::Gone => "it was removed",
            Self::Upgraded | Self::Moved => "it is run elsewhere, or anew",
            Self::Broken(why) | Self::Useless(why) => why,
        }
    }
}

/// The driver's bytes, once they are what a trusted key signed.
pub(super) async fn load(world: &dyn World, spec: &DriverSpec) -> Result<(Hash, Bytes), String> {
    let artifact: Hash = spec.artifact.parse().map_err(|error| format!("{error}"))?;
    if driver::signer(&artifact, &spec.signature, &world.trusted()).is_none() {
        return Err("DRIVER_SIGNATURE: its signature fits no key that this cluster trusts".to_owned());
    }
    let bytes = world.artifact(artifact).await?;
    match Hash::of(&bytes) == artifact {
        true => Ok((artifact, bytes)),
        false => Err(format!("the bytes of {artifact} on this node are others than were signed")),
    }
}

fn answer(told: Said, generation: u64) -> Result<Answer, Refusal> {
    let payload = if let Said::Answer(payload) = told { payload } else { Vec::new() };
    if payload.len() <= ANSWER_BYTES_MAX {
        return Ok(Answer { payload, generation });
    }
    let message = format!("the driver's answer has {} bytes: at most {ANSWER_BYTES_MAX} are sent", payload.len());
    Err(refusal(Code::ResourceExhausted, "DRIVER_ANSWER_TOO_LARGE", message).limit(ANSWER_BYTES_MAX as u64))
}

fn limits(asked: DriverLimits) -> Limits {
    let or = |asked: u64, default: u64| if asked == 0 { default } else { asked };
    Limits {
        memory_bytes: or(asked.memory_bytes, MEMORY_BYTES_DEFAULT),
        time_ms: or(asked.call_ms, CALL_MS_DEFAULT),
        fuel: Some(asked.fuel).filter(|fuel| *fuel > 0),
        ..Limits::default()
    }
}

/// What of a failure a tenant is told. Causes of the node's own go to its log.
fn broken(error: ExecutionError) -> End {
    let why = match &error {
        ExecutionError::Broken { .. } | ExecutionError::ResourceExhausted { .. } => {
            tracing::error!(%error, "a driver failed by this node's own fault");
            format!("{}: the node failed; its log says why", error.reason())
        }
        error => format!("{}: {error}", error.reason()),
    };
    match error {
        ExecutionError::InvalidModule { .. }
        | ExecutionError::MissingExport { .. }
        | ExecutionError::UnsupportedImport { .. }
        | ExecutionError::ArtifactTooLarge { .. }
        | ExecutionError::LimitOutOfRange { .. } => End::Useless(why),
        _ => End::Broken(why),
    }
}

fn said(refusal: &Refusal) -> String {
    format!("{}: {}", refusal.reason(), refusal.rejection.message)
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(ERROR_BYTES_MAX)].to_owned()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn later<T>(from: Instant, what: impl Future<Output = T>) -> T {
    tokio::time::sleep_until(from).await;
    what.await
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
