//! The `tarn-sim` binary: `tarn-sim --help` says what it does, the library's first page how.
//!
//! The symbols below take the place of the C library's. They stand here and not in the library, so that nothing else that links it is
//! touched; outside a simulation they do what the C library would.

use std::ffi::{c_int, c_uint, c_void};
use std::process::ExitCode;

use tarn_sim::{disk::files, entropy};

/// Random bytes: from the seed in a simulation, else from the kernel.
///
/// # Safety
///
/// As in C: `buffer` points to `length` bytes that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    // SAFETY: the caller promises that the buffer may be written; it need not be initialised, and bytes have no invalid values.
    let simulated = unsafe { entropy::fill(buffer.cast(), length) };
    match simulated {
        true => isize::try_from(length).unwrap_or(isize::MAX),
        // SAFETY: the arguments are passed on as they came.
        false => unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize },
    }
}

/// Flushes a file: notes in a simulation what a power cut would leave, else asks the kernel.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(file: c_int) -> c_int {
    flush(file, libc::SYS_fsync)
}

/// As [`fsync`].
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(file: c_int) -> c_int {
    flush(file, libc::SYS_fdatasync)
}

fn flush(file: c_int, call: libc::c_long) -> c_int {
    match files::flushed(file) {
        // SAFETY: a system call without pointers.
        None => unsafe { libc::syscall(call, file) as c_int },
        Some(Ok(())) => 0,
        Some(Err(code)) => {
            // SAFETY: the C library's own place for this thread's error.
            unsafe { *libc::__errno_location() = code };
            -1
        }
    }
}

fn main() -> ExitCode {
    tarn_sim::cli::main()
}
