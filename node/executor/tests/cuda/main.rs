//! The CUDA executor without a device: real worker processes that compute on the processor, and workers that misbehave.
//!
//! A worker is this test program again, which in [`worker_entry`] looks at its environment and becomes one.

mod arithmetic;
mod device;
mod mirror;
mod supervision;

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tarn_executor::cuda::{
    Backend, Backends, Cuda, CudaConfig, DeviceInfo, DeviceShare, JobError, Launch, Processor, WorkerCommand, child_main,
};
use tarn_executor::{Attempt, Hash, Kind, Source, TransformCall};
use tarn_transform::{Array, Budget, Operation, write_arrays};

/// Names the role that the test program plays as a worker.
const ROLE: &str = "TARN_TEST_WORKER";

/// Not a test: the entry of a worker process.
#[test]
fn worker_entry() {
    match std::env::var(ROLE).as_deref() {
        Err(_) => {}
        // Not a role of the tests without a device: the real thing, for `device.rs`.
        Ok("cuda") => child_main(&Cuda),
        Ok("none") => child_main(&NoDevice),
        Ok("silent") => {
            // Reads nothing and says nothing, until it is killed.
            loop {
                std::thread::park();
            }
        }
        Ok("garbage") => {
            let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
        Ok("crash") => std::process::abort(),
        Ok(role) => child_main(&OneDevice { role: role.to_owned() }),
    }
}

/// What a machine without CUDA says.
struct NoDevice;

impl Backends for NoDevice {
    fn devices(&self) -> Result<Vec<DeviceInfo>, String> {
        Err("there is no CUDA driver".into())
    }

    fn open(&self, _: u32, _: Option<&str>) -> Result<Box<dyn Backend>, String> {
        Err("there is no CUDA driver".into())
    }
}

/// The processor in the place of a device, behaving as the role says.
struct OneDevice {
    role: String,
}

impl Backends for OneDevice {
    fn devices(&self) -> Result<Vec<DeviceInfo>, String> {
        Ok(vec![DeviceInfo {
            ordinal: 0,
            name: "processor".into(),
            compute_capability: (0, 0),
            memory_bytes: 3 << 20,
            multiprocessors: 1,
            driver_version: 13_000,
            fft: true,
            compiler: false,
        }])
    }

    fn open(&self, _: u32, _: Option<&str>) -> Result<Box<dyn Backend>, String> {
        if self.role == "unusable" {
            return Err("the device is in use".into());
        }
        Ok(Box::new(Worker { role: self.role.clone() }))
    }
}

struct Worker {
    role: String,
}

impl Backend for Worker {
    fn transform(&self, operation: Operation, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        // The inverse transform is what the misbehaving roles react to; everything else is computed.
        let bait = matches!(&operation, Operation::Fourier(fourier) if fourier.inverse);
        match self.role.as_str() {
            "patient" if bait => loop {
                budget.check()?;
                std::thread::yield_now();
            },
            "deaf" if bait => loop {
                std::thread::park();
            },
            "fault" if bait => Err(JobError::Fault { detail: "an illegal address".into() }),
            "exit" if bait => std::process::exit(3),
            "panic" if bait => panic!("a bug"),
            "liar" if bait => Err(JobError::Transform { reason: "FREE_MONEY".into(), message: "trust me".into() }),
            _ => Processor.transform(operation, budget),
        }
    }

    /// Gives back what it got, so that tests see what arrives; a kernel named `hang` never ends.
    fn kernel(&self, launch: &Launch, source: &[u8], input: &[u8], _: &Budget<'_>) -> Result<Vec<u8>, JobError> {
        if launch.name == "hang" {
            loop {
                std::thread::park();
            }
        }
        if launch.name == "environment" {
            let names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
            return Ok(names.join(" ").into_bytes());
        }
        let process = format!(" in {} ", std::process::id());
        Ok([launch.name.as_bytes(), process.as_bytes(), source, input].concat())
    }
}

fn command(role: &str) -> WorkerCommand {
    WorkerCommand {
        program: std::env::current_exe().unwrap(),
        args: ["worker_entry", "--exact", "--test-threads=1"].map(str::to_owned).to_vec(),
        env: vec![(ROLE.to_owned(), role.to_owned())],
    }
}

fn config(role: &str) -> CudaConfig {
    CudaConfig { reserved_bytes: 1 << 20, patience: Duration::from_secs(60), ..CudaConfig::new(command(role)) }
}

fn transform(name: &str, share: DeviceShare) -> Attempt {
    let array = Array::vector(vec![1.0, 0.0, 0.0, 0.0]).unwrap();
    Attempt::new(
        Hash::of(b""),
        Source::Prepared,
        Kind::Transform(TransformCall {
            name: name.into(),
            params: String::new(),
            input: write_arrays(&[array], &Budget::default()).unwrap().into(),
            share,
        }),
    )
}
