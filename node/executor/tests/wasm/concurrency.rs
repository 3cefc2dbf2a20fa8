//! Many attempts at once, on few slots, beside a runtime that must not notice.

use std::collections::BTreeMap;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use tarn_executor::{Allocation, Executor as _, SLOTS_MAX, WasmConfig, WasmExecutor};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::guests::{self, ENDLESS};
use crate::{assert_reason, command, executors, export, run, succeed, with_input};

#[tokio::test]
async fn fifty_at_once_each_get_their_own_output() {
    for executor in executors() {
        let executor = Arc::new(executor);
        let mut running = JoinSet::new();
        for number in 0..50 {
            let executor = Arc::clone(&executor);
            running.spawn(async move {
                let input = format!("input {number} ").repeat(1_000);
                let report = succeed(&*executor, with_input(&guests::echo(), input.clone())).await;
                (number, report.output == input)
            });
        }
        let ended: BTreeMap<i32, bool> = running.join_all().await.into_iter().collect();
        assert_eq!(ended.len(), 50);
        assert!(ended.values().all(|right| *right), "{ended:?}");
        assert_eq!(executor.cache_stats().compiled, 1);
        assert_eq!(executor.admitted(), 0);
    }
}

#[tokio::test]
async fn a_guest_that_computes_does_not_hold_up_the_runtime() {
    // The runtime of this test has a single thread, which an endless guest would occupy if it ran there.
    for executor in executors() {
        let cancel = CancellationToken::new();
        let running = executor.run(command(&guests::command(ENDLESS)), cancel.clone());
        let other_work = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            cancel.cancel();
        };
        let (ended, ()) = tokio::join!(running, other_work);
        assert_reason(&ended.unwrap_err().error, "CANCELLED", true);
    }
}

#[tokio::test]
async fn dropping_the_future_frees_the_slot() {
    for allocation in [Allocation::Pooling, Allocation::OnDemand] {
        let executor = WasmExecutor::new(WasmConfig { slots: 1, allocation, ..WasmConfig::default() }).unwrap();
        executor.prepare(&command(&guests::command(ENDLESS)).artifact, guests::command(ENDLESS).into()).await.unwrap();
        for _ in 0..3 {
            let endless = run(&executor, command(&guests::command(ENDLESS)));
            tokio::time::timeout(Duration::from_millis(20), endless).await.unwrap_err();
        }
        assert_eq!(succeed(&executor, with_input(&guests::echo(), "my turn")).await.output, "my turn");
    }
}

#[tokio::test]
async fn too_many_waiting_attempts_are_refused() {
    let executor = Arc::new(WasmExecutor::new(WasmConfig { slots: 1, ..WasmConfig::default() }).unwrap());
    let cancel = CancellationToken::new();
    let mut running = JoinSet::new();
    for _ in 0..70 {
        let (executor, cancel) = (Arc::clone(&executor), cancel.clone());
        running.spawn(async move { executor.run(command(&guests::command(ENDLESS)), cancel).await });
    }
    // One runs and 64 wait; the others are refused right away, and only then is the rest cancelled.
    for _ in 0..5 {
        let failure = running.join_next().await.unwrap().unwrap().unwrap_err();
        assert_reason(&failure.error, "RESOURCE_EXHAUSTED", true);
    }
    cancel.cancel();
    for ended in running.join_all().await {
        assert_reason(&ended.unwrap_err().error, "CANCELLED", true);
    }
    assert_eq!(executor.admitted(), 0);
    assert_eq!(succeed(&*executor, with_input(&guests::echo(), "room again")).await.output, "room again");
}

#[test]
fn the_number_of_slots_is_bounded() {
    for slots in [0, SLOTS_MAX + 1] {
        let error = WasmExecutor::new(WasmConfig { slots, ..WasmConfig::default() }).err().unwrap();
        assert_reason(&error, "LIMIT_OUT_OF_RANGE", false);
    }
    let most = WasmExecutor::new(WasmConfig { slots: SLOTS_MAX, ..WasmConfig::default() }).unwrap();
    assert_eq!(most.capabilities().slots, SLOTS_MAX);
}

/// Set in the process that measures its own memory.
const MEASURED: &str = "TARN_TEST_MEASURED_MEMORY";

/// The resident memory of this process, in bytes.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Runs itself again in a process of its own, because what other tests use would be counted too.
#[test]
fn two_hundred_at_once_take_the_memory_that_they_use() {
    if std::env::var_os(MEASURED).is_none() {
        let output = process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "concurrency::two_hundred_at_once_take_the_memory_that_they_use"])
            .env(MEASURED, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    const GUESTS: usize = 200;
    const LIMIT_BYTES: u64 = 32 << 20;
    const TOUCHED_BYTES: u64 = 4 << 20;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Each has as much memory as it may, writes to an eighth of it, says so, and sleeps.
    let guest = guests::module(&format!(
        r#"(func (export "_start")
            (drop (memory.grow (i32.const 510)))
            (memory.fill (i32.const 65536) (i32.const 1) (i32.const {TOUCHED_BYTES}))
            {})"#,
        guests::SLEEP
    ));
    let executor = Arc::new(WasmExecutor::new(WasmConfig { slots: GUESTS, ..WasmConfig::default() }).unwrap());
    runtime.block_on(async {
        let mut one = command(&guest);
        one.grants.clock = true;
        one.limits.memory_bytes = LIMIT_BYTES;
        executor.prepare(&one.artifact, guest.clone().into()).await.unwrap();
        let before = resident_bytes();
        let cancel = CancellationToken::new();
        let mut running = JoinSet::new();
        for _ in 0..GUESTS {
            let (executor, attempt, cancel) = (Arc::clone(&executor), one.clone(), cancel.clone());
            running.spawn(async move { executor.run(attempt, cancel).await });
        }
        // All have written when so much is resident; a guest that never gets there is a failure.
        let all = GUESTS as u64 * TOUCHED_BYTES;
        tokio::time::timeout(crate::PATIENCE, async {
            while resident_bytes() - before < all {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("200 guests do not come to run at once");
        let used = resident_bytes() - before;
        // Beside it each has a stack, a record of its instance, and the first pages of its memory.
        assert!(used < all + GUESTS as u64 * (256 << 10), "{used} bytes for {all}");
        cancel.cancel();
        for ended in running.join_all().await {
            let failure = ended.unwrap_err();
            assert_reason(&failure.error, "CANCELLED", true);
            assert_eq!(failure.usage.memory_bytes_peak, LIMIT_BYTES);
        }
        // What ended gives its memory back, up to what the slots keep to themselves.
        let kept = resident_bytes() - before;
        assert!(kept < GUESTS as u64 * (256 << 10), "{kept} bytes are still there");
    });
}

/// Set in the process that the test below starts.
const RESTRICTED: &str = "TARN_TEST_RESTRICTED_MEMORY";

/// A pool of four slots wants some 20 GiB of address space. This test runs itself again in a process that may have 3 GiB.
#[test]
fn where_address_space_is_restricted_guests_run_on_demand() {
    if std::env::var_os(RESTRICTED).is_some() {
        let executor = WasmExecutor::new(WasmConfig { slots: 4, ..WasmConfig::default() }).unwrap();
        assert_eq!(executor.allocation(), Allocation::OnDemand);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sum = export(guests::NUMBERS, "add", vec!["40".into(), "2".into()]);
        assert_eq!(runtime.block_on(succeed(&executor, sum)).output, "42");
        return;
    }
    for (executor, allocation) in executors().iter().zip([Allocation::Pooling, Allocation::OnDemand]) {
        assert_eq!(executor.allocation(), allocation, "the machine that runs this test restricts address space itself");
    }
    let this = std::env::current_exe().unwrap();
    let output = process::Command::new("sh")
        .args(["-c", "ulimit -v 3000000 && exec \"$0\" --exact \"$1\""])
        .arg(this)
        .arg("concurrency::where_address_space_is_restricted_guests_run_on_demand")
        .env(RESTRICTED, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
