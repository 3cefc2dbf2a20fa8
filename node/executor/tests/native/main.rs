//! What a process can and cannot do behind the walls of the `native` runtime. What all runtimes have in common is asked in
//! `tests/conformance`.
//!
//! Guests are shell scripts, which attack with the system's own tools, and programs in C. On a machine that cannot put up the walls (the
//! tests run without root, in a container) each test says so and ends; with `TARN_REQUIRE_NATIVE` set it fails.

mod attacks;
mod ends;
mod limits;
mod network;
mod transforms;
mod walls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tarn_executor::native::{NativeConfig, NativeExecutor, USER_BASE};
use tarn_executor::{Attempt, Command, Executor as _, Failure, Grants, Hash, Kind, Limits, NoServices, Report, Source};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a machine that is busy with other things. Reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// An executor with two slots, and the folder that it may use.
struct Bench {
    executor: NativeExecutor,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path().to_owned());
        match NativeExecutor::new(config).await {
            Ok(executor) => Some(Self { executor, _dir: dir }),
            Err(error) => {
                assert_eq!(error.reason(), "NATIVE_WALLS_INCOMPLETE", "{error}");
                assert!(std::env::var_os("TARN_REQUIRE_NATIVE").is_none(), "{error}");
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    async fn run(&self, attempt: Attempt) -> Result<Report, Failure> {
        let running = self.executor.run(attempt, CancellationToken::new());
        tokio::time::timeout(PATIENCE, running).await.expect("the attempt does not end")
    }

    /// What a shell script prints. A command of it that fails ends it, and the test.
    async fn prints(&self, script: &str) -> String {
        let report = self.run(shell(script)).await.unwrap_or_else(|failure| {
            panic!("{failure}: {}", String::from_utf8_lossy(&failure.logs));
        });
        String::from_utf8(report.output.to_vec()).unwrap()
    }
}

fn config(dir: PathBuf) -> NativeConfig {
    NativeConfig {
        slots: 2,
        dir,
        child: (PathBuf::from(env!("CARGO_BIN_EXE_executor-child")), Vec::new()),
        user_base: USER_BASE,
        readable: Vec::new(),
        allow_incomplete_walls: false,
    }
}

fn shell(script: &str) -> Attempt {
    program(format!("#!/bin/sh -e\n{script}\n").into())
}

fn program(bytes: Bytes) -> Attempt {
    Attempt {
        tenant: "team-a".into(),
        artifact: Hash::of(&bytes),
        source: Source::Bytes(bytes),
        kind: Kind::Command(Command::default()),
        limits: Limits::default(),
        grants: Grants::default(),
        services: Arc::new(NoServices),
    }
}

/// A program in C.
fn c(source: &str) -> Attempt {
    let dir = tempfile::tempdir().unwrap();
    let (text, built) = (dir.path().join("guest.c"), dir.path().join("guest"));
    std::fs::write(&text, source).unwrap();
    let ran = std::process::Command::new("clang").arg("-O1").arg("-o").arg(&built).arg(&text).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    program(std::fs::read(built).unwrap().into())
}
