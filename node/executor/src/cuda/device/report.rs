//! How fast the device's Fourier transform is, against what its memory allows and against cuFFT alone.

use cudarc::driver::sys::CUevent_flags;

use super::super::message::JobError;
use super::gpu::{Argument, Gpu, OnDevice};
use super::transforms::{FORWARD, Plan};
use super::{fft_is_present, sort};
use tarn_transform::Budget;

/// How often each thing is done: the first times warm the device up and do not count.
const WARM: u32 = 3;
const COUNTED: u32 = 20;

/// Bytes per second, where a transform counts as reading and writing each element once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FftReport {
    /// Of a copy within the device's memory.
    pub copy: f64,
    /// Of cuFFT alone, complex rows in double precision, in place.
    pub cufft: f64,
    /// Of the transform `fft` as an attempt runs it on the device, with its scaling, without the way to and from the host.
    pub transform: f64,
}

/// Measures complex rows of `n`.
///
/// # Errors
/// The device, its libraries, or its memory.
pub fn fft_report(device: u32, n: usize, rows: usize) -> Result<FftReport, JobError> {
    if !super::driver_is_present() || !fft_is_present() {
        return Err(JobError::Device { detail: "the CUDA driver or cuFFT is not installed".into() });
    }
    let gpu = Gpu::open(device as usize, None)?;
    let budget = Budget { memory_bytes: u64::MAX, ..Budget::default() };
    let on_device = gpu.attempt(&budget)?;
    let count = n * rows;
    let data = on_device.zeros::<f64>(2 * count)?;
    let mut copy = on_device.zeros::<f64>(2 * count)?;
    let plan = Plan::new(&on_device, n, rows)?;
    let scale = || {
        let arguments = [on_device.argument(&data), Argument::Float(1.0 / n as f64)];
        on_device.launch("scale", &arguments, 2 * count)
    };
    let speed = |seconds: f64| 32.0 * count as f64 / seconds;
    Ok(FftReport {
        copy: speed(time(&on_device, || on_device.stream.memcpy_dtod(&data, &mut copy).map_err(sort))?),
        cufft: speed(time(&on_device, || plan.run(&on_device, &data, FORWARD))?),
        transform: speed(time(&on_device, || plan.run(&on_device, &data, FORWARD).and_then(|()| scale()))?),
    })
}

/// The seconds that one of several takes, by the device's own clock.
fn time(on_device: &OnDevice<'_>, mut work: impl FnMut() -> Result<(), JobError>) -> Result<f64, JobError> {
    for _ in 0..WARM {
        work()?;
    }
    let mark = || on_device.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(sort);
    let start = mark()?;
    for _ in 0..COUNTED {
        work()?;
    }
    let end = mark()?;
    on_device.wait()?;
    Ok(f64::from(start.elapsed_ms(&end).map_err(sort)?) / 1e3 / f64::from(COUNTED))
}
