//! Artifacts that cannot be run, and where their bytes come from.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tarn_executor::{ArtifactSource, ArtifactStore, Executor as _, Hash, Source, SourceError};

use crate::{assert_reason, attempt, command, executors, fail, guests, succeed};

const MINIMAL: &[u8] = b"\0asm\x01\0\0\0";

#[tokio::test]
async fn what_is_not_a_core_module_is_invalid() {
    // A component's header with a module's body, and the other way round.
    let no_component = b"\0asm\x0d\0\x01\0\x01\x04\x01\x60\0\0";
    let no_module = b"\0asm\x01\0\0\0\x0d\0\x01\0";
    let torn = b"\0asm\x01\0\0\0\x01\x05\x01\x60";
    let cases: [&[u8]; 11] = [
        b"",
        b"not a module at all",
        b"\x7fELF",
        &MINIMAL[..5],
        torn,
        no_component,
        no_module,
        b"(component (nonsense))",
        b";; text\n (component (core module (memory 1) (memory 1)))",
        b"(module (func (result i32)))",
        b"(module (memory 1) (memory 1))",
    ];
    // Machine code that this very compiler made is none of what a tenant may hand in.
    let compiled = wasmtime::Engine::default().precompile_module(b"(module)").unwrap();
    for executor in executors() {
        let mut attempt = command("");
        attempt.artifact = Hash::of(&compiled);
        attempt.source = Source::Bytes(compiled.clone().into());
        assert_reason(&fail(&executor, attempt).await.error, "WASM_INVALID_MODULE", false);
        for bytes in cases {
            let mut attempt = command("");
            attempt.artifact = Hash::of(bytes);
            attempt.source = Source::Bytes(Bytes::from_static(bytes));
            let failure = fail(&executor, attempt).await;
            assert_reason(&failure.error, "WASM_INVALID_MODULE", false);
            assert!(!failure.error.to_string().contains('\n'), "{}", failure.error);
            let error = executor.prepare(&Hash::of(bytes), Bytes::from_static(bytes)).await.unwrap_err();
            assert_eq!(error, failure.error);
        }
        executor.prepare(&Hash::of(MINIMAL), Bytes::from_static(MINIMAL)).await.unwrap();
    }
}

#[tokio::test]
async fn an_import_that_is_not_offered_is_named() {
    let cases = [
        ("(import \"env\" \"gettimeofday\" (func))", "`env::gettimeofday`"),
        ("(import \"wasi_unstable\" \"fd_write\" (func))", "`wasi_unstable::fd_write`"),
        ("(import \"env\" \"memory\" (memory 1))", "`env::memory`"),
        ("(import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i64)))", "`wasi_snapshot_preview1::fd_write with another type`"),
    ];
    for executor in executors() {
        for (import, name) in cases {
            let failure = fail(&executor, command(&format!("(module {import} (func (export \"_start\")))"))).await;
            assert_reason(&failure.error, "WASM_UNSUPPORTED_IMPORT", false);
            assert!(failure.error.to_string().contains(name), "{}", failure.error);
        }
    }
}

#[tokio::test]
async fn bytes_that_do_not_hash_to_their_name_are_refused() {
    for executor in executors() {
        let mut attempt = command(&guests::echo());
        attempt.artifact = Hash::of(b"something else");
        let failure = fail(&executor, attempt).await;
        assert_reason(&failure.error, "HASH_MISMATCH", true);
        let error = executor.prepare(&Hash::of(b"x"), Bytes::from_static(MINIMAL)).await.unwrap_err();
        assert_reason(&error, "HASH_MISMATCH", true);
        assert_eq!(executor.cache_stats().compiled, 0);
    }
}

/// A source that only ever fails.
struct Unreachable;

#[async_trait]
impl ArtifactSource for Unreachable {
    async fn load(&self, _hash: &Hash) -> Result<Option<Bytes>, SourceError> {
        Err("the peer does not answer".into())
    }
}

#[tokio::test]
async fn an_artifact_comes_from_where_the_attempt_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactStore::open(dir.path()).unwrap();
    let provider = Source::Provider(Arc::new(store.clone()));
    let module = guests::say(1, "found", "");
    for executor in executors() {
        let mut attempt = command(&module);
        for source in [Source::Prepared, Source::Provider(Arc::new(Unreachable))] {
            attempt.source = source;
            assert_reason(&fail(&executor, attempt.clone()).await.error, "ARTIFACT_UNAVAILABLE", true);
        }
        let mut absent = command("(module)");
        absent.source = provider.clone();
        assert_reason(&fail(&executor, absent).await.error, "ARTIFACT_UNAVAILABLE", true);

        store.put(module.as_bytes()).unwrap();
        attempt.source = provider.clone();
        assert_eq!(succeed(&executor, attempt.clone()).await.output, "found");
        attempt.source = Source::Prepared;
        assert_eq!(succeed(&executor, attempt).await.output, "found");
    }
}

#[tokio::test]
async fn the_trait_is_object_safe_and_describes_itself() {
    for executor in executors() {
        let executor: Arc<dyn tarn_executor::Executor> = Arc::new(executor);
        assert_eq!(executor.runtime(), "wasm");
        let capabilities = executor.capabilities();
        assert_eq!((capabilities.runtime, capabilities.slots), ("wasm", 4));
        capabilities.limits_max.check().unwrap();
        let kind = tarn_executor::Kind::Command(tarn_executor::Command::default());
        let report = executor.run(attempt(&guests::echo(), kind), Default::default()).await.unwrap();
        assert_eq!(report.output, "");
    }
}
