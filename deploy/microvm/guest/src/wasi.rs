//! WASI preview 1 for a program that has nothing but its arguments, its environment, three streams, clocks and randomness.
//!
//! Layouts and error numbers: <https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md>. What a function does with
//! the standard streams follows wasmtime's own implementation, which the `wasm` runtime uses.

use alloc::vec::Vec;

use wasmtime::{Caller, Engine, Error, Extern, FuncType, Linker, Result, Val, ValType};

use crate::abi::{WASI, WASI_FUNCTIONS, mailbox, stream};
use crate::host::{self, Input, Random};
use crate::run::Guest;

const STDIN: i32 = 0;
const STDOUT: i32 = 1;
const STDERR: i32 = 2;

/// An error number.
#[derive(Clone, Copy)]
struct Errno(i32);

const BADF: Errno = Errno(8);
const FAULT: Errno = Errno(21);
const INVAL: Errno = Errno(28);
const NOTSOCK: Errno = Errno(57);
const NOTSUP: Errno = Errno(58);
const SPIPE: Errno = Errno(70);

type Outcome<T = ()> = core::result::Result<T, Errno>;

/// The state of the program's world.
pub struct Wasi {
    open: [bool; 3],
    input: Input,
    random: Random,
    pub exited: Option<i32>,
}

impl Wasi {
    pub fn new() -> Self {
        Self { open: [true; 3], input: Input::new(), random: Random::new(), exited: None }
    }

    fn check_open(&self, fd: i32) -> Outcome {
        let open = usize::try_from(fd).ok().and_then(|fd| self.open.get(fd));
        open.is_some_and(|open| *open).then_some(()).ok_or(BADF)
    }
}

/// Linear memory during one call.
struct Memory<'a>(&'a mut [u8]);

impl Memory<'_> {
    fn range(&mut self, at: u32, length: u32) -> Outcome<&mut [u8]> {
        let end = at.checked_add(length).ok_or(FAULT)?;
        self.0.get_mut(at as usize..end as usize).ok_or(FAULT)
    }

    fn put(&mut self, at: u32, bytes: &[u8]) -> Outcome {
        self.range(at, bytes.len() as u32)?.copy_from_slice(bytes);
        Ok(())
    }

    fn put_u32(&mut self, at: u32, value: u32) -> Outcome {
        self.put(at, &value.to_le_bytes())
    }

    fn put_u64(&mut self, at: u32, value: u64) -> Outcome {
        self.put(at, &value.to_le_bytes())
    }

    fn u32(&mut self, at: u32) -> Outcome<u32> {
        let bytes = self.range(at, 4)?;
        Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| FAULT)?))
    }

    fn u64(&mut self, at: u32) -> Outcome<u64> {
        let bytes = self.range(at, 8)?;
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| FAULT)?))
    }

    /// The buffer of the `index`th element of an array of buffers.
    fn buffer(&mut self, array: u32, index: u32) -> Outcome<(u32, u32)> {
        let at = index.checked_mul(8).and_then(|offset| array.checked_add(offset)).ok_or(FAULT)?;
        Ok((self.u32(at)?, self.u32(at.checked_add(4).ok_or(FAULT)?)?))
    }
}

/// Runs a function with the module's memory, and turns its outcome into an error number.
fn with(mut caller: Caller<'_, Guest>, work: impl FnOnce(&mut Wasi, &mut Memory<'_>) -> Outcome) -> Result<i32> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Err(Error::msg("missing required memory export"));
    };
    let (bytes, guest) = memory.data_and_store_mut(&mut caller);
    Ok(match work(&mut guest.wasi, &mut Memory(bytes)) {
        Ok(()) => 0,
        Err(Errno(number)) => number,
    })
}

/// Offers all functions of WASI preview 1.
pub fn linker(engine: &Engine) -> Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    add_refusals(&mut linker, engine)?;
    linker.allow_shadowing(true);
    add_strings(&mut linker)?;
    add_streams(&mut linker)?;
    add_descriptors(&mut linker)?;
    add_rest(&mut linker)?;
    Ok(linker)
}

/// Everything that needs a file, a directory or a socket: there are none, so every descriptor is a bad one.
fn add_refusals(linker: &mut Linker<Guest>, engine: &Engine) -> Result<()> {
    for (name, params) in WASI_FUNCTIONS {
        let types = params.chars().map(|letter| if letter == 'I' { ValType::I64 } else { ValType::I32 });
        let ty = FuncType::new(engine, types, [ValType::I32]);
        linker.func_new(WASI, name, ty, |_, _, results| {
            results[0] = Val::I32(BADF.0);
            Ok(())
        })?;
    }
    Ok(())
}

/// Arguments and environment: two lists of strings in the job.
fn add_strings(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(WASI, "args_sizes_get", |caller: Caller<'_, Guest>, count: u32, bytes: u32| {
        with(caller, |_, memory| {
            memory.put_u32(count, host::get(mailbox::ARGS_COUNT) as u32)?;
            memory.put_u32(bytes, host::get(mailbox::ARGS_LENGTH) as u32)
        })
    })?;
    linker.func_wrap(WASI, "environ_sizes_get", |caller: Caller<'_, Guest>, count: u32, bytes: u32| {
        with(caller, |_, memory| {
            memory.put_u32(count, host::get(mailbox::ENV_COUNT) as u32)?;
            memory.put_u32(bytes, host::get(mailbox::ENV_LENGTH) as u32)
        })
    })?;
    linker.func_wrap(WASI, "args_get", |caller: Caller<'_, Guest>, pointers: u32, bytes: u32| {
        with(caller, |_, memory| put_strings(memory, host::job(0, host::get(mailbox::ARGS_LENGTH)), pointers, bytes))
    })?;
    linker.func_wrap(WASI, "environ_get", |caller: Caller<'_, Guest>, pointers: u32, bytes: u32| {
        with(caller, |_, memory| {
            let env = host::job(host::get(mailbox::ARGS_LENGTH), host::get(mailbox::ENV_LENGTH));
            put_strings(memory, env, pointers, bytes)
        })
    })?;
    Ok(())
}

/// Copies strings that each end with a zero byte, and a pointer to each.
fn put_strings(memory: &mut Memory<'_>, strings: &[u8], mut pointers: u32, bytes: u32) -> Outcome {
    memory.put(bytes, strings)?;
    let mut at = bytes;
    for string in strings.split_inclusive(|byte| *byte == 0) {
        memory.put_u32(pointers, at)?;
        pointers = pointers.checked_add(4).ok_or(FAULT)?;
        at += string.len() as u32;
    }
    Ok(())
}

fn add_streams(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(WASI, "fd_write", |caller: Caller<'_, Guest>, fd: i32, buffers: u32, count: u32, written: u32| {
        with(caller, |wasi, memory| {
            wasi.check_open(fd)?;
            let stream = match fd {
                STDOUT => stream::STDOUT,
                STDERR => stream::STDERR,
                _ => return Err(BADF),
            };
            let mut total: u32 = 0;
            for index in 0..count {
                let (at, length) = memory.buffer(buffers, index)?;
                host::write(stream, memory.range(at, length)?);
                total = total.checked_add(length).ok_or(INVAL)?;
            }
            memory.put_u32(written, total)
        })
    })?;
    linker.func_wrap(WASI, "fd_read", |caller: Caller<'_, Guest>, fd: i32, buffers: u32, count: u32, read: u32| {
        with(caller, |wasi, memory| {
            wasi.check_open(fd)?;
            if fd != STDIN {
                return Err(BADF);
            }
            let mut total: u32 = 0;
            'buffers: for index in 0..count {
                let (mut at, mut length) = memory.buffer(buffers, index)?;
                while length > 0 {
                    let input = wasi.input.peek();
                    if input.is_empty() {
                        break 'buffers;
                    }
                    let now = input.len().min(length as usize);
                    memory.put(at, &input[..now])?;
                    wasi.input.take(now);
                    (at, length, total) = (at + now as u32, length - now as u32, total + now as u32);
                }
            }
            memory.put_u32(read, total)
        })
    })?;
    Ok(())
}

/// What there is to know about the standard streams. They are no terminals, and cannot be sought.
fn add_descriptors(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(WASI, "fd_fdstat_get", |caller: Caller<'_, Guest>, fd: i32, stat: u32| {
        const FD_READ: u64 = 1 << 1;
        const FD_WRITE: u64 = 1 << 6;
        with(caller, |wasi, memory| {
            wasi.check_open(fd)?;
            let rights = if fd == STDIN { FD_READ } else { FD_WRITE };
            memory.put(stat, &[0; 24])?;
            memory.put_u64(stat + 8, rights)?;
            memory.put_u64(stat + 16, rights)
        })
    })?;
    linker.func_wrap(WASI, "fd_filestat_get", |caller: Caller<'_, Guest>, fd: i32, stat: u32| {
        with(caller, |wasi, memory| {
            wasi.check_open(fd)?;
            memory.put(stat, &[0; 64])
        })
    })?;
    linker.func_wrap(WASI, "fd_close", |mut caller: Caller<'_, Guest>, fd: i32| {
        let wasi = &mut caller.data_mut().wasi;
        match wasi.check_open(fd) {
            Ok(()) => {
                wasi.open[fd as usize] = false;
                0
            }
            Err(Errno(number)) => number,
        }
    })?;
    add_errors(linker)
}

/// Functions that fail for a standard stream in a particular way.
fn add_errors(linker: &mut Linker<Guest>) -> Result<()> {
    let failures = [
        ("fd_seek", SPIPE),
        ("fd_tell", SPIPE),
        ("fd_pread", SPIPE),
        ("fd_pwrite", SPIPE),
        ("sock_accept", NOTSOCK),
        ("sock_recv", NOTSOCK),
        ("sock_send", NOTSOCK),
        ("sock_shutdown", NOTSOCK),
    ];
    for (name, errno) in failures {
        let engine = linker.engine().clone();
        let params = WASI_FUNCTIONS.iter().find(|(function, _)| *function == name).map_or("", |(_, params)| params);
        let types = params.chars().map(|letter| if letter == 'I' { ValType::I64 } else { ValType::I32 });
        let ty = FuncType::new(&engine, types, [ValType::I32]);
        linker.func_new(WASI, name, ty, move |caller, params, results| {
            let open = caller.data().wasi.check_open(params[0].i32().unwrap_or(-1));
            results[0] = Val::I32(open.err().unwrap_or(errno).0);
            Ok(())
        })?;
    }
    Ok(())
}

fn add_rest(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(WASI, "proc_exit", |mut caller: Caller<'_, Guest>, status: i32| -> Result<()> {
        caller.data_mut().wasi.exited = Some(status);
        Err(Error::msg("exited"))
    })?;
    linker.func_wrap(WASI, "proc_raise", |_: Caller<'_, Guest>, _signal: i32| NOTSUP.0)?;
    linker.func_wrap(WASI, "sched_yield", || 0_i32)?;
    linker.func_wrap(WASI, "random_get", |caller: Caller<'_, Guest>, at: u32, length: u32| {
        with(caller, |wasi, memory| {
            wasi.random.fill(memory.range(at, length)?);
            Ok(())
        })
    })?;
    linker.func_wrap(WASI, "clock_res_get", |caller: Caller<'_, Guest>, clock: i32, at: u32| {
        with(caller, |_, memory| {
            check_clock(clock)?;
            memory.put_u64(at, 1)
        })
    })?;
    linker.func_wrap(WASI, "clock_time_get", |caller: Caller<'_, Guest>, clock: i32, _precision: i64, at: u32| {
        with(caller, |_, memory| {
            check_clock(clock)?;
            memory.put_u64(at, now(clock))
        })
    })?;
    linker.func_wrap(WASI, "poll_oneoff", |caller: Caller<'_, Guest>, subscriptions: u32, events: u32, count: u32, stored: u32| {
        with(caller, |wasi, memory| {
            let happened = poll(wasi, memory, subscriptions, count)?;
            for (index, event) in happened.iter().enumerate() {
                let at = (index as u32).checked_mul(32).and_then(|offset| events.checked_add(offset));
                memory.put(at.ok_or(FAULT)?, &event.bytes())?;
            }
            memory.put_u32(stored, happened.len() as u32)
        })
    })?;
    Ok(())
}

const REALTIME: i32 = 0;
const MONOTONIC: i32 = 1;

/// There are two clocks; those for processor time are not offered.
fn check_clock(clock: i32) -> Outcome {
    match clock {
        REALTIME | MONOTONIC => Ok(()),
        2 | 3 => Err(BADF),
        _ => Err(INVAL),
    }
}

fn now(clock: i32) -> u64 {
    let (wall, monotonic) = host::time();
    if clock == REALTIME { wall } else { monotonic }
}

/// An event of `poll_oneoff`.
#[derive(Clone, Copy)]
struct Event {
    user_data: u64,
    kind: u8,
    bytes: u64,
}

const CLOCK: u8 = 0;
const FD_READ: u8 = 1;
const FD_WRITE: u8 = 2;

impl Event {
    fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.user_data.to_le_bytes());
        bytes[10] = self.kind;
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }
}

/// The subscribed streams are always ready, so only a program that waits for clocks alone sleeps.
fn poll(wasi: &Wasi, memory: &mut Memory<'_>, subscriptions: u32, count: u32) -> Outcome<Vec<Event>> {
    if count == 0 {
        return Err(INVAL);
    }
    // All of them have to be in memory before any room is made for them.
    memory.range(subscriptions, count.checked_mul(48).ok_or(FAULT)?)?;
    let mut ready = Vec::new();
    let mut clocks = Vec::new();
    for index in 0..count {
        let at = subscriptions + index * 48;
        let user_data = memory.u64(at)?;
        let kind = memory.range(at + 8, 1)?[0];
        match kind {
            CLOCK => {
                let event = Event { user_data, kind, bytes: 0 };
                clocks.push((wait(memory, at + 16)?, event));
            }
            FD_READ | FD_WRITE => {
                let fd = memory.u32(at + 16)? as i32;
                wasi.check_open(fd)?;
                if (kind == FD_READ) != (fd == STDIN) {
                    return Err(BADF);
                }
                ready.push(Event { user_data, kind, bytes: 1 });
            }
            _ => return Err(INVAL),
        }
    }
    let shortest = clocks.iter().map(|(wait, _)| *wait).min().unwrap_or(0);
    let slept = if ready.is_empty() { shortest } else { 0 };
    if slept > 0 {
        host::sleep(slept);
    }
    ready.extend(clocks.iter().filter(|(wait, _)| *wait <= slept).map(|(_, event)| *event));
    Ok(ready)
}

/// How long a subscription to a clock waits, in nanoseconds from now.
fn wait(memory: &mut Memory<'_>, clock: u32) -> Outcome<u64> {
    const ABSOLUTE: u8 = 1;
    let id = memory.u32(clock)? as i32;
    let timeout = memory.u64(clock + 8)?;
    let flags = memory.range(clock + 24, 1)?[0];
    match id {
        REALTIME | MONOTONIC if flags & ABSOLUTE == 0 => Ok(timeout),
        REALTIME | MONOTONIC => Ok(timeout.saturating_sub(now(id))),
        _ => Err(INVAL),
    }
}
