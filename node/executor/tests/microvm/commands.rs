//! Modules that are run as programs.

use bytes::Bytes;
use tarn_executor::{ARGUMENTS_BYTES_MAX, Attempt, ExecutionError, Grants, WasmConfig, WasmExecutor};

use crate::{assert_reason, command, executor, export, fail, guests, run, succeed, with_args, with_env, with_input};

#[tokio::test]
async fn standard_input_reaches_standard_output() {
    let Some(executor) = executor(1) else { return };
    let long: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).take(1 << 20).collect();
    for input in [Bytes::new(), Bytes::from_static(b"hello"), Bytes::from(long)] {
        let report = succeed(&executor, with_input(&guests::echo(), input.clone())).await;
        assert!(report.output == input, "{} bytes came out of {}", report.output.len(), input.len());
        assert_eq!(report.logs, "");
        assert_eq!(report.usage.memory_bytes_peak, 2 << 16);
        assert_eq!(report.usage.fuel, None);
    }
}

#[tokio::test]
async fn arguments_and_environment_arrive_and_nothing_is_inherited() {
    let Some(executor) = executor(1) else { return };
    let report = succeed(&executor, with_args(&guests::print_args(), &["one", "", "drei ß"])).await;
    assert_eq!(report.output, "main\0one\0\0drei ß\0");
    assert_eq!(succeed(&executor, command(&guests::print_env())).await.output, "");
    let env = [("B", "two=2"), ("A", "")];
    let report = succeed(&executor, with_env(&guests::print_env(), &env)).await;
    assert_eq!(report.output, "A=\0B=two=2\0");
}

#[tokio::test]
async fn standard_error_is_kept_as_logs_and_an_exit_status_is_a_reason_to_retry() {
    let Some(executor) = executor(1) else { return };
    let done = guests::say(1, "done", "(call $proc_exit (i32.const 0))");
    assert_eq!(succeed(&executor, command(&done)).await.output, "done");
    for status in [1, 3, 126, 134, 255, -1] {
        let exit = format!("(call $proc_exit (i32.const {status}))");
        let failure = fail(&executor, command(&guests::say(2, "why", &exit))).await;
        assert_eq!(failure.error, ExecutionError::ExitNonzero { status });
        assert_reason(&failure.error, "EXIT_NONZERO", true);
        assert_eq!(failure.logs, "why");
    }
}

#[tokio::test]
async fn a_trap_is_final_and_leaves_logs_and_call_stack() {
    let traps = [
        ("unreachable", "unreachable"),
        ("(drop (i32.load (i32.const -4)))", "out of bounds memory access"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "integer divide by zero"),
        ("(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))", "integer overflow"),
    ];
    let Some(executor) = executor(1) else { return };
    for (body, expected) in traps {
        let failure = fail(&executor, command(&guests::say(2, "last words", body))).await;
        assert_reason(&failure.error, "WASM_TRAP", false);
        assert!(failure.error.to_string().contains(expected), "{}", failure.error);
        let logs = String::from_utf8(failure.logs.to_vec()).unwrap();
        assert!(logs.starts_with("last words\n[tarn: trapped in "), "{logs:?}");
    }
    let endless = "(module (memory (export \"memory\") 1) (func $deeper (export \"_start\") (call $deeper)))";
    let failure = fail(&executor, command(endless)).await;
    assert!(failure.error.to_string().contains("call stack exhausted"), "{}", failure.error);
}

#[tokio::test]
async fn clocks_run_randomness_differs_and_sleep_sleeps() {
    // Prints two random numbers, the wall clock, and how long a sleep of 20 ms took.
    let module = r#"(module
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start") (local $before i64)
            (drop (call $random (i32.const 1024) (i32.const 16)))
            (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 1040)))
            (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 1048)))
            (local.set $before (i64.load (i32.const 1048)))
            (i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 20000000))
            (if (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)) (then unreachable))
            (if (i32.ne (i32.load (i32.const 192)) (i32.const 1)) (then unreachable))
            (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 1048)))
            (i64.store (i32.const 1048) (i64.sub (i64.load (i32.const 1048)) (local.get $before)))
            (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 32))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    let Some(executor) = executor(1) else { return };
    let mut seen = Vec::new();
    for _ in 0..2 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let output = succeed(&executor, command(module)).await.output;
        let number = |index: usize| u64::from_le_bytes(output[index * 8..][..8].try_into().unwrap());
        seen.extend([number(0), number(1)]);
        assert!(u128::from(number(2)).abs_diff(now.as_nanos()) < 60_000_000_000);
        assert!(number(3) >= 20_000_000, "slept {} ns", number(3));
    }
    let different: std::collections::BTreeSet<u64> = seen.iter().copied().collect();
    assert_eq!(different.len(), 4, "{seen:?}");
}

/// What the two runtimes do with the same attempt, in words.
async fn outcome(executor: &impl tarn_executor::Executor, attempt: Attempt) -> String {
    match run(executor, attempt).await {
        Ok(report) => {
            let memory = report.usage.memory_bytes_peak;
            format!("{:?} {:?} {:?} {memory}", report.output, report.values, report.logs)
        }
        Err(failure) => format!("{} {:?} {:?}", failure.error.reason(), failure.error, failure.logs),
    }
}

#[tokio::test]
async fn both_runtimes_do_the_same_with_the_same_module() {
    let errors = r#"(module
        (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_filestat_get" (func $filestat (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func $note (param $at i32) (param $number i32) (i32.store (local.get $at) (local.get $number)))
        (func (export "_start")
            (call $note (i32.const 1024) (call $stat (i32.const 0) (i32.const 2048)))
            (call $note (i32.const 1028) (call $stat (i32.const 1) (i32.const 2080)))
            (call $note (i32.const 1032) (call $stat (i32.const 3) (i32.const 2112)))
            (call $note (i32.const 1036) (call $filestat (i32.const 2) (i32.const 2144)))
            (call $note (i32.const 1040) (call $seek (i32.const 1) (i64.const 0) (i32.const 0) (i32.const 0)))
            (call $note (i32.const 1044) (call $seek (i32.const 9) (i64.const 0) (i32.const 0) (i32.const 0)))
            (call $note (i32.const 1048) (call $close (i32.const 2)))
            (call $note (i32.const 1052) (call $close (i32.const 2)))
            (call $note (i32.const 1056) (call $write (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 8)))
            (call $note (i32.const 1060) (call $read (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 8)))
            (call $note (i32.const 1064) (call $write (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 8)))
            (call $note (i32.const 1068) (call $prestat (i32.const 3) (i32.const 8)))
            (call $note (i32.const 1076) (call $clock (i32.const 2) (i64.const 0) (i32.const 8)))
            (call $note (i32.const 1084) (call $yield))
            (call $note (i32.const 1088) (call $poll (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 8)))
            (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 2048))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    let floats = r#"(module (func (export "odd") (param f64) (result f64 f32 i32)
        (f64.nearest (f64.div (local.get 0) (f64.const 3)))
        (f32.demote_f64 (f64.sqrt (f64.neg (local.get 0))))
        (i32.trunc_sat_f64_u (local.get 0))))"#;
    let mut small = command(&guests::command("(drop (memory.grow (i32.const 100)))"));
    small.limits.memory_bytes = 1 << 20;
    let mut table = command("(module (table 200000 funcref) (func (export \"_start\")))");
    table.limits.memory_bytes = 1 << 20;
    let mut fuel = command(&guests::command(guests::ENDLESS));
    fuel.limits.fuel = Some(10_000);
    let mut logs = command(&guests::say(2, "longer than its limit", ""));
    logs.limits.log_bytes = 6;
    let mut output = command(&guests::say(1, "longer than its limit", ""));
    output.limits.output_bytes = 20;
    let attempts = [
        command(errors),
        small,
        table,
        fuel,
        logs,
        output,
        with_input(&guests::echo(), "input"),
        with_args(&guests::print_args(), &["one", "two"]),
        with_env(&guests::print_env(), &[("KEY", "value")]),
        with_args(&guests::print_args(), &["zero\0byte"]),
        with_env(&guests::print_env(), &[("A=B", "x")]),
        command(&guests::say(1, "out", "unreachable")),
        command(&guests::say(2, "err", "(call $proc_exit (i32.const 77))")),
        command(guests::NUMBERS),
        command("(module (func (export \"_start\") (param i32)))"),
        command("(module (memory (export \"memory\") 1) (func $f) (start $f) (func $s (export \"_start\") unreachable))"),
        command("(module (memory (export \"memory\") 1) (func $f unreachable) (start $f) (func (export \"_start\")))"),
        export(guests::NUMBERS, "swap", vec!["-1".into(), "NaN".into()]),
        export(guests::NUMBERS, "add", vec!["2147483647".into(), "1".into()]),
        export(floats, "odd", vec!["7.5".into()]),
        export(floats, "odd", vec!["-inf".into()]),
        export(&guests::say(1, "printed", ""), "_start", vec![]),
    ];
    let Some(executor) = executor(1) else { return };
    let wasm = WasmExecutor::new(WasmConfig::default()).unwrap();
    for attempt in attempts {
        let expected = outcome(&wasm, attempt.clone()).await;
        assert_eq!(outcome(&executor, attempt).await, expected);
    }
}

#[tokio::test]
async fn bad_pointers_in_wasi_calls_do_not_get_out_of_the_sandbox() {
    let body = "(drop (call $fd_write (i32.const 1) (i32.const -8) (i32.const 1) (i32.const -4)))
        (drop (call $args_get (i32.const -1) (i32.const -1)))
        (drop (call $fd_read (i32.const 0) (i32.const 131068) (i32.const -1) (i32.const 0)))
        (drop (call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 0)))";
    let Some(executor) = executor(1) else { return };
    succeed(&executor, command(&guests::command(body))).await;
}

#[tokio::test]
async fn arguments_that_cannot_be_passed_are_refused() {
    let Some(executor) = executor(1) else { return };
    let large = "x".repeat(usize::try_from(ARGUMENTS_BYTES_MAX).unwrap() + 1);
    let failure = fail(&executor, with_args(&guests::print_args(), &[&large])).await;
    assert_reason(&failure.error, "BAD_ARGUMENTS", false);
    // Empty arguments have no bytes, but each takes one in the job.
    let failure = fail(&executor, with_args(&guests::print_args(), &vec![""; 5_000_000])).await;
    assert_reason(&failure.error, "BAD_ARGUMENTS", false);
    let mut attempt = with_env(&guests::module("(func (export \"_start\"))"), &[("K", &"v".repeat(1 << 19))]);
    attempt.limits.memory_bytes = 1 << 20;
    succeed(&executor, attempt).await;
}

#[tokio::test]
async fn what_was_not_granted_ends_the_attempt() {
    let clock = r#"(module (import "wasi_snapshot_preview1" "clock_time_get" (func $now (param i32 i64 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start") (drop (call $now (i32.const 0) (i64.const 1) (i32.const 0)))))"#;
    let random = r#"(module (import "wasi_snapshot_preview1" "random_get" (func $fill (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start") (drop (call $fill (i32.const 0) (i32.const 8)))))"#;
    let Some(executor) = executor(1) else { return };
    for (module, capability) in [(clock, "clock"), (random, "random")] {
        let mut attempt = command(module);
        succeed(&executor, attempt.clone()).await;
        attempt.grants = Grants::default();
        let failure = fail(&executor, attempt).await;
        assert_reason(&failure.error, "CAPABILITY_NOT_GRANTED", false);
        assert!(failure.error.to_string().contains(capability), "{failure}");
    }
    let mut attempt = command(&guests::command(""));
    attempt.grants.scratch_bytes = 1;
    assert_reason(&fail(&executor, attempt).await.error, "BAD_ARGUMENTS", false);
}
