//! A CUDA device, by way of the driver, NVRTC and cuFFT. **Untested on a device**: see the note in `cuda`.
//!
//! Only worker processes call this.

use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, result, sys};

use super::backend::{Backend, Backends};
use super::message::{DeviceInfo, JobError};

pub mod compile;
mod gpu;
mod kernel;
mod laplace;
mod real_rows;
mod report;
mod transforms;

pub use report::{FftReport, fft_report};

use gpu::Gpu;

/// The devices of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cuda;

/// Whether the driver's library can be loaded. Every call into it panics otherwise.
fn driver_is_present() -> bool {
    // SAFETY: it loads a library of the system by its well-known name, which runs that library's initialisers and nothing else.
    unsafe { sys::is_culib_present() }
}

fn fft_is_present() -> bool {
    // SAFETY: as for the driver.
    unsafe { cudarc::cufft::sys::is_culib_present() }
}

impl Backends for Cuda {
    fn devices(&self) -> Result<Vec<DeviceInfo>, String> {
        if !driver_is_present() {
            return Err("the CUDA driver is not installed".into());
        }
        list().map_err(|error| format!("the CUDA driver does not work: {}", name(error)))
    }

    fn open(&self, device: u32, cache_dir: Option<&str>) -> Result<Box<dyn Backend>, String> {
        if !driver_is_present() {
            return Err("the CUDA driver is not installed".into());
        }
        let gpu = Gpu::open(device as usize, cache_dir).map_err(|error| error.to_string())?;
        Ok(Box::new(gpu))
    }
}

fn list() -> Result<Vec<DeviceInfo>, DriverError> {
    result::init()?;
    let count = u32::try_from(result::device::get_count()?).unwrap_or(0);
    (0..count).map(describe).collect()
}

#[allow(clippy::cast_sign_loss, clippy::cast_possible_wrap, reason = "counts and versions are small and not negative")]
fn describe(ordinal: u32) -> Result<DeviceInfo, DriverError> {
    use sys::CUdevice_attribute_enum as Attribute;
    let device = result::device::get(ordinal as i32)?;
    // SAFETY: the device came from the driver.
    let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) }.map(|value| value as u32);
    // SAFETY: as above.
    let memory_bytes = unsafe { result::device::total_mem(device) }? as u64;
    Ok(DeviceInfo {
        ordinal,
        name: result::device::get_name(device)?,
        compute_capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        memory_bytes,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        driver_version: driver_version()?,
        fft: fft_is_present(),
        compiler: compile::is_present(),
    })
}

#[allow(clippy::cast_sign_loss, reason = "versions are not negative")]
fn driver_version() -> Result<u32, DriverError> {
    let mut version = 0;
    // SAFETY: it writes one integer to the place given.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(version as u32)
}

/// The driver's own name of an error.
fn name(error: DriverError) -> String {
    error.error_name().map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into_owned())
}

/// Sorts the driver's errors by what follows from them. After the ones that a kernel causes, every further call in the process fails
/// (CUDA Driver API, `CUresult`: "this leaves the process in an inconsistent state").
fn sort(error: DriverError) -> JobError {
    use sys::CUresult as Code;
    let detail = name(error);
    match error.0 {
        Code::CUDA_ERROR_ILLEGAL_ADDRESS
        | Code::CUDA_ERROR_LAUNCH_FAILED
        | Code::CUDA_ERROR_MISALIGNED_ADDRESS
        | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | Code::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | Code::CUDA_ERROR_INVALID_PC
        | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
        | Code::CUDA_ERROR_ASSERT
        | Code::CUDA_ERROR_LAUNCH_TIMEOUT => JobError::Fault { detail },
        Code::CUDA_ERROR_INVALID_VALUE | Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES => JobError::BadLaunch { detail },
        Code::CUDA_ERROR_INVALID_PTX
        | Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | Code::CUDA_ERROR_NO_BINARY_FOR_GPU
        | Code::CUDA_ERROR_INVALID_IMAGE
        | Code::CUDA_ERROR_INVALID_SOURCE
        | Code::CUDA_ERROR_NOT_FOUND => JobError::InvalidKernel { detail },
        _ => JobError::Device { detail },
    }
}

/// A device's primary context.
fn context(ordinal: usize) -> Result<Arc<CudaContext>, DriverError> {
    CudaContext::new(ordinal)
}
