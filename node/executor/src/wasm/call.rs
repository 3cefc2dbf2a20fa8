//! Checks that what is to be run exists in the module and that the arguments fit, before a slot is taken.

use wasmtime::{ExternType, FuncType, Module, Val, ValType};

use crate::limits::ARGUMENTS_BYTES_MAX;
use crate::{Argument, Command, ExecutionError, Kind, Value};

/// The entry point of a command.
const START: &str = "_start";

/// How many of a module's exports an error lists: enough to recognise a typing error.
pub(super) const EXPORTS_LISTED_MAX: usize = 10;

/// What to call in a module, with arguments of the right types.
#[derive(Debug)]
pub(super) struct ModuleCall {
    pub(super) function: String,
    pub(super) params: Vec<Val>,
    /// As many places as the function has results.
    pub(super) results: Vec<Val>,
}

impl ModuleCall {
    /// The call, and for a command what it is started with.
    pub(super) fn resolve(kind: Kind, module: &Module) -> Result<(Self, Option<Command>), ExecutionError> {
        match kind {
            Kind::Command(command) => {
                check_command(&command)?;
                let function = find(module, START)?;
                if function.params().len() + function.results().len() > 0 {
                    return Err(ExecutionError::bad_arguments(
                        "the module's `_start` takes or returns values, so it is not a command: call it as an exported function",
                    ));
                }
                let call = Self { function: START.into(), params: Vec::new(), results: Vec::new() };
                Ok((call, Some(command)))
            }
            Kind::Export { name, params } => {
                let function = find(module, &name)?;
                let params = convert_all(&name, &function, &params)?;
                let results = vec![Val::I32(0); numeric_results(&name, &function)?];
                let call = Self { function: name, params, results };
                Ok((call, None))
            }
            other @ (Kind::Kernel(_) | Kind::Transform(_)) => Err(other.unsupported("wasm")),
        }
    }
}

fn find(module: &Module, name: &str) -> Result<FuncType, ExecutionError> {
    if let Some(ExternType::Func(function)) = module.get_export(name) {
        return Ok(function);
    }
    let functions = module.exports().filter(|export| matches!(export.ty(), ExternType::Func(_)));
    let exports = functions.map(|export| export.name().to_owned()).take(EXPORTS_LISTED_MAX).collect();
    Err(ExecutionError::MissingExport { name: name.to_owned(), exports })
}

pub(super) fn check_command(command: &Command) -> Result<(), ExecutionError> {
    let refuse = |detail: String| Err(ExecutionError::BadArguments { detail });
    if let Some(index) = command.args.iter().position(|arg| arg.contains('\0')) {
        return refuse(format!("argument {} contains a zero byte, which ends a string for the guest", index + 1));
    }
    for (key, value) in &command.env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return refuse(format!("the environment variable {key:?} needs a name without `=`, and no zero bytes"));
        }
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

fn convert_all(name: &str, function: &FuncType, given: &[Argument]) -> Result<Vec<Val>, ExecutionError> {
    let wanted: Vec<ValType> = function.params().collect();
    if wanted.len() != given.len() {
        let types: Vec<String> = wanted.iter().map(ValType::to_string).collect();
        return Err(ExecutionError::bad_arguments(format!(
            "`{name}` takes {} arguments ({}) and got {}",
            wanted.len(),
            types.join(", "),
            given.len()
        )));
    }
    let pairs = wanted.iter().zip(given).enumerate();
    pairs.map(|(index, (wanted, given))| convert(name, index + 1, wanted, given)).collect()
}

fn convert(name: &str, position: usize, wanted: &ValType, given: &Argument) -> Result<Val, ExecutionError> {
    let refuse = |got: String| {
        ExecutionError::bad_arguments(format!(
            "argument {position} of `{name}` must be a number of type {wanted}, not {got}"
        ))
    };
    match given {
        Argument::Value(value) => match (wanted, *value) {
            (ValType::I32, Value::I32(value)) => Ok(Val::I32(value)),
            (ValType::I64, Value::I64(value)) => Ok(Val::I64(value)),
            (ValType::F32, Value::F32(value)) => Ok(Val::F32(value.to_bits())),
            (ValType::F64, Value::F64(value)) => Ok(Val::F64(value.to_bits())),
            (_, value) => Err(refuse(format!("one of type {}", value.type_name()))),
        },
        Argument::Text(text) => parse(wanted, text.trim()).ok_or_else(|| refuse(format!("{:?}", shorten(text)))),
    }
}

fn parse(wanted: &ValType, text: &str) -> Option<Val> {
    match wanted {
        // WebAssembly's integers have no sign of their own, so both readings are welcome.
        ValType::I32 => text.parse().or_else(|_| text.parse().map(u32::cast_signed)).ok().map(Val::I32),
        ValType::I64 => text.parse().or_else(|_| text.parse().map(u64::cast_signed)).ok().map(Val::I64),
        ValType::F32 => text.parse().ok().map(|value: f32| Val::F32(value.to_bits())),
        ValType::F64 => text.parse().ok().map(|value: f64| Val::F64(value.to_bits())),
        _ => None,
    }
}

/// The beginning of a text that somebody sent, short enough for a message.
fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

fn numeric_results(name: &str, function: &FuncType) -> Result<usize, ExecutionError> {
    for result in function.results() {
        if !matches!(result, ValType::I32 | ValType::I64 | ValType::F32 | ValType::F64) {
            return Err(ExecutionError::bad_arguments(format!(
                "`{name}` returns a {result}, and only functions that return numbers can be called"
            )));
        }
    }
    Ok(function.results().len())
}

/// Takes the numbers out of the places that [`ModuleCall::results`] had for them.
pub(super) fn numbers(results: &[Val]) -> Vec<Value> {
    let number = |result: &Val| match *result {
        Val::I32(value) => Value::I32(value),
        Val::I64(value) => Value::I64(value),
        Val::F32(bits) => Value::F32(f32::from_bits(bits)),
        Val::F64(bits) => Value::F64(f64::from_bits(bits)),
        _ => unreachable!("functions with other results are refused before they are called"),
    };
    results.iter().map(number).collect()
}
