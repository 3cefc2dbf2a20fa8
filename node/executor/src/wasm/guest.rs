//! What belongs to one running guest: its view of the world, its limits, and why it stopped.

use wasmtime::{Caller, ResourceLimiter};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{I32Exit, WasiCtxBuilder};

use super::TABLE_ELEMENTS_MAX;
use super::pipe::Pipe;
use crate::{Command, Limits};

/// The program name that a command finds as its first argument. The artifact has no name but its hash, which would
/// only make usage messages hard to read.
const PROGRAM_NAME: &str = "main";

/// The data of a guest's store.
pub(super) struct Guest {
    pub(super) wasi: WasiP1Ctx,
    pub(super) meter: Meter,
    pub(super) stop: Option<Stop>,
}

/// Why the guest was stopped or stopped itself, noted by whoever did it. The error that then comes out of the engine only
/// says where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    TimeOver,
    Exit(i32),
}

impl Guest {
    /// A guest that sees `command` (for an exported function: nothing) and writes to the two pipes.
    ///
    /// It gets clocks and random numbers, and they are real ones: programs need them (hash maps are seeded, time stamps are
    /// written), and a retried attempt may well differ from the first, because only one of them counts. It gets no
    /// files, no network and none of the node's environment.
    pub(super) fn new(command: Option<&Command>, limits: &Limits, stdout: Pipe, stderr: Pipe) -> Self {
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(stdout).stderr(stderr);
        if let Some(command) = command {
            wasi.arg(PROGRAM_NAME)
                .args(&command.args)
                .stdin(MemoryInputPipe::new(command.input.clone()));
            for (key, value) in &command.env {
                wasi.env(key, value);
            }
        }
        Self {
            wasi: wasi.build_p1(),
            meter: Meter::new(limits.memory_bytes),
            stop: None,
        }
    }

    /// WASI's `proc_exit`.
    pub(super) fn exit(mut caller: Caller<'_, Self>, status: i32) -> wasmtime::Result<()> {
        caller.data_mut().stop = Some(Stop::Exit(status));
        Err(I32Exit(status).into())
    }
}

/// Counts memory, and refuses what goes beyond the limit.
pub(super) struct Meter {
    limit_bytes: u64,
    pub(super) peak_bytes: u64,
    pub(super) refused: Option<Refused>,
}

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Memory { wanted_bytes: u64 },
    Table { wanted: u64 },
}

impl Meter {
    fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            peak_bytes: 0,
            refused: None,
        }
    }

    fn refuse(&mut self, refused: Refused) -> wasmtime::Error {
        self.refused = Some(refused);
        wasmtime::Error::msg("refused by a limit")
    }
}

impl ResourceLimiter for Meter {
    /// A guest that asks for too much is stopped right here. WebAssembly would let it go on with a failed allocation, but
    /// nearly all programs then die of something that hides the cause.
    fn memory_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let wanted_bytes = desired as u64;
        if wanted_bytes > self.limit_bytes {
            return Err(self.refuse(Refused::Memory { wanted_bytes }));
        }
        // Beyond the maximum that the module itself declares, growing fails as the standard says.
        let allowed = maximum.is_none_or(|maximum| desired <= maximum);
        if allowed {
            self.peak_bytes = self.peak_bytes.max(wanted_bytes);
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS_MAX {
            return Err(self.refuse(Refused::Table { wanted: desired as u64 }));
        }
        Ok(maximum.is_none_or(|maximum| desired <= maximum))
    }
}
