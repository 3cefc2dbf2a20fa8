//! What needs a device. `deploy/cuda` runs these where there is one; elsewhere they are left out.

use std::time::Duration;

use bytes::Bytes;
use tarn_executor::cuda::device::fft_report;
use tarn_executor::cuda::{Backends as _, Cuda, CudaConfig, DeviceShare, KernelArgument, Language, Mirror, Processor};
use tarn_executor::{Attempt, CudaExecutor, Executor as _, Hash, KernelCall, Kind, Limits, Source};
use tarn_transform::Budget;
use tokio_util::sync::CancellationToken;

use super::{command, mirror, transform};

const SOURCE: &str = r#"
extern "C" __global__ void scale(const float *in, float *out, float factor, unsigned count) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = factor * in[i];
}
extern "C" __global__ void hang(const float *in, float *out, float factor, unsigned count) {
    volatile unsigned *forever = (volatile unsigned *)out;
    while (*forever == 0) {}
}
extern "C" __global__ void stray(const float *in, float *out, float factor, unsigned count) {
    *(volatile float *)16 = factor;
}
"#;

async fn executor() -> CudaExecutor {
    let executor = CudaExecutor::new(CudaConfig { patience: Duration::from_secs(120), ..CudaConfig::new(command("cuda")) }).await;
    assert!(!executor.devices().is_empty(), "{}", executor.absence());
    executor
}

fn kernel(name: &str) -> Attempt {
    let input: Vec<u8> = (0..1000_u16).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    Attempt {
        limits: Limits { time_ms: 30_000, ..Limits::default() },
        ..Attempt::new(
            Hash::of(SOURCE.as_bytes()),
            Source::Bytes(SOURCE.into()),
            Kind::Kernel(KernelCall {
                name: name.into(),
                language: Language::Cuda,
                grid: [4, 1, 1],
                block: [256, 1, 1],
                shared_bytes: 0,
                arguments: vec![
                    KernelArgument::Input { offset: 0, bytes: 4000 },
                    KernelArgument::Output { bytes: 4000 },
                    KernelArgument::F32(0.5),
                    KernelArgument::U32(1000),
                ],
                input: Bytes::from(input),
                share: DeviceShare::Bytes(1 << 20),
            }),
        )
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn device_transforms_agree_with_the_processor() {
    for (name, operation) in mirror::operations() {
        // Talbot's sum cancels all but a few digits of its terms.
        let tolerance = if name.starts_with("laplace") { 1e-9 } else { 1e-12 };
        let mirror = Mirror { judged: Cuda.open(0, None).unwrap(), reference: Box::new(Processor), tolerance };
        let budget = Budget::default();
        mirror.transform(operation, &budget).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[tokio::test]
#[ignore = "needs a CUDA device"]
async fn device_kernels_compute() {
    let report = executor().await.run(kernel("scale"), CancellationToken::new()).await.unwrap();
    let want: Vec<u8> = (0..1000_u16).flat_map(|value| (f32::from(value) / 2.0).to_le_bytes()).collect();
    assert_eq!(report.output, want);
}

#[tokio::test]
#[ignore = "needs a CUDA device"]
async fn device_kernels_that_hang_or_stray_cost_their_worker_alone() {
    let executor = executor().await;
    let mut hanging = kernel("hang");
    hanging.limits.time_ms = 3000;
    let reason = |failure: tarn_executor::Failure| failure.error.reason();
    assert_eq!(executor.run(hanging, CancellationToken::new()).await.map_err(reason), Err("TIME_LIMIT"));
    assert_eq!(executor.run(kernel("stray"), CancellationToken::new()).await.map_err(reason), Err("CUDA_KERNEL_FAULT"));
    assert_eq!(executor.run(kernel("missing"), CancellationToken::new()).await.map_err(reason), Err("CUDA_INVALID_KERNEL"));
    executor.run(kernel("scale"), CancellationToken::new()).await.unwrap();
    executor.run(transform("fft", DeviceShare::Bytes(1 << 24)), CancellationToken::new()).await.unwrap();
}

/// Prints, and asserts nothing but that it ran: how fast is for a person to judge.
#[test]
#[ignore = "needs a CUDA device"]
fn device_fft_bandwidth() {
    println!("complex rows, double precision; GB/s, a transform counted as one read and one write of each element");
    println!("{:>9} {:>6} {:>9} {:>9} {:>9} {:>12} {:>13}", "n", "rows", "copy", "cuFFT", "fft", "fft / copy", "fft / cuFFT");
    for (n, rows) in [(256, 65_536), (1024, 16_384), (4096, 4096), (65_536, 256), (1 << 20, 16), (1 << 24, 1)] {
        let report = fft_report(0, n, rows).unwrap();
        println!(
            "{n:>9} {rows:>6} {:>9.0} {:>9.0} {:>9.0} {:>12.2} {:>13.2}",
            report.copy / 1e9,
            report.cufft / 1e9,
            report.transform / 1e9,
            report.transform / report.copy,
            report.transform / report.cufft
        );
    }
}
