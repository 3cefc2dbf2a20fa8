//! What one attempt does, checked against the module and put into the form that the guest reads.

use std::sync::Arc;

use bytes::Bytes;

use super::abi::JOB_BYTES;
use super::module::{Module, Number, Signature};
use crate::limits::ARGUMENTS_BYTES_MAX;
use crate::{Argument, Command, ExecutionError, Grants, Kind, Limits, Value};

/// The entry point of a command.
const START: &str = "_start";

/// The program name that a command finds as its first argument, as in the `wasm` runtime.
const PROGRAM_NAME: &str = "main";

/// How many of a module's exports an error lists: enough to recognise a typing error.
const EXPORTS_LISTED_MAX: usize = 10;

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
    pub(super) fn resolve(
        module: Arc<Module>,
        kind: Kind,
        limits: Limits,
        grants: &Grants,
    ) -> Result<Self, ExecutionError> {
        let start = match kind {
            Kind::Command(command) => {
                check_command(&command)?;
                let signature = find(&module, START)?;
                if !signature.params.is_empty() || !signature.results.is_empty() {
                    return Err(ExecutionError::bad_arguments(
                        "the module's `_start` takes or returns values, so it is not a command: call it as an exported function",
                    ));
                }
                Start::Command(command)
            }
            Kind::Export { name, params } => {
                let signature = find(&module, &name)?;
                let params = convert_all(&name, signature, &params)?;
                let results = numeric_results(&name, signature)?;
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
    found.map(|(_, signature)| signature).ok_or_else(|| ExecutionError::MissingExport {
        name: name.to_owned(),
        exports: module.functions.iter().map(|(function, _)| function.clone()).take(EXPORTS_LISTED_MAX).collect(),
    })
}

fn check_command(command: &Command) -> Result<(), ExecutionError> {
    let refuse = |detail: String| Err(ExecutionError::BadArguments { detail });
    if let Some(index) = command.args.iter().position(|arg| arg.contains('\0')) {
        return refuse(format!("argument {} contains a zero byte, which ends a string for the guest", index + 1));
    }
    let bad_variable =
        |(key, value): &(&String, &String)| key.is_empty() || key.contains(['=', '\0']) || value.contains('\0');
    if let Some((key, _)) = command.env.iter().find(bad_variable) {
        return refuse(format!("the environment variable {key:?} needs a name without `=`, and no zero bytes"));
    }
    let args = command.args.iter().map(String::len).sum::<usize>();
    let env = command.env.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    let bytes = (args + env) as u64;
    if bytes > ARGUMENTS_BYTES_MAX {
        return refuse(format!(
            "arguments and environment have {bytes} bytes and the limit is {ARGUMENTS_BYTES_MAX}: pass them on standard input"
        ));
    }
    Ok(())
}

fn convert_all(name: &str, signature: &Signature, given: &[Argument]) -> Result<Vec<u64>, ExecutionError> {
    let wanted = &signature.params;
    if wanted.len() != given.len() {
        let types: Vec<&str> = wanted.iter().map(|number| number.map_or("a reference", Number::name)).collect();
        return Err(ExecutionError::bad_arguments(format!(
            "`{name}` takes {} arguments ({}) and got {}",
            wanted.len(),
            types.join(", "),
            given.len()
        )));
    }
    let pairs = wanted.iter().zip(given).enumerate();
    pairs
        .map(|(index, (wanted, given))| {
            convert(*wanted, given).ok_or_else(|| {
                let wanted = wanted.map_or("a type that is no number", Number::name);
                ExecutionError::bad_arguments(format!(
                    "argument {} of `{name}` must be a number of type {wanted}, not {}",
                    index + 1,
                    shown(given)
                ))
            })
        })
        .collect()
}

/// The bits of an argument, if it is of the wanted type.
fn convert(wanted: Option<Number>, given: &Argument) -> Option<u64> {
    match given {
        Argument::Value(value) => match (wanted?, *value) {
            (Number::I32, Value::I32(value)) => Some(u64::from(value.cast_unsigned())),
            (Number::I64, Value::I64(value)) => Some(value.cast_unsigned()),
            (Number::F32, Value::F32(value)) => Some(u64::from(value.to_bits())),
            (Number::F64, Value::F64(value)) => Some(value.to_bits()),
            _ => None,
        },
        Argument::Text(text) => parse(wanted?, text.trim()),
    }
}

/// WebAssembly's integers have no sign of their own, so both readings are welcome.
fn parse(wanted: Number, text: &str) -> Option<u64> {
    match wanted {
        Number::I32 => {
            let signed = text.parse::<i32>().map(i32::cast_unsigned);
            signed.or_else(|_| text.parse::<u32>()).ok().map(u64::from)
        }
        Number::I64 => {
            let signed = text.parse::<i64>().map(i64::cast_unsigned);
            signed.or_else(|_| text.parse::<u64>()).ok()
        }
        Number::F32 => text.parse::<f32>().ok().map(|value| u64::from(value.to_bits())),
        Number::F64 => text.parse::<f64>().ok().map(f64::to_bits),
    }
}

/// What somebody sent, short enough for a message.
fn shown(given: &Argument) -> String {
    match given {
        Argument::Value(value) => format!("one of type {}", value.type_name()),
        Argument::Text(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
    }
}

fn numeric_results(name: &str, signature: &Signature) -> Result<Vec<Number>, ExecutionError> {
    let results = signature.results.iter().copied();
    results.collect::<Option<Vec<Number>>>().ok_or_else(|| {
        ExecutionError::bad_arguments(format!(
            "`{name}` returns something that is no number, and only functions that return numbers can be called"
        ))
    })
}
