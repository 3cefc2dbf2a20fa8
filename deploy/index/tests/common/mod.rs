//! The compiled guest, and a way to run it without a cluster.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use wasmtime::{Engine, InstancePre, Linker, Module, Store};
use wasmtime_wasi::p1::{WasiP1Ctx, add_to_linker_sync};
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{I32Exit, WasiCtxBuilder};

/// Room for any output, so that an output over tarn's limit would be seen as such.
const OUTPUT_BYTES: usize = 4 << 20;

/// How one run ended.
#[derive(Debug)]
pub struct Run {
    /// The exit code.
    pub code: i32,
    /// The result.
    pub stdout: Vec<u8>,
    /// The log.
    pub stderr: String,
}

/// This package's folder, as cargo says it now and not as it was when the tests were built: a target folder outlives a clone.
pub fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests").into()
}

/// The guest, compiled once per test binary.
pub struct Guest {
    engine: Engine,
    instance: InstancePre<WasiP1Ctx>,
}

impl Guest {
    /// The guest, or nothing where it cannot be built. Says so, and fails instead if TARN_REQUIRE_GUEST is 1.
    pub fn get() -> Option<&'static Guest> {
        static GUEST: OnceLock<Option<Guest>> = OnceLock::new();
        GUEST.get_or_init(Guest::build).as_ref()
    }

    fn build() -> Option<Guest> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let output = folder.path().join("index.wasm");
        let script = package().join("guest/build");
        let problem = match Command::new(&script).arg(&output).output() {
            Ok(done) if done.status.success() => None,
            Ok(done) => Some(String::from_utf8_lossy(&done.stderr).into_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            let message = format!("the guest cannot be built (needs clang lld wasi-libc libclang-rt-14-dev-wasm32): {problem}");
            assert!(std::env::var("TARN_REQUIRE_GUEST").as_deref() != Ok("1"), "{message}");
            // Not by eprintln!, which the test harness hides for tests that pass.
            writeln!(std::io::stderr(), "SKIPPED: {message}").expect("stderr takes a line");
            return None;
        }
        let engine = Engine::default();
        let module = Module::from_file(&engine, &output).expect("clang makes valid modules");
        let mut linker = Linker::new(&engine);
        add_to_linker_sync(&mut linker, |context| context).expect("an empty linker has no conflicts");
        let instance = linker.instantiate_pre(&module).expect("the guest imports WASI only");
        Some(Guest { engine, instance })
    }

    /// Runs the guest once.
    pub fn run(&self, args: &[impl AsRef<str>], stdin: Vec<u8>) -> Run {
        let stdout = MemoryOutputPipe::new(OUTPUT_BYTES);
        let stderr = MemoryOutputPipe::new(OUTPUT_BYTES);
        let mut context = WasiCtxBuilder::new();
        context.arg("index").args(args);
        context.stdin(MemoryInputPipe::new(stdin)).stdout(stdout.clone()).stderr(stderr.clone());
        let mut store = Store::new(&self.engine, context.build_p1());
        let instance = self.instance.instantiate(&mut store).expect("nothing is limited here");
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start").expect("a command module");
        let code = match start.call(&mut store, ()) {
            Ok(()) => 0,
            Err(error) => error.downcast_ref::<I32Exit>().unwrap_or_else(|| panic!("a trap: {error:?}")).0,
        };
        let stderr = String::from_utf8(stderr.contents().to_vec()).expect("messages are UTF-8");
        Run { code, stdout: stdout.contents().to_vec(), stderr }
    }

    /// Runs the guest and expects a result.
    pub fn result(&self, args: &[impl AsRef<str>], stdin: Vec<u8>) -> Vec<u8> {
        let run = self.run(args, stdin);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.stdout
    }
}

/// Stdin of a task with dependencies: each piece after its length in decimal and a newline, the payload first.
pub fn pieces(payload: &[u8], inputs: &[&[u8]]) -> Vec<u8> {
    let mut stdin = Vec::new();
    for piece in [&[payload], inputs].concat() {
        stdin.extend_from_slice(format!("{}\n", piece.len()).as_bytes());
        stdin.extend_from_slice(piece);
    }
    stdin
}
