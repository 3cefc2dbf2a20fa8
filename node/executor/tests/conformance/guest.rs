//! Compiles the guest, once for each target.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use bytes::Bytes;

/// For this machine.
pub fn native() -> Option<Bytes> {
    static BUILT: OnceLock<Option<Bytes>> = OnceLock::new();
    BUILT.get_or_init(|| compile(&["-O1"])).clone()
}

/// For WASI preview 1.
pub fn wasi() -> Option<Bytes> {
    static BUILT: OnceLock<Option<Bytes>> = OnceLock::new();
    let flags = ["--target=wasm32-wasi", "--sysroot=/usr", "-Os", "-s"];
    BUILT.get_or_init(|| compile(&flags)).clone()
}

fn compile(flags: &[&str]) -> Option<Bytes> {
    let dir = tempfile::tempdir().unwrap();
    let built = dir.path().join("guest");
    let source = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("tests/conformance/guest.c");
    let ran = Command::new("clang").args(flags).arg("-o").arg(&built).arg(source).output();
    let why = match ran {
        Ok(output) if output.status.success() => return Some(std::fs::read(built).unwrap().into()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var_os("TARN_REQUIRE_GUEST").is_none(), "the guest must be built: {why}");
    eprintln!("skipped: the guest cannot be compiled here ({why})");
    None
}
