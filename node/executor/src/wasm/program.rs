//! A compiled module, linked and ready to be instantiated.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use wasmtime::{InstancePre, Module, UnknownImportError};

use super::TABLES_MAX;
use super::guest::Guest;
use super::host::Host;
use super::link::OFFERS;
use crate::ExecutionError;

/// A module that was compiled for one host and whose imports are all there.
pub(super) struct Program {
    module: Module,
    /// Whether it imports anything at all, which can only be WASI.
    pub(super) imports: bool,
    /// Linked with each offer, when first wanted.
    ready: [OnceLock<InstancePre<Guest>>; OFFERS],
    /// Whether its last run took long.
    pub(super) long: AtomicBool,
    /// The size of its machine code and data in memory, in bytes.
    pub(super) code_bytes: usize,
}

impl Program {
    /// Compiles a module, which may be given as text. Takes from a millisecond to many seconds of processor time.
    pub(super) fn compile(host: &Host, bytes: &[u8]) -> Result<Self, ExecutionError> {
        let module = Module::new(&host.engine, bytes).map_err(|error| ExecutionError::InvalidModule {
            detail: one_line(&error),
        })?;
        Self::link(host, module)
    }

    /// Takes over machine code that [`serialize`](Self::serialize) made. Fails when it was made by another engine.
    ///
    /// # Safety
    /// `code` must be, byte for byte, what `serialize` returned: it is executed.
    pub(super) unsafe fn deserialize(host: &Host, code: &[u8]) -> wasmtime::Result<Result<Self, ExecutionError>> {
        // SAFETY: handed on to our caller.
        let module = unsafe { Module::deserialize(&host.engine, code) }?;
        Ok(Self::link(host, module))
    }

    /// The machine code, for [`deserialize`](Self::deserialize).
    pub(super) fn serialize(&self) -> wasmtime::Result<Vec<u8>> {
        self.module.serialize()
    }

    pub(super) fn module(&self) -> &Module {
        &self.module
    }

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
            .map_err(|error| ExecutionError::UnsupportedImport {
                import: culprit(&module, &error),
            })?;
        let image = module.image_range();
        let imports = module.imports().len() > 0;
        Ok(Self {
            imports,
            ready: Default::default(),
            long: AtomicBool::new(false),
            code_bytes: image.end as usize - image.start as usize,
            module,
        })
    }
}

/// The import because of which linking failed.
fn culprit(module: &Module, error: &wasmtime::Error) -> String {
    if let Some(unknown) = error.downcast_ref::<UnknownImportError>() {
        return format!("{}::{}", unknown.module(), unknown.name());
    }
    // The name exists, with another type. Only the text of the error says which one it is.
    let text = format!("{error:#}");
    let names = module
        .imports()
        .map(|import| format!("{}::{}", import.module(), import.name()));
    let named = names.into_iter().find(|name| text.contains(name.as_str()));
    named.map_or(text, |name| format!("{name} with another type"))
}

/// An error of the engine in one line: its messages from the outermost to the cause.
pub(super) fn one_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}
