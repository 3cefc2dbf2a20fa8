//! What the compiler on the host and the runtime in the guest have to agree on. Both sides compile this file.

use wasmtime::{Config, WasmFeatures};

/// Sets everything that shapes compiled code, apart from the processor's features.
pub fn agree(config: &mut Config, metered: bool) {
    // What depends on how wasmtime itself was built, and differs between the node and the guest.
    let built_in =
        WasmFeatures::GC_TYPES | WasmFeatures::EXCEPTIONS | WasmFeatures::THREADS | WasmFeatures::COMPONENT_MODEL | WasmFeatures::CM_ASYNC;
    config.wasm_features(built_in, false);
    config
        // A fault in the guest ends the machine, so all checks are explicit.
        .signals_based_traps(false)
        .memory_init_cow(false)
        // Linear memory has a place of its own in the machine, and grows there.
        .memory_reservation(0)
        .memory_reservation_for_growth(0)
        .memory_guard_size(0)
        .memory_may_move(false)
        .epoch_interruption(false)
        .consume_fuel(metered)
        .relaxed_simd_deterministic(true)
        // As for the `wasm` runtime: one memory is what the limits count, and 32 bits address more than they allow.
        .wasm_multi_memory(false)
        .wasm_memory64(false);
}
