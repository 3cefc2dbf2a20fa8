//! The example guests of `deploy/guests`, one for each language and way to build, with real input and their real output.
//!
//! `deploy/guests/build` puts them into the folder that `TARN_GUESTS` names. A language whose guests are not there is skipped, and told;
//! with its name in `TARN_REQUIRE_GUESTS` the test fails.

use std::path::PathBuf;
use std::sync::Arc;

use tarn_executor::{
    Argument, Attempt, Command, ContextAccess, ContextGrant, Grants, Hash, Kind, LogLevel, Source, Value, WasmConfig, WasmExecutor,
};

use crate::components::assert_refused;
use crate::tools::InMemory;
use crate::{assert_reason, fail, succeed};

/// An attempt at a guest without arguments, input or grants; `None` where it was not built.
fn guest(language: &str, name: &str) -> Option<Attempt> {
    let missing = match std::env::var_os("TARN_GUESTS").map(|folder| PathBuf::from(folder).join(name)) {
        None => "TARN_GUESTS names no folder".to_owned(),
        Some(path) => match std::fs::read(&path) {
            Ok(bytes) => {
                let hash = Hash::of(&bytes);
                return Some(Attempt::new(hash, Source::Bytes(bytes.into()), Kind::Command(Command::default())));
            }
            Err(error) => format!("{}: {error}", path.display()),
        },
    };
    let required = std::env::var("TARN_REQUIRE_GUESTS").unwrap_or_default();
    assert!(!required.split_whitespace().any(|wanted| wanted == language), "{name} must be built: {missing}");
    eprintln!("skipped: {name} was not built ({missing})");
    None
}

fn given(attempt: &Attempt, input: &str) -> Attempt {
    let kind = Kind::Command(Command { input: input.to_owned().into(), ..Command::default() });
    Attempt { kind, ..attempt.clone() }
}

fn executor() -> WasmExecutor {
    WasmExecutor::new(WasmConfig { slots: 1, ..WasmConfig::default() }).unwrap()
}

/// To write its context, to log and to report.
fn keeping() -> Grants {
    let context = Some(ContextGrant { name: "memory".to_owned(), access: ContextAccess::Write });
    Grants { context, log: true, progress: true, ..Grants::default() }
}

fn kept(services: &InMemory, key: &str) -> Option<(String, u64)> {
    let entries = services.entries.lock().unwrap();
    let (value, version) = entries.get(&("memory".to_owned(), key.to_owned()))?;
    Some((String::from_utf8(value.to_vec()).unwrap(), *version))
}

#[tokio::test]
async fn a_program_in_c_counts_words() {
    let Some(words) = guest("c", "words.wasm") else { return };
    let report = succeed(&executor(), given(&words, "The cat, the dog and THE bird; a cat.")).await;
    assert_eq!(report.output, "{\"the\":3,\"cat\":2,\"a\":1,\"and\":1,\"bird\":1,\"dog\":1}\n");
}

#[tokio::test]
async fn a_task_in_c_keeps_a_sum_in_its_context() {
    let Some(mut counter) = guest("c", "counter.wasm") else { return };
    let executor = executor();
    assert_refused(&fail(&executor, given(&counter, "1")).await, "progress");
    counter.grants = Grants { progress: true, ..Grants::default() };
    assert_refused(&fail(&executor, given(&counter, "1")).await, "context");

    let services = Arc::new(InMemory::default());
    (counter.grants, counter.services) = (keeping(), services.clone());
    for (input, sum, version) in [("40", "40", 1), ("2", "42", 2), ("-50", "-8", 3)] {
        assert_eq!(succeed(&executor, given(&counter, input)).await.output, sum);
        assert_eq!(kept(&services, "sum"), Some((sum.to_owned(), version)));
    }
    assert_eq!(services.reports.lock().unwrap().last(), Some(&(0.0, "adding".to_owned())));
    let added = (LogLevel::Info, "added".to_owned());
    assert_eq!(*services.lines.lock().unwrap(), [added.clone(), added.clone(), added]);

    let failure = fail(&executor, given(&counter, "many")).await;
    assert_reason(&failure.error, "GUEST_FAILED", false);
    assert!(failure.to_string().contains("no decimal number"), "{failure}");
    assert_eq!(kept(&services, "sum"), Some(("-8".to_owned(), 3)));
}

#[tokio::test]
async fn a_program_in_rust_sorts_lines() {
    let Some(unique) = guest("rust", "unique.wasm") else { return };
    let executor = executor();
    let report = succeed(&executor, given(&unique, "pear\napple\npear\nfig\n")).await;
    assert_eq!(report.output, "apple\nfig\npear\n");
    // Input that is no text is an error of the program's own, which it tells.
    let mut no_text = unique;
    no_text.kind = Kind::Command(Command { input: b"\xff\xfe"[..].into(), ..Command::default() });
    let failure = fail(&executor, no_text).await;
    assert_reason(&failure.error, "EXIT_NONZERO", true);
    assert!(String::from_utf8_lossy(&failure.logs).contains("UTF-8"), "{:?}", failure.logs);
}

#[tokio::test]
async fn a_task_in_rust_keeps_a_line_in_its_context() {
    let Some(mut longest) = guest("rust", "longest.wasm") else { return };
    let executor = executor();
    assert_refused(&fail(&executor, given(&longest, "line")).await, "context");

    let services = Arc::new(InMemory::default());
    (longest.grants, longest.services) = (keeping(), services.clone());
    for (input, expected, version) in [("one\nthree\ntwo", "three", 1), ("four", "three", 1), ("größte\nlargest", "largest", 2)] {
        assert_eq!(succeed(&executor, given(&longest, input)).await.output, expected);
        assert_eq!(kept(&services, "longest"), Some((expected.to_owned(), version)));
    }
    assert_eq!(services.lines.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_function_in_assemblyscript_adds_up() {
    let Some(mut sum) = guest("assemblyscript", "sum.wasm") else { return };
    sum.kind = Kind::Export { name: "sum".into(), params: vec![Argument::Text("100000".into())] };
    let report = succeed(&executor(), sum).await;
    assert_eq!((&report.output[..], &report.values[..]), (&b"5000050000"[..], &[Value::I64(5_000_050_000)][..]));
}

#[tokio::test]
async fn a_task_in_python_writes_capitals() {
    let Some(mut capitals) = guest("python", "capitals.wasm") else { return };
    let services = Arc::new(InMemory::default());
    capitals.services = services.clone();
    let executor = executor();
    // Python itself starts with random numbers.
    assert_refused(&fail(&executor, given(&capitals, "größe")).await, "random");
    capitals.grants = Grants { random: true, ..Grants::default() };
    assert_refused(&fail(&executor, given(&capitals, "größe")).await, "log");
    capitals.grants.log = true;
    assert_eq!(succeed(&executor, given(&capitals, "größe")).await.output, "GRÖSSE");
    assert_eq!(*services.lines.lock().unwrap(), [(LogLevel::Info, "7 bytes".to_owned())]);
}

#[tokio::test]
async fn a_task_in_javascript_sorts_numbers() {
    let Some(mut sorted) = guest("javascript", "sorted.wasm") else { return };
    let services = Arc::new(InMemory::default());
    sorted.services = services.clone();
    let executor = executor();
    assert_refused(&fail(&executor, given(&sorted, "[]")).await, "log");
    sorted.grants = Grants { log: true, ..Grants::default() };
    assert_eq!(succeed(&executor, given(&sorted, "[10, 9, -1.5]")).await.output, "[-1.5,9,10]");
    assert_eq!(*services.lines.lock().unwrap(), [(LogLevel::Info, "3 numbers".to_owned())]);
    let failure = fail(&executor, given(&sorted, "[\"a\"]")).await;
    assert_reason(&failure.error, "GUEST_FAILED", false);
}
