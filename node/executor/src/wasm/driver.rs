//! Drivers: components that live for long and are called again and again.
//!
//! They have an engine of their own, which takes memory on demand: a driver that sits there for weeks takes no place from tasks. An instance
//! keeps its memory from one call to the next; each call has its own time and fuel. One that does not return in good order is broken for
//! good, and whoever supervises it starts another.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use wasmtime::component::{ComponentNamedList, ComponentType, Instance, Lift, Linker, Lower, TypedFunc};
use wasmtime::{Store, StoreContextMut};

use super::Allocation;
use super::cache::Cache;
use super::contract::{CLOCK, DRIVER, Reported, STATE, TASKS, one_line as plain};
use super::disk::DiskCache;
use super::guest::{Guest, Reach, Watch, world};
use super::host::Host;
use super::http::HttpClient;
use super::link::Offer;
use super::pipe::{Overflow, Pipe};
use super::program::{Form, Program};
use super::run::{FUEL_UNLIMITED, Fault, HOST_CALL_BYTES_MAX, SLICE_FUEL, attend, why};
use crate::{
    ContextEntry, DriverServices, ExecutionError, Grants, Hash, HostServices, Limits, LogLevel, NoServices, NotEnqueued, ServiceError,
    Source,
};

/// How a [`DriverEngine`] is set up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DriverConfig {
    /// Where compiled drivers are kept across restarts, as for tasks, in a directory of its own; `None` keeps them in memory only.
    pub cache_dir: Option<PathBuf>,
    /// As [`WasmConfig::http_authorities`](super::WasmConfig::http_authorities).
    pub http_authorities: Option<PathBuf>,
}

/// Compiles and starts drivers.
pub struct DriverEngine {
    host: Arc<Host>,
    cache: Arc<Cache>,
    http: Arc<HttpClient>,
}

/// What a driver is started with.
#[derive(Debug)]
pub struct DriverStart {
    /// The component.
    pub artifact: Hash,
    /// Its bytes, should it not be compiled yet.
    pub bytes: Bytes,
    /// Memory counts for the whole instance, time and fuel for each call. The rest does not matter.
    pub limits: Limits,
    /// What it may reach. Log, clocks and random numbers it has anyway.
    pub grants: Grants,
    /// What does for it what it asks for.
    pub services: Arc<dyn DriverServices>,
}

/// Something that happened, for a driver.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct DriverEvent {
    /// Its name for ever.
    pub id: String,
    /// Where it stands among events.
    pub revision: u64,
    /// Where it stands within the revision.
    pub ordinal: u32,
    /// The cluster's time, Unix epoch, milliseconds.
    #[component(name = "at-ms")]
    pub at_ms: u64,
    /// Such as `TASK_SUCCEEDED`.
    pub kind: String,
    /// Where it happened.
    pub namespace: String,
    /// The queue, if any.
    pub queue: String,
    /// To what it happened.
    pub subject: String,
    /// The worker, if any.
    pub worker: String,
    /// The attempt, if any.
    pub attempt: u32,
    /// What more there is to say.
    pub detail: String,
}

type Said<T> = Result<T, String>;

impl DriverEngine {
    /// Starts the engine.
    ///
    /// # Errors
    /// [`ExecutionError::Broken`] when it does not work on this machine, or a directory or file of the configuration cannot be used.
    pub fn new(config: &DriverConfig) -> Result<Self, ExecutionError> {
        let unusable = |error: std::io::Error| ExecutionError::broken(format!("cannot use the directory for compiled drivers: {error}"));
        let disk = config.cache_dir.as_ref().map(|dir| DiskCache::open(dir).map_err(unusable)).transpose()?;
        let http = HttpClient::new(config.http_authorities.as_deref())
            .map_err(|why| ExecutionError::broken(format!("cannot use the certificates of authorities: {why}")))?;
        Ok(Self { host: Arc::new(Host::start(Allocation::OnDemand, 1)?), cache: Arc::new(Cache::new(disk)), http: Arc::new(http) })
    }

    /// Compiles a driver, so that it starts at once when it is wanted.
    ///
    /// # Errors
    /// Why it cannot be compiled.
    pub async fn prepare(&self, artifact: Hash, bytes: Bytes) -> Result<(), ExecutionError> {
        self.cache.program(&self.host, artifact, Source::Bytes(bytes)).await.map(drop)
    }

    /// Whether this is a driver: it compiles, can be started, and exports what drivers export. None of its exports is called.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn check(&self, artifact: Hash, bytes: Bytes) -> Result<(), ExecutionError> {
        let start = DriverStart { artifact, bytes, limits: Limits::default(), grants: Grants::default(), services: Arc::new(Deaf) };
        self.start(start).await.map(drop)
    }

    /// Starts an instance, which has run nothing of its own yet but what its start function does.
    ///
    /// # Errors
    /// Why it cannot be started; [`ExecutionError::retryable`] says whether it could another time.
    pub async fn start(&self, start: DriverStart) -> Result<DriverInstance, ExecutionError> {
        start.limits.check()?;
        let program = self.cache.program(&self.host, start.artifact, Source::Bytes(start.bytes)).await?;
        let grants = Grants { clock: true, random: true, log: true, ..start.grants };
        let logs = Pipe::new(0, Overflow::Drop);
        let watch = Watch::new(CancellationToken::new(), Duration::from_millis(start.limits.time_ms));
        let mut store = Store::new(&self.host.engine, Guest::new(&start.limits, watch.clone()));
        let offer = Offer::of(&grants).index();
        let reach = Reach {
            grants,
            services: Arc::new(Voice(Arc::clone(&start.services))),
            limits: start.limits,
            logs: logs.clone(),
            reported: Reported::default(),
            env: Default::default(),
            host: Arc::clone(&self.host),
            cache: Arc::clone(&self.cache),
            http: Arc::clone(&self.http),
            source: Source::Prepared,
            scratch_dir: Path::new("").into(),
            driver: Some(start.services),
        };
        let entering = async {
            equip(&mut store, reach, &logs).map_err(Fault::Starting)?;
            instantiate(&program, &self.host, offer, &mut store).await
        };
        let instance = match attend(&watch, entering).await {
            Ok(instance) => instance?,
            Err(fault) => return Err(why(fault, &start.limits, store.data(), &logs)),
        };
        Exports::find(instance, &mut store).map(|exports| DriverInstance { store, exports, limits: start.limits, logs, broken: false })
    }
}

fn equip(store: &mut Store<Guest>, reach: Reach, logs: &Pipe) -> wasmtime::Result<()> {
    store.limiter(|guest| &mut guest.meter);
    store.set_fuel(reach.limits.fuel.unwrap_or(FUEL_UNLIMITED))?;
    store.fuel_async_yield_interval(Some(SLICE_FUEL))?;
    store.call_hook(Guest::on_call);
    store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
    let world = world(None, logs.clone(), logs.clone(), None)?;
    store.data_mut().equip_component(world, reach);
    Ok(())
}

async fn instantiate(
    program: &Program,
    host: &Host,
    offer: usize,
    store: &mut Store<Guest>,
) -> Result<Result<Instance, ExecutionError>, Fault> {
    match &program.form {
        Form::Component(component) => Ok(Ok(component.instantiate(host, offer, store).await.map_err(Fault::Starting)?)),
        Form::Module(_) => {
            let detail = "a driver is a component with the exports of the world `driver-guest`, and this is a core module";
            Ok(Err(ExecutionError::InvalidModule { detail: detail.to_owned() }))
        }
    }
}

/// A driver at work.
pub struct DriverInstance {
    store: Store<Guest>,
    exports: Exports,
    limits: Limits,
    logs: Pipe,
    /// A call did not come back in good order, or is under way.
    broken: bool,
}

/// A function that a driver exports: what it takes, and what it says.
type Export<Given, Answer> = TypedFunc<Given, (Said<Answer>,)>;

/// What a driver exports.
struct Exports {
    init: Export<(String, String, Option<Vec<u8>>), ()>,
    events: Export<(Vec<DriverEvent>,), ()>,
    tick: Export<(u64,), Option<u64>>,
    call: Export<(String, Vec<u8>), Vec<u8>>,
}

impl Exports {
    fn find(instance: Instance, store: &mut Store<Guest>) -> Result<Self, ExecutionError> {
        Ok(Self {
            init: export(instance, store, "init")?,
            events: export(instance, store, "on-events")?,
            tick: export(instance, store, "on-tick")?,
            call: export(instance, store, "call")?,
        })
    }
}

fn export<P, R>(instance: Instance, store: &mut Store<Guest>, name: &str) -> Result<TypedFunc<P, R>, ExecutionError>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    let interface = instance.get_export_index(&mut *store, None, DRIVER);
    let index = interface.and_then(|interface| instance.get_export_index(&mut *store, Some(&interface), name));
    let Some(index) = index else {
        return Err(ExecutionError::MissingExport { name: format!("{DRIVER}#{name}"), exports: Vec::new() });
    };
    instance.get_typed_func(&mut *store, index).map_err(|error| ExecutionError::InvalidModule {
        detail: format!("its {DRIVER}#{name} is not what the contract says: {}", super::program::one_line(&error)),
    })
}

/// Each call gives what the driver said, and an error if it did not come to say anything: the instance is broken then.
impl DriverInstance {
    /// The first call: its name, its configuration, and what it saved last.
    ///
    /// # Errors
    /// How it broke.
    pub async fn init(&mut self, name: &str, config: &str, state: Option<Bytes>) -> Result<Said<()>, ExecutionError> {
        let params = (name.to_owned(), config.to_owned(), state.map(Vec::from));
        self.enter(self.exports.init, params).await
    }

    /// Tells it what happened.
    ///
    /// # Errors
    /// How it broke.
    pub async fn events(&mut self, events: Vec<DriverEvent>) -> Result<Said<()>, ExecutionError> {
        self.enter(self.exports.events, (events,)).await
    }

    /// Tells it the time, Unix epoch, milliseconds; it says when it wants to be told again.
    ///
    /// # Errors
    /// How it broke.
    pub async fn tick(&mut self, now_ms: u64) -> Result<Said<Option<u64>>, ExecutionError> {
        self.enter(self.exports.tick, (now_ms,)).await
    }

    /// Has it answer.
    ///
    /// # Errors
    /// How it broke.
    pub async fn call(&mut self, method: String, payload: Bytes) -> Result<Said<Vec<u8>>, ExecutionError> {
        self.enter(self.exports.call, (method, payload.into())).await
    }

    /// One call, within its own time and fuel. What is dropped half-way leaves a broken instance, as what failed does.
    async fn enter<P, T>(&mut self, function: TypedFunc<P, (Said<T>,)>, params: P) -> Result<Said<T>, ExecutionError>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        T: 'static,
        (Said<T>,): ComponentNamedList + Lift + Send + Sync + 'static,
    {
        if std::mem::replace(&mut self.broken, true) {
            return Err(ExecutionError::broken("the driver's instance broke in an earlier call"));
        }
        let watch = Watch::new(CancellationToken::new(), Duration::from_millis(self.limits.time_ms));
        self.store.data_mut().watch = watch.clone();
        self.store.set_fuel(self.limits.fuel.unwrap_or(FUEL_UNLIMITED)).map_err(ExecutionError::broken)?;
        let store = &mut self.store;
        let entering = async { function.call_async(store, params).await.map_err(Fault::Running) };
        match attend(&watch, entering).await {
            Ok((said,)) => {
                self.broken = false;
                Ok(said.map_err(|message| plain(&message)))
            }
            Err(fault) => Err(why(fault, &self.limits, self.store.data(), &self.logs)),
        }
    }
}

// --- What drivers import ---------------------------------------------------------------------------------------------------------------

/// The most bytes that a task and its payload, or a state, may have on their way to the node, which has limits of its own.
const HANDED_BYTES_MAX: usize = 4 << 20;

/// Offers `tarn:guest/clock`, `tarn:guest/state` and `tarn:guest/tasks`.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance(CLOCK)?.func_wrap("now-ms", |store: StoreContextMut<'_, Guest>, (): ()| Ok((now_ms(store)?,)))?;
    linker.instance(STATE)?.func_wrap("save", |store: StoreContextMut<'_, Guest>, (state,): (Vec<u8>,)| Ok((save(store, state)?,)))?;
    linker.instance(TASKS)?.func_wrap("enqueue", |store: StoreContextMut<'_, Guest>, (spec, payload): (String, Option<Vec<u8>>)| {
        Ok((enqueue(store, &spec, payload)?,))
    })
}

fn now_ms(mut store: StoreContextMut<'_, Guest>) -> wasmtime::Result<u64> {
    let guest = store.data_mut();
    if !guest.reach_ref().grants.clock {
        return Err(guest.refuse("clock", "tarn:guest/clock.now-ms", "add `clock` to the task's grants"));
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn save(mut store: StoreContextMut<'_, Guest>, state: Vec<u8>) -> wasmtime::Result<Said<()>> {
    let services = services(store.data_mut(), "tarn:guest/state.save")?;
    Ok(services.save(state.into()))
}

fn enqueue(mut store: StoreContextMut<'_, Guest>, spec: &str, payload: Option<Vec<u8>>) -> wasmtime::Result<Said<()>> {
    const CALL: &str = "tarn:guest/tasks.enqueue";
    let services = services(store.data_mut(), CALL)?;
    if spec.len() + payload.as_ref().map_or(0, Vec::len) > HANDED_BYTES_MAX {
        return Ok(Err(format!("the task has more than {HANDED_BYTES_MAX} bytes")));
    }
    match services.enqueue(spec, payload.map(Bytes::from)) {
        Ok(()) => Ok(Ok(())),
        Err(NotEnqueued::Refused(why)) => Ok(Err(why)),
        Err(NotEnqueued::NotGranted { queue }) => {
            let queue = plain(&queue);
            let advice = format!("add {queue} to `queues` in the driver's grants");
            Err(store.data_mut().refuse("queues", format!("{CALL} to {queue}"), advice))
        }
    }
}

fn services(guest: &mut Guest, call: &str) -> wasmtime::Result<Arc<dyn DriverServices>> {
    match &guest.reach_ref().driver {
        Some(services) => Ok(Arc::clone(services)),
        None => Err(guest.refuse("driver", call, "it is offered to drivers alone: a task returns its result")),
    }
}

/// For a driver that is only looked at.
#[derive(Debug)]
struct Deaf;

impl DriverServices for Deaf {
    fn log(&self, _: LogLevel, _: &str) {}

    fn save(&self, _: Bytes) -> Result<(), String> {
        Ok(())
    }

    fn enqueue(&self, _: &str, _: Option<Bytes>) -> Result<(), NotEnqueued> {
        Ok(())
    }
}

/// A driver's log, where tasks have all their services.
#[derive(Debug)]
struct Voice(Arc<dyn DriverServices>);

#[async_trait]
impl HostServices for Voice {
    async fn context_get(&self, context: &str, key: &str) -> Result<Option<ContextEntry>, ServiceError> {
        NoServices.context_get(context, key).await
    }

    async fn context_set(&self, context: &str, key: &str, value: Bytes, expected: Option<u64>) -> Result<u64, ServiceError> {
        NoServices.context_set(context, key, value, expected).await
    }

    async fn context_delete(&self, context: &str, key: &str, expected: Option<u64>) -> Result<(), ServiceError> {
        NoServices.context_delete(context, key, expected).await
    }

    async fn context_list(&self, context: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, ServiceError> {
        NoServices.context_list(context, prefix, after, limit).await
    }

    async fn progress(&self, fraction: f64, message: &str) -> Result<(), ServiceError> {
        NoServices.progress(fraction, message).await
    }

    async fn log(&self, level: LogLevel, message: &str) {
        self.0.log(level, message);
    }
}
