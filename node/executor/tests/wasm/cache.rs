//! Compiled modules are kept in memory and on disk, and never used when they are damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tarn_executor::{Allocation, ArtifactSource, Executor as _, Hash, Source, SourceError, WasmCacheStats, WasmConfig, WasmExecutor};
use tokio::sync::Semaphore;

use crate::{assert_reason, command, executors, fail, guests, run, succeed};

fn executor_on(dir: &Path, allocation: Allocation) -> WasmExecutor {
    WasmExecutor::new(WasmConfig { slots: 2, cache_dir: Some(dir.join("code")), allocation, ..WasmConfig::default() }).unwrap()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir.join("code")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn the_next_executor_finds_on_disk_what_this_one_compiled() {
    for allocation in [Allocation::Pooling, Allocation::OnDemand] {
        let dir = tempfile::tempdir().unwrap();
        let module = guests::say(1, "same", "");

        let first = executor_on(dir.path(), allocation);
        first.prepare(&Hash::of(module.as_bytes()), module.clone().into()).await.unwrap();
        assert_eq!(succeed(&first, command(&module)).await.output, "same");
        assert_eq!(first.cache_stats(), WasmCacheStats { compiled: 1, memory_hits: 1, ..Default::default() });

        let second = executor_on(dir.path(), allocation);
        let mut attempt = command(&module);
        attempt.source = Source::Prepared;
        assert_eq!(succeed(&second, attempt).await.output, "same");
        assert_eq!(second.cache_stats(), WasmCacheStats { disk_hits: 1, ..Default::default() });

        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("code")), 0o700);
        assert_eq!(entries(dir.path()).iter().map(|path| mode(path)).collect::<Vec<_>>(), [0o600]);
    }
}

#[tokio::test]
async fn a_damaged_entry_is_discarded_and_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    let module = guests::say(1, "intact", "");
    let executor = executor_on(dir.path(), Allocation::Pooling);
    succeed(&executor, command(&module)).await;
    let path = entries(dir.path()).remove(0);
    let good = fs::read(&path).unwrap();

    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for damaged in [&flipped[..], &good[..good.len() / 2], b"", b"tarncod1"] {
        fs::write(&path, damaged).unwrap();
        let executor = executor_on(dir.path(), Allocation::Pooling);
        assert_eq!(succeed(&executor, command(&module)).await.output, "intact");
        assert_eq!(executor.cache_stats(), WasmCacheStats { compiled: 1, discarded: 1, ..Default::default() });
        assert_eq!(entries(dir.path()).len(), 1);

        let executor = executor_on(dir.path(), Allocation::Pooling);
        assert_eq!(succeed(&executor, command(&module)).await.output, "intact");
        assert_eq!(executor.cache_stats(), WasmCacheStats { disk_hits: 1, ..Default::default() });
    }
}

#[tokio::test]
async fn engines_do_not_run_each_others_code() {
    let dir = tempfile::tempdir().unwrap();
    let module = guests::say(1, "mine", "");
    for allocation in [Allocation::Pooling, Allocation::OnDemand] {
        let executor = executor_on(dir.path(), allocation);
        assert_eq!(succeed(&executor, command(&module)).await.output, "mine");
        assert_eq!(executor.cache_stats(), WasmCacheStats { compiled: 1, ..Default::default() });
    }
    assert_eq!(entries(dir.path()).len(), 2);
}

/// Holds its bytes back until it is told to give them, and counts who asks.
struct Gate {
    bytes: Option<Bytes>,
    open: Semaphore,
    asked: Semaphore,
}

impl Gate {
    fn new(bytes: Option<Bytes>) -> Arc<Self> {
        Arc::new(Self { bytes, open: Semaphore::new(0), asked: Semaphore::new(0) })
    }
}

#[async_trait]
impl ArtifactSource for Gate {
    async fn load(&self, _hash: &Hash) -> Result<Option<Bytes>, SourceError> {
        self.asked.add_permits(1);
        self.open.acquire().await?.forget();
        Ok(self.bytes.clone())
    }
}

#[tokio::test]
async fn many_who_want_the_same_module_have_it_compiled_once() {
    for executor in executors() {
        let module = guests::say(1, "once", "");
        let gate = Gate::new(Some(module.clone().into()));
        let mut attempt = command(&module);
        attempt.source = Source::Provider(gate.clone());
        let all = futures_join((0..10).map(|_| run(&executor, attempt.clone())).collect(), async {
            let _asked = gate.asked.acquire().await.unwrap();
            gate.open.add_permits(10);
        });
        for ended in all.await {
            assert_eq!(ended.unwrap().output, "once");
        }
        assert_eq!(gate.asked.available_permits(), 1);
        assert_eq!(executor.cache_stats(), WasmCacheStats { compiled: 1, memory_hits: 9, ..Default::default() });
    }
}

#[tokio::test]
async fn who_waited_for_a_source_that_failed_tries_its_own() {
    for executor in executors() {
        let module = guests::say(1, "found", "");
        let empty = Gate::new(None);
        let mut without = command(&module);
        without.source = Source::Provider(empty.clone());
        let all = futures_join(vec![run(&executor, without), run(&executor, command(&module))], async {
            let _asked = empty.asked.acquire().await.unwrap();
            empty.open.add_permits(1);
        });
        let mut ended = all.await;
        assert_eq!(ended.remove(1).unwrap().output, "found");
        assert_reason(&ended.remove(0).unwrap_err().error, "ARTIFACT_UNAVAILABLE", true);
    }
}

#[tokio::test]
async fn a_cancelled_leader_does_not_take_the_others_with_it() {
    for executor in executors() {
        let module = guests::say(1, "still made", "");
        let gate = Gate::new(Some(module.clone().into()));
        let mut attempt = command(&module);
        attempt.source = Source::Provider(gate.clone());
        tokio::select! {
            _ = run(&executor, attempt.clone()) => panic!("nothing can be compiled yet"),
            _ = gate.asked.acquire() => {}
        }
        gate.open.add_permits(1);
        assert_eq!(succeed(&executor, attempt).await.output, "still made");
        assert_eq!(executor.cache_stats().compiled, 1);
    }
}

#[tokio::test]
async fn failures_are_not_kept() {
    for executor in executors() {
        let module = guests::say(1, "at last", "");
        let mut wrong = command(&module);
        wrong.source = Source::Bytes(Bytes::from_static(b"damaged on the way"));
        assert_reason(&fail(&executor, wrong).await.error, "HASH_MISMATCH", true);
        assert_eq!(succeed(&executor, command(&module)).await.output, "at last");
    }
}

#[test]
fn a_directory_that_cannot_be_used_is_reported_at_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("code"), b"a file").unwrap();
    let config = WasmConfig { cache_dir: Some(dir.path().join("code")), ..WasmConfig::default() };
    let error = WasmExecutor::new(config).err().unwrap();
    assert_reason(&error, "EXECUTOR_BROKEN", true);
}

/// Runs all of `attempts` and `beside` at the same time, polling the attempts in order first.
async fn futures_join<T>(attempts: Vec<impl Future<Output = T>>, beside: impl Future<Output = ()>) -> Vec<T> {
    let mut attempts: Vec<_> = attempts.into_iter().map(Box::pin).collect();
    let mut ended: Vec<Option<T>> = attempts.iter().map(|_| None).collect();
    let joined = std::future::poll_fn(|context| {
        for (attempt, ended) in attempts.iter_mut().zip(&mut ended) {
            if ended.is_none()
                && let std::task::Poll::Ready(value) = attempt.as_mut().poll(context)
            {
                *ended = Some(value);
            }
        }
        if ended.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    });
    tokio::join!(joined, beside);
    ended.into_iter().flatten().collect()
}
