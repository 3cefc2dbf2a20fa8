//! A CUDA kernel to run: the flags that name it and say how it is launched.

use tarn_client::proto::{self, cuda_argument::Argument};

use super::Failure;
use super::connect::parse_bytes;

/// One launch of one kernel.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "CUDA kernels")]
pub struct KernelArgs {
    /// Run a CUDA kernel: CUDA C++ (.cu) or PTX (.ptx) as a file, which is put first, or an artifact's address. The payload is its input
    #[arg(long, value_name = "FILE|ADDRESS", groups = ["what", "device"], requires = "kernel")]
    pub cuda: Option<String>,
    /// The kernel's name, an extern "C" __global__ function
    #[arg(long, requires = "cuda")]
    kernel: Option<String>,
    /// The artifact is PTX, where its file's name does not say so
    #[arg(long, requires = "cuda")]
    ptx: bool,
    /// Blocks, such as 64 or 64,2
    #[arg(long, value_name = "X[,Y[,Z]]", requires = "cuda", value_delimiter = ',', num_args = 1)]
    grid: Vec<u32>,
    /// Threads of a block, such as 256 or 16,16
    #[arg(long, value_name = "X[,Y[,Z]]", requires = "cuda", value_delimiter = ',', num_args = 1)]
    block: Vec<u32>,
    /// Dynamic shared memory of a block, in bytes
    #[arg(long, requires = "cuda")]
    shared_bytes: Option<u32>,
    /// An argument, in order: i32:N u32:N i64:N u64:N f32:X f64:X, or a buffer: input:OFFSET:BYTES output:BYTES inout:OFFSET:BYTES
    /// scratch:BYTES
    #[arg(
        long = "kernel-arg",
        value_name = "TYPE:VALUE",
        requires = "cuda",
        value_parser = parse_argument
    )]
    arguments: Vec<proto::CudaArgument>,
    /// Device memory that is set aside, such as 512Mi; an eighth of the device's unless given
    #[arg(long, requires = "device", value_parser = parse_bytes)]
    device_memory: Option<u64>,
}

impl KernelArgs {
    /// The launch of a kernel of this artifact.
    pub fn describe(&self, artifact: String) -> Result<proto::CudaSpec, Failure> {
        let too_many = self.grid.len() > 3 || self.block.len() > 3;
        if too_many {
            return Err(Failure::Usage("--grid and --block have up to three numbers each".into()));
        }
        let ptx = self.ptx || self.cuda.as_ref().is_some_and(|file| file.ends_with(".ptx"));
        let language = if ptx { proto::CudaLanguage::Ptx } else { proto::CudaLanguage::Unspecified };
        Ok(proto::CudaSpec {
            artifact,
            language: language.into(),
            kernel: self.kernel.clone().unwrap_or_default(),
            grid: self.grid.clone(),
            block: self.block.clone(),
            shared_bytes: self.shared_bytes.unwrap_or(0),
            arguments: self.arguments.clone(),
            device: self.share(),
            ..Default::default()
        })
    }

    /// How much device memory was asked for, if that was said.
    pub fn share(&self) -> Option<proto::DeviceShare> {
        self.device_memory.map(|memory_bytes| proto::DeviceShare { memory_bytes, memory_permille: 0 })
    }
}

fn parse_argument(text: &str) -> Result<proto::CudaArgument, String> {
    let (kind, value) = text.split_once(':').ok_or("write TYPE:VALUE, such as u32:1024 or output:4096")?;
    let argument = match kind {
        "i32" => Argument::I32(number(value)?),
        "u32" => Argument::U32(number(value)?),
        "i64" => Argument::I64(number(value)?),
        "u64" => Argument::U64(number(value)?),
        "f32" => Argument::F32Bits(number::<f32>(value)?.to_bits()),
        "f64" => Argument::F64Bits(number::<f64>(value)?.to_bits()),
        "input" => Argument::Input(part(value)?),
        "inout" => Argument::InOut(part(value)?),
        "output" => Argument::Output(whole(value)?),
        "scratch" => Argument::Scratch(whole(value)?),
        _ => return Err("the types are i32, u32, i64, u64, f32, f64, input, output, inout and scratch".into()),
    };
    Ok(proto::CudaArgument { argument: Some(argument) })
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number of this type"))
}

fn part(text: &str) -> Result<proto::CudaBuffer, String> {
    let (offset, bytes) = text.split_once(':').ok_or("write OFFSET:BYTES")?;
    Ok(proto::CudaBuffer { offset: parse_bytes(offset)?, bytes: parse_bytes(bytes)? })
}

fn whole(text: &str) -> Result<proto::CudaBuffer, String> {
    let bytes = parse_bytes(text)?;
    Ok(proto::CudaBuffer { offset: 0, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_with_their_types() {
        let read = |text| parse_argument(text).unwrap().argument.unwrap();
        assert_eq!(read("i32:-7"), Argument::I32(-7));
        assert_eq!(read("f32:0.5"), Argument::F32Bits(0.5_f32.to_bits()));
        let buffer = |offset, bytes| proto::CudaBuffer { offset, bytes };
        assert_eq!(read("inout:4Ki:1Ki"), Argument::InOut(buffer(4 << 10, 1 << 10)));
        assert_eq!(read("output:64"), Argument::Output(buffer(0, 64)));
        for bad in ["u32:-1", "u32:5000000000", "f32:x", "input:5", "7", "matrix:1", "output:"] {
            assert!(parse_argument(bad).is_err(), "{bad}");
        }
    }
}
