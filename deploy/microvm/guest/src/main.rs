//! What runs inside a micro-VM: wasmtime's runtime, WASI preview 1 by host calls, and nothing else.
//!
//! The host loads this image, lets it initialise, and keeps a copy of the machine at that point (`call::READY`). Every attempt goes on
//! from such a copy: the job lies in memory by then. There is one thread, in ring 3; there are no interrupts and nothing is
//! ever freed but by the host, which throws the machine's state away.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::ToString as _;
use core::panic::PanicInfo;

#[allow(dead_code, reason = "the contract has a host side too")]
#[path = "../../../../node/executor/src/microvm/abi.rs"]
mod abi;
mod heap;
mod host;
mod linear;
mod run;
#[path = "../../../../node/executor/src/microvm/settings.rs"]
mod settings;
mod wasi;

use abi::{call, exit};

/// Where the machine starts.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    let prepared = run::Prepared::new();
    host::ring(call::READY);
    match prepared {
        Ok(prepared) => run::run(prepared),
        Err(error) => host::fail(exit::PANIC, &format!("{error:#}")),
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    host::fail(exit::PANIC, &info.to_string())
}

/// wasmtime's thread-local variables: there are two slots, of which this build uses the first, and there is one thread.
static mut WASMTIME_TLS: [*mut u8; 2] = [core::ptr::null_mut(); 2];

#[unsafe(no_mangle)]
extern "C" fn wasmtime_tls_get(slot: usize) -> *mut u8 {
    // SAFETY: there is one thread.
    unsafe { WASMTIME_TLS[slot] }
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_tls_set(slot: usize, pointer: *mut u8) {
    // SAFETY: there is one thread.
    unsafe { WASMTIME_TLS[slot] = pointer }
}
