//! Runs one guest to its end, and says how it ended.

use std::future::poll_fn;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use wasmtime::{InstancePre, Store, Trap, WasmBacktrace};

use super::TABLE_ELEMENTS_MAX;
use super::cache::Cache;
use super::call::{ModuleCall, numbers};
use super::component::Returned;
use super::contract::Reported;
use super::guest::{Guest, Reach, Refused, Stop, Watch, world};
use super::host::Host;
use super::http::HttpClient;
use super::link::Offer;
use super::pipe::{Overflow, Pipe};
use super::program::{Call, Form, Program, one_line};
use super::scratch::Scratch;
use crate::executor::Ended;
use crate::value::format_results;
use crate::{Command, ExecutionError, Grants, HostServices, Limits, Source, Usage, Value};

/// What a WASI reactor exports to be called before anything else.
const INITIALIZE: &str = "_initialize";

/// How much fuel a guest burns before it is looked whether it has to stop, and others get their turn: a tenth of a millisecond of
/// plain computing, and hardly more than ten of the slowest.
pub(super) const SLICE_FUEL: u64 = 1_000_000;

/// What a guest without a limit on its fuel starts with: more than any can burn.
pub(super) const FUEL_UNLIMITED: u64 = 1 << 62;

/// How many bytes one call of a component may hand to the host.
pub(super) const HOST_CALL_BYTES_MAX: usize = 32 << 20;

/// Everything that a guest needs to run.
pub(super) struct Job {
    pub(super) host: Arc<Host>,
    pub(super) program: Arc<Program>,
    pub(super) call: Call,
    /// For a command, what it is started with.
    pub(super) command: Option<Command>,
    pub(super) limits: Limits,
    pub(super) grants: Grants,
    pub(super) services: Arc<dyn HostServices>,
    pub(super) scratch_dir: Arc<Path>,
    pub(super) cancel: CancellationToken,
    /// Where its logs go, if they are somebody else's.
    pub(super) logs: Option<Pipe>,
    /// Where what it calls comes from.
    pub(super) source: Source,
    pub(super) cache: Arc<Cache>,
    pub(super) http: Arc<HttpClient>,
}

/// A guest that is under way.
pub(super) type Running = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// What kept a guest from returning.
pub(super) enum Fault {
    /// It was stopped while it slept, or between two slices.
    Stopped(Stop),
    /// It could not start: its memory could not be had, or its start function failed.
    Starting(wasmtime::Error),
    /// It failed or was stopped while it computed.
    Running(wasmtime::Error),
}

/// Gets a guest under way. Comes back to the scheduler after every [`SLICE_FUEL`]; dropping the future ends the guest.
pub(super) fn start(job: Job) -> Running {
    Box::pin(run(job))
}

async fn run(mut job: Job) -> Ended {
    let began = Instant::now();
    let output = Pipe::new(job.limits.output_bytes, Overflow::Stop);
    let logs = job.logs.clone();
    let logs = logs.unwrap_or_else(|| Pipe::new(job.limits.log_bytes, Overflow::Drop));
    let watch = Watch::new(job.cancel.clone(), Duration::from_millis(job.limits.time_ms));
    let mut store = Store::new(&job.host.engine, Guest::new(&job.limits, watch.clone()));
    let fuel = job.limits.fuel.unwrap_or(FUEL_UNLIMITED);
    let result = match equip(&mut store, &job, fuel, &output, &logs) {
        Ok(()) => attend(&watch, enter(&mut store, &mut job)).await,
        Err(error) => Err(Fault::Starting(error)),
    };
    let result = match result {
        Ok(returned) => finish(returned, &job, &output),
        Err(fault) => explain(fault, &job, store.data(), &output, &logs),
    };
    Ended {
        result,
        logs: if job.logs.is_some() { Bytes::new() } else { logs.take() },
        usage: Usage {
            waited: Duration::ZERO,
            ran: began.elapsed(),
            memory_bytes_peak: store.data().meter.peak_bytes,
            fuel: Some(fuel.saturating_sub(store.get_fuel().unwrap_or(fuel))),
        },
    }
}

/// Attaches the limits to the store, and what the guest imports. The world of one that imports nothing is not even built.
fn equip(store: &mut Store<Guest>, job: &Job, fuel: u64, output: &Pipe, logs: &Pipe) -> wasmtime::Result<()> {
    store.limiter(|guest| &mut guest.meter);
    store.set_fuel(fuel)?;
    store.fuel_async_yield_interval(Some(SLICE_FUEL))?;
    let (imports, component) = match &job.program.form {
        Form::Module(module) => (module.imports, false),
        Form::Component(_) => (true, true),
    };
    if !imports {
        return Ok(());
    }
    store.call_hook(Guest::on_call);
    let guest = store.data_mut();
    if job.grants.scratch_bytes > 0 {
        guest.scratch = Some(Scratch::new(&job.scratch_dir, job.grants.scratch_bytes)?);
    }
    // The output of an exported function are its results, so what it prints goes to the logs.
    let stdout = if job.command.is_some() { output } else { logs };
    let world = world(job.command.as_ref(), stdout.clone(), logs.clone(), guest.scratch.as_ref())?;
    if component {
        guest.equip_component(world, reach(job, logs));
        store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
    } else {
        guest.equip_preview1(world);
    }
    Ok(())
}

fn reach(job: &Job, logs: &Pipe) -> Reach {
    Reach {
        grants: job.grants.clone(),
        services: Arc::clone(&job.services),
        limits: job.limits,
        logs: logs.clone(),
        reported: Reported::default(),
        env: job.command.as_ref().map(|command| command.env.clone()).unwrap_or_default(),
        host: Arc::clone(&job.host),
        cache: Arc::clone(&job.cache),
        http: Arc::clone(&job.http),
        source: job.source.clone(),
        scratch_dir: Arc::clone(&job.scratch_dir),
        driver: None,
    }
}

/// Runs the guest until it ends, is cancelled, or its time is over. One that computes is looked after between its slices; one that
/// sleeps in a host call is simply not woken any more.
pub(super) async fn attend<T>(watch: &Watch, entered: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let mut entered = pin!(entered);
    // Most guests are done before a timer could be set up.
    if let Poll::Ready(result) = poll_fn(|context| Poll::Ready(entered.as_mut().poll(context))).await {
        return result;
    }
    let mut outside = pin!(async {
        tokio::select! {
            () = watch.cancel().cancelled() => Stop::Cancelled,
            () = tokio::time::sleep_until(watch.deadline().into()) => Stop::TimeOver,
        }
    });
    poll_fn(|context| {
        // The timer may come late where every thread computes.
        if let Some(stop) = watch.due() {
            return Poll::Ready(Err(Fault::Stopped(stop)));
        }
        if let Poll::Ready(stop) = outside.as_mut().poll(context) {
            return Poll::Ready(Err(Fault::Stopped(stop)));
        }
        entered.as_mut().poll(context)
    })
    .await
}

async fn enter(store: &mut Store<Guest>, job: &mut Job) -> Result<Returned, Fault> {
    let offer = Offer::of(&job.grants).index();
    match (&job.program.form, &mut job.call) {
        (Form::Module(program), Call::Module(call)) => {
            let ready = program.ready(&job.host, offer);
            enter_module(store, ready, call, job.command.is_some()).await
        }
        (Form::Component(program), Call::Component(call)) => {
            let instance = program.instantiate(&job.host, offer, store).await;
            let instance = instance.map_err(Fault::Starting)?;
            call.enter(store, &instance).await.map_err(Fault::Running)
        }
        _ => unreachable!("a call was resolved in the program that it is for"),
    }
}

async fn enter_module(
    store: &mut Store<Guest>,
    ready: &InstancePre<Guest>,
    call: &mut ModuleCall,
    is_command: bool,
) -> Result<Returned, Fault> {
    let instance = ready.instantiate_async(&mut *store).await.map_err(Fault::Starting)?;
    if !is_command
        && call.function != INITIALIZE
        && let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut *store, INITIALIZE)
    {
        initialize.call_async(&mut *store, ()).await.map_err(Fault::Running)?;
    }
    let function = instance.get_func(&mut *store, &call.function);
    let function = function.expect("the export was looked up in the module before");
    function.call_async(&mut *store, &call.params, &mut call.results).await.map_err(Fault::Running)?;
    Ok(if is_command { Returned::Nothing } else { Returned::Values(numbers(&call.results)) })
}

/// Collects the result of a guest that returned.
fn finish(returned: Returned, job: &Job, output: &Pipe) -> Result<(Bytes, Vec<Value>), ExecutionError> {
    let (bytes, values) = match returned {
        Returned::Nothing => return Ok((output.take(), Vec::new())),
        Returned::Output(bytes) => (bytes.into(), Vec::new()),
        Returned::Values(values) => (format_results(&values).into(), values),
        Returned::Failed { message, retryable } => return Err(ExecutionError::GuestFailed { message, retryable }),
    };
    let limit_bytes = job.limits.output_bytes;
    match Bytes::len(&bytes) as u64 <= limit_bytes {
        true => Ok((bytes, values)),
        false => Err(ExecutionError::OutputLimit { limit_bytes }),
    }
}

/// Says why a guest did not return. Whoever stopped it has left a note; what comes out of the engine is only looked at when
/// nobody did.
fn explain(fault: Fault, job: &Job, guest: &Guest, output: &Pipe, logs: &Pipe) -> Result<(Bytes, Vec<Value>), ExecutionError> {
    let note = match &fault {
        Fault::Stopped(stop) => Some(stop.clone()),
        Fault::Starting(_) | Fault::Running(_) => guest.stop.clone(),
    };
    match note {
        Some(Stop::Exit(0)) if job.command.is_some() => finish(Returned::Nothing, job, output),
        None if guest.meter.refused.is_none() && output.overflowed() => {
            Err(ExecutionError::OutputLimit { limit_bytes: job.limits.output_bytes })
        }
        _ => Err(why(fault, &job.limits, guest, logs)),
    }
}

/// What made a guest end that did not mean to.
pub(super) fn why(fault: Fault, limits: &Limits, guest: &Guest, logs: &Pipe) -> ExecutionError {
    let (stop, error, starting) = match fault {
        Fault::Stopped(stop) => (Some(stop), None, false),
        Fault::Starting(error) => (guest.stop.clone(), Some(error), true),
        Fault::Running(error) => (guest.stop.clone(), Some(error), false),
    };
    if let Some(stop) = stop {
        return stopped(stop, limits);
    }
    if let Some(refused) = guest.meter.refused {
        return beyond(refused, limits);
    }
    let error = error.expect("a guest without an error was stopped, and that was handled above");
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => ExecutionError::FuelLimit { limit: limits.fuel.unwrap_or_default() },
        Some(trap) => {
            log_backtrace(&error, logs);
            ExecutionError::Trap { trap: trap.to_string().trim_start_matches("wasm trap: ").to_owned() }
        }
        // The pool or the machine had no memory for it.
        None if starting => ExecutionError::ResourceExhausted { detail: one_line(&error) },
        // A host call refused its arguments in a way that WASI has no error number for.
        None => ExecutionError::Trap { trap: error.root_cause().to_string() },
    }
}

fn stopped(stop: Stop, limits: &Limits) -> ExecutionError {
    match stop {
        Stop::Cancelled => ExecutionError::Cancelled,
        Stop::TimeOver => ExecutionError::TimeLimit { limit_ms: limits.time_ms },
        Stop::Exit(status) => ExecutionError::ExitNonzero { status },
        Stop::Refused { capability, call, advice } => ExecutionError::CapabilityNotGranted { capability, call, advice },
    }
}

fn beyond(refused: Refused, limits: &Limits) -> ExecutionError {
    match refused {
        Refused::Memory { wanted_bytes } => {
            ExecutionError::MemoryLimit { wanted_bytes: Some(wanted_bytes), limit_bytes: limits.memory_bytes }
        }
        Refused::Table { wanted } => ExecutionError::TableLimit { wanted, limit: TABLE_ELEMENTS_MAX as u64 },
    }
}

/// Adds the guest's call stack to its logs. It is the guest's own, so it tells its author everything and nothing about us.
fn log_backtrace(error: &wasmtime::Error, logs: &Pipe) {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return;
    };
    let lines = backtrace.frames().iter().map(|frame| match frame.func_name() {
        Some(name) => format!("[tarn: trapped in {name}]\n"),
        None => format!("[tarn: trapped in function {}]\n", frame.func_index()),
    });
    // The guest may have left its last line open.
    let text: String = std::iter::once("\n".to_owned()).chain(lines).collect();
    logs.append(text.as_bytes()).expect("a log drops what does not fit");
}
