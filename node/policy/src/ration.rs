//! Memory that a thread may use.
//!
//! The interpreter bounds no memory. What it calculates step by step is bounded by its time, and built-in functions are
//! [guarded](crate#what-a-policy-may-do), but an error message that prints a value whose parts are shared many times over can still ask for
//! more memory than there is, within one step. An allocator cannot refuse: the standard library would end the process. So it lets the
//! thread rest instead, for good: the evaluation counts as stuck and is left behind, with what it has got so far.

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    time::Duration,
};

thread_local! {
    /// Bytes that this thread may still ask for. All but evaluating threads have no end of them.
    static LEFT: Cell<usize> = const { Cell::new(UNLIMITED) };
}

const UNLIMITED: usize = usize::MAX;

/// An allocator, with a ration for threads that evaluate policies and without any for others. For the program's main file:
///
/// ```
/// use std::alloc::System;
///
/// #[global_allocator]
/// static ALLOCATOR: tarn_policy::Rationed<System> = tarn_policy::Rationed(System);
/// # fn main() {}
/// ```
///
/// Without it everything works, but [`MEMORY_BYTES`](crate::limits::MEMORY_BYTES) is not kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rationed<A>(pub A);

impl<A> Rationed<A> {
    #[inline]
    fn take(bytes: usize) {
        // A thread that is ending has no ration any more, and needs none.
        let enough = LEFT.try_with(|left| match left.get() {
            UNLIMITED => true,
            some => some.checked_sub(bytes).map(|rest| left.set(rest)).is_some(),
        });
        if enough == Ok(false) {
            rest();
        }
    }

    #[inline]
    fn give_back(bytes: usize) {
        let _ = LEFT.try_with(|left| {
            if left.get() != UNLIMITED {
                // What another thread took is given back here as well; it stays below what means no limit.
                left.set(left.get().saturating_add(bytes).min(UNLIMITED - 1));
            }
        });
    }
}

/// Neither returns nor allocates nor holds a lock of the allocator.
#[cold]
fn rest() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3_600));
    }
}

// SAFETY: every call is passed on to the allocator unchanged; the accounting before and after touches a thread's own cell alone,
// which needs neither memory nor a destructor.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Rationed<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::give_back(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { self.0.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::take(size);
        Self::give_back(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::realloc`.
        unsafe { self.0.realloc(pointer, layout, size) }
    }
}

/// Sets what is left, and puts back what was when it is dropped, also by a panic.
pub(crate) struct Restore(usize);

impl Drop for Restore {
    fn drop(&mut self) {
        LEFT.set(self.0);
    }
}

/// Runs `work` with a ration.
pub(crate) fn within<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let _restore = Restore(LEFT.replace(bytes));
    work()
}

/// No limit for this thread until the result is dropped.
pub(crate) fn exempt() -> Restore {
    Restore(LEFT.replace(UNLIMITED))
}
