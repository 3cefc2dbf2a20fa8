//! The guest runtime's own memory.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;

use crate::abi::{HEAP_BASE, HEAP_END};

/// Hands out memory and takes back only what was handed out last. A machine runs one job and is thrown away, so what is
/// freed elsewhere is not worth the bookkeeping.
struct Heap {
    next: UnsafeCell<usize>,
}

// SAFETY: there is one thread.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap { next: UnsafeCell::new(HEAP_BASE as usize) };

// SAFETY: every block lies in the heap's region, is aligned, and overlaps no other one that is in use.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: there is one thread.
        let next = unsafe { &mut *self.next.get() };
        let start = next.next_multiple_of(layout.align());
        match start.checked_add(layout.size()) {
            Some(end) if end <= HEAP_END as usize => {
                *next = end;
                start as *mut u8
            }
            _ => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: there is one thread.
        let next = unsafe { &mut *self.next.get() };
        if block as usize + layout.size() == *next {
            *next = block as usize;
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: there is one thread.
        let next = unsafe { &mut *self.next.get() };
        let end = block as usize + layout.size();
        if end == *next && (block as usize).checked_add(size).is_some_and(|end| end <= HEAP_END as usize) {
            *next = block as usize + size;
            return block;
        }
        // SAFETY: the caller's promises about the layout hold for the new size as well.
        let moved = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !moved.is_null() {
            // SAFETY: both blocks have so many bytes and do not overlap.
            unsafe { core::ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
        }
        moved
    }
}
