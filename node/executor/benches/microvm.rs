//! How long micro-VMs take: `TARN_MICROVM_IMAGE=<image> cargo bench --profile dev -p tarn-executor --bench microvm`.
//!
//! Each figure is the time from the call of `run` until its report is there, with the module already compiled: waiting, the machine,
//! loading the module in the guest, running it, handing the result over. `cold` starts a machine for each attempt, `pool` takes
//! one that waits. The `wasm` runtime runs the same attempts for comparison.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tarn_executor::{Attempt, Command, Executor, Hash, Kind, Limits, MicroVmConfig, MicroVmExecutor, Source, WasmConfig, WasmExecutor};
use tokio_util::sync::CancellationToken;

const ADD: &str = r#"(module (func (export "add") (param i32 i32) (result i32)
    local.get 0 local.get 1 i32.add))"#;

/// Copies standard input to standard output.
const ECHO: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (func (export "_start") (loop $more
        (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4096))
        (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
        (if (i32.load (i32.const 8)) (then
            (i32.store (i32.const 4) (i32.load (i32.const 8)))
            (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
            (br $more))))))"#;

/// A hundred million rounds of a small computation.
const COMPUTE: &str = r#"(module (func (export "compute") (result i64) (local $n i64) (local $x i64)
    (local.set $n (i64.const 100000000)) (local.set $x (i64.const 88172645463325252))
    (loop $next
        (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 13))))
        (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 7))))
        (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 17))))
        (local.set $n (i64.sub (local.get $n) (i64.const 1)))
        (br_if $next (i64.ne (local.get $n) (i64.const 0))))
    (local.get $x)))"#;

fn attempt(module: &'static str, kind: Kind) -> Attempt {
    Attempt {
        tenant: "bench".into(),
        artifact: Hash::of(module.as_bytes()),
        source: Source::Bytes(Bytes::from_static(module.as_bytes())),
        kind,
        limits: Limits::default(),
        grants: tarn_executor::Grants::default(),
        services: std::sync::Arc::new(tarn_executor::NoServices),
    }
}

fn export(module: &'static str, name: &str, params: &[&str]) -> Attempt {
    let params = params.iter().map(|param| (*param).into()).collect();
    attempt(module, Kind::Export { name: name.into(), params })
}

fn echo(bytes: usize) -> Attempt {
    attempt(ECHO, Kind::Command(Command { input: vec![b'x'; bytes].into(), ..Command::default() }))
}

/// Runs an attempt again and again, one at a time, and prints the median and the 99th percentile.
async fn measure<E: Executor>(name: &str, executor: &E, attempt: &Attempt, rounds: usize) {
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds + rounds / 10 {
        let began = Instant::now();
        let report = executor.run(attempt.clone(), CancellationToken::new()).await;
        let took = began.elapsed();
        report.expect("the attempt should succeed");
        // The first tenth warms up.
        if round >= rounds / 10 {
            times.push(took);
        }
        // What the next one finds is a machine that waits, as with a node that is not saturated.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort_unstable();
    let (median, late) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{name:<44} p50 {median:>10.2?}  p99 {late:>10.2?}");
}

/// How long it takes from cancelling an attempt that computes without end until its report is there.
async fn cancelling(executor: &MicroVmExecutor, rounds: usize) {
    let spin = export("(module (func (export \"spin\") (loop $again (br $again))))", "spin", &[]);
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let cancel = CancellationToken::new();
        let mut running = std::pin::pin!(executor.run(spin.clone(), cancel.clone()));
        let computing = tokio::time::timeout(Duration::from_millis(20), &mut running).await;
        assert!(computing.is_err(), "it does not end by itself");
        let began = Instant::now();
        cancel.cancel();
        running.await.expect_err("it was cancelled");
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let (median, late) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{:<44} p50 {median:>10.2?}  p99 {late:>10.2?}", "microvm: cancelled until reported");
}

/// Runs attempts as fast as they go.
async fn throughput<E: Executor>(name: &str, executor: &E, attempt: &Attempt, total: usize, at_once: usize) {
    use futures::StreamExt as _;
    let began = Instant::now();
    let runs = futures::stream::iter(0..total).map(|_| executor.run(attempt.clone(), CancellationToken::new()));
    runs.buffer_unordered(at_once).for_each(|report| async { drop(report.expect("the attempt should succeed")) }).await;
    let rate = total as f64 / began.elapsed().as_secs_f64();
    println!("{name:<44} {rate:>10.0} attempts/s, {at_once} at once");
}

#[tokio::main]
async fn main() {
    let Some(image) = std::env::var_os("TARN_MICROVM_IMAGE") else {
        eprintln!("TARN_MICROVM_IMAGE names no guest image: build one with deploy/microvm/build");
        return;
    };
    let start = |slots, idle| {
        let config = MicroVmConfig { slots, idle, ..MicroVmConfig::new(&image) };
        MicroVmExecutor::new(config).expect("the executor should start")
    };
    let began = Instant::now();
    let cold = start(2, 0);
    println!("{:<44}     {:>10.2?}", "executor started, image booted", began.elapsed());
    let pool = start(2, 2);
    let wasm = WasmExecutor::new(WasmConfig::default()).expect("the executor should start");
    let add = export(ADD, "add", &["40", "2"]);
    measure("microvm cold: add", &cold, &add, 300).await;
    measure("microvm cold: echo 64 B", &cold, &echo(64), 300).await;
    measure("microvm pool: add", &pool, &add, 1000).await;
    measure("microvm pool: echo 64 B", &pool, &echo(64), 1000).await;
    measure("microvm pool: echo 1 MiB", &pool, &echo(1 << 20), 100).await;
    measure("wasm: add", &wasm, &add, 1000).await;
    measure("wasm: echo 1 MiB", &wasm, &echo(1 << 20), 100).await;
    let compute = export(COMPUTE, "compute", &[]);
    measure("microvm pool: compute", &pool, &compute, 5).await;
    measure("wasm: compute", &wasm, &compute, 5).await;
    cancelling(&pool, 100).await;
    throughput("microvm pool: add", &pool, &add, 2000, 2).await;
    let hundred = start(100, 100);
    throughput("microvm pool of 100: add", &hundred, &add, 2000, 100).await;
    throughput("wasm: add", &wasm, &add, 2000, 2).await;
}
