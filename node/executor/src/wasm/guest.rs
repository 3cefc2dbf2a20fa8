//! What belongs to one running guest: its view of the world, its limits, and why it stopped.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use wasmtime::component::ResourceTable;
use wasmtime::{CallHook, Caller, ResourceLimiter, StoreContextMut};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::TABLE_ELEMENTS_MAX;
use super::cache::Cache;
use super::contract::Reported;
use super::host::Host;
use super::http::HttpClient;
use super::pipe::Pipe;
use super::scratch::{GUEST_PATH, Scratch};
use crate::{Command, DriverServices, Grants, HostServices, Limits, Source};

/// The program name that a command finds as its first argument. The artifact has no name but its hash, which would
/// only make usage messages hard to read.
const PROGRAM_NAME: &str = "main";

/// How many resources (files, streams, things to wait for) a component may hold at once.
const RESOURCES_MAX: usize = 4096;

/// How many host calls a guest may make before it is looked whether its time is over. Each takes from a hundredth of a
/// microsecond to some ten.
const HOST_CALLS_UNWATCHED: u32 = 16;

/// The data of a guest's store.
pub(super) struct Guest {
    /// For a module that imports any of it.
    preview1: Option<WasiP1Ctx>,
    /// For a component.
    preview2: Option<(WasiCtx, ResourceTable)>,
    /// For a component: what its calls of `tarn:guest` need.
    reach: Option<Box<Reach>>,
    pub(super) scratch: Option<Scratch>,
    pub(super) meter: Meter,
    pub(super) stop: Option<Stop>,
    pub(super) watch: Watch,
}

/// Why the guest was stopped or stopped itself, noted by whoever did it. The error that then comes out of the engine only
/// says where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    TimeOver,
    Exit(i32),
    Refused { capability: &'static str, call: String, advice: String },
}

impl Guest {
    pub(super) fn new(limits: &Limits, watch: Watch) -> Self {
        Self { preview1: None, preview2: None, reach: None, scratch: None, meter: Meter::new(limits.memory_bytes), stop: None, watch }
    }

    /// Somebody for whom types can be looked up, and who never runs.
    pub(super) fn nobody() -> Self {
        Self::new(&Limits::default(), Watch::new(CancellationToken::new(), Duration::ZERO))
    }

    /// Gives the guest what WASI preview 1 stands on.
    pub(super) fn equip_preview1(&mut self, mut world: WasiCtxBuilder) {
        self.preview1 = Some(world.build_p1());
    }

    /// Gives the guest what components stand on.
    pub(super) fn equip_component(&mut self, mut world: WasiCtxBuilder, reach: Reach) {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        self.preview2 = Some((world.build(), table));
        self.reach = Some(Box::new(reach));
    }

    pub(super) fn reach(&mut self) -> &mut Reach {
        self.reach.as_mut().expect("a component was equipped with it")
    }

    pub(super) fn reach_ref(&self) -> &Reach {
        self.reach.as_ref().expect("a component was equipped with it")
    }

    pub(super) fn preview1(&mut self) -> &mut WasiP1Ctx {
        self.preview1.as_mut().expect("a guest that imports WASI was equipped with it")
    }

    /// WASI's `proc_exit`.
    pub(super) fn exit(mut caller: Caller<'_, Self>, status: i32) -> wasmtime::Result<()> {
        caller.data_mut().stop = Some(Stop::Exit(status));
        Err(I32Exit(status).into())
    }

    /// Stops a guest that spends its time in host calls, which fuel does not count.
    pub(super) fn on_call(mut store: StoreContextMut<'_, Self>, hook: CallHook) -> wasmtime::Result<()> {
        if !matches!(hook, CallHook::CallingHost) {
            return Ok(());
        }
        let guest = store.data_mut();
        guest.watch.host_calls += 1;
        if !guest.watch.host_calls.is_multiple_of(HOST_CALLS_UNWATCHED) {
            return Ok(());
        }
        match guest.watch.due() {
            Some(stop) => {
                guest.stop = Some(stop);
                Err(wasmtime::Error::msg("interrupted"))
            }
            None => Ok(()),
        }
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let (ctx, table) = self.preview2.as_mut().expect("a component was equipped with it");
        WasiCtxView { ctx, table }
    }
}

/// What the calls of a component need beside the guest's own limits.
pub(super) struct Reach {
    pub(super) grants: Grants,
    pub(super) services: Arc<dyn HostServices>,
    pub(super) limits: Limits,
    pub(super) logs: Pipe,
    pub(super) reported: Reported,
    /// For what it calls.
    pub(super) env: BTreeMap<String, String>,
    pub(super) host: Arc<Host>,
    pub(super) cache: Arc<Cache>,
    pub(super) http: Arc<HttpClient>,
    pub(super) source: Source,
    pub(super) scratch_dir: Arc<Path>,
    /// For a driver: what becomes of what it saves and enqueues.
    pub(super) driver: Option<Arc<dyn DriverServices>>,
}

/// What a guest sees: `command` (for an exported function: nothing), two pipes to write to, and its scratch directory. What it was not
/// granted is refused by the linker.
pub(super) fn world(command: Option<&Command>, stdout: Pipe, stderr: Pipe, scratch: Option<&Scratch>) -> wasmtime::Result<WasiCtxBuilder> {
    let mut world = WasiCtxBuilder::new();
    world.stdout(stdout).stderr(stderr);
    if let Some(command) = command {
        world.arg(PROGRAM_NAME).args(&command.args).stdin(MemoryInputPipe::new(command.input.clone()));
        for (key, value) in &command.env {
            world.env(key, value);
        }
    }
    if let Some(scratch) = scratch {
        world.preopened_dir(scratch.path(), GUEST_PATH, FsPerms::ReadWrite)?;
    }
    Ok(world)
}

/// Whether a guest has to stop for what happens outside of it.
#[derive(Clone)]
pub(super) struct Watch {
    cancel: CancellationToken,
    deadline: Instant,
    host_calls: u32,
}

impl Watch {
    /// From now on, for `time`.
    pub(super) fn new(cancel: CancellationToken, time: Duration) -> Self {
        Self { cancel, deadline: Instant::now() + time, host_calls: 0 }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    pub(super) fn due(&self) -> Option<Stop> {
        if self.cancel.is_cancelled() {
            Some(Stop::Cancelled)
        } else if Instant::now() >= self.deadline {
            Some(Stop::TimeOver)
        } else {
            None
        }
    }
}

/// Counts memory, and refuses what goes beyond the limit.
pub(super) struct Meter {
    limit_bytes: u64,
    /// What all memories of the guest have together now.
    pub(super) bytes: u64,
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
        Self { limit_bytes, bytes: 0, peak_bytes: 0, refused: None }
    }

    fn refuse(&mut self, refused: Refused) -> wasmtime::Error {
        self.refused = Some(refused);
        wasmtime::Error::msg("refused by a limit")
    }
}

impl ResourceLimiter for Meter {
    /// A guest that asks for too much is stopped right here. WebAssembly would let it go on with a failed allocation, but
    /// nearly all programs then die of something that hides the cause.
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let grown = desired.saturating_sub(current) as u64;
        let wanted_bytes = self.bytes + grown;
        if wanted_bytes > self.limit_bytes {
            return Err(self.refuse(Refused::Memory { wanted_bytes }));
        }
        // Beyond the maximum that the module itself declares, growing fails as the standard says.
        let allowed = maximum.is_none_or(|maximum| desired <= maximum);
        if allowed {
            self.bytes = wanted_bytes;
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
