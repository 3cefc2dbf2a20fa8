//! What an attempt may use.

use std::time::Duration;

use tarn_executor::{ExecutionError, Executor as _};
use tokio_util::sync::CancellationToken;

use crate::{assert_reason, command, executor, fail, guests, succeed, with_input};

#[tokio::test]
async fn a_guest_that_runs_too_long_is_stopped_and_its_logs_are_kept() {
    let Some(executor) = executor(1) else { return };
    for body in [guests::ENDLESS, guests::SLEEP] {
        let mut attempt = command(&guests::say(2, "still here", body));
        attempt.limits.time_ms = 50;
        let failure = fail(&executor, attempt).await;
        assert_eq!(failure.error, ExecutionError::TimeLimit { limit_ms: 50 });
        assert_reason(&failure.error, "TIME_LIMIT", true);
        assert_eq!(failure.logs, "still here");
        assert!(failure.usage.ran >= Duration::from_millis(50));
        assert_eq!(failure.usage.memory_bytes_peak, 2 << 16);
        succeed(&executor, with_input(&guests::echo(), "next")).await;
    }
}

#[tokio::test]
async fn memory_is_limited_when_it_grows_and_from_the_start() {
    let Some(executor) = executor(1) else { return };
    let mut attempt = command(&guests::command("(drop (memory.grow (i32.const 15)))"));
    attempt.limits.memory_bytes = 17 << 16;
    assert_eq!(succeed(&executor, attempt.clone()).await.usage.memory_bytes_peak, 17 << 16);
    attempt.limits.memory_bytes -= 1;
    let failure = fail(&executor, attempt).await;
    let (wanted_bytes, limit_bytes) = (Some(17 << 16), (17 << 16) - 1);
    assert_eq!(failure.error, ExecutionError::MemoryLimit { wanted_bytes, limit_bytes });
    assert_reason(&failure.error, "MEMORY_LIMIT", false);
    let mut attempt = command(&guests::command(""));
    attempt.limits.memory_bytes = 0;
    assert_reason(&fail(&executor, attempt).await.error, "MEMORY_LIMIT", false);
}

#[tokio::test]
async fn all_of_the_memory_can_be_used() {
    // Writes to every page up to 256 MiB, which is the default limit.
    let module = guests::module(
        r#"(func (export "_start") (local $at i32)
            (if (i32.eq (memory.grow (i32.const 4094)) (i32.const -1)) (then unreachable))
            (loop $next
                (i32.store8 (local.get $at) (i32.const 1))
                (local.set $at (i32.add (local.get $at) (i32.const 4096)))
                (br_if $next (i32.lt_u (local.get $at) (i32.const 268435456)))))"#,
    );
    let Some(executor) = executor(1) else { return };
    let report = succeed(&executor, command(&module)).await;
    assert_eq!(report.usage.memory_bytes_peak, 256 << 20);
}

#[tokio::test]
async fn output_is_limited_and_logs_are_cut() {
    let Some(executor) = executor(1) else { return };
    let mut attempt = with_input(&guests::echo(), vec![b'x'; 600_000]);
    attempt.limits.output_bytes = 600_000;
    assert_eq!(succeed(&executor, attempt.clone()).await.output.len(), 600_000);
    attempt.limits.output_bytes -= 1;
    let failure = fail(&executor, attempt).await;
    assert_eq!(failure.error, ExecutionError::OutputLimit { limit_bytes: 599_999 });
    let mut attempt = command(&guests::say(2, "123456789", ""));
    attempt.limits.log_bytes = 5;
    let report = succeed(&executor, attempt).await;
    assert_eq!(report.logs, "12345\n[tarn: 4 more bytes dropped, the limit log_bytes is 5]\n");
}

#[tokio::test]
async fn fuel_is_counted_and_deterministic() {
    let Some(executor) = executor(1) else { return };
    let mut attempt = with_input(&guests::echo(), "some input");
    attempt.limits.fuel = Some(1_000_000);
    let used = succeed(&executor, attempt.clone()).await.usage.fuel.unwrap();
    assert!(used > 0 && used < 1_000, "{used}");
    assert_eq!(succeed(&executor, attempt.clone()).await.usage.fuel, Some(used));
    attempt.limits.fuel = Some(used / 2);
    let failure = fail(&executor, attempt).await;
    assert_reason(&failure.error, "FUEL_LIMIT", false);
}

#[tokio::test]
async fn limits_out_of_range_are_refused() {
    let Some(executor) = executor(1) else { return };
    let mut attempt = command(&guests::command(""));
    attempt.limits.memory_bytes = executor.capabilities().limits_max.memory_bytes + 1;
    assert_reason(&fail(&executor, attempt).await.error, "LIMIT_OUT_OF_RANGE", false);
    let mut attempt = command(&guests::command(""));
    attempt.limits.time_ms = 0;
    assert_reason(&fail(&executor, attempt).await.error, "LIMIT_OUT_OF_RANGE", false);
}

#[tokio::test]
async fn cancelling_stops_a_guest_that_computes_sleeps_or_waits() {
    let Some(executor) = executor(1) else { return };
    for body in [guests::ENDLESS, guests::SLEEP] {
        let cancel = CancellationToken::new();
        let running = executor.run(command(&guests::command(body)), cancel.clone());
        let waiting = executor.run(command(&guests::command(body)), cancel.clone());
        let canceller = async {
            while executor.admitted() < 2 {
                tokio::task::yield_now().await;
            }
            cancel.cancel();
        };
        let (running, waiting, ()) = tokio::join!(running, waiting, canceller);
        for failure in [running.unwrap_err(), waiting.unwrap_err()] {
            assert_reason(&failure.error, "CANCELLED", true);
        }
        succeed(&executor, with_input(&guests::echo(), "next")).await;
    }
}

#[tokio::test]
async fn an_attempt_that_nobody_waits_for_is_stopped() {
    let Some(executor) = executor(1) else { return };
    let mut running = Box::pin(executor.run(command(&guests::command(guests::ENDLESS)), CancellationToken::new()));
    // Until the only machine is taken, which is when its thread has started.
    while executor.idle() == 1 {
        assert!(futures::poll!(&mut running).is_pending());
        tokio::task::yield_now().await;
    }
    drop(running);
    // The slot comes free, which it would not while the guest runs.
    succeed(&executor, with_input(&guests::echo(), "next")).await;
    assert_eq!(executor.admitted(), 0);
}
