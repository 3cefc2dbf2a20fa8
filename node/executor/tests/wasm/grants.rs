//! What a guest may reach: nothing, until it is granted by name.

use std::fs;

use tarn_executor::{Attempt, ExecutionError, Grants, WasmConfig, WasmExecutor};

use crate::guests::REACHING;
use crate::{assert_reason, executors, export, fail, succeed};

/// Error numbers of WASI preview 1.
const FAULT: &str = "21";
const NOSPC: &str = "51";
const NOTCAPABLE: &str = "76";

const PAGE: u64 = 4096;

fn reaching(function: &str, grants: Grants) -> Attempt {
    let mut attempt = export(REACHING, function, Vec::new());
    attempt.grants = grants;
    attempt
}

fn scratch(bytes: u64) -> Grants {
    Grants { scratch_bytes: bytes, ..Grants::default() }
}

#[tokio::test]
async fn what_was_not_granted_is_refused_by_name_when_it_is_called() {
    let clock = Grants { clock: true, ..Grants::default() };
    let random = Grants { random: true, ..Grants::default() };
    let cases = [
        ("clock", "clock", "clock_time_get", &clock),
        ("resolution", "clock", "clock_res_get", &clock),
        ("sleep", "clock", "poll_oneoff", &clock),
        ("random", "random", "random_get", &random),
        ("create", "scratch", "path_open", &scratch(1 << 20)),
        ("name", "scratch", "path_create_directory", &scratch(1 << 20)),
    ];
    for executor in executors() {
        for (function, capability, call, enough) in cases {
            let failure = fail(&executor, reaching(function, Grants::default())).await;
            assert_reason(&failure.error, "CAPABILITY_NOT_GRANTED", false);
            match &failure.error {
                ExecutionError::CapabilityNotGranted { capability: named, call: called, .. } => {
                    assert_eq!((*named, called.as_str()), (capability, call))
                }
                other => panic!("{other}"),
            }
            let told = failure.error.to_string();
            assert!(told.contains("to the task's grants"), "{told}");

            assert_eq!(succeed(&executor, reaching(function, enough.clone())).await.output, "0");
            // One grant is not another.
            let mut others = Grants { clock: true, random: true, scratch_bytes: 1 << 20, ..Grants::default() };
            match capability {
                "clock" => others.clock = false,
                "random" => others.random = false,
                _ => others.scratch_bytes = 0,
            }
            let failure = fail(&executor, reaching(function, others)).await;
            assert_reason(&failure.error, "CAPABILITY_NOT_GRANTED", false);
        }
        // What no grant covers.
        let all = Grants { clock: true, random: true, scratch_bytes: 1 << 20, ..Grants::default() };
        let failure = fail(&executor, reaching("sockets", all)).await;
        assert_reason(&failure.error, "CAPABILITY_NOT_GRANTED", false);
    }
}

#[tokio::test]
async fn what_is_only_imported_does_no_harm() {
    for executor in executors() {
        // Asking for the first directory is what every program does at start: there is none (8, a bad descriptor).
        assert_eq!(succeed(&executor, reaching("directory", Grants::default())).await.output, "8");
        assert_eq!(succeed(&executor, reaching("directory", scratch(1))).await.output, "0");
    }
}

#[tokio::test]
async fn scratch_holds_what_was_granted_however_it_is_written() {
    // A page for the file's name, and ten to write.
    let quota = scratch(11 * PAGE);
    for executor in executors() {
        for function in ["fill", "fill_as_output"] {
            let report = succeed(&executor, reaching(function, quota.clone())).await;
            assert_eq!(report.output, "10051", "{function}");
        }
        // Two names were made.
        let report = succeed(&executor, reaching("fill_nameless", quota.clone())).await;
        assert_eq!(report.output, "9051");
        let report = succeed(&executor, reaching("fill_renumbered", quota.clone())).await;
        assert_eq!(report.output, NOSPC);
        assert_eq!(succeed(&executor, reaching("outside", quota.clone())).await.output, FAULT);
        assert_eq!(succeed(&executor, reaching("create", scratch(PAGE - 1))).await.output, NOSPC);
        assert_eq!(succeed(&executor, reaching("name", scratch(PAGE - 1))).await.output, NOSPC);
        let ten = (10 * PAGE) as i64;
        for (function, number, output) in [
            ("grow", ten, "0"),
            ("grow", ten + 1, NOSPC),
            ("grow", -1, NOSPC),
            ("hole", ten - 1, "0"),
            ("hole", ten, NOSPC),
            ("hole", -1, NOSPC),
        ] {
            let mut attempt = export(REACHING, function, vec![number.to_string().into()]);
            attempt.grants = quota.clone();
            assert_eq!(succeed(&executor, attempt).await.output, output, "{function} {number}");
        }
    }
}

#[tokio::test]
async fn scratch_is_private_and_gone_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let scratch_dir = dir.path().join("scratch");
    let start = || WasmExecutor::new(WasmConfig { slots: 2, scratch_dir: Some(scratch_dir.clone()), ..WasmConfig::default() }).unwrap();
    let executor = start();
    let left = || fs::read_dir(&scratch_dir).unwrap().count();
    for _ in 0..2 {
        // A name that was made by one guest would be in the next one's way.
        assert_eq!(succeed(&executor, reaching("name", scratch(1 << 20))).await.output, "0");
        assert_eq!(left(), 0);
    }
    let outside = succeed(&executor, reaching("escape", scratch(1 << 20))).await;
    assert!(["63", NOTCAPABLE].contains(&&*String::from_utf8_lossy(&outside.output)), "{outside:?}");

    // What was left by one that died is removed at start.
    fs::create_dir_all(scratch_dir.join("tarn-scratch-dead/deep")).unwrap();
    drop(start());
    assert_eq!(left(), 0);
}

#[tokio::test]
async fn grants_out_of_range_are_refused_before_anything_happens() {
    for executor in executors() {
        let failure = fail(&executor, reaching("clock", scratch(u64::MAX))).await;
        assert_reason(&failure.error, "LIMIT_OUT_OF_RANGE", false);
        assert_eq!(executor.cache_stats().compiled, 0);
    }
}
