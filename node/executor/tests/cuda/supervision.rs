//! Workers that answer, hang, crash, lie and talk garbage; and who gets to run.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tarn_executor::cuda::{CudaConfig, DeviceShare, KernelArgument, Language};
use tarn_executor::{Attempt, CudaExecutor, Executor, Failure, Hash, KernelCall, Kind, Limits, Source};
use tarn_transform::{Budget, run};
use tokio_util::sync::CancellationToken;

use super::{config, transform};

const SMALL: DeviceShare = DeviceShare::Bytes(1000);

async fn reason(executor: &CudaExecutor, attempt: Attempt) -> &'static str {
    let failure: Failure = executor.run(attempt, CancellationToken::new()).await.unwrap_err();
    failure.error.reason()
}

fn limited(mut attempt: Attempt, time_ms: u64) -> Attempt {
    attempt.limits = Limits { time_ms, ..attempt.limits };
    attempt
}

fn kernel(name: &str, source: &'static str) -> Attempt {
    Attempt::new(
        Hash::of(source.as_bytes()),
        Source::Bytes(source.into()),
        Kind::Kernel(KernelCall {
            name: name.into(),
            language: Language::Cuda,
            grid: [1; 3],
            block: [1; 3],
            shared_bytes: 0,
            arguments: vec![KernelArgument::InOut { offset: 0, bytes: 5 }],
            input: Bytes::from_static(b"input"),
            share: SMALL,
        }),
    )
}

#[tokio::test]
async fn without_a_device_nothing_is_announced_and_everything_refused() {
    for role in ["none", "garbage", "crash"] {
        let executor = CudaExecutor::new(config(role)).await;
        assert!(executor.devices().is_empty());
        assert!(!executor.absence().is_empty());
        assert_eq!(executor.capabilities().slots, 0);
        assert_eq!(executor.capabilities().labels["cuda.devices"], "0");
        assert_eq!(reason(&executor, transform("fft", SMALL)).await, "NO_CUDA_DEVICE");
        assert_eq!(reason(&executor, kernel("scale", "source")).await, "NO_CUDA_DEVICE");
    }
    let mut config = config("none");
    config.command.program = "/nonexistent/tarn".into();
    assert_eq!(reason(&CudaExecutor::new(config).await, transform("fft", SMALL)).await, "NO_CUDA_DEVICE");
}

/// The real thing, which on most machines finds no driver.
#[tokio::test]
async fn cuda_itself_finds_devices_or_says_why_not() {
    let executor = CudaExecutor::new(config("cuda")).await;
    if executor.devices().is_empty() {
        assert!(executor.absence().contains("CUDA driver"), "{}", executor.absence());
        assert_eq!(reason(&executor, transform("fft", SMALL)).await, "NO_CUDA_DEVICE");
    } else {
        assert_eq!(executor.absence(), "");
    }
}

#[tokio::test]
async fn a_driver_that_hangs_does_not_hold_up_the_node() {
    let config = CudaConfig { patience: Duration::from_millis(100), ..config("silent") };
    let executor = CudaExecutor::new(config).await;
    assert!(executor.absence().contains("no answer"), "{}", executor.absence());
}

#[tokio::test]
async fn a_worker_gives_what_the_processor_gives() {
    let executor = CudaExecutor::new(config("good")).await;
    assert_eq!(executor.devices()[0].name, "processor");
    assert_eq!(executor.capabilities().labels["cuda.0.driver"], "13.0");
    let attempt = transform("fft", DeviceShare::Thousandths(500));
    let Kind::Transform(call) = attempt.kind.clone() else { unreachable!() };
    let report = executor.run(attempt, CancellationToken::new()).await.unwrap();
    assert_eq!(report.output, run("fft", "", &call.input, &Budget::default()).unwrap());
    assert_eq!(report.usage.memory_bytes_peak, 1 << 20, "half of 3 MiB without the reserved one");
    // Refusals keep their own reasons.
    assert_eq!(reason(&executor, transform("idft", SMALL)).await, "TRANSFORM_UNKNOWN");
    assert_eq!(reason(&executor, transform("dwt", SMALL)).await, "TRANSFORM_BAD_PARAMS");
    assert_eq!(reason(&executor, transform("fft", DeviceShare::Bytes(10))).await, "TRANSFORM_MEMORY_LIMIT");
    assert_eq!(reason(&executor, transform("fft", DeviceShare::Bytes(3 << 20))).await, "CUDA_MEMORY_LIMIT");
    let mut short = transform("fft", SMALL);
    short.limits.output_bytes = 100;
    assert_eq!(reason(&executor, short).await, "OUTPUT_LIMIT");
    let command = Attempt { kind: Kind::Command(Default::default()), ..transform("fft", SMALL) };
    assert_eq!(reason(&executor, command).await, "UNSUPPORTED_KIND");
}

#[tokio::test]
async fn a_kernel_gets_its_source_and_input_in_a_process_of_its_own() {
    let executor = CudaExecutor::new(config("good")).await;
    let mut processes = Vec::new();
    for _ in 0..2 {
        let report = executor.run(kernel("scale", "the source, "), CancellationToken::new()).await.unwrap();
        let text = String::from_utf8(report.output.to_vec()).unwrap();
        let (process, rest) = text.strip_prefix("scale in ").unwrap().split_once(' ').unwrap();
        assert_eq!(rest, "the source, input");
        processes.push(process.to_owned());
    }
    assert_ne!(processes[0], processes[1]);
    // The source is kept, so that it need not be given again; another one is not there.
    let again = Attempt { source: Source::Prepared, ..kernel("scale", "the source, ") };
    executor.run(again, CancellationToken::new()).await.unwrap();
    let missing = Attempt { source: Source::Prepared, ..kernel("scale", "another source") };
    assert_eq!(reason(&executor, missing).await, "ARTIFACT_UNAVAILABLE");
    let forged = Attempt { artifact: Hash::of(b"something else"), ..kernel("scale", "a third source") };
    assert_eq!(reason(&executor, forged).await, "HASH_MISMATCH");
}

#[tokio::test]
async fn a_worker_does_not_see_the_environment_of_the_node() {
    // Cargo sets this for the test itself.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let executor = CudaExecutor::new(config("good")).await;
    let report = executor.run(kernel("environment", "source"), CancellationToken::new()).await.unwrap();
    let names = String::from_utf8(report.output.to_vec()).unwrap();
    assert!(names.contains("TARN_TEST_WORKER") && !names.contains("CARGO"), "{names}");
}

#[tokio::test]
async fn a_kernel_that_never_ends_is_killed_and_its_share_comes_back() {
    let executor = CudaExecutor::new(CudaConfig { slots_per_device: 1, ..config("good") }).await;
    assert_eq!(reason(&executor, limited(kernel("hang", "source"), 50)).await, "TIME_LIMIT");
    let cancel = CancellationToken::new();
    let (hanging, stop) = (executor.run(kernel("hang", "source"), cancel.clone()), async {
        while executor.held_bytes(0) == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    });
    let (ended, ()) = tokio::join!(hanging, stop);
    assert_eq!(ended.unwrap_err().error.reason(), "CANCELLED");
    // There is one slot: this runs only once the killed one is gone.
    executor.run(kernel("scale", "source"), CancellationToken::new()).await.unwrap();
    while executor.held_bytes(0) != 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn dropping_the_future_stops_the_attempt() {
    let executor = Arc::new(CudaExecutor::new(CudaConfig { slots_per_device: 1, ..config("good") }).await);
    let hanging = tokio::spawn({
        let executor = Arc::clone(&executor);
        async move { executor.run(kernel("hang", "source"), CancellationToken::new()).await }
    });
    while executor.held_bytes(0) == 0 {
        tokio::task::yield_now().await;
    }
    hanging.abort();
    executor.run(kernel("scale", "source"), CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn a_transform_that_listens_is_stopped_and_its_worker_lives_on() {
    let executor = CudaExecutor::new(CudaConfig { slots_per_device: 2, ..config("patient") }).await;
    assert_eq!(reason(&executor, limited(transform("ifft", SMALL), 20)).await, "TIME_LIMIT");
    executor.run(transform("fft", SMALL), CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn a_transform_that_does_not_listen_costs_its_worker_alone() {
    let executor = CudaExecutor::new(CudaConfig { slots_per_device: 1, ..config("deaf") }).await;
    assert_eq!(reason(&executor, limited(transform("ifft", SMALL), 20)).await, "TIME_LIMIT");
    // Waits for the only slot until the worker is killed, and then runs in a new one.
    executor.run(transform("fft", SMALL), CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn workers_that_fault_die_or_lie_are_replaced() {
    for (role, wanted) in
        [("fault", "CUDA_KERNEL_FAULT"), ("exit", "CUDA_WORKER_LOST"), ("panic", "CUDA_WORKER_LOST"), ("liar", "CUDA_WORKER_LOST")]
    {
        let executor = CudaExecutor::new(config(role)).await;
        assert_eq!(reason(&executor, transform("ifft", SMALL)).await, wanted, "{role}");
        executor.run(transform("fft", SMALL), CancellationToken::new()).await.unwrap();
    }
}

#[tokio::test]
async fn a_device_that_cannot_be_opened_is_closed_until_it_answers_again() {
    let executor = CudaExecutor::new(CudaConfig { probe_pause: Duration::from_secs(3600), ..config("unusable") }).await;
    for _ in 0..3 {
        assert_eq!(reason(&executor, transform("fft", SMALL)).await, "CUDA_WORKER_LOST");
    }
    assert_eq!(reason(&executor, transform("fft", SMALL)).await, "NO_CUDA_DEVICE");
    let executor = CudaExecutor::new(CudaConfig { probe_pause: Duration::ZERO, ..config("unusable") }).await;
    for _ in 0..3 {
        assert_eq!(reason(&executor, transform("fft", SMALL)).await, "CUDA_WORKER_LOST");
    }
    // Its probe answers, so it is opened again, and attempts get as far as before.
    loop {
        if reason(&executor, transform("fft", SMALL)).await == "CUDA_WORKER_LOST" {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn many_at_once_wait_for_their_turn_and_all_are_done() {
    let executor = Arc::new(CudaExecutor::new(CudaConfig { slots_per_device: 3, ..config("good") }).await);
    let share = DeviceShare::Thousandths(400);
    let start = |_| {
        let executor = Arc::clone(&executor);
        tokio::spawn(async move { executor.run(transform("fft", share), CancellationToken::new()).await })
    };
    let all: Vec<_> = (0..40).map(start).collect();
    for attempt in all {
        attempt.await.unwrap().unwrap();
    }
    while executor.held_bytes(0) != 0 {
        tokio::task::yield_now().await;
    }
}
