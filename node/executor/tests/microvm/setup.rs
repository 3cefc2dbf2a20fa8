//! How the executor starts, and what it keeps.

use std::fs;
use std::path::Path;

use tarn_executor::{ExecutionError, Executor as _, MACHINES_MAX, MicroVmConfig, MicroVmExecutor, Source};

use crate::{assert_reason, command, executor, fail, guests, has_kvm, image, succeed, with_input};

fn start_error(config: MicroVmConfig) -> ExecutionError {
    MicroVmExecutor::new(config).map(|_| ()).expect_err("it should not start")
}

#[tokio::test]
async fn what_is_missing_is_said() {
    if !has_kvm() {
        // The one thing that can be tried without it.
        assert_reason(&start_error(MicroVmConfig::new("/nowhere")), "NO_KVM", true);
        return;
    }
    let error = start_error(MicroVmConfig::new("/nowhere/guest.elf"));
    assert_reason(&error, "NO_GUEST_IMAGE", true);
    assert!(error.to_string().contains("/nowhere/guest.elf"), "{error}");
    let good = MicroVmConfig::new("/nowhere");
    let bad = [
        MicroVmConfig { slots: 0, ..good.clone() },
        MicroVmConfig { slots: MACHINES_MAX + 1, ..good.clone() },
        MicroVmConfig { slots: 2, idle: 3, ..good.clone() },
        MicroVmConfig { memory_bytes_max: 1 << 40, ..good.clone() },
    ];
    for config in bad {
        assert_reason(&start_error(config), "LIMIT_OUT_OF_RANGE", false);
    }
}

#[tokio::test]
async fn it_says_what_it_offers() {
    let Some(executor) = executor(3) else { return };
    let capabilities = executor.capabilities();
    assert_eq!((capabilities.runtime, capabilities.slots), ("microvm", 3));
    assert_eq!(capabilities.labels["wasm.wasi"], "preview1");
    assert_eq!(executor.idle(), 3);
}

#[tokio::test]
async fn without_machines_that_wait_each_attempt_starts_its_own() {
    if !has_kvm() {
        return;
    }
    let Some(image) = image() else { return };
    let config = MicroVmConfig { slots: 2, idle: 0, ..MicroVmConfig::new(image) };
    let executor = MicroVmExecutor::new(config).unwrap();
    for _ in 0..3 {
        let report = succeed(&executor, with_input(&guests::echo(), "cold")).await;
        assert_eq!(report.output, "cold");
    }
    executor.settled().await;
    assert_eq!(executor.idle(), 0);
}

#[tokio::test]
async fn a_prepared_module_is_kept_on_disk_and_damage_is_noticed() {
    if !has_kvm() {
        return;
    }
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let config = MicroVmConfig { slots: 1, idle: 1, cache_dir: Some(dir.path().join("code")), ..MicroVmConfig::new(image) };
        MicroVmExecutor::new(config).unwrap()
    };
    let mut prepared = with_input(&guests::echo(), "kept");
    let Source::Bytes(bytes) = std::mem::replace(&mut prepared.source, Source::Prepared) else { unreachable!() };
    let first = start();
    assert_reason(&fail(&first, prepared.clone()).await.error, "ARTIFACT_UNAVAILABLE", true);
    let wrong = bytes.slice(1..);
    assert_reason(&first.prepare(&prepared.artifact, wrong).await.unwrap_err(), "HASH_MISMATCH", true);
    first.prepare(&prepared.artifact, bytes).await.unwrap();
    assert_eq!(succeed(&first, prepared.clone()).await.output, "kept");
    drop(first);
    assert_eq!(succeed(&start(), prepared.clone()).await.output, "kept");
    flip_a_byte(&dir.path().join("code"));
    assert_reason(&fail(&start(), prepared).await.error, "ARTIFACT_UNAVAILABLE", true);
}

fn flip_a_byte(dir: &Path) {
    let entry = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&entry).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(entry, bytes).unwrap();
}

#[tokio::test]
async fn a_machine_is_used_again_after_an_orderly_end_and_replaced_after_another() {
    let Some(executor) = executor(1) else { return };
    for module in [guests::say(1, "x", ""), guests::say(1, "x", "unreachable")] {
        let _ = crate::run(&executor, command(&module)).await;
        executor.settled().await;
        assert_eq!(executor.idle(), 1);
    }
    let mut late = command(&guests::command(guests::ENDLESS));
    late.limits.time_ms = 5;
    fail(&executor, late).await;
    executor.settled().await;
    assert_eq!(executor.idle(), 1);
}
