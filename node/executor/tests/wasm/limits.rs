//! Each limit stops the guest that goes beyond it, says which one it was, and leaves the executor as it was.

use std::time::Duration;

use tarn_executor::{Attempt, ExecutionError, Limits, TABLE_ELEMENTS_MAX};
use tokio_util::sync::CancellationToken;

use crate::guests::{self, ENDLESS, SLEEP};
use crate::{PATIENCE, assert_reason, command, executors, export, fail, succeed};

const PAGE: u64 = 1 << 16;

fn limited(module: &str, change: impl FnOnce(&mut Limits)) -> Attempt {
    let mut attempt = command(module);
    attempt.grants.clock = true;
    change(&mut attempt.limits);
    attempt
}

#[tokio::test]
async fn time_ends_a_guest_that_computes_or_sleeps() {
    for executor in executors() {
        for body in [ENDLESS, SLEEP] {
            let guest = guests::say(2, "started", body);
            let failure = fail(&executor, limited(&guest, |limits| limits.time_ms = 100)).await;
            assert_eq!(failure.error, ExecutionError::TimeLimit { limit_ms: 100 });
            assert_reason(&failure.error, "TIME_LIMIT", true);
            assert_eq!(failure.logs, "started");
            assert!(failure.usage.ran >= Duration::from_millis(100), "{:?}", failure.usage);
        }
        // A start function runs before any export and is under the same limit.
        let starts = format!("(module (func $go {ENDLESS}) (start $go) (func (export \"_start\")))");
        let failure = fail(&executor, limited(&starts, |limits| limits.time_ms = 50)).await;
        assert_reason(&failure.error, "TIME_LIMIT", true);
    }
}

#[tokio::test]
async fn memory_beyond_the_limit_is_refused_and_up_to_it_is_not() {
    let grows = |pages: u64| format!("(if (i32.eq (memory.grow (i32.const {pages})) (i32.const -1)) (then unreachable))");
    for executor in executors() {
        let limit = |limits: &mut Limits| limits.memory_bytes = 10 * PAGE;
        let report = succeed(&executor, limited(&guests::command(&grows(8)), limit)).await;
        assert_eq!(report.usage.memory_bytes_peak, 10 * PAGE);

        let failure = fail(&executor, limited(&guests::command(&grows(9)), limit)).await;
        let expected = ExecutionError::MemoryLimit { wanted_bytes: Some(11 * PAGE), limit_bytes: 10 * PAGE };
        assert_eq!(failure.error, expected);
        assert_reason(&failure.error, "MEMORY_LIMIT", false);
        assert_eq!(failure.usage.memory_bytes_peak, 2 * PAGE);

        // Memory that the module wants from the start counts as well, even all that it can address.
        for pages in [11, 20_000, 65_536] {
            let initial = format!("(module (memory {pages}) (func (export \"_start\")))");
            let failure = fail(&executor, limited(&initial, limit)).await;
            assert_reason(&failure.error, "MEMORY_LIMIT", false);
        }
        // Beyond its own declared maximum, a module is told no, as the standard has it.
        let modest = "(module (memory 1 2) (func (export \"_start\")
            (if (i32.ne (memory.grow (i32.const 5)) (i32.const -1)) (then unreachable))))";
        let report = succeed(&executor, limited(modest, limit)).await;
        assert_eq!(report.usage.memory_bytes_peak, PAGE);
    }
}

#[tokio::test]
async fn tables_are_limited() {
    let small = "(module (table $t 1 funcref) (func (export \"_start\")
        (drop (table.grow $t (ref.null func) (i32.const 50000)))))";
    let large = [
        format!("(module (table {} funcref) (func (export \"_start\")))", TABLE_ELEMENTS_MAX + 1),
        format!(
            "(module (table $t 1 funcref) (func (export \"_start\")
                (drop (table.grow $t (ref.null func) (i32.const {TABLE_ELEMENTS_MAX})))))"
        ),
    ];
    for executor in executors() {
        succeed(&executor, command(small)).await;
        for module in &large {
            let failure = fail(&executor, command(module)).await;
            assert_reason(&failure.error, "TABLE_LIMIT", false);
        }
        let many = "(module (table 1 funcref) (table 1 funcref) (table 1 funcref) (table 1 funcref) (table 1 funcref)
            (func (export \"_start\")))";
        assert_reason(&fail(&executor, command(many)).await.error, "WASM_INVALID_MODULE", false);
    }
}

#[tokio::test]
async fn output_beyond_the_limit_is_an_error() {
    for executor in executors() {
        let guest = guests::say(1, "12345", "");
        let report = succeed(&executor, limited(&guest, |limits| limits.output_bytes = 5)).await;
        assert_eq!(report.output, "12345");
        let failure = fail(&executor, limited(&guest, |limits| limits.output_bytes = 4)).await;
        assert_eq!(failure.error, ExecutionError::OutputLimit { limit_bytes: 4 });
        assert_reason(&failure.error, "OUTPUT_LIMIT", false);

        let flood = guests::command("(loop $more (call $print (i32.const 1) (i32.const 1024) (i32.const 65536)) (br $more))");
        assert_reason(&fail(&executor, command(&flood)).await.error, "OUTPUT_LIMIT", false);

        let mut numbers = export(guests::NUMBERS, "swap", vec!["1".into(), "2".into()]);
        numbers.limits.output_bytes = 6;
        assert_reason(&fail(&executor, numbers).await.error, "OUTPUT_LIMIT", false);
    }
}

#[tokio::test]
async fn logs_beyond_the_limit_are_dropped_and_counted() {
    for executor in executors() {
        let report = succeed(&executor, limited(&guests::say(2, "1234567", ""), |limits| limits.log_bytes = 5)).await;
        assert_eq!(report.logs, "12345\n[tarn: 2 more bytes dropped, the limit log_bytes is 5]\n");

        // A guest that logs without end is stopped by its time, not by the memory of the node.
        let flood = guests::command("(loop $more (call $print (i32.const 2) (i32.const 1024) (i32.const 65536)) (br $more))");
        let failure = fail(&executor, limited(&flood, |limits| limits.time_ms = 100)).await;
        assert_reason(&failure.error, "TIME_LIMIT", true);
        assert!(failure.logs.len() < 65_536 + 200, "{} bytes", failure.logs.len());
    }
}

#[tokio::test]
async fn fuel_is_metered_the_same_each_time() {
    for executor in executors() {
        let failure = fail(&executor, limited(&guests::command(ENDLESS), |limits| limits.fuel = Some(100_000))).await;
        assert_eq!(failure.error, ExecutionError::FuelLimit { limit: 100_000 });
        assert_reason(&failure.error, "FUEL_LIMIT", false);

        let mut used = Vec::new();
        for _ in 0..3 {
            let guest = guests::say(1, "metered", "");
            used.push(succeed(&executor, limited(&guest, |limits| limits.fuel = Some(100_000))).await.usage.fuel);
        }
        assert!(used[0].is_some_and(|fuel| fuel > 0 && fuel < 100), "{used:?}");
        assert!(used.iter().all(|fuel| *fuel == used[0]), "{used:?}");

        // Metered guests can be interrupted too.
        let metered = limited(&guests::command(ENDLESS), |limits| (limits.fuel, limits.time_ms) = (Some(1 << 50), 50));
        assert_reason(&fail(&executor, metered).await.error, "TIME_LIMIT", true);
    }
}

#[tokio::test]
async fn a_limit_out_of_range_is_refused_before_anything_happens() {
    for executor in executors() {
        let failure = fail(&executor, limited(&guests::echo(), |limits| limits.time_ms = 0)).await;
        assert_reason(&failure.error, "LIMIT_OUT_OF_RANGE", false);
        assert_eq!(executor.cache_stats().compiled, 0);
    }
}

/// Cancels an attempt again and again, each time later, until the guest had started; returns how it ended then.
async fn cancel_in_the_middle(executor: &tarn_executor::WasmExecutor, body: &str) -> tarn_executor::Failure {
    use tarn_executor::Executor as _;
    let guest = guests::say(2, "started", body);
    let mut delay = Duration::from_millis(1);
    loop {
        let cancel = CancellationToken::new();
        let running = executor.run(limited(&guest, |_| {}), cancel.clone());
        let cancelling = async {
            tokio::time::sleep(delay).await;
            cancel.cancel();
        };
        let (ended, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(running, cancelling) })
            .await
            .expect("the attempt does not notice that it was cancelled");
        let failure = ended.expect_err("the guest never ends by itself");
        assert_reason(&failure.error, "CANCELLED", true);
        if failure.logs == "started" {
            return failure;
        }
        delay *= 2;
    }
}

#[tokio::test]
async fn cancelling_stops_a_guest_that_computes_or_sleeps() {
    for executor in executors() {
        for body in [ENDLESS, SLEEP] {
            let failure = cancel_in_the_middle(&executor, body).await;
            // Far less than the limit of a minute, on however busy a machine.
            assert!(failure.usage.ran < Duration::from_secs(20), "{:?}", failure.usage);
        }
    }
}

#[tokio::test]
async fn an_attempt_that_is_cancelled_before_it_starts_does_not_start() {
    use tarn_executor::Executor as _;
    for executor in executors() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let failure = executor.run(command(&guests::say(2, "started", "")), cancel).await.unwrap_err();
        assert_reason(&failure.error, "CANCELLED", true);
        assert_eq!(failure.logs, "");
        assert_eq!(executor.cache_stats().compiled, 0);
    }
}
