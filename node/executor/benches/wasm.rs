//! How fast guests start, on one core:  `cargo bench --package tarn-executor --bench wasm`
//!
//! Prints the median and the 99th percentile in microseconds. "bare" is wasmtime alone, set up as the executor does it; "executor" is the
//! whole way of an attempt, from the call of `run` to its report. Every guest has limits on memory, time and fuel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tarn_executor::{Attempt, Command, Executor as _, Grants, Hash, Kind, Limits, NoServices, Source, WasmConfig, WasmExecutor};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use wasm_encoder::{
    BlockType, CodeSection, ExportKind, ExportSection, Function, FunctionSection, MemorySection, MemoryType, Module, TypeSection, ValType,
};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Linker, PoolingAllocationConfig, ResourceLimiter, Store};

/// A function that does nothing, in a module with a memory that is written at start.
const NOOP: &str = r#"(module (memory (export "memory") 2) (data (i32.const 1024) "some data")
    (func (export "noop")))"#;

/// The same as a program that asks WASI for its arguments.
const COMMAND: &str = r#"(module
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (memory (export "memory") 2) (data (i32.const 1024) "some data")
    (func (export "_start") (drop (call $sizes (i32.const 0) (i32.const 4)))))"#;

/// The same function in a component.
const COMPONENT: &str = r#"(component
    (core module $m (memory (export "memory") 2) (data (i32.const 1024) "some data") (func (export "noop")))
    (core instance $i (instantiate $m))
    (func (export "noop") (canon lift (core func $i "noop"))))"#;

/// Runs before what is measured, and what is measured.
const WARM_UP: usize = 2_000;
const ROUNDS: usize = 20_000;

/// The size of the module that is compiled, in bytes.
const LARGE_BYTES: usize = 1 << 20;

fn main() {
    // Before there are threads, so that all are on it.
    let mut one = CpuSet::new();
    one.set(0).expect("there is a first core");
    sched_setaffinity(Pid::from_raw(0), &one).expect("a process may choose its core");

    println!("create, instantiate, call a no-op, drop    p50 µs    p99 µs    (bars: 15 and 50)");
    print_times("bare, pool, fuel, memory limit", bare());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    print_times("executor, exported function", executor(&runtime, &noop()));
    print_times("executor, WASI command", executor(&runtime, &command()));
    print_times("executor, component", executor(&runtime, &component()));
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    print_times("executor, spawned on a worker thread", spawned(&threads, &noop()));
    first_and_second_call(&runtime);
}

fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| times[(times.len() as f64 * part) as usize].as_secs_f64() * 1e6;
    println!("{what:40} {:9.2} {:9.2}", at(0.5), at(0.99));
}

fn measure(mut round: impl FnMut()) -> Vec<Duration> {
    for _ in 0..WARM_UP {
        round();
    }
    let timed = (0..ROUNDS).map(|_| {
        let began = Instant::now();
        round();
        began.elapsed()
    });
    timed.collect()
}

struct Limit;

impl ResourceLimiter for Limit {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 32 << 20)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 100_000)
    }
}

fn bare() -> Vec<Duration> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(4).total_memories(4).total_stacks(4).total_tables(4).linear_memory_keep_resident(64 << 10);
    let mut config = Config::new();
    config.consume_fuel(true).allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let engine = Engine::new(&config).expect("an engine");
    let module = wasmtime::Module::new(&engine, NOOP).expect("a module");
    let ready = Linker::new(&engine).instantiate_pre(&module).expect("no imports");
    measure(|| {
        let mut store = Store::new(&engine, Limit);
        store.limiter(|limit| limit);
        store.set_fuel(1_000_000).expect("fuel is on");
        let instance = ready.instantiate(&mut store).expect("an instance");
        let noop = instance.get_typed_func::<(), ()>(&mut store, "noop").expect("exported");
        noop.call(&mut store, ()).expect("it does nothing");
    })
}

fn attempt(module: &str, kind: Kind) -> Attempt {
    Attempt {
        tenant: "bench".into(),
        artifact: Hash::of(module.as_bytes()),
        source: Source::Bytes(module.to_owned().into()),
        kind,
        limits: Limits { memory_bytes: 32 << 20, fuel: Some(1_000_000), ..Limits::default() },
        grants: Grants::default(),
        services: Arc::new(NoServices),
    }
}

fn export() -> Kind {
    Kind::Export { name: "noop".into(), params: Vec::new() }
}

fn noop() -> Attempt {
    attempt(NOOP, export())
}

fn component() -> Attempt {
    attempt(COMPONENT, export())
}

fn command() -> Attempt {
    attempt(COMMAND, Kind::Command(Command::default()))
}

fn start(dir: Option<&std::path::Path>) -> WasmExecutor {
    let config = WasmConfig { slots: 4, cache_dir: dir.map(Into::into), ..WasmConfig::default() };
    WasmExecutor::new(config).expect("an executor")
}

fn executor(runtime: &Runtime, attempt: &Attempt) -> Vec<Duration> {
    let executor = start(None);
    runtime.block_on(async {
        let mut times = Vec::with_capacity(ROUNDS);
        for round in 0..WARM_UP + ROUNDS {
            let attempt = attempt.clone();
            let began = Instant::now();
            let ended = executor.run(attempt, CancellationToken::new()).await;
            if round >= WARM_UP {
                times.push(began.elapsed());
            }
            ended.expect("it does nothing");
        }
        times
    })
}

/// As a node does it: the attempt is a task of its own, and somebody waits for it.
fn spawned(runtime: &Runtime, attempt: &Attempt) -> Vec<Duration> {
    let executor = Arc::new(start(None));
    runtime.block_on(async {
        let mut times = Vec::with_capacity(ROUNDS);
        for round in 0..WARM_UP + ROUNDS {
            let (executor, attempt) = (Arc::clone(&executor), attempt.clone());
            let began = Instant::now();
            let running = tokio::spawn(async move { executor.run(attempt, CancellationToken::new()).await });
            let ended = running.await.expect("it does not panic");
            if round >= WARM_UP {
                times.push(began.elapsed());
            }
            ended.expect("it does nothing");
        }
        times
    })
}

fn first_and_second_call(runtime: &Runtime) {
    let dir = tempfile::tempdir().expect("a directory");
    let bytes = large_module();
    let kind = Kind::Export { name: "work".into(), params: vec!["1".into()] };
    let attempt = Attempt {
        artifact: Hash::of(&bytes),
        source: Source::Bytes(bytes.clone().into()),
        limits: Limits::default(),
        ..attempt(NOOP, kind)
    };
    let compiling = Instant::now();
    let mut config = Config::new();
    config.consume_fuel(true).cranelift_nan_canonicalization(true);
    let engine = Engine::new(&config).expect("an engine");
    wasmtime::Module::new(&engine, &bytes).expect("a module");
    let compiling = compiling.elapsed();

    let timed = |executor: &WasmExecutor| {
        let began = Instant::now();
        let ended = runtime.block_on(executor.run(attempt.clone(), CancellationToken::new()));
        ended.expect("it runs");
        began.elapsed()
    };
    let first = start(Some(dir.path()));
    let second = start(Some(dir.path()));
    println!("\na module of {} bytes                           ms", bytes.len());
    for (what, time) in [
        ("compiling it with wasmtime alone", compiling),
        ("first call, never seen", timed(&first)),
        ("second call, code in memory", timed(&first)),
        ("first call after a restart, code on disk", timed(&second)),
    ] {
        println!("{what:40} {:9.2}", time.as_secs_f64() * 1e3);
    }
}

/// Functions with loops, memory accesses and calls of one another, until there are enough.
fn large_module() -> Vec<u8> {
    let mut functions = FunctionSection::new();
    let mut code = CodeSection::new();
    let mut count = 0;
    while code.byte_len() < LARGE_BYTES {
        functions.function(0);
        code.function(&large_function(count));
        count += 1;
    }
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32], [ValType::I32]);
    let mut memories = MemorySection::new();
    memories.memory(MemoryType { minimum: 2, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut exports = ExportSection::new();
    exports.export("work", ExportKind::Func, 0);
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&memories).section(&exports).section(&code);
    module.finish()
}

fn large_function(number: u32) -> Function {
    let place = wasm_encoder::MemArg { offset: u64::from(number % 1000) * 4, align: 2, memory_index: 0 };
    let mut function = Function::new([(2, ValType::I32), (1, ValType::F64)]);
    let mut body = function.instructions();
    if number > 0 {
        body.local_get(0).call(number - 1).local_set(1);
    }
    for step in 0..12 {
        body.i32_const(3).local_set(2).loop_(BlockType::Empty);
        body.local_get(1).local_get(0).i32_const(step + 7).i32_mul().i32_xor().local_set(1);
        body.local_get(1).i32_const(1023).i32_and().i32_load(place).local_get(1).i32_add().local_set(0);
        body.local_get(3).local_get(0).f64_convert_i32_s().f64_add().local_set(3);
        body.local_get(2).i32_const(1).i32_sub().local_tee(2).br_if(0).end();
    }
    body.local_get(0).local_get(3).i32_trunc_sat_f64_s().i32_add().end();
    function
}
