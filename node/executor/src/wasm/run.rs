//! Runs one guest to its end, on a thread of its own, and says how it ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace};

use super::TABLE_ELEMENTS_MAX;
use super::call::{Call, numbers};
use super::guest::{Guest, Refused, Stop};
use super::host::{Host, Metering};
use super::pipe::{Overflow, Pipe};
use super::program::{Program, one_line};
use crate::value::format_results;
use crate::{ExecutionError, Limits, Value};

/// What a WASI reactor exports to be called before anything else.
const INITIALIZE: &str = "_initialize";

/// Everything that a guest needs to run.
pub(super) struct Job {
    pub(super) host: Arc<Host>,
    pub(super) program: Arc<Program>,
    pub(super) metering: Metering,
    pub(super) call: Call,
    pub(super) limits: Limits,
    pub(super) cancel: CancellationToken,
}

/// How it ended, and what it used.
pub(super) struct Ended {
    pub(super) result: Result<(Bytes, Vec<Value>), ExecutionError>,
    pub(super) logs: Bytes,
    pub(super) ran: Duration,
    pub(super) memory_bytes_peak: u64,
    pub(super) fuel: Option<u64>,
}

/// What kept a guest from returning.
enum Fault {
    /// It was stopped while it slept.
    Stopped(Stop),
    /// It could not start: its memory could not be had, or its start function failed.
    Starting(wasmtime::Error),
    /// It failed or was stopped while it computed.
    Running(wasmtime::Error),
}

/// Runs the guest. Blocks the thread until it ended; `runtime` serves the guest's timers meanwhile.
pub(super) fn run(mut job: Job, runtime: &Handle) -> Ended {
    let began = Instant::now();
    let output = Pipe::new(job.limits.output_bytes, Overflow::Stop);
    let logs = Pipe::new(job.limits.log_bytes, Overflow::Drop);
    // The output of an exported function are its results, so what it prints goes to the logs.
    let stdout = if job.call.command.is_some() {
        output.clone()
    } else {
        logs.clone()
    };
    let guest = Guest::new(job.call.command.as_ref(), &job.limits, stdout, logs.clone());
    let mut store = Store::new(&job.host.engine, guest);
    let result = match equip(&mut store, &job, began) {
        Ok(()) => drive(&mut store, &mut job, runtime, began),
        Err(error) => Err(Fault::Starting(error)),
    };
    let fuel = fuel_used(&store, &job);
    let result = match result {
        Ok(()) => finish(&job, &output),
        Err(fault) => explain(fault, &job, store.data(), &output, &logs),
    };
    Ended {
        result,
        logs: logs.take(),
        ran: began.elapsed(),
        memory_bytes_peak: store.data().meter.peak_bytes,
        fuel,
    }
}

/// Attaches the limits to the store.
fn equip(store: &mut Store<Guest>, job: &Job, began: Instant) -> wasmtime::Result<()> {
    store.limiter(|guest| &mut guest.meter);
    if let (Metering::Fuel, Some(fuel)) = (job.metering, job.limits.fuel) {
        store.set_fuel(fuel)?;
    }
    let cancel = job.cancel.clone();
    let time = Duration::from_millis(job.limits.time_ms);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |mut store| {
        let stop = if cancel.is_cancelled() {
            Stop::Cancelled
        } else if began.elapsed() >= time {
            Stop::TimeOver
        } else {
            return Ok(UpdateDeadline::Continue(1));
        };
        store.data_mut().stop = Some(stop);
        Err(wasmtime::Error::msg("interrupted"))
    });
    Ok(())
}

/// Runs the guest until it ends, is cancelled, or its time is over. The engine's epoch interrupts a guest that computes;
/// one that sleeps in a host call is simply not woken any more.
fn drive(store: &mut Store<Guest>, job: &mut Job, runtime: &Handle, began: Instant) -> Result<(), Fault> {
    let host = Arc::clone(&job.host);
    let _ticking = host.ticker.keep_ticking();
    let cancel = job.cancel.clone();
    let deadline = tokio::time::Instant::from_std(began + Duration::from_millis(job.limits.time_ms));
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Fault::Stopped(Stop::Cancelled)),
            entered = enter(store, job) => entered,
            () = tokio::time::sleep_until(deadline) => Err(Fault::Stopped(Stop::TimeOver)),
        }
    })
}

async fn enter(store: &mut Store<Guest>, job: &mut Job) -> Result<(), Fault> {
    let instance = job
        .program
        .ready
        .instantiate_async(&mut *store)
        .await
        .map_err(Fault::Starting)?;
    if job.call.command.is_none()
        && job.call.function != INITIALIZE
        && let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut *store, INITIALIZE)
    {
        initialize.call_async(&mut *store, ()).await.map_err(Fault::Running)?;
    }
    let function = instance.get_func(&mut *store, &job.call.function);
    let function = function.expect("the export was looked up in the module before");
    function
        .call_async(&mut *store, &job.call.params, &mut job.call.results)
        .await
        .map_err(Fault::Running)
}

fn fuel_used(store: &Store<Guest>, job: &Job) -> Option<u64> {
    match (job.metering, job.limits.fuel) {
        (Metering::Fuel, Some(fuel)) => Some(fuel.saturating_sub(store.get_fuel().unwrap_or(0))),
        _ => None,
    }
}

/// Collects the result of a guest that returned.
fn finish(job: &Job, output: &Pipe) -> Result<(Bytes, Vec<Value>), ExecutionError> {
    if job.call.command.is_some() {
        return Ok((output.take(), Vec::new()));
    }
    let values = numbers(&job.call.results);
    let text = format_results(&values);
    if text.len() as u64 > job.limits.output_bytes {
        return Err(ExecutionError::OutputLimit {
            limit_bytes: job.limits.output_bytes,
        });
    }
    Ok((text.into(), values))
}

/// Says why a guest did not return. Whoever stopped it has left a note; what comes out of the engine is only looked at when
/// nobody did.
fn explain(
    fault: Fault,
    job: &Job,
    guest: &Guest,
    output: &Pipe,
    logs: &Pipe,
) -> Result<(Bytes, Vec<Value>), ExecutionError> {
    let limits = &job.limits;
    let (stop, error, starting) = match fault {
        Fault::Stopped(stop) => (Some(stop), None, false),
        Fault::Starting(error) => (guest.stop, Some(error), true),
        Fault::Running(error) => (guest.stop, Some(error), false),
    };
    match stop {
        Some(Stop::Cancelled) => return Err(ExecutionError::Cancelled),
        Some(Stop::TimeOver) => {
            return Err(ExecutionError::TimeLimit {
                limit_ms: limits.time_ms,
            });
        }
        Some(Stop::Exit(0)) if job.call.command.is_some() => return finish(job, output),
        Some(Stop::Exit(status)) => return Err(ExecutionError::ExitNonzero { status }),
        None => {}
    }
    match guest.meter.refused {
        Some(Refused::Memory { wanted_bytes }) => {
            return Err(ExecutionError::MemoryLimit {
                wanted_bytes,
                limit_bytes: limits.memory_bytes,
            });
        }
        Some(Refused::Table { wanted }) => {
            return Err(ExecutionError::TableLimit {
                wanted,
                limit: TABLE_ELEMENTS_MAX as u64,
            });
        }
        None => {}
    }
    if output.overflowed() {
        return Err(ExecutionError::OutputLimit {
            limit_bytes: limits.output_bytes,
        });
    }
    let error = error.expect("a guest without an error was stopped, and that was handled above");
    Err(match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => ExecutionError::FuelLimit {
            limit: limits.fuel.unwrap_or_default(),
        },
        Some(trap) => {
            log_backtrace(&error, logs);
            ExecutionError::Trap {
                trap: trap.to_string().trim_start_matches("wasm trap: ").to_owned(),
            }
        }
        // The pool or the machine had no memory for it.
        None if starting => ExecutionError::ResourceExhausted {
            detail: one_line(&error),
        },
        // A host call refused its arguments in a way that WASI has no error number for.
        None => ExecutionError::Trap {
            trap: error.root_cause().to_string(),
        },
    })
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
