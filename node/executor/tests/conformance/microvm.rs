//! The `microvm` runtime.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tarn_executor::{Executor, MicroVmConfig, MicroVmExecutor};

use crate::{Subject, guest};

pub struct MicroVm;

#[async_trait]
impl Subject for MicroVm {
    async fn executor(&self, slots: usize) -> Option<Arc<dyn Executor>> {
        // Built by `deploy/microvm/build`; `deploy/test` names it.
        let Some(image) = std::env::var_os("TARN_MICROVM_IMAGE").filter(|_| Path::new("/dev/kvm").exists()) else {
            assert!(std::env::var_os("TARN_REQUIRE_MICROVM").is_none(), "there must be KVM and a guest image");
            eprintln!("skipped: TARN_MICROVM_IMAGE names no guest image, or there is no KVM");
            return None;
        };
        let config = MicroVmConfig { slots, idle: slots.min(4), ..MicroVmConfig::new(image) };
        Some(Arc::new(MicroVmExecutor::new(config).unwrap()))
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
