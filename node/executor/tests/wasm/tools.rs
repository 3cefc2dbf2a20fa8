//! Makes the guests that need a compiler, once for all tests.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use tarn_executor::{ArtifactSource, ContextEntry, Hash, HostServices, LogLevel, ServiceError, SourceError};

#[path = "../../examples/componentize.rs"]
mod componentize;

pub use componentize::componentize;

/// The contract with guests.
pub fn wit() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("../../client/proto/wit")
}

/// The task in `guests/reach.c`, as a component.
pub fn reach() -> Bytes {
    static REACH: LazyLock<Bytes> = LazyLock::new(|| {
        let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"));
        let dir = tempfile::tempdir().unwrap();
        let core = dir.path().join("reach.wasm");
        let output = Command::new("clang")
            .args(["--target=wasm32-wasi", "--sysroot=/usr", "-std=gnu11", "-Os", "-s", "-mexec-model=reactor"])
            .arg("-I")
            .arg(here.join("../../deploy/guests/c"))
            .arg(here.join("tests/wasm/guests/reach.c"))
            .arg("-o")
            .arg(&core)
            .output()
            .expect("the tests need clang, lld, wasi-libc and libclang-rt-14-dev-wasm32");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let core = std::fs::read(core).unwrap();
        componentize(&core, Some((&wit(), "guest"))).unwrap().into()
    });
    REACH.clone()
}

/// Services that keep what they are given in memory, and remember what was asked of them.
#[derive(Debug, Default)]
pub struct InMemory {
    pub entries: Mutex<std::collections::BTreeMap<(String, String), (Bytes, u64)>>,
    pub lines: Mutex<Vec<(LogLevel, String)>>,
    pub reports: Mutex<Vec<(f64, String)>>,
}

#[async_trait]
impl HostServices for InMemory {
    async fn context_get(&self, context: &str, key: &str) -> Result<Option<ContextEntry>, ServiceError> {
        let entries = self.entries.lock().unwrap();
        let found = entries.get(&(context.to_owned(), key.to_owned()));
        Ok(found.map(|(value, version)| ContextEntry { value: value.clone(), version: *version }))
    }

    async fn context_set(&self, context: &str, key: &str, value: Bytes, expected: Option<u64>) -> Result<u64, ServiceError> {
        let mut entries = self.entries.lock().unwrap();
        let entry = entries.entry((context.to_owned(), key.to_owned())).or_default();
        match expected {
            Some(expected) if expected != entry.1 => Err(ServiceError::Conflict { current: entry.1 }),
            _ => {
                *entry = (value, entry.1 + 1);
                Ok(entry.1)
            }
        }
    }

    async fn context_delete(&self, context: &str, key: &str, _: Option<u64>) -> Result<(), ServiceError> {
        let mut entries = self.entries.lock().unwrap();
        entries.remove(&(context.to_owned(), key.to_owned()));
        Ok(())
    }

    async fn context_list(&self, context: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, ServiceError> {
        let entries = self.entries.lock().unwrap();
        let keys = entries.keys().filter(|(of, _)| of == context).map(|(_, key)| key.clone());
        let wanted = keys.filter(|key| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        Ok(wanted.take(limit as usize).collect())
    }

    async fn progress(&self, fraction: f64, message: &str) -> Result<(), ServiceError> {
        self.reports.lock().unwrap().push((fraction, message.to_owned()));
        Ok(())
    }

    async fn log(&self, level: LogLevel, message: &str) {
        self.lines.lock().unwrap().push((level, message.to_owned()));
    }
}

/// Some artifacts.
pub struct Artifacts(pub Vec<Bytes>);

#[async_trait]
impl ArtifactSource for Artifacts {
    async fn load(&self, hash: &Hash) -> Result<Option<Bytes>, SourceError> {
        Ok(self.0.iter().find(|bytes| Hash::of(bytes) == *hash).cloned())
    }
}

impl Artifacts {
    pub fn source(artifacts: Vec<Bytes>) -> tarn_executor::Source {
        tarn_executor::Source::Provider(Arc::new(Self(artifacts)))
    }
}
