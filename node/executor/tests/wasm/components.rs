//! Components: programs of WASI 0.2 and tasks of `tarn:guest`, each capability with and without its grant.

use std::sync::Arc;

use tarn_executor::{
    Argument, Attempt, CallGrant, Command, ContextAccess, ContextGrant, ExecutionError, Failure, Grants, Hash, Kind, Limits, LogLevel,
    NoServices, Report, Source, WasmCacheStats, WasmConfig, WasmExecutor,
};

use crate::tools::{Artifacts, InMemory, componentize, reach};
use crate::{assert_reason, executors, fail, guests, run, succeed};

/// An attempt at the task in `guests/reach.c`.
pub fn ask(input: impl Into<String>, grants: Grants) -> Attempt {
    Attempt {
        tenant: "t".into(),
        artifact: Hash::of(&reach()),
        source: Source::Bytes(reach()),
        kind: Kind::Command(Command { input: input.into().into(), ..Command::default() }),
        limits: Limits::default(),
        grants,
        services: Arc::new(NoServices),
    }
}

pub fn nothing() -> Grants {
    Grants::default()
}

fn context(access: ContextAccess) -> Grants {
    Grants { context: Some(ContextGrant { name: "memory".to_owned(), access }), ..nothing() }
}

pub fn assert_refused(failure: &Failure, capability: &str) {
    assert_reason(&failure.error, "CAPABILITY_NOT_GRANTED", false);
    match &failure.error {
        ExecutionError::CapabilityNotGranted { capability: named, .. } => assert_eq!(*named, capability),
        other => panic!("{other}"),
    }
}

async fn answer(executor: &WasmExecutor, attempt: Attempt) -> String {
    String::from_utf8(succeed(executor, attempt).await.output.to_vec()).unwrap()
}

#[tokio::test]
async fn a_task_turns_its_input_into_its_output() {
    for executor in executors() {
        let report: Report = succeed(&executor, ask("echoed", nothing())).await;
        assert_eq!(report.output, "echoed");
        assert_eq!(report.values, []);
        assert!(report.usage.memory_bytes_peak >= 2 << 16);
        assert!(report.usage.fuel.is_some_and(|fuel| fuel > 0));

        let mut given = ask("environment", nothing());
        assert_eq!(answer(&executor, given.clone()).await, "nothing");
        if let Kind::Command(command) = &mut given.kind {
            command.env.insert("GIVEN".to_owned(), "something".to_owned());
        }
        assert_eq!(answer(&executor, given).await, "something");

        // What a task fails with is its own words and its own verdict.
        for (input, retryable) in [("again later\nplease", true), ("never again", false)] {
            let failure = fail(&executor, ask(input, nothing())).await;
            assert_reason(&failure.error, "GUEST_FAILED", retryable);
            assert!(!failure.error.to_string().contains('\n'), "{}", failure.error);
        }
        let failure = fail(&executor, ask("exit", nothing())).await;
        assert_reason(&failure.error, "EXIT_NONZERO", true);
    }
}

#[tokio::test]
async fn a_program_is_run_as_one() {
    let echo = componentize(&wat(&guests::echo()), None).unwrap();
    let exits = componentize(&wat(&guests::say(2, "why", "(call $proc_exit (i32.const 1))")), None).unwrap();
    for executor in executors() {
        let mut attempt = ask("in and out", nothing());
        (attempt.artifact, attempt.source) = (Hash::of(&echo), Source::Bytes(echo.clone().into()));
        assert_eq!(answer(&executor, attempt.clone()).await, "in and out");
        (attempt.artifact, attempt.source) = (Hash::of(&exits), Source::Bytes(exits.clone().into()));
        let failure = fail(&executor, attempt).await;
        assert_eq!(failure.error, ExecutionError::ExitNonzero { status: 1 });
        assert_eq!(failure.logs, "why");
    }
}

/// The binary form of a module, for tools that take no text.
fn wat(text: &str) -> Vec<u8> {
    // The engine is the one parser of text here, and gives the binary back only compiled.
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn functions_of_components_are_called_with_numbers() {
    let component = r#"(component
        (core module $m
            (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
            (func (export "half") (param f64) (result f64) (f64.div (local.get 0) (f64.const 2)))
            (func (export "text") (param i32) (result i32) (local.get 0)))
        (core instance $i (instantiate $m))
        (func (export "add") (param "a" s32) (param "b" s32) (result s32) (canon lift (core func $i "add")))
        (func (export "half") (param "a" f64) (result f64) (canon lift (core func $i "half")))
        (func (export "letter") (param "a" char) (result char) (canon lift (core func $i "text"))))"#;
    let call = |name: &str, params: Vec<Argument>| crate::export(component, name, params);
    for executor in executors() {
        assert_eq!(answer(&executor, call("add", vec!["40".into(), "2".into()])).await, "42");
        assert_eq!(answer(&executor, call("half", vec!["5".into()])).await, "2.5");
        for (name, params) in [("add", vec!["40".into()]), ("add", vec!["40".into(), "x".into()]), ("letter", vec!["65".into()])] {
            let failure = fail(&executor, call(name, params)).await;
            assert_reason(&failure.error, "BAD_ARGUMENTS", false);
        }
        let failure = fail(&executor, call("absent", Vec::new())).await;
        assert_reason(&failure.error, "WASM_MISSING_EXPORT", false);
        assert!(failure.error.to_string().contains("add, half, letter"), "{}", failure.error);
        let failure = fail(&executor, crate::command(component)).await;
        assert_reason(&failure.error, "WASM_MISSING_EXPORT", false);
        let unknown = "(component (import \"some:thing/else\" (instance (export \"f\" (func)))))";
        let failure = fail(&executor, crate::command(unknown)).await;
        assert_reason(&failure.error, "WASM_UNSUPPORTED_IMPORT", false);
        assert!(failure.error.to_string().contains("some:thing/else"), "{}", failure.error);
    }
}

#[tokio::test]
async fn what_wasi_offers_needs_its_grant() {
    let clock = Grants { clock: true, ..nothing() };
    let random = Grants { random: true, ..nothing() };
    for executor in executors() {
        for (input, capability, enough, expected) in [("clock", "clock", &clock, "1"), ("random", "random", &random, "0")] {
            assert_refused(&fail(&executor, ask(input, nothing())).await, capability);
            assert_eq!(answer(&executor, ask(input, enough.clone())).await, expected);
        }
        // Without scratch there is no directory.
        assert_eq!(answer(&executor, ask("fill", nothing())).await, "-1");
        let scratch = Grants {
            // A page for the name, and ten.
            scratch_bytes: 11 * 4096,
            ..nothing()
        };
        assert_eq!(answer(&executor, ask("fill", scratch)).await, "10");
    }
}

#[tokio::test]
async fn logs_and_progress_need_their_grants_and_reach_the_node() {
    let both = Grants { log: true, progress: true, ..nothing() };
    for executor in executors() {
        assert_refused(&fail(&executor, ask("log x", nothing())).await, "log");
        assert_refused(&fail(&executor, ask("progress 0.5", nothing())).await, "progress");

        let services = Arc::new(InMemory::default());
        let mut attempt = ask("log first\nERROR forged", both.clone());
        attempt.services = services.clone();
        let report = succeed(&executor, attempt.clone()).await;
        assert_eq!(report.logs, "WARN first ERROR forged\n");
        attempt.kind = ask("progress 0.5", nothing()).kind;
        succeed(&executor, attempt.clone()).await;
        for bad in ["progress 1.5", "progress -1", "progress nan", "progress inf"] {
            attempt.kind = ask(bad, nothing()).kind;
            assert_reason(&fail(&executor, attempt.clone()).await.error, "WASM_TRAP", false);
        }
        assert_eq!(*services.lines.lock().unwrap(), [(LogLevel::Warn, "first ERROR forged".to_owned())]);
        assert_eq!(*services.reports.lock().unwrap(), [(0.5, "half way".to_owned())]);

        // Lines count towards the limit on logs.
        let mut long = ask(format!("log {}", "x".repeat(100)), both.clone());
        long.limits.log_bytes = 10;
        let logs = succeed(&executor, long).await.logs;
        assert!(logs.starts_with(b"WARN xxxxx\n[tarn: "), "{logs:?}");
    }
}

#[tokio::test]
async fn context_is_read_and_written_as_granted() {
    for executor in executors() {
        let services = Arc::new(InMemory::default());
        let with = |input: &str, access| {
            let mut attempt = ask(input, context(access));
            attempt.services = services.clone();
            attempt
        };
        for input in ["get a", "set a 1", "delete a", "list a"] {
            assert_refused(&fail(&executor, ask(input, nothing())).await, "context");
        }
        for input in ["set a 1", "delete a"] {
            assert_refused(&fail(&executor, with(input, ContextAccess::Read)).await, "context");
        }
        for (input, expected) in [
            ("get a", "version 0 "),
            ("set a one", "version 1 "),
            ("set a two", "version 2 "),
            ("set ab three", "version 1 "),
            ("get a", "version 2 two"),
            ("create a", "conflict 2 "),
            ("create c", "version 1 "),
            ("list a", "a,ab,"),
            ("delete a", "version 0 "),
            ("get a", "version 0 "),
            ("get ", "refused 0 the key has 0 bytes: it needs 1 to 512"),
        ] {
            assert_eq!(answer(&executor, with(input, ContextAccess::Write)).await, expected, "{input}");
        }
        assert_eq!(answer(&executor, with("get ab", ContextAccess::Read)).await, "version 1 three");
        let long = format!("get {}", "k".repeat(513));
        let told = answer(&executor, with(&long, ContextAccess::Read)).await;
        assert!(told.starts_with("refused 0 the key has 513 bytes"), "{told}");
        let large = format!("set k {}", "v".repeat((1 << 20) + 1));
        let told = answer(&executor, with(&large, ContextAccess::Write)).await;
        assert!(told.starts_with("refused 0 the value has 1048577 bytes"), "{told}");

        // Each context is one of its own, and a node without any says so.
        let keys: Vec<_> = services.entries.lock().unwrap().keys().cloned().collect();
        assert!(keys.iter().all(|(name, _)| name == "memory"), "{keys:?}");
        let told = answer(&executor, ask("get a", context(ContextAccess::Read))).await;
        assert_eq!(told, "unavailable 0 this node keeps no contexts");
    }
}

fn calls(artifacts: &[&[u8]], depth: u32) -> Grants {
    Grants { calls: CallGrant { artifacts: artifacts.iter().map(|bytes| Hash::of(bytes)).collect(), depth }, ..nothing() }
}

#[tokio::test]
async fn a_guest_calls_what_it_was_granted_within_what_it_has_left() {
    let args: Vec<u8> = guests::print_args().into();
    let endless: Vec<u8> = guests::command(guests::ENDLESS).into();
    let hungry: Vec<u8> = guests::command("(drop (memory.grow (i32.const 200)))").into();
    let loud: Vec<u8> = guests::say(2, "from the callee", "").into();
    let source =
        Artifacts::source([&args, &endless, &hungry, &loud].map(|bytes| bytes.clone().into()).into_iter().chain([reach()]).collect());
    for executor in executors() {
        let asks = |input: String, grants| {
            let mut attempt = ask(input, grants);
            attempt.source = source.clone();
            attempt
        };
        let call = |bytes: &[u8]| format!("call {} x", Hash::of(bytes).to_hex());
        let one = calls(&[&args], 1);
        assert_eq!(succeed(&executor, asks(call(&args), one.clone())).await.output, "returned main");
        assert_refused(&fail(&executor, asks(call(&args), nothing())).await, "calls");
        assert_refused(&fail(&executor, asks(call(&endless), one.clone())).await, "calls");
        let told = answer(&executor, asks("call nonsense x".into(), one)).await;
        assert_eq!(told, "failed BAD_ARGUMENTS 0");

        let logs = succeed(&executor, asks(call(&loud), calls(&[&loud], 1))).await.logs;
        assert_eq!(logs, "from the callee");

        // Fuel, memory and time are the caller's.
        let mut metered = asks(call(&endless), calls(&[&endless], 1));
        metered.limits.fuel = Some(5_000_000);
        let ended = run(&executor, metered).await;
        assert_reason(&ended.unwrap_err().error, "FUEL_LIMIT", false);
        let mut small = asks(call(&hungry), calls(&[&hungry], 1));
        small.limits.memory_bytes = 8 << 20;
        assert_eq!(answer(&executor, small).await, "failed MEMORY_LIMIT 0");
        let mut short = asks(call(&endless), calls(&[&endless], 1));
        short.limits.time_ms = 50;
        assert_reason(&fail(&executor, short).await.error, "TIME_LIMIT", true);

        // It calls itself, which calls itself, until the depth is used up; what is refused is the innermost's failure.
        let me = Hash::of(&reach()).to_hex();
        let deep = |depth: usize| format!("{}end", format!("call {me} ").repeat(depth));
        let grants = calls(&[&reach()], 2);
        assert_eq!(answer(&executor, asks(deep(2), grants.clone())).await, "returned returned end");
        let told = answer(&executor, asks(deep(3), grants)).await;
        assert_eq!(told, "returned failed CAPABILITY_NOT_GRANTED 0");
    }
}

#[tokio::test]
async fn hostile_components_are_contained() {
    let all = Grants { log: true, ..nothing() };
    for executor in executors() {
        let mut spin = ask("spin", nothing());
        spin.limits.time_ms = 50;
        assert_reason(&fail(&executor, spin.clone()).await.error, "TIME_LIMIT", true);
        spin.limits.fuel = Some(1_000_000);
        spin.limits.time_ms = 60_000;
        assert_reason(&fail(&executor, spin).await.error, "FUEL_LIMIT", false);
        let mut grow = ask("grow", nothing());
        grow.limits.memory_bytes = 8 << 20;
        assert_reason(&fail(&executor, grow).await.error, "MEMORY_LIMIT", false);
        for (input, reason) in [("lie", "WASM_TRAP"), ("wild", "WASM_TRAP"), ("garbage", "WASM_TRAP"), ("huge", "WASM_TRAP")] {
            let failure = fail(&executor, ask(input, all.clone())).await;
            assert_reason(&failure.error, reason, false);
        }
        // What a task prints is no output.
        let report = succeed(&executor, ask("print loud", nothing())).await;
        assert_eq!(report.output, "");
        let mut narrow = ask("four", nothing());
        narrow.limits.output_bytes = 3;
        assert_reason(&fail(&executor, narrow).await.error, "OUTPUT_LIMIT", false);
        assert_eq!(answer(&executor, ask("still here", nothing())).await, "still here");
    }
}

#[tokio::test]
async fn compiled_components_are_kept_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    for stats in [WasmCacheStats { compiled: 1, ..Default::default() }, WasmCacheStats { disk_hits: 1, ..Default::default() }] {
        let executor = WasmExecutor::new(WasmConfig { cache_dir: Some(dir.path().to_owned()), ..WasmConfig::default() }).unwrap();
        assert_eq!(answer(&executor, ask("kept", nothing())).await, "kept");
        assert_eq!(executor.cache_stats(), stats);
    }
}
