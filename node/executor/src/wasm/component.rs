//! Components: programs of WASI 0.2, tasks of `tarn:guest`, and plain functions.

use std::sync::OnceLock;

use wasmtime::Store;
use wasmtime::component::types::{ComponentFunc, ComponentItem, Type};
use wasmtime::component::{Component, ComponentExportIndex, Func, InstancePre, TypedFunc, Val};
use wasmtime_wasi::I32Exit;

use super::contract::{TASK, one_line as plain};
use super::guest::{Guest, Stop};
use super::host::Host;
use super::link::OFFERS;
use super::program::one_line;
use crate::function::missing_export;
use crate::{Argument, Command, ExecutionError, Kind, Value};

/// What programs of WASI 0.2 export. Any later version of 0.2 goes by this name too.
const RUN: &str = "wasi:cli/run@0.2.0";

/// A component that was compiled for one host and whose imports are all there.
pub(super) struct ComponentProgram {
    component: Component,
    /// Linked with each offer, when first wanted.
    ready: [OnceLock<InstancePre<Guest>>; OFFERS],
}

/// What is called in a component.
#[derive(Debug)]
pub(super) struct ComponentCall {
    index: ComponentExportIndex,
    entry: Entry,
}

#[derive(Debug)]
enum Entry {
    /// `wasi:cli/run`.
    Program,
    /// `tarn:guest/task`.
    Task {
        input: Vec<u8>,
    },
    Function {
        params: Vec<Val>,
        results: usize,
    },
}

/// What a component returned.
pub(super) enum Returned {
    /// Nothing: what it printed is its output.
    Nothing,
    Output(Vec<u8>),
    Values(Vec<Value>),
    Failed {
        message: String,
        retryable: bool,
    },
}

/// What `tarn:guest/task` says of a failure.
#[derive(Debug, Clone, wasmtime::component::ComponentType, wasmtime::component::Lift)]
#[component(variant)]
enum Failure {
    #[component(name = "again")]
    Again(String),
    #[component(name = "never")]
    Never(String),
}

impl ComponentProgram {
    pub(super) fn compile(host: &Host, bytes: &[u8]) -> Result<Self, ExecutionError> {
        let component = Component::new(&host.engine, bytes).map_err(|error| ExecutionError::InvalidModule { detail: one_line(&error) })?;
        Self::link(host, component)
    }

    pub(super) fn link(host: &Host, component: Component) -> Result<Self, ExecutionError> {
        let linker = host.linkers.component(0).map_err(ExecutionError::broken)?;
        linker.instantiate_pre(&component).map_err(|error| ExecutionError::UnsupportedImport { import: culprit(&error) })?;
        Ok(Self { component, ready: Default::default() })
    }

    pub(super) fn component(&self) -> &Component {
        &self.component
    }

    fn ready(&self, host: &Host, offer: usize) -> &InstancePre<Guest> {
        self.ready[offer].get_or_init(|| {
            let linker = host.linkers.component(offer).expect("all linkers are made alike");
            let linked = linker.instantiate_pre(&self.component);
            linked.expect("it could be linked with another offer")
        })
    }

    /// Checks that what is to be run is there and that the arguments fit. A command is left for what the guest is started with.
    pub(super) fn resolve(&self, kind: Kind) -> Result<(ComponentCall, Option<Command>), ExecutionError> {
        match kind {
            Kind::Command(mut command) => {
                command.check()?;
                if let Some(index) = self.function_of(TASK, "run") {
                    let input = std::mem::take(&mut command.input).into();
                    let entry = Entry::Task { input };
                    return Ok((ComponentCall { index, entry }, Some(command)));
                }
                let index = self.function_of(RUN, "run").ok_or_else(|| self.missing(RUN))?;
                let entry = Entry::Program;
                Ok((ComponentCall { index, entry }, Some(command)))
            }
            Kind::Export { name, params } => {
                let found = self.component.get_export(None, name.as_str());
                let Some((ComponentItem::ComponentFunc(function), index)) = found else {
                    return Err(self.missing(&name));
                };
                let params = convert_all(&name, &function, &params)?;
                let results = numeric_results(&name, &function)?;
                let entry = Entry::Function { params, results };
                Ok((ComponentCall { index, entry }, None))
            }
            other @ (Kind::Kernel(_) | Kind::Transform(_)) => Err(other.unsupported("wasm")),
        }
    }

    fn function_of(&self, interface: &str, function: &str) -> Option<ComponentExportIndex> {
        let (_, interface) = self.component.get_export(None, interface)?;
        match self.component.get_export(Some(&interface), function)? {
            (ComponentItem::ComponentFunc(_), index) => Some(index),
            _ => None,
        }
    }

    fn missing(&self, name: &str) -> ExecutionError {
        let ty = self.component.component_type();
        missing_export(name, ty.exports(self.component.engine()).map(|(name, _)| name))
    }

    /// Starts an instance.
    pub(super) async fn instantiate(
        &self,
        host: &Host,
        offer: usize,
        store: &mut Store<Guest>,
    ) -> wasmtime::Result<wasmtime::component::Instance> {
        self.ready(host, offer).instantiate_async(store).await
    }
}

impl ComponentCall {
    /// Calls what was resolved.
    pub(super) async fn enter(&mut self, store: &mut Store<Guest>, instance: &wasmtime::component::Instance) -> wasmtime::Result<Returned> {
        let function = instance.get_func(&mut *store, self.index);
        let function = function.expect("the export was looked up in the component before");
        match &mut self.entry {
            Entry::Program => enter_program(store, function).await,
            Entry::Task { input } => enter_task(store, function, std::mem::take(input)).await,
            Entry::Function { params, results } => enter_function(store, function, params, *results).await,
        }
    }
}

async fn enter_program(store: &mut Store<Guest>, function: Func) -> wasmtime::Result<Returned> {
    let run: TypedFunc<(), (Result<(), ()>,)> = function.typed(&*store)?;
    let status = match run.call_async(&mut *store, ()).await {
        Ok((Ok(()),)) => 0,
        Ok((Err(()),)) => 1,
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(status)) => *status,
            None => return Err(error),
        },
    };
    if status == 0 {
        return Ok(Returned::Nothing);
    }
    store.data_mut().stop = Some(Stop::Exit(status));
    Err(I32Exit(status).into())
}

async fn enter_task(store: &mut Store<Guest>, function: Func, input: Vec<u8>) -> wasmtime::Result<Returned> {
    let run = function.typed::<(Vec<u8>,), (Result<Vec<u8>, Failure>,)>(&*store)?;
    let (result,) = match run.call_async(&mut *store, (input,)).await {
        Ok(result) => result,
        Err(error) => {
            if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
                store.data_mut().stop = Some(Stop::Exit(*status));
            }
            return Err(error);
        }
    };
    let failed = |message: &str, retryable| Returned::Failed { message: plain(message), retryable };
    Ok(match result {
        Ok(output) => Returned::Output(output),
        Err(Failure::Again(message)) => failed(&message, true),
        Err(Failure::Never(message)) => failed(&message, false),
    })
}

async fn enter_function(store: &mut Store<Guest>, function: Func, params: &[Val], results: usize) -> wasmtime::Result<Returned> {
    let mut returned = vec![Val::Bool(false); results];
    function.call_async(&mut *store, params, &mut returned).await?;
    let number = |value: &Val| match *value {
        Val::S32(value) => Value::I32(value),
        Val::U32(value) => Value::I64(value.into()),
        Val::S64(value) => Value::I64(value),
        Val::Float32(value) => Value::F32(value),
        Val::Float64(value) => Value::F64(value),
        _ => unreachable!("functions with other results are refused before they are called"),
    };
    Ok(Returned::Values(returned.iter().map(number).collect()))
}

fn convert_all(name: &str, function: &ComponentFunc, given: &[Argument]) -> Result<Vec<Val>, ExecutionError> {
    let wanted: Vec<Type> = function.params().map(|(_, ty)| ty).collect();
    if wanted.len() != given.len() {
        let (wanted, given) = (wanted.len(), given.len());
        return Err(ExecutionError::bad_arguments(format!("`{name}` takes {wanted} arguments and got {given}")));
    }
    let pairs = wanted.iter().zip(given).enumerate();
    let converted = pairs.map(|(index, (wanted, given))| {
        convert(wanted, given).ok_or_else(|| {
            let detail = format!("argument {} of `{name}` does not fit: only numbers can be given", index + 1);
            ExecutionError::bad_arguments(detail)
        })
    });
    converted.collect()
}

fn convert(wanted: &Type, given: &Argument) -> Option<Val> {
    match (wanted, given) {
        (Type::S32, Argument::Value(Value::I32(value))) => Some(Val::S32(*value)),
        (Type::U32, Argument::Value(Value::I32(value))) => Some(Val::U32(value.cast_unsigned())),
        (Type::S64, Argument::Value(Value::I64(value))) => Some(Val::S64(*value)),
        (Type::U64, Argument::Value(Value::I64(value))) => Some(Val::U64(value.cast_unsigned())),
        (Type::Float32, Argument::Value(Value::F32(value))) => Some(Val::Float32(*value)),
        (Type::Float64, Argument::Value(Value::F64(value))) => Some(Val::Float64(*value)),
        (_, Argument::Value(_)) => None,
        (wanted, Argument::Text(text)) => parse(wanted, text.trim()),
    }
}

fn parse(wanted: &Type, text: &str) -> Option<Val> {
    match wanted {
        Type::S32 => text.parse().ok().map(Val::S32),
        Type::U32 => text.parse().ok().map(Val::U32),
        Type::S64 => text.parse().ok().map(Val::S64),
        Type::U64 => text.parse().ok().map(Val::U64),
        Type::Float32 => text.parse().ok().map(Val::Float32),
        Type::Float64 => text.parse().ok().map(Val::Float64),
        _ => None,
    }
}

fn numeric_results(name: &str, function: &ComponentFunc) -> Result<usize, ExecutionError> {
    let numeric = |ty: Type| matches!(ty, Type::S32 | Type::U32 | Type::S64 | Type::Float32 | Type::Float64);
    if function.async_() || !function.results().all(numeric) {
        return Err(ExecutionError::bad_arguments(format!(
            "`{name}` returns something else than numbers, and only functions that return numbers can be called"
        )));
    }
    Ok(function.results().len())
}

/// The import because of which linking failed, which only the text of the error names.
fn culprit(error: &wasmtime::Error) -> String {
    let text = one_line(error);
    match text.split('`').nth(1) {
        Some(name) => name.to_owned(),
        None => text,
    }
}
