//! What a task asks of a device, and the checks that need no device.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ExecutionError;

/// The most arguments of a kernel.
pub const ARGUMENTS_MAX: usize = 64;

/// The largest source of a kernel, in bytes.
pub const SOURCE_BYTES_MAX: usize = 4 << 20;

/// The most bytes of input of one request.
pub const INPUT_BYTES_MAX: usize = 256 << 20;

/// CUDA's own limits for every device since compute capability 3.0: the extents of a grid and of a block, and the threads of a block.
const GRID_MAX: [u32; 3] = [(1 << 31) - 1, 65_535, 65_535];
const BLOCK_MAX: [u32; 3] = [1024, 1024, 64];
const THREADS_MAX: u64 = 1024;

/// The largest shared memory that a block may ask for on any device (compute capability 9.0 and later); the device may have less.
const SHARED_BYTES_MAX: u32 = 227 << 10;

/// One launch of one kernel of an artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelCall {
    /// The name of the kernel, an `extern "C" __global__` function.
    pub name: String,
    /// What the artifact is.
    pub language: Language,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z, at most 1024 in all.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// The kernel's arguments in order. Their number and sizes must be those of its parameters.
    pub arguments: Vec<KernelArgument>,
    /// What input buffers are filled from.
    pub input: Bytes,
    /// How much device memory it may have.
    pub share: DeviceShare,
}

/// What an artifact for a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// CUDA C++ source, compiled on the node that runs it.
    Cuda,
    /// PTX, translated by the driver.
    Ptx,
}

/// One argument of a kernel: a number, or a pointer to device memory. Buffers are aligned to 256 bytes and filled with zeros where
/// nothing is copied in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KernelArgument {
    /// `int`.
    I32(i32),
    /// `unsigned`.
    U32(u32),
    /// `long long`.
    I64(i64),
    /// `unsigned long long`.
    U64(u64),
    /// `float`.
    F32(#[serde(with = "single_bits")] f32),
    /// `double`.
    F64(#[serde(with = "double_bits")] f64),
    /// A buffer with a part of the input.
    Input {
        /// Where the part begins.
        offset: u64,
        /// Its length.
        bytes: u64,
    },
    /// A buffer that becomes a part of the output; the parts follow each other in the order of the arguments.
    Output {
        /// Its length.
        bytes: u64,
    },
    /// Both: filled from the input, and then a part of the output.
    InOut {
        /// Where the part of the input begins.
        offset: u64,
        /// Its length.
        bytes: u64,
    },
    /// A buffer for the kernel alone.
    Scratch {
        /// Its length.
        bytes: u64,
    },
}

/// Floats travel as their bits: JSON has no number for some, and readers of it round others.
macro_rules! bits {
    ($module:ident, $float:ty, $integer:ty) => {
        mod $module {
            use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

            pub(super) fn serialize<S: Serializer>(value: &$float, to: S) -> Result<S::Ok, S::Error> {
                value.to_bits().serialize(to)
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$float, D::Error> {
                <$integer>::deserialize(from).map(<$float>::from_bits)
            }
        }
    };
}
bits!(single_bits, f32, u32);
bits!(double_bits, f64, u64);

impl KernelArgument {
    /// How long the buffer is; nothing for numbers.
    #[must_use]
    pub fn buffer_bytes(&self) -> u64 {
        match *self {
            Self::Input { bytes, .. } | Self::Output { bytes } | Self::InOut { bytes, .. } | Self::Scratch { bytes } => bytes,
            Self::I32(_) | Self::U32(_) | Self::I64(_) | Self::U64(_) | Self::F32(_) | Self::F64(_) => 0,
        }
    }

    fn output_bytes(&self) -> u64 {
        match *self {
            Self::Output { bytes } | Self::InOut { bytes, .. } => bytes,
            _ => 0,
        }
    }
}

/// A built-in transform of the crate `tarn-transform`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransformCall {
    /// Its name in the catalogue.
    pub name: String,
    /// Its parameters, a JSON object.
    pub params: String,
    /// Its input, arrays in the NPY format.
    pub input: Bytes,
    /// How much device memory it may have.
    pub share: DeviceShare,
}

/// How much of a device's memory an attempt may have; it sets aside that much for as long as the attempt runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceShare {
    /// So many bytes.
    Bytes(u64),
    /// So many thousandths of what the device has for attempts, from 1 to 1000.
    Thousandths(u16),
}

impl DeviceShare {
    /// The share in bytes of a device with `usable_bytes` for attempts.
    #[must_use]
    pub fn bytes_of(self, usable_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Thousandths(part) => {
                let bytes = u128::from(usable_bytes) * u128::from(part) / 1000;
                u64::try_from(bytes).unwrap_or(u64::MAX)
            }
        }
    }

    pub(super) fn check(self) -> Result<(), ExecutionError> {
        let (value, max) = match self {
            Self::Bytes(bytes) => (bytes, u64::MAX),
            Self::Thousandths(part) => (u64::from(part), 1000),
        };
        if (1..=max).contains(&value) {
            return Ok(());
        }
        Err(ExecutionError::LimitOutOfRange { limit: "device_share", value, min: 1, max })
    }
}

fn bad(detail: impl Into<String>) -> ExecutionError {
    ExecutionError::BadLaunch { detail: detail.into() }
}

pub(super) fn check_input(bytes: usize) -> Result<(), ExecutionError> {
    if bytes > INPUT_BYTES_MAX {
        return Err(ExecutionError::LimitOutOfRange { limit: "input_bytes", value: bytes as u64, min: 0, max: INPUT_BYTES_MAX as u64 });
    }
    Ok(())
}

impl KernelCall {
    /// Checks everything that needs no device.
    ///
    /// # Errors
    /// `CUDA_BAD_LAUNCH`, `OUTPUT_LIMIT`, `LIMIT_OUT_OF_RANGE`.
    pub fn check(&self, output_bytes_max: u64) -> Result<(), ExecutionError> {
        self.share.check()?;
        check_input(self.input.len())?;
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$';
        if self.name.is_empty() || self.name.len() > 256 || !self.name.bytes().all(letters) {
            return Err(bad("the kernel's name must be 1 to 256 letters, digits and underscores"));
        }
        for (what, extents, max) in [("grid", self.grid, GRID_MAX), ("block", self.block, BLOCK_MAX)] {
            if let Some(axis) = (0..3).find(|&axis| !(1..=max[axis]).contains(&extents[axis])) {
                return Err(bad(format!("{what}[{axis}] is {} and must be from 1 to {}", extents[axis], max[axis])));
            }
        }
        let threads: u64 = self.block.iter().map(|&extent| u64::from(extent)).product();
        if threads > THREADS_MAX {
            return Err(bad(format!("a block has {threads} threads and may have {THREADS_MAX}")));
        }
        if self.shared_bytes > SHARED_BYTES_MAX {
            return Err(bad(format!("shared_bytes is {} and may be {SHARED_BYTES_MAX}", self.shared_bytes)));
        }
        if self.arguments.len() > ARGUMENTS_MAX {
            return Err(bad(format!("there are {} arguments and may be {ARGUMENTS_MAX}", self.arguments.len())));
        }
        self.check_buffers(output_bytes_max)
    }

    fn check_buffers(&self, output_bytes_max: u64) -> Result<(), ExecutionError> {
        let input = self.input.len() as u64;
        for (index, argument) in self.arguments.iter().enumerate() {
            if let KernelArgument::Input { offset, bytes } | KernelArgument::InOut { offset, bytes } = *argument
                && offset.checked_add(bytes).is_none_or(|end| end > input)
            {
                return Err(bad(format!("argument {index} reads {bytes} bytes from byte {offset} of an input of {input}")));
            }
        }
        let sum = |part: fn(&KernelArgument) -> u64| self.arguments.iter().map(part).fold(0_u64, u64::saturating_add);
        if sum(KernelArgument::output_bytes) > output_bytes_max {
            return Err(ExecutionError::OutputLimit { limit_bytes: output_bytes_max });
        }
        if let DeviceShare::Bytes(limit_bytes) = self.share {
            let wanted_bytes = sum(KernelArgument::buffer_bytes);
            if wanted_bytes > limit_bytes {
                return Err(ExecutionError::DeviceMemoryLimit { wanted_bytes, limit_bytes });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> KernelCall {
        KernelCall {
            name: "scale".into(),
            language: Language::Cuda,
            grid: [4, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            arguments: vec![KernelArgument::InOut { offset: 0, bytes: 16 }, KernelArgument::F32(2.0), KernelArgument::Output { bytes: 8 }],
            input: Bytes::from_static(&[0; 16]),
            share: DeviceShare::Bytes(1024),
        }
    }

    #[test]
    fn each_mistake_is_refused_with_its_reason() {
        type Spoil = fn(&mut KernelCall);
        call().check(24).unwrap();
        let cases: [(Spoil, &str, &str); 11] = [
            (|call| call.name = "a b".into(), "CUDA_BAD_LAUNCH", "name"),
            (|call| call.grid[1] = 65_536, "CUDA_BAD_LAUNCH", "grid[1]"),
            (|call| call.block[2] = 0, "CUDA_BAD_LAUNCH", "block[2]"),
            (|call| call.block = [32, 64, 1], "CUDA_BAD_LAUNCH", "2048 threads"),
            (|call| call.shared_bytes = u32::MAX, "CUDA_BAD_LAUNCH", "shared_bytes"),
            (|call| call.arguments = vec![KernelArgument::I32(1); 65], "CUDA_BAD_LAUNCH", "65 arguments"),
            (|call| call.arguments[0] = KernelArgument::Input { offset: u64::MAX, bytes: 2 }, "CUDA_BAD_LAUNCH", "argument 0"),
            (|call| call.arguments[2] = KernelArgument::Output { bytes: 9 }, "OUTPUT_LIMIT", "24"),
            (|call| call.arguments.push(KernelArgument::Scratch { bytes: u64::MAX }), "CUDA_MEMORY_LIMIT", "1024"),
            (|call| call.share = DeviceShare::Thousandths(1001), "LIMIT_OUT_OF_RANGE", "1001"),
            (|call| call.share = DeviceShare::Bytes(0), "LIMIT_OUT_OF_RANGE", "device_share"),
        ];
        for (spoil, reason, words) in cases {
            let mut call = call();
            spoil(&mut call);
            let error = call.check(24).unwrap_err();
            assert_eq!(error.reason(), reason, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn numbers_travel_bit_for_bit() {
        let numbers = [0.1, f64::MIN_POSITIVE / 3.0, -0.0, f64::INFINITY, 1.000_000_000_000_000_2, 8.41e21];
        for number in numbers {
            for argument in [KernelArgument::F64(number), KernelArgument::F32(number as f32)] {
                let text = serde_json::to_string(&argument).unwrap();
                assert_eq!(serde_json::from_str::<KernelArgument>(&text).unwrap(), argument, "{text}");
            }
        }
        let text = serde_json::to_string(&KernelArgument::F64(f64::NAN)).unwrap();
        assert!(matches!(serde_json::from_str(&text), Ok(KernelArgument::F64(value)) if value.is_nan()));
    }

    #[test]
    fn shares_are_parts_of_what_is_usable() {
        assert_eq!(DeviceShare::Thousandths(250).bytes_of(80 << 30), 20 << 30);
        assert_eq!(DeviceShare::Thousandths(1000).bytes_of(u64::MAX), u64::MAX);
        assert_eq!(DeviceShare::Bytes(7).bytes_of(1), 7);
    }
}
