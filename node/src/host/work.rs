//! What a task runs: the part of its specification that says so, as executors want to know it.

use std::collections::BTreeMap;

use bytes::Bytes;
use tarn_executor::cuda::{DeviceShare, KernelArgument, Language};
use tarn_executor::{Argument, Command, Hash, KernelCall, Kind, TransformCall};
use tarn_proto::v1::{self, cuda_argument};

use super::attempt::{Unfit, unfit};
use super::{Shared, input};

/// What is set aside on a device where a task does not say how much, in thousandths.
const SHARE_PERMILLE: u16 = 125;

/// What to run, and how much of it a task asks for; 0 for the default.
pub(super) struct Work {
    pub artifact: Hash,
    pub kind: Kind,
    pub memory_bytes: u64,
    pub output_bytes: u64,
    pub fuel: u64,
}

/// What a task runs.
pub(super) async fn of(shared: &Shared, task: &v1::LeasedTask, spec: &v1::TaskSpec) -> Result<Work, Unfit> {
    if let Some(wasm) = &spec.wasm {
        let kind = match wasm.export.as_str() {
            "" => command(shared, task, &wasm.args, &wasm.env, wasm.feed_dependency_results).await?,
            export => {
                Kind::Export { name: export.to_owned(), params: wasm.params.iter().map(|param| Argument::from(param.as_str())).collect() }
            }
        };
        return Ok(Work {
            artifact: address("wasm.artifact", &wasm.artifact)?,
            kind,
            memory_bytes: wasm.memory_bytes,
            output_bytes: wasm.output_bytes,
            fuel: wasm.fuel,
        });
    }
    if let Some(native) = &spec.native {
        return Ok(Work {
            artifact: address("native.artifact", &native.artifact)?,
            kind: command(shared, task, &native.args, &native.env, native.feed_dependency_results).await?,
            memory_bytes: native.memory_bytes,
            output_bytes: native.output_bytes,
            fuel: 0,
        });
    }
    if let Some(cuda) = &spec.cuda {
        let input = given(shared, spec, "cuda.input_artifact", &cuda.input_artifact).await?;
        return Ok(Work {
            artifact: address("cuda.artifact", &cuda.artifact)?,
            kind: Kind::Kernel(kernel(cuda, input)?),
            memory_bytes: 0,
            output_bytes: cuda.output_bytes,
            fuel: 0,
        });
    }
    if let Some(transform) = &spec.transform {
        let input = given(shared, spec, "transform.input_artifact", &transform.input_artifact).await?;
        let params = match transform.params.as_str() {
            "" => "{}",
            params => params,
        };
        let call =
            TransformCall { name: transform.name.clone(), params: params.to_owned(), input, share: share(transform.device.as_ref())? };
        return Ok(Work {
            artifact: Hash::of(b""),
            kind: Kind::Transform(call),
            memory_bytes: transform.memory_bytes,
            output_bytes: transform.output_bytes,
            fuel: 0,
        });
    }
    let message = format!("a task of the runtime {:?} has a part that says what to run", spec.runtime);
    Err(unfit("BAD_SPEC", message))
}

fn address(field: &str, text: &str) -> Result<Hash, Unfit> {
    text.parse().map_err(|error| unfit("BAD_SPEC", format!("{field}: {error}")))
}

async fn command(
    shared: &Shared,
    task: &v1::LeasedTask,
    args: &[String],
    env: &BTreeMap<String, String>,
    feed_dependency_results: bool,
) -> Result<Kind, Unfit> {
    Ok(Kind::Command(Command { args: args.to_vec(), env: env.clone(), input: input::of(shared, task, feed_dependency_results).await? }))
}

/// The input of a kernel or a transform: the payload, or an artifact.
async fn given(shared: &Shared, spec: &v1::TaskSpec, field: &str, artifact: &str) -> Result<Bytes, Unfit> {
    if artifact.is_empty() {
        return Ok(spec.payload.clone());
    }
    let hash = address(field, artifact)?;
    let missing = |detail: String| Unfit {
        reason: "ARTIFACT_UNAVAILABLE",
        message: format!("{field}: artifact {hash} is not available on the node ({detail}): put it again"),
        retryable: true,
    };
    match shared.options.artifacts.load(&hash).await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(missing("no source has it".into())),
        Err(error) => Err(missing(error.to_string())),
    }
}

fn kernel(cuda: &v1::CudaSpec, input: Bytes) -> Result<KernelCall, Unfit> {
    let arguments = cuda.arguments.iter().map(argument);
    Ok(KernelCall {
        name: cuda.kernel.clone(),
        language: match cuda.language() {
            v1::CudaLanguage::Unspecified => Language::Cuda,
            v1::CudaLanguage::Ptx => Language::Ptx,
        },
        grid: extents("cuda.grid", &cuda.grid)?,
        block: extents("cuda.block", &cuda.block)?,
        shared_bytes: cuda.shared_bytes,
        arguments: arguments.collect::<Result<_, _>>()?,
        input,
        share: share(cuda.device.as_ref())?,
    })
}

/// Up to three extents; those that are not named are 1.
fn extents(field: &str, given: &[u32]) -> Result<[u32; 3], Unfit> {
    let mut extents = [1; 3];
    match extents.get_mut(..given.len()) {
        Some(places) => places.copy_from_slice(given),
        None => return Err(unfit("BAD_SPEC", format!("{field} has more than three extents"))),
    }
    Ok(extents)
}

fn argument(given: &v1::CudaArgument) -> Result<KernelArgument, Unfit> {
    use cuda_argument::Argument as A;
    Ok(match given.argument {
        Some(A::I32(value)) => KernelArgument::I32(value),
        Some(A::U32(value)) => KernelArgument::U32(value),
        Some(A::I64(value)) => KernelArgument::I64(value),
        Some(A::U64(value)) => KernelArgument::U64(value),
        Some(A::F32Bits(bits)) => KernelArgument::F32(f32::from_bits(bits)),
        Some(A::F64Bits(bits)) => KernelArgument::F64(f64::from_bits(bits)),
        Some(A::Input(v1::CudaBuffer { offset, bytes })) => KernelArgument::Input { offset, bytes },
        Some(A::Output(v1::CudaBuffer { bytes, .. })) => KernelArgument::Output { bytes },
        Some(A::InOut(v1::CudaBuffer { offset, bytes })) => KernelArgument::InOut { offset, bytes },
        Some(A::Scratch(v1::CudaBuffer { bytes, .. })) => KernelArgument::Scratch { bytes },
        None => return Err(unfit("BAD_SPEC", "cuda.arguments: one of them is empty")),
    })
}

fn share(given: Option<&v1::DeviceShare>) -> Result<DeviceShare, Unfit> {
    let given = given.copied().unwrap_or_default();
    match (given.memory_bytes, given.memory_permille) {
        (0, 0) => Ok(DeviceShare::Thousandths(SHARE_PERMILLE)),
        (bytes, 0) => Ok(DeviceShare::Bytes(bytes)),
        (0, permille @ 1..=1_000) => Ok(DeviceShare::Thousandths(permille as u16)),
        (0, permille) => Err(unfit("BAD_SPEC", format!("device.memory_permille is {permille}: at most 1,000"))),
        (_, _) => Err(unfit("BAD_SPEC", "device: name memory_bytes or memory_permille, not both")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_s_call_is_read_from_its_specification() {
        let buffer = |offset, bytes| v1::CudaBuffer { offset, bytes };
        let argument = |argument| v1::CudaArgument { argument: Some(argument) };
        let spec = v1::CudaSpec {
            kernel: "scale".into(),
            grid: vec![4, 2],
            block: vec![256],
            arguments: vec![
                argument(cuda_argument::Argument::F32Bits(1.5_f32.to_bits())),
                argument(cuda_argument::Argument::InOut(buffer(8, 16))),
            ],
            ..v1::CudaSpec::default()
        };
        let call = kernel(&spec, Bytes::new()).ok().unwrap();
        assert_eq!((call.grid, call.block), ([4, 2, 1], [256, 1, 1]));
        let expected = [KernelArgument::F32(1.5), KernelArgument::InOut { offset: 8, bytes: 16 }];
        assert_eq!((call.arguments, call.share), (expected.to_vec(), DeviceShare::Thousandths(125)));

        let bad = v1::CudaSpec { grid: vec![1; 4], ..spec.clone() };
        assert_eq!(kernel(&bad, Bytes::new()).err().unwrap().reason, "BAD_SPEC");
        let bad = v1::CudaSpec { arguments: vec![v1::CudaArgument::default()], ..spec };
        assert_eq!(kernel(&bad, Bytes::new()).err().unwrap().reason, "BAD_SPEC");
    }

    #[test]
    fn a_share_is_one_or_the_other() {
        let share_of = |memory_bytes, memory_permille| share(Some(&v1::DeviceShare { memory_bytes, memory_permille }));
        assert_eq!(share_of(7, 0).ok(), Some(DeviceShare::Bytes(7)));
        assert_eq!(share_of(0, 1_000).ok(), Some(DeviceShare::Thousandths(1_000)));
        assert!(share_of(0, 1_001).is_err() && share_of(1, 1).is_err());
    }
}
