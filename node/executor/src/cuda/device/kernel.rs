//! A stranger's kernel: compiled, launched once, and its output buffers read back.

use cudarc::driver::{CudaFunction, CudaSlice, DriverError, sys};
use cudarc::nvrtc::Ptx;
use tarn_transform::Budget;

use super::super::message::{JobError, Launch};
use super::super::request::{KernelArgument, Language};
use super::gpu::{Gpu, OnDevice};
use super::sort;

/// Dynamic shared memory up to which a kernel needs no permission (CUDA C++ Programming Guide, "Shared Memory").
const SHARED_BYTES_FREE: u32 = 48 << 10;

impl Gpu {
    pub(super) fn launch_stranger(&self, launch: &Launch, source: &[u8], input: &[u8], budget: &Budget<'_>) -> Result<Vec<u8>, JobError> {
        let text = std::str::from_utf8(source).map_err(|_| invalid("it is not text"))?;
        let ptx = match launch.language {
            Language::Cuda => self.compiler.compile(text)?,
            Language::Ptx => text.to_owned(),
        };
        if ptx.contains('\0') {
            return Err(invalid("it contains a zero byte"));
        }
        let on_device = self.attempt(budget)?;
        let module = self.context.load_module(Ptx::from_src(ptx)).map_err(sort)?;
        let function = module.load_function(&launch.name).map_err(|error| match sort(error) {
            JobError::InvalidKernel { .. } => invalid("it has no kernel of this name; declare it extern \"C\""),
            other => other,
        })?;
        if launch.shared_bytes > SHARED_BYTES_FREE {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, launch.shared_bytes.cast_signed()).map_err(sort)?;
        }
        check_parameters(&function, &launch.arguments)?;
        let mut buffers = Vec::new();
        let mut slots = Vec::new();
        for argument in &launch.arguments {
            let buffer = fill(&on_device, argument, input)?;
            slots.push(match (&buffer, argument) {
                (Some(buffer), _) => on_device.pointer(buffer),
                (None, argument) => number(argument),
            });
            buffers.push(buffer);
        }
        // SAFETY: there are as many slots as parameters, each as large as its parameter, which was checked above; the pointers are to
        // the buffers above, which live until the stream is done. What the kernel does with them can spoil the device's context, which
        // belongs to this process alone, and the process is ended afterwards.
        unsafe { on_device.launch_raw(&function, launch.grid, launch.block, launch.shared_bytes, &mut slots) }?;
        let mut output = Vec::new();
        for (argument, buffer) in launch.arguments.iter().zip(&buffers) {
            if let (KernelArgument::Output { bytes } | KernelArgument::InOut { bytes, .. }, Some(buffer)) = (argument, buffer) {
                output.extend(on_device.download(buffer, size(*bytes)?)?);
            }
        }
        on_device.wait()?;
        Ok(output)
    }
}

/// Asks the driver how many parameters the kernel has and how large each is. Launching it with fewer would let it read whatever lies
/// behind them in this process.
fn check_parameters(function: &CudaFunction, arguments: &[KernelArgument]) -> Result<(), JobError> {
    let size_of_parameter = |index: usize| {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the function is loaded, and the driver writes two numbers to the places given.
        let found = unsafe { sys::cuFuncGetParamInfo(function.cu_function(), index, &raw mut offset, &raw mut size) };
        match found {
            sys::CUresult::CUDA_SUCCESS => Ok(Some(size)),
            sys::CUresult::CUDA_ERROR_INVALID_VALUE => Ok(None),
            other => Err(sort(DriverError(other))),
        }
    };
    for (index, argument) in arguments.iter().enumerate() {
        let given = match argument {
            KernelArgument::I32(_) | KernelArgument::U32(_) | KernelArgument::F32(_) => 4,
            _ => 8,
        };
        let detail = match size_of_parameter(index)? {
            Some(declared) if declared == given => continue,
            Some(declared) => format!("argument {index} has {given} bytes and the kernel's parameter {declared}"),
            None => format!("there are {} arguments and the kernel has {index} parameters", arguments.len()),
        };
        return Err(JobError::BadLaunch { detail });
    }
    match size_of_parameter(arguments.len())? {
        None => Ok(()),
        Some(_) => {
            Err(JobError::BadLaunch { detail: format!("there are {} arguments and the kernel has more parameters", arguments.len()) })
        }
    }
}

fn invalid(detail: &str) -> JobError {
    JobError::InvalidKernel { detail: detail.to_owned() }
}

fn size(bytes: u64) -> Result<usize, JobError> {
    usize::try_from(bytes).map_err(|_| JobError::BadLaunch { detail: "a buffer is too large".into() })
}

fn fill(on_device: &OnDevice<'_>, argument: &KernelArgument, input: &[u8]) -> Result<Option<CudaSlice<u8>>, JobError> {
    match *argument {
        KernelArgument::Input { offset, bytes } | KernelArgument::InOut { offset, bytes } => {
            let (offset, bytes) = (size(offset)?, size(bytes)?);
            let part = offset.checked_add(bytes).and_then(|end| input.get(offset..end));
            let part = part.ok_or_else(|| JobError::BadLaunch { detail: "a buffer reads beyond the input".into() })?;
            on_device.upload(part).map(Some)
        }
        KernelArgument::Output { bytes } | KernelArgument::Scratch { bytes } => on_device.zeros(size(bytes)?).map(Some),
        _ => Ok(None),
    }
}

/// A number in the low bytes of a slot, where the driver reads it.
fn number(argument: &KernelArgument) -> u64 {
    match *argument {
        KernelArgument::I32(value) => u64::from(value.cast_unsigned()),
        KernelArgument::U32(value) => u64::from(value),
        KernelArgument::I64(value) => value.cast_unsigned(),
        KernelArgument::U64(value) => value,
        KernelArgument::F32(value) => u64::from(value.to_bits()),
        KernelArgument::F64(value) => value.to_bits(),
        _ => 0,
    }
}
