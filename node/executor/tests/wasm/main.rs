//! The conformance suite of the `wasm` runtime. Each test runs on both ways to get memory, because what a task sees must
//! not depend on how a node is set up. Guests are WebAssembly text, so that nothing but this crate is needed.

mod attempts;
mod cache;
mod commands;
mod components;
mod concurrency;
mod drivers;
mod examples;
mod functions;
mod grants;
mod guests;
mod http;
mod limits;
mod modules;
mod tools;

use tarn_executor::{Allocation, Grants, WasmConfig, WasmExecutor};

use attempts::*;

/// One executor for each way to get memory.
fn executors() -> [WasmExecutor; 2] {
    [Allocation::Pooling, Allocation::OnDemand]
        .map(|allocation| WasmExecutor::new(WasmConfig { slots: 4, allocation, ..WasmConfig::default() }).unwrap())
}

/// What an attempt is granted where nothing else is said.
fn grants() -> Grants {
    Grants::default()
}
