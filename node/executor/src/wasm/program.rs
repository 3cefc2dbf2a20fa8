//! A compiled artifact, linked and ready to be instantiated.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use wasmtime::component::Component;
use wasmtime::{Engine, InstancePre, Module, Precompiled, UnknownImportError};

use super::TABLES_MAX;
use super::call::ModuleCall;
use super::component::{ComponentCall, ComponentProgram};
use super::guest::Guest;
use super::host::Host;
use super::link::OFFERS;
use crate::{Command, ExecutionError, Kind};

/// The first bytes of every binary: the magic and, behind the version, which layer it is (component model, binary format).
const BINARY: &[u8; 4] = b"\0asm";
const LAYER_AT: usize = 6;
const LAYER_COMPONENT: u8 = 1;

/// An artifact that was compiled for one host and whose imports are all there.
pub(super) struct Program {
    pub(super) form: Form,
    /// Whether its last run took long.
    pub(super) long: AtomicBool,
    /// The size of its machine code and data in memory, in bytes.
    pub(super) code_bytes: usize,
}

/// What an artifact is.
pub(super) enum Form {
    Module(ModuleProgram),
    Component(ComponentProgram),
}

/// A core module.
pub(super) struct ModuleProgram {
    module: Module,
    /// Whether it imports anything at all, which can only be WASI.
    pub(super) imports: bool,
    /// Linked with each offer, when first wanted.
    ready: [OnceLock<InstancePre<Guest>>; OFFERS],
}

impl Program {
    /// Compiles a module or component, which may be given as text. Takes from a millisecond to many seconds of processor time.
    pub(super) fn compile(host: &Host, bytes: &[u8]) -> Result<Self, ExecutionError> {
        if is_component(bytes) {
            return Ok(Self::new(Form::Component(ComponentProgram::compile(host, bytes)?)));
        }
        let module = Module::new(&host.engine, bytes).map_err(|error| ExecutionError::InvalidModule { detail: one_line(&error) })?;
        Ok(Self::new(Form::Module(ModuleProgram::link(host, module)?)))
    }

    /// Takes over machine code that [`serialize`](Self::serialize) made. Fails when it was made by another engine.
    ///
    /// # Safety
    /// `code` must be, byte for byte, what `serialize` returned: it is executed.
    pub(super) unsafe fn deserialize(host: &Host, code: &[u8]) -> wasmtime::Result<Result<Self, ExecutionError>> {
        if Engine::detect_precompiled(code) == Some(Precompiled::Component) {
            // SAFETY: handed on to our caller.
            let component = unsafe { Component::deserialize(&host.engine, code) }?;
            let linked = ComponentProgram::link(host, component);
            return Ok(linked.map(|program| Self::new(Form::Component(program))));
        }
        // SAFETY: handed on to our caller.
        let module = unsafe { Module::deserialize(&host.engine, code) }?;
        Ok(ModuleProgram::link(host, module).map(|program| Self::new(Form::Module(program))))
    }

    /// The machine code, for [`deserialize`](Self::deserialize).
    pub(super) fn serialize(&self) -> wasmtime::Result<Vec<u8>> {
        match &self.form {
            Form::Module(program) => program.module.serialize(),
            Form::Component(program) => program.component().serialize(),
        }
    }

    /// Finds out what to call, and for a command what it is started with.
    pub(super) fn resolve(&self, kind: Kind) -> Result<(Call, Option<Command>), ExecutionError> {
        match &self.form {
            Form::Module(program) => ModuleCall::resolve(kind, &program.module).map(|(call, command)| (Call::Module(call), command)),
            Form::Component(program) => program.resolve(kind).map(|(call, command)| (Call::Component(call), command)),
        }
    }

    fn new(form: Form) -> Self {
        let image = match &form {
            Form::Module(program) => program.module.image_range(),
            Form::Component(program) => program.component().image_range(),
        };
        Self { form, long: AtomicBool::new(false), code_bytes: image.end as usize - image.start as usize }
    }
}

/// What to call in a [`Program`].
#[derive(Debug)]
pub(super) enum Call {
    Module(ModuleCall),
    Component(ComponentCall),
}

/// Says whether the bytes claim to be a component; whether they are one shows when they are compiled.
fn is_component(bytes: &[u8]) -> bool {
    if bytes.starts_with(BINARY) {
        return bytes.get(LAYER_AT) == Some(&LAYER_COMPONENT);
    }
    let Ok(mut text) = std::str::from_utf8(bytes) else {
        return false;
    };
    loop {
        text = text.trim_start();
        match text.strip_prefix(";;") {
            Some(comment) => text = comment.split_once('\n').map_or("", |(_, rest)| rest),
            None => {
                return text.strip_prefix('(').is_some_and(|rest| rest.trim_start().starts_with("component"));
            }
        }
    }
}

impl ModuleProgram {
    /// The module, linked with what `offer` says. Linking was tried before, and what is offered does not change the types.
    pub(super) fn ready(&self, host: &Host, offer: usize) -> &InstancePre<Guest> {
        self.ready[offer].get_or_init(|| {
            let linked = host.linkers.preview1(offer).instantiate_pre(&self.module);
            linked.expect("it could be linked with another offer")
        })
    }

    fn link(host: &Host, module: Module) -> Result<Self, ExecutionError> {
        let tables = module.resources_required().num_tables;
        if tables > TABLES_MAX {
            // A pool says so by itself, in other words.
            let detail = format!("it has {tables} tables and the limit is {TABLES_MAX}");
            return Err(ExecutionError::InvalidModule { detail });
        }
        host.linkers
            .preview1(0)
            .instantiate_pre(&module)
            .map_err(|error| ExecutionError::UnsupportedImport { import: culprit(&module, &error) })?;
        let imports = module.imports().len() > 0;
        Ok(Self { imports, ready: Default::default(), module })
    }
}

/// The import because of which linking failed.
fn culprit(module: &Module, error: &wasmtime::Error) -> String {
    if let Some(unknown) = error.downcast_ref::<UnknownImportError>() {
        return format!("{}::{}", unknown.module(), unknown.name());
    }
    // The name exists, with another type. Only the text of the error says which one it is.
    let text = format!("{error:#}");
    let names = module.imports().map(|import| format!("{}::{}", import.module(), import.name()));
    let named = names.into_iter().find(|name| text.contains(name.as_str()));
    named.map_or(text, |name| format!("{name} with another type"))
}

/// An error of the engine in one line: its messages from the outermost to the cause.
pub(super) fn one_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}
