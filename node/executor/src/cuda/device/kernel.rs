//! A stranger's kernel: compiled, launched once, and its output buffers read back.

use cudarc::driver::{CudaSlice, sys};
use cudarc::nvrtc::Ptx;
use tarn_transform::Budget;

use super::super::message::{JobError, Launch};
use super::super::request::{KernelArgument, Language};
use super::gpu::{Gpu, OnDevice};
use super::sort;

/// Dynamic shared memory up to which a kernel needs no permission (CUDA C++ Programming Guide, "Shared Memory").
const SHARED_BYTES_FREE: u32 = 48 << 10;

impl Gpu {
    pub(super) fn launch_stranger(
        &self,
        launch: &Launch,
        source: &[u8],
        input: &[u8],
        budget: &Budget<'_>,
    ) -> Result<Vec<u8>, JobError> {
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
            function
                .set_attribute(attribute, launch.shared_bytes.cast_signed())
                .map_err(sort)?;
        }
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
        // SAFETY: the pointers are to the buffers above, which live until the stream is done. That the parameters are what the kernel
        // declares is the stranger's promise: if it does not hold, the kernel reads beyond a slot on the host side or faults on the
        // device, in a process that runs nothing else and is ended afterwards.
        unsafe { on_device.launch_raw(&function, launch.grid, launch.block, launch.shared_bytes, &mut slots) }?;
        let mut output = Vec::new();
        for (argument, buffer) in launch.arguments.iter().zip(&buffers) {
            if let (KernelArgument::Output { bytes } | KernelArgument::InOut { bytes, .. }, Some(buffer)) =
                (argument, buffer)
            {
                output.extend(on_device.download(buffer, size(*bytes)?)?);
            }
        }
        on_device.wait()?;
        Ok(output)
    }
}

fn invalid(detail: &str) -> JobError {
    JobError::InvalidKernel {
        detail: detail.to_owned(),
    }
}

fn size(bytes: u64) -> Result<usize, JobError> {
    usize::try_from(bytes).map_err(|_| JobError::BadLaunch {
        detail: "a buffer is too large".into(),
    })
}

fn fill(on_device: &OnDevice<'_>, argument: &KernelArgument, input: &[u8]) -> Result<Option<CudaSlice<u8>>, JobError> {
    match *argument {
        KernelArgument::Input { offset, bytes } | KernelArgument::InOut { offset, bytes } => {
            let (offset, bytes) = (size(offset)?, size(bytes)?);
            let part = offset.checked_add(bytes).and_then(|end| input.get(offset..end));
            let part = part.ok_or_else(|| JobError::BadLaunch {
                detail: "a buffer reads beyond the input".into(),
            })?;
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
