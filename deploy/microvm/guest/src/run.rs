//! Runs the job: loads the module that the host compiled, links it, calls it, and says how it ended.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;

use wasmtime::{
    Config, CustomCodeMemory, Engine, Error, Instance, Linker, Module, ResourceLimiter, Result, Store, Trap, Val, ValType, WasmBacktrace,
};

use crate::abi::{CODE_BASE, exit, kind, mailbox, stream};
use crate::linear::Region;
use crate::wasi::{self, Wasi};
use crate::{host, settings};

/// What a WASI reactor exports to be called before anything else.
const INITIALIZE: &str = "_initialize";

/// The entry point of a command.
const START: &str = "_start";

/// Everything that does not depend on the job. It is made once and is part of the machine's snapshot.
pub struct Prepared {
    plain: Linker<Guest>,
    metered: Linker<Guest>,
}

impl Prepared {
    pub fn new() -> Result<Self> {
        Ok(Self { plain: wasi::linker(&engine(false)?)?, metered: wasi::linker(&engine(true)?)? })
    }
}

fn engine(metered: bool) -> Result<Engine> {
    let mut config = Config::new();
    settings::agree(&mut config, metered);
    config.with_custom_code_memory(Some(Arc::new(HostMapsCode))).with_host_memory(Arc::new(Region::new()));
    // SAFETY: the host compiles for the processor that it runs on, which is ours, and with the features without which
    // compiled code would pass floats to us.
    unsafe {
        config.detect_host_feature(|_| Some(true)).x86_float_abi_ok(true);
    }
    Engine::new(&config)
}

/// The region of the code is executable from the start, and was never writable.
struct HostMapsCode;

impl CustomCodeMemory for HostMapsCode {
    fn required_alignment(&self) -> usize {
        1
    }

    fn publish_executable(&self, _start: *const u8, _length: usize) -> Result<()> {
        Ok(())
    }

    fn unpublish_executable(&self, _start: *const u8, _length: usize) -> Result<()> {
        Ok(())
    }
}

/// The data of the store.
pub struct Guest {
    pub wasi: Wasi,
    meter: Meter,
}

/// Counts memory, and refuses what goes beyond the limit. Like the `wasm` runtime it stops a guest that asks for too much right there:
/// with a failed allocation nearly all programs die of something that hides the cause.
struct Meter {
    refused: Option<(u64, u64)>,
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if desired as u64 > host::get(mailbox::MEMORY_LIMIT) {
            self.refused = Some((exit::MEMORY, desired as u64));
            return Err(Error::msg("refused by a limit"));
        }
        let allowed = maximum.is_none_or(|maximum| desired <= maximum);
        if allowed {
            host::set(mailbox::MEMORY_PEAK, desired as u64);
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if desired as u64 > host::get(mailbox::TABLE_LIMIT) {
            self.refused = Some((exit::TABLE, desired as u64));
            return Err(Error::msg("refused by a limit"));
        }
        Ok(maximum.is_none_or(|maximum| desired <= maximum))
    }
}

/// What kept a module from returning.
enum Fault {
    Starting(Error),
    Running(Error),
}

pub fn run(prepared: Prepared) -> ! {
    let fuel = host::get(mailbox::FUEL);
    let linker = if fuel == 0 { prepared.plain } else { prepared.metered };
    let mut store = Store::new(linker.engine(), Guest { wasi: Wasi::new(), meter: Meter { refused: None } });
    store.limiter(|guest| &mut guest.meter);
    if fuel != 0
        && let Err(error) = store.set_fuel(fuel)
    {
        host::fail(exit::PANIC, &error.to_string());
    }
    let ended = call(&linker, &mut store);
    if fuel != 0 {
        host::set(mailbox::FUEL_USED, fuel - store.get_fuel().unwrap_or(0));
    }
    match ended {
        Ok(()) => host::end(exit::RETURNED, 0),
        Err(fault) => explain(fault, store.data()),
    }
}

fn call(linker: &Linker<Guest>, store: &mut Store<Guest>) -> Result<(), Fault> {
    let module = load(linker.engine()).map_err(Fault::Starting)?;
    let instance = linker.instantiate(&mut *store, &module).map_err(|error| {
        // A start function that traps is the module's own doing.
        if error.is::<Trap>() { Fault::Running(error) } else { Fault::Starting(error) }
    })?;
    if host::get(mailbox::KIND) == kind::COMMAND {
        call_command(store, &instance).map_err(Fault::Running)
    } else {
        call_export(store, &instance).map_err(Fault::Running)
    }
}

fn load(engine: &Engine) -> Result<Module> {
    let code = core::ptr::slice_from_raw_parts_mut(CODE_BASE as *mut u8, host::get(mailbox::CODE_LENGTH) as usize);
    let code = NonNull::new(code).ok_or_else(|| Error::msg("no code"))?;
    // SAFETY: the host's compiler made it, and nobody changes it while the machine runs.
    unsafe { Module::deserialize_raw(engine, code) }
}

fn call_command(store: &mut Store<Guest>, instance: &Instance) -> Result<()> {
    let start = instance.get_typed_func::<(), ()>(&mut *store, START)?;
    start.call(&mut *store, ())
}

fn call_export(store: &mut Store<Guest>, instance: &Instance) -> Result<()> {
    let name_at = host::get(mailbox::ARGS_LENGTH) + host::get(mailbox::ENV_LENGTH);
    let name = core::str::from_utf8(host::job(name_at, host::get(mailbox::NAME_LENGTH)))?;
    if name != INITIALIZE
        && let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut *store, INITIALIZE)
    {
        initialize.call(&mut *store, ())?;
    }
    let function = instance.get_func(&mut *store, name).ok_or_else(|| Error::msg("the host checked that the function exists"))?;
    let ty = function.ty(&*store);
    let bits = host::job(0, host::get(mailbox::ARGS_LENGTH));
    let bits = bits.chunks_exact(8).map(|bits| u64::from_le_bytes(bits.try_into().expect("eight bytes")));
    let params: Option<Vec<Val>> = ty.params().zip(bits).map(|(ty, bits)| number(&ty, bits)).collect();
    let params = params.ok_or_else(|| Error::msg("the host checked that the parameters are numbers"))?;
    let mut results: Vec<Val> = ty.results().map(|_| Val::I32(0)).collect();
    function.call(&mut *store, &params, &mut results)?;
    for result in &results {
        host::write(stream::RESULTS, &bits_of(result).to_le_bytes());
    }
    Ok(())
}

fn number(ty: &ValType, bits: u64) -> Option<Val> {
    match ty {
        ValType::I32 => Some(Val::I32(bits as i32)),
        ValType::I64 => Some(Val::I64(bits as i64)),
        ValType::F32 => Some(Val::F32(bits as u32)),
        ValType::F64 => Some(Val::F64(bits)),
        _ => None,
    }
}

fn bits_of(value: &Val) -> u64 {
    match value {
        Val::I32(value) => u64::from(*value as u32),
        Val::I64(value) => *value as u64,
        Val::F32(bits) => u64::from(*bits),
        Val::F64(bits) => *bits,
        _ => 0,
    }
}

/// Says why the module did not return. Whoever stopped it has left a note; the engine's error is only looked at when nobody did.
fn explain(fault: Fault, guest: &Guest) -> ! {
    if let Some(status) = guest.wasi.exited {
        host::end(exit::STATUS, u64::from(status as u32));
    }
    if let Some((kind, wanted)) = guest.meter.refused {
        host::end(kind, wanted);
    }
    match fault {
        Fault::Starting(error) => host::fail(exit::START, &format!("{error:#}")),
        Fault::Running(error) => match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => host::end(exit::FUEL, 0),
            Some(trap) => {
                log_backtrace(&error);
                host::fail(exit::TRAP, trap.to_string().trim_start_matches("wasm trap: "))
            }
            None => host::fail(exit::TRAP, &error.root_cause().to_string()),
        },
    }
}

/// Adds the module's call stack to its logs.
fn log_backtrace(error: &Error) {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return;
    };
    // The module may have left its last line open.
    let mut text = String::from("\n");
    for frame in backtrace.frames() {
        match frame.func_name() {
            Some(name) => text.push_str(&format!("[tarn: trapped in {name}]\n")),
            None => text.push_str(&format!("[tarn: trapped in function {}]\n", frame.func_index())),
        }
    }
    host::write(stream::STDERR, text.as_bytes());
}
