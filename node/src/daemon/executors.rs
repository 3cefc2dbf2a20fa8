//! The executors of this node: one host for each runtime that the configuration and the machine allow.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tarn_executor::cuda::WorkerCommand;
use tarn_executor::native::{NativeConfig, NativeExecutor};
use tarn_executor::{
    ArtifactSource, CudaConfig, CudaExecutor, DriverConfig, DriverEngine, ExecutionError, Executor, MicroVmConfig, MicroVmExecutor,
    SLOTS_MAX, WasmConfig, WasmExecutor,
};

use super::StartError;
use crate::config::{Config, Switch};
use crate::dispatch::Dispatcher;
use crate::host::{Host, HostOptions};
use crate::way::Way;

/// The hidden argument with which this binary becomes a child process of an executor. No test harness takes it for a filter.
const CHILD: &str = "--executor-child";

/// This binary itself, also after the file was replaced by a newer one.
const OWN_BINARY: &str = "/proc/self/exe";

/// An executor, and the most memory that an attempt may ask of it.
pub(super) struct Runtime {
    executor: Arc<dyn Executor>,
    memory_bytes_max: u64,
}

/// Where this process was started as a child of an executor: does its work, and says whether that went well.
pub fn child_main() -> Option<std::io::Result<()>> {
    let mut args = std::env::args().skip(1);
    if args.next()? != CHILD {
        return None;
    }
    let role = args.next().unwrap_or_default();
    Some(tarn_executor::child_main(&role, args))
}

/// Starts the executors.
pub(super) async fn start(config: &Config) -> Result<Vec<Runtime>, StartError> {
    let mut runtimes = Vec::new();
    if config.executors.wasm {
        runtimes.push(wasm(config)?);
    }
    runtimes.extend(micro_vm(config).await?);
    runtimes.extend(native(config).await?);
    runtimes.extend(cuda(config).await?);
    Ok(runtimes)
}

fn wasm(config: &Config) -> Result<Runtime, StartError> {
    let mut wasm = WasmConfig::default();
    if config.executors.wasm_slots > 0 {
        wasm.slots = config.executors.wasm_slots.min(SLOTS_MAX);
    }
    wasm.cache_dir = config.executors.wasm_cache.then(|| config.node.data_dir.join("wasm"));
    wasm.scratch_dir = Some(config.node.data_dir.join("scratch"));
    let authorities = &config.executors.http_authorities;
    // Guests reach nothing over https where the system has no authorities and none are named.
    wasm.http_authorities = authorities.is_file().then(|| authorities.clone());
    let executor = WasmExecutor::new(wasm).map_err(|source| StartError::Executor { runtime: "wasm", source })?;
    Ok(Runtime { executor: Arc::new(executor), memory_bytes_max: config.executors.wasm_memory_bytes })
}

/// What runs drivers, on every node: any of them may lead.
pub(super) fn drivers(config: &Config) -> Result<DriverEngine, StartError> {
    let authorities = &config.executors.http_authorities;
    let drivers = DriverConfig {
        cache_dir: config.executors.wasm_cache.then(|| config.node.data_dir.join("drivers")),
        http_authorities: authorities.is_file().then(|| authorities.clone()),
    };
    DriverEngine::new(&drivers).map_err(|source| StartError::Executor { runtime: "drivers", source })
}

/// Micro-VMs, where the machine has KVM and the guest image.
async fn micro_vm(config: &Config) -> Result<Option<Runtime>, StartError> {
    let settings = &config.executors;
    if settings.microvm == Switch::Off {
        return Ok(None);
    }
    let mut micro_vm = MicroVmConfig::new(settings.microvm_image.clone());
    if settings.microvm_slots > 0 {
        (micro_vm.slots, micro_vm.idle) = (settings.microvm_slots, settings.microvm_slots);
    }
    micro_vm.memory_bytes_max = settings.microvm_memory_bytes;
    micro_vm.cache_dir = settings.wasm_cache.then(|| config.node.data_dir.join("microvm"));
    // Starting the first machine and taking its picture takes some milliseconds of this thread.
    let started = tokio::task::spawn_blocking(move || MicroVmExecutor::new(micro_vm)).await;
    let started = started.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
    match started {
        Ok(executor) => Ok(Some(Runtime { executor: Arc::new(executor), memory_bytes_max: settings.microvm_memory_bytes })),
        Err(error) if settings.microvm == Switch::Auto => {
            tracing::info!(%error, "this node runs no micro-VMs");
            Ok(None)
        }
        Err(source) => Err(StartError::Executor { runtime: "microvm", source }),
    }
}

/// CUDA devices, where there are any.
async fn cuda(config: &Config) -> Result<Option<Runtime>, StartError> {
    let settings = &config.executors;
    if settings.cuda == Switch::Off {
        return Ok(None);
    }
    let cuda = CudaConfig {
        cache_dir: Some(config.node.data_dir.join("cuda")),
        slots_per_device: settings.cuda_slots_per_device,
        ..CudaConfig::new(WorkerCommand::own(PathBuf::from(OWN_BINARY), vec![CHILD.into()]))
    };
    let executor = CudaExecutor::new(cuda).await;
    if executor.devices().is_empty() {
        let detail = executor.absence().to_owned();
        if settings.cuda == Switch::On {
            return Err(StartError::Executor { runtime: "cuda", source: ExecutionError::NoCudaDevice { detail } });
        }
        tracing::info!(detail, "this node has no CUDA devices");
        return Ok(None);
    }
    Ok(Some(Runtime { executor: Arc::new(executor), memory_bytes_max: tarn_executor::MEMORY_BYTES_MAX }))
}

/// Processes, where the machine can keep them apart. What it cannot is told once, here.
async fn native(config: &Config) -> Result<Option<Runtime>, StartError> {
    let settings = &config.executors;
    if settings.native == Switch::Off {
        return Ok(None);
    }
    let native = NativeConfig {
        slots: match settings.native_slots {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            slots => slots,
        },
        dir: config.node.data_dir.join("native"),
        child: (PathBuf::from(OWN_BINARY), vec![CHILD.into()]),
        user_base: settings.native_user_base,
        readable: settings.native_readable.0.clone(),
        allow_incomplete_walls: settings.native == Switch::On,
    };
    match NativeExecutor::new(native).await {
        Ok(executor) => {
            let missing = executor.walls().missing();
            if !missing.is_empty() {
                let missing = missing.join(", ");
                tracing::warn!(missing, "native tasks run on this node without all walls around them");
            }
            Ok(Some(Runtime { executor: Arc::new(executor), memory_bytes_max: settings.native_memory_bytes }))
        }
        Err(error) if settings.native == Switch::Auto => {
            tracing::info!(%error, "this node runs no native tasks");
            Ok(None)
        }
        Err(source) => Err(StartError::Executor { runtime: "native", source }),
    }
}

/// Puts the executors to work.
pub(super) fn host(
    runtimes: Vec<Runtime>,
    config: &Config,
    node_id: u64,
    way: &Way,
    dispatcher: &Dispatcher,
    artifacts: &Arc<dyn ArtifactSource>,
) -> Vec<Host> {
    let hosts = runtimes.into_iter().map(|runtime| {
        let options = HostOptions {
            node_id,
            artifacts: artifacts.clone(),
            lease_ms: config.executors.lease_ms,
            memory_bytes_max: runtime.memory_bytes_max,
            executor: runtime.executor.clone(),
            cost_per_second: match runtime.executor.runtime() {
                "cuda" => config.executors.cuda_cost_per_second,
                _ => config.executors.cost_per_second,
            },
            grace: Duration::from_millis(config.limits.shutdown_grace_ms),
        };
        let host = Host::new(way.clone(), dispatcher.clone(), options);
        tokio::spawn(host.clone().run());
        host
    });
    hosts.collect()
}
