//! What one attempt does, checked against the module and put into the form that the guest reads.

use std::sync::Arc;

use bytes::Bytes;

use super::abi::JOB_BYTES;
use super::module::Module;
use crate::function::{Number, START, Signature, missing_export};
use crate::{Command, ExecutionError, Grants, Kind, Limits, Value};

/// The program name that a command finds as its first argument, as in the `wasm` runtime.
const PROGRAM_NAME: &str = "main";

/// An attempt that can run.
pub(super) struct Job {
    pub(super) module: Arc<Module>,
    pub(super) start: Start,
    pub(super) limits: Limits,
    /// Whether the guest may ask for the time, and for random numbers.
    pub(super) clock: bool,
    pub(super) random: bool,
}

/// What is called.
pub(super) enum Start {
    Command(Command),
    Export {
        name: String,
        /// The bits of each argument.
        params: Vec<u64>,
        results: Vec<Number>,
    },
}

/// A job as the guest finds it, with the lengths of its parts in order.
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    pub(super) args_count: u64,
    pub(super) args_length: u64,
    pub(super) env_count: u64,
    pub(super) env_length: u64,
    pub(super) name_length: u64,
}

impl Job {
    /// Checks that what is to be run exists in the module and that the arguments fit.
    pub(super) fn resolve(module: Arc<Module>, kind: Kind, limits: Limits, grants: &Grants) -> Result<Self, ExecutionError> {
        let start = match kind {
            Kind::Command(command) => {
                command.check()?;
                find(&module, START)?.check_start()?;
                Start::Command(command)
            }
            Kind::Export { name, params } => {
                let signature = find(&module, &name)?;
                let params = signature.arguments(&name, &params)?.into_iter().map(bits).collect();
                let results = signature.numeric_results(&name)?;
                Start::Export { name, params, results }
            }
            other @ (Kind::Kernel(_) | Kind::Transform(_)) => return Err(other.unsupported("microvm")),
        };
        let job = Self { module, start, limits, clock: grants.clock, random: grants.random };
        let bytes = job.encode().bytes.len() as u64;
        if bytes > JOB_BYTES {
            let detail = format!("they take {bytes} bytes and the limit is {JOB_BYTES}: pass them on standard input");
            return Err(ExecutionError::BadArguments { detail });
        }
        Ok(job)
    }

    pub(super) fn is_command(&self) -> bool {
        matches!(self.start, Start::Command(_))
    }

    /// The standard input.
    pub(super) fn input(&self) -> Bytes {
        match &self.start {
            Start::Command(command) => command.input.clone(),
            Start::Export { .. } => Bytes::new(),
        }
    }

    pub(super) fn encode(&self) -> Encoded {
        let (args, env, name) = match &self.start {
            Start::Command(command) => {
                let args = std::iter::once(PROGRAM_NAME).chain(command.args.iter().map(String::as_str));
                let args: Vec<Vec<u8>> = args.map(|arg| [arg.as_bytes(), b"\0"].concat()).collect();
                let env = command.env.iter();
                let env: Vec<Vec<u8>> = env.map(|(key, value)| format!("{key}={value}\0").into_bytes()).collect();
                (args, env, "")
            }
            Start::Export { name, params, .. } => {
                let params = params.iter().map(|bits| bits.to_le_bytes().to_vec()).collect();
                (params, Vec::new(), name.as_str())
            }
        };
        let (args_count, env_count) = (args.len() as u64, env.len() as u64);
        let mut bytes = args.concat();
        let args_length = bytes.len() as u64;
        bytes.extend(env.concat());
        let env_length = bytes.len() as u64 - args_length;
        bytes.extend_from_slice(name.as_bytes());
        Encoded { bytes, args_count, args_length, env_count, env_length, name_length: name.len() as u64 }
    }
}

fn find<'a>(module: &'a Module, name: &str) -> Result<&'a Signature, ExecutionError> {
    let found = module.functions.iter().find(|(function, _)| function == name);
    let exports = || module.functions.iter().map(|(function, _)| function.as_str());
    found.map(|(_, signature)| signature).ok_or_else(|| missing_export(name, exports()))
}

/// A number as the guest reads it.
fn bits(value: Value) -> u64 {
    match value {
        Value::I32(value) => value.cast_unsigned().into(),
        Value::I64(value) => value.cast_unsigned(),
        Value::F32(value) => value.to_bits().into(),
        Value::F64(value) => value.to_bits(),
    }
}
