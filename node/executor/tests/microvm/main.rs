//! The conformance suite of the `microvm` runtime. Guests are WebAssembly text, as in the suite of `wasm`; the attacks are
//! machine code in the place of the guest image.
//!
//! Where `/dev/kvm` or the guest image is missing the tests say so and pass, unless `TARN_REQUIRE_MICROVM` is `1`. The image is
//! taken from `TARN_MICROVM_IMAGE`, or built by `deploy/microvm/build` once for each run.

// The contract with the guest, which the attacks break.
#[allow(dead_code, reason = "the attacks need a part of it")]
#[path = "../../src/microvm/abi.rs"]
mod abi;
mod attacks;
mod commands;
mod concurrency;
mod elf;
mod functions;
mod isolation;
mod limits;
mod setup;
// The same ones as in the suite of `wasm`: both runtimes have to do the same with them.
#[path = "../wasm/attempts.rs"]
mod attempts;
#[allow(dead_code, reason = "some are for the other suite alone")]
#[path = "../wasm/guests.rs"]
mod guests;

use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;

use tarn_executor::{Grants, MicroVmConfig, MicroVmExecutor};

use attempts::*;

/// Says why a test cannot run here, and fails it where that is not acceptable.
fn skip(why: &str) {
    assert!(std::env::var_os("TARN_REQUIRE_MICROVM").is_none_or(|value| value != "1"), "{why}");
    eprintln!("skipped: {why}");
}

/// Whether there is a KVM.
fn has_kvm() -> bool {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &opened {
        skip(&format!("/dev/kvm cannot be opened: {error}"));
    }
    opened.is_ok()
}

/// The guest image.
fn image() -> Option<&'static Path> {
    static IMAGE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match IMAGE.get_or_init(build_image) {
        Ok(path) => Some(path),
        Err(why) => {
            skip(why);
            None
        }
    }
}

fn build_image() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("TARN_MICROVM_IMAGE") {
        return Ok(path.into());
    }
    let script = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("../../deploy/microvm/build");
    let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join("microvm-guest.elf");
    let built = process::Command::new(&script).arg(&image).output();
    let built = built.map_err(|error| format!("{} cannot be run: {error}", script.display()))?;
    if built.status.success() {
        Ok(image)
    } else {
        let errors = String::from_utf8_lossy(&built.stderr).into_owned();
        // Status 3 is a missing package; anything else is a broken image, which must not pass for a skipped test.
        assert_eq!(built.status.code(), Some(3), "the guest image does not build: {errors}");
        Err(errors.trim().to_owned())
    }
}

/// An executor with the real guest image, or nothing where it cannot run.
fn executor(slots: usize) -> Option<MicroVmExecutor> {
    if !has_kvm() {
        return None;
    }
    let config = MicroVmConfig { slots, idle: slots, ..MicroVmConfig::new(image()?) };
    Some(MicroVmExecutor::new(config).expect("the executor should start"))
}

/// What an attempt is granted where nothing else is said.
fn grants() -> Grants {
    Grants { clock: true, random: true, ..Grants::default() }
}
