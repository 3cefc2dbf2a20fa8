//! The module's linear memory: the region of the machine that is made for it.

use alloc::boxed::Box;
use alloc::string::String;
use core::sync::atomic::{AtomicBool, Ordering};

use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use crate::abi::{LINEAR_BASE, mailbox};
use crate::host;

/// Gives the region to the first memory that asks. A module has one.
pub struct Region {
    taken: AtomicBool,
}

impl Region {
    pub const fn new() -> Self {
        Self { taken: AtomicBool::new(false) }
    }
}

// SAFETY: the region is zeroed, aligned, and belongs to one memory alone.
unsafe impl MemoryCreator for Region {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        _reserved: Option<usize>,
        _guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if self.taken.swap(true, Ordering::Relaxed) {
            return Err("a module has one memory".into());
        }
        let mut memory = Linear { bytes: 0 };
        memory.grow_to(minimum).map_err(|_| "the memory does not fit")?;
        Ok(Box::new(memory))
    }
}

struct Linear {
    bytes: usize,
}

// SAFETY: the memory never moves and is not shared.
unsafe impl LinearMemory for Linear {
    fn byte_size(&self) -> usize {
        self.bytes
    }

    fn byte_capacity(&self) -> usize {
        host::get(mailbox::MEMORY_LIMIT) as usize
    }

    fn grow_to(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if bytes > self.byte_capacity() {
            return Err(wasmtime::Error::msg("the memory does not fit"));
        }
        self.bytes = bytes;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        LINEAR_BASE as *mut u8
    }
}
