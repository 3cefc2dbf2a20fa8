//! Checks that what is to be run exists in the module and that the arguments fit, before a slot is taken.

use wasmtime::{ExternType, FuncType, Module, Val, ValType};

use crate::function::{Number, START, Signature, missing_export};
use crate::{Command, ExecutionError, Kind, Value};

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
                command.check()?;
                find(module, START)?.check_start()?;
                let call = Self { function: START.into(), params: Vec::new(), results: Vec::new() };
                Ok((call, Some(command)))
            }
            Kind::Export { name, params } => {
                let signature = find(module, &name)?;
                let params = signature.arguments(&name, &params)?.into_iter().map(place).collect();
                let results = vec![Val::I32(0); signature.numeric_results(&name)?.len()];
                let call = Self { function: name, params, results };
                Ok((call, None))
            }
            other @ (Kind::Kernel(_) | Kind::Transform(_)) => Err(other.unsupported("wasm")),
        }
    }
}

fn find(module: &Module, name: &str) -> Result<Signature, ExecutionError> {
    if let Some(ExternType::Func(function)) = module.get_export(name) {
        return Ok(signature(&function));
    }
    let functions = module.exports().filter(|export| matches!(export.ty(), ExternType::Func(_)));
    Err(missing_export(name, functions.map(|export| export.name())))
}

fn signature(function: &FuncType) -> Signature {
    let number = |ty: ValType| match ty {
        ValType::I32 => Some(Number::I32),
        ValType::I64 => Some(Number::I64),
        ValType::F32 => Some(Number::F32),
        ValType::F64 => Some(Number::F64),
        ValType::V128 | ValType::Ref(_) => None,
    };
    Signature { params: function.params().map(number).collect(), results: function.results().map(number).collect() }
}

fn place(value: Value) -> Val {
    match value {
        Value::I32(value) => Val::I32(value),
        Value::I64(value) => Val::I64(value),
        Value::F32(value) => Val::F32(value.to_bits()),
        Value::F64(value) => Val::F64(value.to_bits()),
    }
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
