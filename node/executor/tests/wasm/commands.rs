//! Modules that are run as programs.

use bytes::Bytes;
use tarn_executor::{ARGUMENTS_BYTES_MAX, ExecutionError};

use crate::{assert_reason, command, executors, fail, guests, succeed, with_args, with_env, with_input};

#[tokio::test]
async fn standard_input_reaches_standard_output() {
    for executor in executors() {
        let long: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).take(1 << 20).collect();
        for input in [Bytes::new(), Bytes::from_static(b"hello"), Bytes::from(long)] {
            let report = succeed(&executor, with_input(&guests::echo(), input.clone())).await;
            assert!(report.output == input, "{} bytes came out of {}", report.output.len(), input.len());
            assert_eq!(report.logs, "");
            assert_eq!(report.values, []);
            assert_eq!(report.usage.memory_bytes_peak, 2 << 16);
            assert!(report.usage.fuel.is_some_and(|fuel| fuel > 0));
        }
    }
}

#[tokio::test]
async fn arguments_and_environment_arrive_and_nothing_is_inherited() {
    for executor in executors() {
        let report = succeed(&executor, with_args(&guests::print_args(), &["one", "", "drei ß"])).await;
        assert_eq!(report.output, "main\0one\0\0drei ß\0");

        let report = succeed(&executor, command(&guests::print_env())).await;
        assert_eq!(report.output, "");
        let report = succeed(&executor, with_env(&guests::print_env(), &[("B", "two=2"), ("A", "")])).await;
        assert_eq!(report.output, "A=\0B=two=2\0");
    }
}

#[tokio::test]
async fn no_directory_is_open() {
    // The first descriptor after the three standard ones would be a directory: it must be a bad descriptor (8).
    let body = "(if (i32.ne (call $fd_prestat_get (i32.const 3) (i32.const 64)) (i32.const 8)) (then unreachable))";
    for executor in executors() {
        succeed(&executor, command(&guests::command(body))).await;
    }
}

#[tokio::test]
async fn standard_error_is_kept_as_logs() {
    for executor in executors() {
        let report = succeed(&executor, command(&guests::say(2, "to whom it may concern", ""))).await;
        assert_eq!(report.logs, "to whom it may concern");
        assert_eq!(report.output, "");
    }
}

#[tokio::test]
async fn an_exit_status_is_success_or_a_reason_to_retry() {
    for executor in executors() {
        let report = succeed(&executor, command(&guests::say(1, "done", "(call $proc_exit (i32.const 0))"))).await;
        assert_eq!(report.output, "done");
        for status in [1, 3, 126, 134, 255, -1] {
            let exit = format!("(call $proc_exit (i32.const {status}))");
            let failure = fail(&executor, command(&guests::say(2, "why", &exit))).await;
            assert_eq!(failure.error, ExecutionError::ExitNonzero { status });
            assert_reason(&failure.error, "EXIT_NONZERO", true);
            assert_eq!(failure.logs, "why");
        }
    }
}

#[tokio::test]
async fn a_trap_is_final_and_leaves_logs_and_call_stack() {
    let traps = [
        ("unreachable", "unreachable"),
        ("(drop (i32.load (i32.const -4)))", "out of bounds memory access"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "integer divide by zero"),
    ];
    for executor in executors() {
        for (body, expected) in traps {
            let failure = fail(&executor, command(&guests::say(2, "last words", body))).await;
            assert_reason(&failure.error, "WASM_TRAP", false);
            assert!(failure.error.to_string().contains(expected), "{}", failure.error);
            let logs = String::from_utf8(failure.logs.to_vec()).unwrap();
            assert!(logs.starts_with("last words\n[tarn: trapped in "), "{logs:?}");
        }
        let endless = "(module (func $deeper (export \"_start\") (call $deeper)))";
        let failure = fail(&executor, command(endless)).await;
        assert!(failure.error.to_string().contains("call stack exhausted"), "{}", failure.error);
    }
}

#[tokio::test]
async fn bad_pointers_in_host_calls_do_not_hurt_the_host() {
    let body = "(drop (call $fd_write (i32.const 1) (i32.const -8) (i32.const 1) (i32.const -4)))
        (drop (call $args_get (i32.const -1) (i32.const -1)))
        (drop (call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 0)))";
    for executor in executors() {
        // Whether the guest gets an error number or traps is WASI's business. It must only be one of the two.
        match crate::run(&executor, command(&guests::command(body))).await {
            Ok(_) => {}
            Err(failure) => assert_reason(&failure.error, "WASM_TRAP", false),
        }
        assert_eq!(succeed(&executor, with_input(&guests::echo(), "still here")).await.output, "still here");
    }
}

#[tokio::test]
async fn arguments_that_cannot_be_passed_are_refused() {
    let large = "x".repeat(usize::try_from(ARGUMENTS_BYTES_MAX).unwrap() + 1);
    for executor in executors() {
        for args in [["zero\0byte"], [large.as_str()]] {
            let failure = fail(&executor, with_args(&guests::print_args(), &args)).await;
            assert_reason(&failure.error, "BAD_ARGUMENTS", false);
        }
        for variable in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")] {
            let failure = fail(&executor, with_env(&guests::print_env(), &[variable])).await;
            assert_reason(&failure.error, "BAD_ARGUMENTS", false);
        }
    }
}

#[tokio::test]
async fn a_module_without_start_is_not_a_command() {
    for executor in executors() {
        let failure = fail(&executor, command(guests::NUMBERS)).await;
        assert_reason(&failure.error, "WASM_MISSING_EXPORT", false);
        assert!(failure.error.to_string().contains("`_start`"), "{}", failure.error);
        let odd = "(module (func (export \"_start\") (param i32)))";
        assert_reason(&fail(&executor, command(odd)).await.error, "BAD_ARGUMENTS", false);
    }
}
