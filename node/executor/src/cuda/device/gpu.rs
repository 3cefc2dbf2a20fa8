//! An open device: its context, its compiled kernels, and attempts on it with their streams and memory.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr as _, DeviceRepr, ValidAsZeroBits, result, sys};
use cudarc::nvrtc::Ptx;
use tarn_transform::Budget;

use super::super::message::JobError;
use super::compile::Compiler;
use super::{context, driver_version, sort};

/// The sources of the built-in kernels, and the kernels of each.
pub(super) const SOURCES: &[(&str, &str, &[&str])] = &[
    (
        "spectrum",
        include_str!("../kernels/spectrum.cu"),
        &[
            "scale",
            "lift",
            "analytic",
            "restore_real",
            "half_of",
            "whole_of",
            "real_parts",
            "chirp_pad",
            "chirp_multiply",
            "chirp_take",
            "frames",
            "overlap_add",
        ],
    ),
    ("laplace", include_str!("../kernels/laplace.cu"), &["rational", "talbot"]),
    ("wavelet", include_str!("../kernels/wavelet.cu"), &["analyse", "synthesise"]),
    (
        "geometry",
        include_str!("../kernels/geometry.cu"),
        &[
            "distances",
            "pairwise",
            "poincare_exp",
            "poincare_log",
            "sphere_normalise",
            "stereographic",
            "stereographic_inverse",
            "projective_apply",
        ],
    ),
];

/// Threads of a block of the built-in kernels, which use few registers and no shared memory.
const THREADS: u32 = 256;

/// The most blocks of a built-in kernel; its threads stride over what is more.
const BLOCKS_MAX: u64 = 1 << 16;

pub(super) struct Gpu {
    pub(super) context: Arc<CudaContext>,
    pub(super) compiler: Compiler,
    functions: HashMap<&'static str, CudaFunction>,
}

/// A kernel's argument in a slot of eight bytes, of which the driver reads as many as the kernel declares.
pub(super) enum Argument {
    Number(u64),
    Float(f64),
    Pointer(sys::CUdeviceptr),
}

impl Argument {
    pub(super) fn slot(&self) -> u64 {
        match *self {
            Self::Number(value) | Self::Pointer(value) => value,
            Self::Float(value) => value.to_bits(),
        }
    }
}

impl Gpu {
    pub(super) fn open(ordinal: usize, cache_dir: Option<&str>) -> Result<Self, JobError> {
        let context = context(ordinal).map_err(sort)?;
        let (major, minor) = context.compute_capability().map_err(sort)?;
        let capability = (major.unsigned_abs(), minor.unsigned_abs());
        let compiler = Compiler::new(capability, driver_version().map_err(sort)?, cache_dir);
        let mut functions = HashMap::new();
        for (_, source, entries) in SOURCES {
            let module = context.load_module(Ptx::from_src(compiler.compile(source)?)).map_err(sort)?;
            for entry in *entries {
                functions.insert(*entry, module.load_function(entry).map_err(sort)?);
            }
        }
        Ok(Self { context, compiler, functions })
    }

    /// Starts an attempt on a stream of its own.
    pub(super) fn attempt<'a>(&'a self, budget: &'a Budget<'a>) -> Result<OnDevice<'a>, JobError> {
        self.context.bind_to_thread().map_err(sort)?;
        let stream = self.context.new_stream().map_err(sort)?;
        Ok(OnDevice { gpu: self, stream, budget, used_bytes: Cell::new(0) })
    }
}

/// One attempt: everything it does is on one stream, in order.
pub(super) struct OnDevice<'a> {
    gpu: &'a Gpu,
    pub(super) stream: Arc<CudaStream>,
    budget: &'a Budget<'a>,
    used_bytes: Cell<u64>,
}

impl OnDevice<'_> {
    /// Counts memory against the attempt's share before it is taken. What is freed in between is not counted back, so that the
    /// share is never exceeded whatever the order in which the device frees.
    pub(super) fn account(&self, bytes: usize) -> Result<(), JobError> {
        let wanted_bytes = self.used_bytes.get().saturating_add(bytes as u64);
        let limit_bytes = self.budget.memory_bytes;
        if wanted_bytes > limit_bytes {
            return Err(JobError::Memory { wanted_bytes, limit_bytes });
        }
        self.used_bytes.set(wanted_bytes);
        self.budget.check()?;
        Ok(())
    }

    /// A buffer of zeros. An empty one has one element, because the device has no empty ones.
    pub(super) fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, count: usize) -> Result<CudaSlice<T>, JobError> {
        let count = count.max(1);
        self.account(count.saturating_mul(size_of::<T>()))?;
        self.stream.alloc_zeros(count).map_err(sort)
    }

    /// A buffer with these elements.
    pub(super) fn upload<T: DeviceRepr + ValidAsZeroBits>(&self, values: &[T]) -> Result<CudaSlice<T>, JobError> {
        let mut buffer = self.zeros(values.len())?;
        if !values.is_empty() {
            self.stream.memcpy_htod(values, &mut buffer).map_err(sort)?;
        }
        Ok(buffer)
    }

    /// The elements of a buffer, once everything before is done.
    pub(super) fn download<T: DeviceRepr + Default + Clone>(&self, buffer: &CudaSlice<T>, count: usize) -> Result<Vec<T>, JobError> {
        self.wait()?;
        let mut values = vec![T::default(); buffer.len()];
        self.stream.memcpy_dtoh(buffer, &mut values).map_err(sort)?;
        self.wait()?;
        values.truncate(count);
        Ok(values)
    }

    /// Waits until the stream is done; errors of kernels come to light here.
    pub(super) fn wait(&self) -> Result<(), JobError> {
        self.stream.synchronize().map_err(sort)?;
        self.budget.check()?;
        Ok(())
    }

    pub(super) fn pointer<T>(&self, buffer: &CudaSlice<T>) -> sys::CUdeviceptr {
        // The guard orders streams among each other; an attempt has one.
        let (pointer, _order) = buffer.device_ptr(&self.stream);
        pointer
    }

    pub(super) fn argument<T>(&self, buffer: &CudaSlice<T>) -> Argument {
        Argument::Pointer(self.pointer(buffer))
    }

    /// Launches a built-in kernel over `count` elements, which becomes its last argument.
    pub(super) fn launch(&self, kernel: &'static str, arguments: &[Argument], count: usize) -> Result<(), JobError> {
        if count == 0 {
            return Ok(());
        }
        let blocks = (count as u64).div_ceil(u64::from(THREADS)).min(BLOCKS_MAX);
        let blocks = u32::try_from(blocks).expect("it is bounded");
        let mut slots: Vec<u64> = arguments.iter().map(Argument::slot).collect();
        slots.push(count as u64);
        let function = &self.gpu.functions[kernel];
        // SAFETY: the arguments are those that the kernel of this name declares, which the transforms' tests on a device check; the
        // buffers belong to the attempt and outlive its stream's work, because they are freed on the same stream.
        unsafe { self.launch_raw(function, [blocks, 1, 1], [THREADS, 1, 1], 0, &mut slots) }
    }

    /// Launches any kernel.
    ///
    /// # Safety
    /// There must be as many slots as the kernel has parameters; pointers among them must be to memory of this context that lives until
    /// the stream is done.
    pub(super) unsafe fn launch_raw(
        &self,
        function: &CudaFunction,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        slots: &mut [u64],
    ) -> Result<(), JobError> {
        self.budget.check()?;
        let mut places: Vec<*mut c_void> = slots.iter_mut().map(|slot| std::ptr::from_mut(slot).cast()).collect();
        // SAFETY: each place is a live slot of eight bytes, as large as the largest parameter that a caller passes; the rest is the
        // caller's promise.
        let launched = unsafe {
            result::launch_kernel(function.cu_function(), grid.into(), block.into(), shared_bytes, self.stream.cu_stream(), &mut places)
        };
        launched.map_err(sort)
    }
}
