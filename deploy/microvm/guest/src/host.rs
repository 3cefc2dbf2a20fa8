//! The guest's side of the host calls.

use core::sync::atomic::{Ordering, compiler_fence};

use crate::abi::{DOORBELL, INPUT_BASE, JOB_BASE, MAILBOX_BASE, OUTPUT_BASE, OUTPUT_BYTES, RECORD_HEADER_BYTES, call, mailbox, stream};

/// Makes a host call. When it returns, the host has done its part in memory.
pub fn ring(number: u32) {
    compiler_fence(Ordering::SeqCst);
    // A plain store of four bytes: the host takes no other form.
    // SAFETY: the doorbell is mapped, and the host finishes the store.
    unsafe {
        core::arch::asm!("mov dword ptr [{}], {:e}", in(reg) DOORBELL, in(reg) number, options(nostack));
    }
    compiler_fence(Ordering::SeqCst);
}

/// Reads a field of the mailbox.
pub fn get(field: u64) -> u64 {
    // SAFETY: the mailbox is mapped, and nobody else touches it while the guest runs.
    unsafe { ((MAILBOX_BASE + field) as *const u64).read_volatile() }
}

/// Sets a field of the mailbox.
pub fn set(field: u64, value: u64) {
    // SAFETY: as above.
    unsafe { ((MAILBOX_BASE + field) as *mut u64).write_volatile(value) }
}

/// Appends to a stream. The host gets it when there is no more room, or at the end: many writes cost one exit.
pub fn write(stream: u32, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let used = get(mailbox::OUTPUT_USED);
        let room = (OUTPUT_BYTES - used).saturating_sub(RECORD_HEADER_BYTES) as usize;
        if room == 0 {
            ring(call::FLUSH);
            continue;
        }
        let (now, later) = bytes.split_at(bytes.len().min(room));
        let at = (OUTPUT_BASE + used) as *mut u8;
        // SAFETY: header and bytes fit into the region, as was just computed.
        unsafe {
            at.cast::<u32>().write_unaligned(stream);
            at.add(4).cast::<u32>().write_unaligned(now.len() as u32);
            at.add(RECORD_HEADER_BYTES as usize).copy_from_nonoverlapping(now.as_ptr(), now.len());
        }
        set(mailbox::OUTPUT_USED, used + RECORD_HEADER_BYTES + now.len() as u64);
        bytes = later;
    }
}

/// Nanoseconds since 1970, and since the attempt began.
pub fn time() -> (u64, u64) {
    ring(call::CLOCK);
    (get(mailbox::WALL_NS), get(mailbox::MONOTONIC_NS))
}

/// Waits.
pub fn sleep(nanoseconds: u64) {
    set(mailbox::ARGUMENT, nanoseconds);
    ring(call::SLEEP);
}

/// Standard input, of which the host keeps one piece after the other in memory.
pub struct Input {
    read: usize,
}

impl Input {
    pub const fn new() -> Self {
        Self { read: 0 }
    }

    /// What is left of the current piece, or the next one; nothing at the end.
    pub fn peek(&mut self) -> &'static [u8] {
        let mut length = get(mailbox::INPUT_LENGTH) as usize;
        if self.read == length && length > 0 {
            ring(call::INPUT);
            self.read = 0;
            length = get(mailbox::INPUT_LENGTH) as usize;
        }
        // SAFETY: the host put so many bytes there. They change at the next `ring(INPUT)` only, before which the caller is
        // done with them: it calls `take` first.
        unsafe { core::slice::from_raw_parts((INPUT_BASE as *const u8).add(self.read), length - self.read) }
    }

    /// Goes on by so many bytes of what `peek` returned.
    pub fn take(&mut self, bytes: usize) {
        self.read += bytes;
    }
}

/// Random bytes, of which the host keeps a supply in memory.
pub struct Random {
    used: usize,
}

impl Random {
    pub const fn new() -> Self {
        // There are none before they are asked for: the host may refuse.
        Self { used: mailbox::RANDOM_BYTES as usize }
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.used == mailbox::RANDOM_BYTES as usize {
                ring(call::RANDOM);
                self.used = 0;
            }
            // SAFETY: the supply is in the mailbox.
            *byte = unsafe { ((MAILBOX_BASE + mailbox::RANDOM) as *const u8).add(self.used).read_volatile() };
            self.used += 1;
        }
    }
}

/// A part of the job: `length` bytes from `offset` on.
pub fn job(offset: u64, length: u64) -> &'static [u8] {
    // SAFETY: the host put the job there, and it does not change while the guest runs.
    unsafe { core::slice::from_raw_parts((JOB_BASE + offset) as *const u8, length as usize) }
}

/// Ends the job.
pub fn end(kind: u64, value: u64) -> ! {
    set(mailbox::EXIT_KIND, kind);
    set(mailbox::EXIT_VALUE, value);
    ring(call::EXIT);
    // The host does not come back from that.
    loop {
        core::hint::spin_loop();
    }
}

/// Ends the job with a reason.
pub fn fail(kind: u64, why: &str) -> ! {
    write(stream::DETAIL, why.as_bytes());
    end(kind, 0)
}
