//! The `native` runtime.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tarn_executor::Executor;
use tarn_executor::native::{NativeConfig, NativeExecutor, USER_BASE};

use crate::{Subject, guest};

pub struct Native;

#[async_trait]
impl Subject for Native {
    async fn executor(&self, slots: usize) -> Option<Arc<dyn Executor>> {
        // It lives as long as the test's process, which is one run of the suite.
        let dir = tempfile::tempdir().unwrap().keep();
        let config = NativeConfig {
            slots,
            dir,
            child: (PathBuf::from(env!("CARGO_BIN_EXE_executor-child")), Vec::new()),
            user_base: USER_BASE,
            readable: Vec::new(),
            allow_incomplete_walls: false,
        };
        match NativeExecutor::new(config).await {
            Ok(executor) => Some(Arc::new(executor)),
            Err(error) => {
                assert_eq!(error.reason(), "NATIVE_WALLS_INCOMPLETE", "{error}");
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    fn guest(&self) -> Option<Bytes> {
        guest::native()
    }

    fn crash_reason(&self) -> &'static str {
        "NATIVE_CRASH"
    }

    fn garbage_reason(&self) -> &'static str {
        "NATIVE_INVALID_PROGRAM"
    }
}
