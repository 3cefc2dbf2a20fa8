//! Randomness: one stream of bytes from the seed for everything in the process that asks for random bytes.
//!
//! The keys of hash maps, the jitter of elections, the order in which `select!` polls: all of it comes from `getrandom`, which the binary
//! defines itself (see `main.rs`). What asks in the same order gets the same bytes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::dice::mix;

static SEEDED: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// From now on the process's randomness follows from this seed.
pub fn seed(seed: u64) {
    NEXT.store(mix(seed), Ordering::Relaxed);
    SEEDED.store(true, Ordering::Release);
}

/// Fills a buffer from the seed. False, and nothing is written, where there is none.
///
/// # Safety
///
/// `buffer` points to `length` bytes that may be written.
pub unsafe fn fill(buffer: *mut u8, length: usize) -> bool {
    if !SEEDED.load(Ordering::Acquire) {
        return false;
    }
    let mut at = 0;
    while at < length {
        let bytes = mix(NEXT.fetch_add(1, Ordering::Relaxed)).to_le_bytes();
        let count = bytes.len().min(length - at);
        // SAFETY: `at + count` is at most `length`, and the caller promises that many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.add(at), count) };
        at += count;
    }
    true
}
