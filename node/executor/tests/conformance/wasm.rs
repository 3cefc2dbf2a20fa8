//! The `wasm` runtime.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tarn_executor::{Executor, WasmConfig, WasmExecutor};

use crate::{Subject, guest};

pub struct Wasm;

#[async_trait]
impl Subject for Wasm {
    async fn executor(&self, slots: usize) -> Option<Arc<dyn Executor>> {
        let config = WasmConfig { slots, ..WasmConfig::default() };
        Some(Arc::new(WasmExecutor::new(config).unwrap()))
    }

    fn guest(&self) -> Option<Bytes> {
        guest::wasi()
    }

    fn crash_reason(&self) -> &'static str {
        "WASM_TRAP"
    }

    fn garbage_reason(&self) -> &'static str {
        "WASM_INVALID_MODULE"
    }
}
