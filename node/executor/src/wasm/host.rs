//! The engine: how guests are compiled, where their memory comes from, and what they may import.

use std::hash::{Hash as _, Hasher};

use wasmtime::{Config, Engine, InstanceAllocationStrategy, Linker, OptLevel, PoolingAllocationConfig};
use wasmtime_wasi::p1;

use super::guest::Guest;
use super::ticker::Ticker;
use super::{Allocation, TABLES_MAX};
use crate::ExecutionError;

/// The module name of WASI preview 1.
pub(super) const WASI: &str = "wasi_snapshot_preview1";

/// What a pool's slot has room for. The attempt's limits are far below; these only have to be so large that what is beyond a
/// limit is refused by that limit, with its name, and not by the pool. They are address space, and cost nothing else: all
/// that 32 bits can address, and the largest table that a valid module can have.
const SLOT_MEMORY_BYTES: usize = 1 << 32;
const SLOT_TABLE_ELEMENTS: usize = 10_000_000;

/// The most bytes that the engine's own record of an instance may have. It holds a few words for each function and global, so
/// this is room for hundreds of thousands of them.
const INSTANCE_BYTES_MAX: usize = 16 << 20;

/// How much address space on-demand memories get to grow in before they have to be moved.
const GROWTH_RESERVATION_BYTES: u64 = 16 << 20;

/// Whether guests count their instructions. It decides how they are compiled, so there is an engine for either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Metering {
    Off,
    Fuel,
}

/// An engine and all that belongs to it.
pub(super) struct Host {
    pub(super) engine: Engine,
    pub(super) linker: Linker<Guest>,
    pub(super) ticker: Ticker,
    /// Sixteen hexadecimal digits that differ between engines which cannot run each other's compiled code: they cover
    /// wasmtime's version, the processor's features and every setting that matters.
    pub(super) fingerprint: String,
    pub(super) pooling: bool,
}

impl Host {
    /// Starts an engine for `slots` guests at once.
    pub(super) fn start(metering: Metering, allocation: Allocation, slots: u32) -> Result<Self, ExecutionError> {
        let (engine, pooling) = match (metering, allocation) {
            (Metering::Off, Allocation::Pooling) => pooling_or_on_demand(slots)?,
            // Metered guests are rare and slow anyway: a second pool would reserve its address space for little.
            (Metering::Fuel, _) | (_, Allocation::OnDemand) => (on_demand(metering)?, false),
        };
        Ok(Self {
            linker: linker(&engine).map_err(broken)?,
            ticker: Ticker::start(engine.clone()).map_err(ExecutionError::broken)?,
            fingerprint: fingerprint(&engine),
            engine,
            pooling,
        })
    }
}

fn broken(error: wasmtime::Error) -> ExecutionError {
    ExecutionError::broken(format!("{error:#}"))
}

fn pooling_or_on_demand(slots: u32) -> Result<(Engine, bool), ExecutionError> {
    let mut config = base_config(Metering::Off);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(slots)));
    match Engine::new(&config) {
        Ok(engine) => Ok((engine, true)),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                slots,
                "cannot reserve address space for a pool of guests (about 4 GiB for each slot): guests get their memory \
                 on demand, which starts them more slowly; allow the process more virtual memory to change that"
            );
            Ok((on_demand(Metering::Off)?, false))
        }
    }
}

/// Sizes the pool. Every slot reserves 4 GiB of address space for memory with a guard behind it, so that the compiled code
/// needs no bounds checks, and up to 640 MB for tables; only touched pages cost memory, and those are given back after each
/// attempt. With the default of one slot for each core, a machine with 4 cores reserves about 19 GiB of the 128 TiB that
/// a process has.
fn pool(slots: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(slots)
        .total_memories(slots)
        .total_stacks(slots)
        .total_tables(slots * TABLES_MAX)
        .max_memories_per_module(1)
        .max_tables_per_module(TABLES_MAX)
        .table_elements(SLOT_TABLE_ELEMENTS)
        .max_memory_size(SLOT_MEMORY_BYTES)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        // A slot that was warm for a module starts it again fastest, and there are no more slots than guests at once.
        .max_unused_warm_slots(slots);
    pool
}

/// An engine that reserves next to nothing ahead: it works wherever the memory of the guests themselves fits in.
fn on_demand(metering: Metering) -> Result<Engine, ExecutionError> {
    let mut config = base_config(metering);
    config
        .allocation_strategy(InstanceAllocationStrategy::OnDemand)
        .memory_reservation(0)
        .memory_reservation_for_growth(GROWTH_RESERVATION_BYTES)
        .memory_guard_size(1 << 16)
        .memory_may_move(true);
    Engine::new(&config).map_err(broken)
}

fn base_config(metering: Metering) -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .consume_fuel(metering == Metering::Fuel)
        // The same guest with the same input gives the same floats, bit by bit, on every node of a mixed cluster.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        // One memory for each guest is what the limits count, and 32 bits address more than they allow.
        .wasm_multi_memory(false)
        .wasm_memory64(false);
    config
}

/// Offers WASI preview 1 and nothing else.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_async(&mut linker, |guest: &mut Guest| &mut guest.wasi)?;
    // The stock function turns exit statuses from 126 up into an anonymous error, but `exit(255)` and `abort` are what
    // programs do.
    linker.allow_shadowing(true);
    linker.func_wrap(WASI, "proc_exit", Guest::exit)?;
    linker.allow_shadowing(false);
    Ok(linker)
}

fn fingerprint(engine: &Engine) -> String {
    let mut hasher = StableHasher(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.finalize().to_hex()[..16].to_owned()
}

/// Feeds what is hashed into BLAKE3. The standard library's hasher may change from one compiler to the next, which would
/// silently empty every cache on disk.
struct StableHasher(blake3::Hasher);

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        u64::from_le_bytes(
            hash.as_bytes()[..8]
                .try_into()
                .expect("a hash has more than eight bytes"),
        )
    }
}
