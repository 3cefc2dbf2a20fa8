//! The engine: how guests are compiled and where their memory comes from.

use std::hash::{Hash as _, Hasher};

use wasmtime::{Config, Engine, InstanceAllocationStrategy, OperatorCost, OptLevel, PoolingAllocationConfig, VariableOperatorCost};

use super::link::Linkers;
use super::{Allocation, TABLES_MAX};
use crate::{CALL_DEPTH_MAX, ExecutionError};

/// What a pool's slot has room for. The attempt's limits are far below; these only have to be so large that what is beyond a
/// limit is refused by that limit, with its name, and not by the pool. They are address space, and cost nothing else: all
/// that 32 bits can address, and the largest table that a valid module can have.
const SLOT_MEMORY_BYTES: usize = 1 << 32;
const SLOT_TABLE_ELEMENTS: usize = 10_000_000;

/// The most bytes that the engine's own record of an instance may have. It holds a few words for each function and global, so
/// this is room for hundreds of thousands of them.
const INSTANCE_BYTES_MAX: usize = 16 << 20;

/// How many core modules a component may be made of. Tools make one of the program, one of each adapter, and small ones
/// that tie them together; a Python program with its libraries has some thirty.
const CORES_PER_COMPONENT: u32 = 64;

/// How many memories and tables the core modules of one component may have together.
const MEMORIES_PER_COMPONENT: u32 = 4;
const TABLES_PER_COMPONENT: u32 = 16;

/// How much of a guest's memory, and of its tables, a slot keeps to itself when the guest has ended. It is cleared by hand, which for
/// so little takes less time than giving pages back and faulting them in again.
const RESIDENT_BYTES: usize = 64 << 10;
const RESIDENT_TABLE_BYTES: usize = 4 << 10;

/// How much address space on-demand memories get to grow in before they have to be moved.
const GROWTH_RESERVATION_BYTES: u64 = 16 << 20;

/// What growing a memory by one page costs in fuel, so that a guest which does nothing else is interrupted in time: the pages
/// may have to be cleared.
const GROW_FUEL_PER_PAGE: u8 = 100;

/// An engine and all that belongs to it.
pub(super) struct Host {
    pub(super) engine: Engine,
    pub(super) linkers: Linkers,
    /// Sixteen hexadecimal digits that differ between engines which cannot run each other's compiled code: they cover
    /// wasmtime's version, the processor's features and every setting that matters.
    pub(super) fingerprint: String,
    pub(super) pooling: bool,
}

impl Host {
    /// Starts an engine for `slots` guests at once.
    pub(super) fn start(allocation: Allocation, slots: u32) -> Result<Self, ExecutionError> {
        let (engine, pooling) = match allocation {
            Allocation::Pooling => pooling_or_on_demand(slots)?,
            Allocation::OnDemand => (on_demand()?, false),
        };
        Ok(Self { linkers: Linkers::new(&engine).map_err(broken)?, fingerprint: fingerprint(&engine), engine, pooling })
    }
}

fn broken(error: wasmtime::Error) -> ExecutionError {
    ExecutionError::broken(format!("{error:#}"))
}

fn pooling_or_on_demand(slots: u32) -> Result<(Engine, bool), ExecutionError> {
    let mut config = base_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(slots)));
    match Engine::new(&config) {
        Ok(engine) => Ok((engine, true)),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                slots,
                "cannot reserve address space for a pool of guests (about 26 GiB for each slot): guests get their memory \
                 on demand, which starts them more slowly; allow the process more virtual memory to change that"
            );
            Ok((on_demand()?, false))
        }
    }
}

/// Sizes the pool. A slot holds a guest and those that it calls, one inside the other, each with 4 GiB of address space for its memory
/// and a guard behind it, so that the compiled code needs no bounds checks, and up to 640 MB for tables; only touched pages cost
/// memory. With the default of one slot for each core, a machine with 4 cores reserves about 100 GiB of the 128 TiB that a
/// process has.
fn pool(slots: u32) -> PoolingAllocationConfig {
    let guests = slots * (1 + CALL_DEPTH_MAX);
    let mut pool = PoolingAllocationConfig::new();
    // Most guests are one module; a component takes several places. Who finds none is refused and retried.
    pool.total_core_instances(guests.max(CORES_PER_COMPONENT) * 4)
        .total_component_instances(guests)
        .total_memories(guests.max(MEMORIES_PER_COMPONENT))
        .total_stacks(guests)
        .total_tables((guests * TABLES_MAX).max(TABLES_PER_COMPONENT))
        .max_memories_per_module(1)
        .max_tables_per_module(TABLES_MAX)
        .max_core_instances_per_component(CORES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .table_elements(SLOT_TABLE_ELEMENTS)
        .max_memory_size(SLOT_MEMORY_BYTES)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        .max_component_instance_size(INSTANCE_BYTES_MAX)
        .linear_memory_keep_resident(RESIDENT_BYTES)
        .table_keep_resident(RESIDENT_TABLE_BYTES)
        // A slot that was warm for a module starts it again fastest, and there are no more slots than guests at once.
        .max_unused_warm_slots(slots);
    pool
}

/// An engine that reserves next to nothing ahead: it works wherever the memory of the guests themselves fits in.
fn on_demand() -> Result<Engine, ExecutionError> {
    let mut config = base_config();
    config
        .allocation_strategy(InstanceAllocationStrategy::OnDemand)
        .memory_reservation(0)
        .memory_reservation_for_growth(GROWTH_RESERVATION_BYTES)
        .memory_guard_size(1 << 16)
        .memory_may_move(true);
    Engine::new(&config).map_err(broken)
}

/// Every guest is metered. Fuel is what interrupts one that computes, it is the same on every machine, and on real programs it costs no
/// more than comparing with a clock would: both add a few instructions to each loop and call.
fn base_config() -> Config {
    let mut config = Config::new();
    let variable = VariableOperatorCost { memory_grow_per_page: GROW_FUEL_PER_PAGE, ..VariableOperatorCost::default() };
    let cost = OperatorCost { variable, ..OperatorCost::default() };
    config
        .cranelift_opt_level(OptLevel::Speed)
        .consume_fuel(true)
        .operator_cost(cost)
        // The same guest with the same input gives the same floats, bit by bit, on every node of a mixed cluster.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        // One memory for each guest is what the limits count, and 32 bits address more than they allow.
        .wasm_multi_memory(false)
        .wasm_memory64(false);
    config
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
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has more than eight bytes"))
    }
}
