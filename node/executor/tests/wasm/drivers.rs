//! Drivers: instances that are called again and again, and break for good.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tarn_executor::{
    DriverConfig, DriverEngine, DriverEvent, DriverInstance, DriverServices, DriverStart, ExecutionError, Grants, Hash, Limits, LogLevel,
    NotEnqueued,
};

use crate::tools::{componentize, wit};
use crate::{PATIENCE, assert_reason};

/// What a driver asked for.
#[derive(Debug, Default)]
struct Noted {
    lines: Mutex<Vec<String>>,
    saved: Mutex<Vec<Bytes>>,
    enqueued: Mutex<Vec<String>>,
}

impl DriverServices for Noted {
    fn log(&self, level: LogLevel, message: &str) {
        self.lines.lock().unwrap().push(format!("{} {message}", level.as_str()));
    }

    fn save(&self, state: Bytes) -> Result<(), String> {
        if state.len() > 16 {
            return Err("too much".into());
        }
        self.saved.lock().unwrap().push(state);
        Ok(())
    }

    fn enqueue(&self, spec: &str, _: Option<Bytes>) -> Result<(), NotEnqueued> {
        if spec.contains("elsewhere") {
            return Err(NotEnqueued::NotGranted { queue: "elsewhere".into() });
        }
        self.enqueued.lock().unwrap().push(spec.to_owned());
        Ok(())
    }
}

fn probe() -> Bytes {
    static PROBE: LazyLock<Bytes> = LazyLock::new(|| {
        let core = wat::parse_str(include_str!("guests/probe.wat")).unwrap();
        componentize(&core, Some((&wit(), "driver-guest"))).unwrap().into()
    });
    PROBE.clone()
}

static ENGINE: LazyLock<DriverEngine> = LazyLock::new(|| DriverEngine::new(&DriverConfig::default()).unwrap());

async fn start(bytes: Bytes, limits: Limits, services: Arc<Noted>) -> Result<DriverInstance, ExecutionError> {
    let artifact = Hash::of(&bytes);
    let start = DriverStart { artifact, bytes, limits, grants: Grants::default(), services };
    tokio::time::timeout(PATIENCE, ENGINE.start(start)).await.expect("it starts, or not")
}

/// An instance after `init`.
async fn started(config: &str, limits: Limits) -> (DriverInstance, Arc<Noted>) {
    let noted = Arc::new(Noted::default());
    let mut driver = start(probe(), limits, noted.clone()).await.unwrap();
    driver.init("probe", config, None).await.unwrap().unwrap();
    (driver, noted)
}

async fn call(driver: &mut DriverInstance, method: &str, payload: &str) -> Result<Result<Vec<u8>, String>, ExecutionError> {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    tokio::time::timeout(PATIENCE, driver.call(method.to_owned(), payload)).await.expect("the call ends")
}

fn event(ordinal: u32) -> DriverEvent {
    DriverEvent {
        id: format!("7-{ordinal}"),
        revision: 7,
        ordinal,
        at_ms: 1,
        kind: "TASK_DEAD".into(),
        namespace: "default".into(),
        queue: "q".into(),
        subject: "t".into(),
        worker: String::new(),
        attempt: 1,
        detail: "x".into(),
    }
}

#[tokio::test]
async fn an_instance_is_called_again_and_again_and_remembers() {
    let (mut driver, noted) = started("\"count\"", Limits::default()).await;
    assert_eq!(call(&mut driver, "echo", "hello").await.unwrap(), Ok(b"hello".to_vec()));
    assert_eq!(call(&mut driver, "name", "").await.unwrap(), Ok(b"probe".to_vec()));
    assert_eq!(call(&mut driver, "config", "").await.unwrap(), Ok(b"\"count\"".to_vec()));
    assert_eq!(call(&mut driver, "fails", "").await.unwrap(), Err("failed".to_owned()));
    driver.events(vec![event(0), event(1)]).await.unwrap().unwrap();
    driver.events(vec![event(2)]).await.unwrap().unwrap();
    assert_eq!(*noted.saved.lock().unwrap(), [2_u64.to_le_bytes(), 3_u64.to_le_bytes()].map(|count| count.to_vec()));
    assert_eq!(driver.tick(5).await.unwrap(), Ok(None));
    call(&mut driver, "output", "a line\nand another").await.unwrap().unwrap();
    assert_eq!(*noted.lines.lock().unwrap(), ["INFO a line and another"]);
}

#[tokio::test]
async fn it_goes_on_from_what_it_saved() {
    let noted = Arc::new(Noted::default());
    let mut driver = start(probe(), Limits::default(), noted.clone()).await.unwrap();
    let state = Bytes::copy_from_slice(&40_u64.to_le_bytes());
    driver.init("probe", "\"count\"", Some(state.clone())).await.unwrap().unwrap();
    assert_eq!(call(&mut driver, "read", "").await.unwrap(), Ok(state.to_vec()));
    driver.events(vec![event(0), event(1)]).await.unwrap().unwrap();
    assert_eq!(noted.saved.lock().unwrap().last().unwrap().as_ref(), 42_u64.to_le_bytes());
}

#[tokio::test]
async fn what_it_asks_for_reaches_the_node_and_what_is_refused_the_driver() {
    let (mut driver, noted) = started("\"kron\"", Limits::default()).await;
    assert_eq!(driver.tick(5_000).await.unwrap(), Ok(Some(6_000)));
    assert_eq!(*noted.enqueued.lock().unwrap(), ["{\"queue\":\"out\"}"]);
    assert_eq!(call(&mut driver, "save", "seventeen letters").await.unwrap(), Err("too much".to_owned()));
    assert_eq!(call(&mut driver, "save", "short").await.unwrap(), Ok(Vec::new()));
}

#[tokio::test]
async fn a_bad_configuration_is_said_and_not_a_crash() {
    let mut driver = start(probe(), Limits::default(), Arc::default()).await.unwrap();
    assert_eq!(driver.init("probe", "\"bad\"", None).await.unwrap(), Err("bad configuration".to_owned()));
}

#[tokio::test]
async fn whatever_breaks_it_ends_the_instance_for_good() {
    let small = Limits { memory_bytes: 4 << 20, ..Limits::default() };
    let short = Limits { time_ms: 50, ..Limits::default() };
    let poor = Limits { fuel: Some(100_000), ..Limits::default() };
    for (method, limits, reason) in [
        ("trap", Limits::default(), "WASM_TRAP"),
        ("loop", short, "TIME_LIMIT"),
        ("loop", poor, "FUEL_LIMIT"),
        ("memory", small, "MEMORY_LIMIT"),
    ] {
        let (mut driver, _) = started("\"\"", limits).await;
        assert_eq!(call(&mut driver, "echo", "x").await.unwrap(), Ok(b"x".to_vec()));
        let error = call(&mut driver, method, "").await.unwrap_err();
        assert_eq!(error.reason(), reason, "{method}: {error}");
        assert_eq!(call(&mut driver, "echo", "x").await.unwrap_err().reason(), "EXECUTOR_BROKEN");
    }
}

#[tokio::test]
async fn fuel_and_time_are_for_each_call() {
    let (mut driver, _) = started("\"\"", Limits { fuel: Some(20_000), ..Limits::default() }).await;
    for _ in 0..1_000 {
        call(&mut driver, "echo", "a payload that costs some fuel to copy").await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_a_broken_instance() {
    let (mut driver, _) = started("\"\"", Limits::default()).await;
    let given_up = tokio::time::timeout(Duration::from_millis(1), driver.call("loop".into(), Bytes::new())).await;
    assert!(given_up.is_err());
    assert_eq!(call(&mut driver, "echo", "x").await.unwrap_err().reason(), "EXECUTOR_BROKEN");
}

#[tokio::test]
async fn a_queue_that_was_not_granted_ends_it() {
    let (mut driver, _) = started("\"not\"", Limits::default()).await;
    let error = driver.events(vec![event(0)]).await.unwrap_err();
    assert_reason(&error, "CAPABILITY_NOT_GRANTED", false);
    assert!(error.to_string().contains("elsewhere"), "{error}");
}

#[tokio::test]
async fn what_is_no_driver_is_refused_with_the_reason() {
    let start = |bytes: Bytes| start(bytes, Limits::default(), Arc::default());
    let error = start(Bytes::from_static(b"(module)")).await.err().unwrap();
    assert_reason(&error, "WASM_INVALID_MODULE", false);
    let error = start(Bytes::from_static(b"(component)")).await.err().unwrap();
    assert_reason(&error, "WASM_MISSING_EXPORT", false);
    let error = start(Bytes::from_static(b"\0asm nonsense")).await.err().unwrap();
    assert_reason(&error, "WASM_INVALID_MODULE", false);
}
