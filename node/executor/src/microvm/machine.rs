//! One virtual machine: memory, one vCPU, how it runs, and how it becomes again what it was.

use std::io;
use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::abi::{
    CODE_BASE, DATA_BASE, HEAP_BASE, IMAGE_BASE, INPUT_BASE, JOB_BASE, LINEAR_BASE, MAILBOX_BASE, OUTPUT_BASE, PAGE_BYTES, STACK_TOP, call,
};
use super::image::{Image, TABLES_BASE};
use super::leash::Leash;
use super::memory::{Mapping, whole_pages};
use super::vcpu::{self, Exit, Registers};

const KIB: u64 = 1 << 10;

/// How much of each region that a guest writes stays in memory between attempts, and is overwritten. What is beyond is
/// given back to the system. The first touch of a page costs about as much as overwriting 300 kB, so this is what a
/// small program uses.
const OUTPUT_KEPT: u64 = 64 * KIB;
const STACK_KEPT: u64 = 64 * KIB;
const HEAP_KEPT: u64 = 1024 * KIB;
const LINEAR_KEPT: u64 = 1536 * KIB;

/// The same for the regions that only the host writes, of which it knows how much it wrote.
const LENT_KEPT: u64 = 512 * KIB;

/// What is needed to make machines, and what they all start from.
pub(super) struct Template {
    kvm: Kvm,
    cpuid: CpuId,
    pub(super) image: Image,
    snapshot: Snapshot,
}

/// A machine that is initialised, without a job.
struct Snapshot {
    registers: Registers,
    kept: Vec<Kept>,
}

/// A range that is overwritten rather than given back: `content`, and zeroes behind it.
struct Kept {
    start: u64,
    length: u64,
    content: Vec<u8>,
}

/// A micro-VM.
pub(super) struct Machine {
    template: Arc<Template>,
    vcpu: VcpuFd,
    // Dropped after its vCPU and before the memory that it uses.
    _vm: VmFd,
    tables: Mapping,
    _constants: Mapping,
    memory: Mapping,
    /// How much the host wrote from the start of each region that only it writes.
    lent: [(u64, u64); 3],
    /// Memory from here on is out of bounds for this attempt.
    forbidden_from: u64,
}

impl Template {
    /// Boots a machine from the image and keeps what it became.
    ///
    /// # Errors
    /// The image does not get ready within the leash.
    pub(super) fn boot(kvm: Kvm, image: Image, leash: &Leash) -> io::Result<Arc<Self>> {
        let cpuid = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES).map_err(io::Error::from)?;
        let mut parts = Parts::build(&kvm, &cpuid, &image)?;
        let kept = kept_ranges(&image);
        for (start, end) in gaps(&kept, image.memory_end()) {
            parts.memory.forbid(start - MAILBOX_BASE, end - start, true)?;
        }
        for (start, bytes) in &image.data {
            parts.memory.write(start - MAILBOX_BASE, bytes);
        }
        vcpu::set_start(&parts.vcpu, image.entry)?;
        match vcpu::run(&mut parts.vcpu, leash)? {
            Exit::Called(call::READY) => {}
            exit => return Err(io::Error::other(format!("it did not get ready: {exit:?}"))),
        }
        vcpu::settle(&mut parts.vcpu)?;
        let snapshot = Snapshot {
            registers: Registers::save(&parts.vcpu)?,
            kept: kept.into_iter().map(|(start, length)| Kept::save(&parts.memory, start, length)).collect(),
        };
        Ok(Arc::new(Self { kvm, cpuid, image, snapshot }))
    }

    /// Makes a machine that is initialised.
    pub(super) fn spawn(self: &Arc<Self>) -> io::Result<Machine> {
        let mut parts = Parts::build(&self.kvm, &self.cpuid, &self.image)?;
        for kept in &self.snapshot.kept {
            parts.memory.write(kept.start - MAILBOX_BASE, &kept.content);
        }
        self.snapshot.registers.restore(&parts.vcpu)?;
        Ok(Machine {
            template: Arc::clone(self),
            vcpu: parts.vcpu,
            _vm: parts.vm,
            tables: parts.tables,
            _constants: parts.constants,
            memory: parts.memory,
            lent: [(INPUT_BASE, 0), (JOB_BASE, 0), (CODE_BASE, 0)],
            forbidden_from: self.image.memory_end(),
        })
    }
}

impl Machine {
    /// Lets the guest run until it leaves by itself or is stopped.
    pub(super) fn run(&mut self, leash: &Leash) -> io::Result<Exit> {
        vcpu::run(&mut self.vcpu, leash)
    }

    /// Limits linear memory for this attempt: beyond, rounded up to a page, the machine has none.
    pub(super) fn limit_memory(&mut self, bytes: u64) -> io::Result<()> {
        let from = LINEAR_BASE + whole_pages(bytes.min(self.template.image.memory_bytes));
        self.forbid_from(from)
    }

    fn forbid_from(&mut self, from: u64) -> io::Result<()> {
        let (low, high) = (from.min(self.forbidden_from), from.max(self.forbidden_from));
        if low < high {
            let forbidden = from < self.forbidden_from;
            self.memory.forbid(low - MAILBOX_BASE, high - low, forbidden)?;
            self.forbidden_from = from;
        }
        Ok(())
    }

    /// Puts bytes where the guest can only read them: at the start of the input, the job or the code.
    ///
    /// # Panics
    /// `start` is none of these, or the bytes are not within the machine's memory.
    pub(super) fn lend(&mut self, start: u64, bytes: &[u8]) {
        let region = self.lent.iter_mut().find(|(region, _)| *region == start);
        let (_, lent) = region.expect("one of the regions that only the host writes");
        *lent = (*lent).max(bytes.len() as u64);
        self.memory.write(start - MAILBOX_BASE, bytes);
    }

    /// A field of the mailbox, as the guest left it.
    pub(super) fn get(&self, field: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read(field, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Sets a field of the mailbox.
    pub(super) fn set(&mut self, field: u64, value: u64) {
        self.memory.write(field, &value.to_le_bytes());
    }

    /// Sets bytes of the mailbox.
    pub(super) fn set_bytes(&mut self, field: u64, bytes: &[u8]) {
        self.memory.write(field, bytes);
    }

    /// Copies out what the guest wrote from `start` on.
    ///
    /// # Panics
    /// The range is not within the machine's memory: the caller has checked the length that the guest claims.
    pub(super) fn copy(&self, start: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(length).expect("a length within memory")];
        self.memory.read(start - MAILBOX_BASE, &mut bytes);
        bytes
    }

    /// Makes the machine again what it was before its job: every byte of memory and every register that the guest could have
    /// changed.
    ///
    /// Nothing here relies on knowing what the guest touched. What it can write is overwritten or given back, all of it.
    ///
    /// # Errors
    /// The machine is not what it was and must not be used.
    pub(super) fn reset(&mut self) -> io::Result<()> {
        vcpu::settle(&mut self.vcpu)?;
        let template = Arc::clone(&self.template);
        self.forbid_from(template.image.memory_end())?;
        for (start, lent) in &mut self.lent {
            let overwritten = whole_pages(*lent).min(LENT_KEPT);
            self.memory.zero(*start - MAILBOX_BASE, overwritten);
            *lent = 0;
        }
        let ranges: Vec<(u64, u64)> = template.snapshot.kept.iter().map(|kept| (kept.start, kept.length)).collect();
        let lent_kept = self.lent.iter().map(|(start, _)| (*start, LENT_KEPT));
        let lent_kept = lent_kept.map(|(start, length)| (start, length.min(region_bytes(start))));
        let all: Vec<(u64, u64)> = ranges.into_iter().chain(lent_kept).collect();
        for (start, end) in gaps(&all, template.image.memory_end()) {
            self.memory.discard(start - MAILBOX_BASE, end - start)?;
        }
        for kept in &template.snapshot.kept {
            kept.restore(&mut self.memory);
        }
        let mut tables = vec![0; template.image.tables.len()];
        self.tables.read(0, &mut tables);
        if tables != template.image.tables {
            return Err(io::Error::other("the page tables have changed"));
        }
        template.snapshot.registers.restore(&self.vcpu)
    }
}

/// How large a region that only the host writes is.
fn region_bytes(start: u64) -> u64 {
    match start {
        INPUT_BASE => super::abi::INPUT_BYTES,
        JOB_BASE => super::abi::JOB_BYTES,
        _ => super::abi::CODE_END - CODE_BASE,
    }
}

/// The ranges that a guest writes and that stay in memory.
fn kept_ranges(image: &Image) -> Vec<(u64, u64)> {
    vec![
        (MAILBOX_BASE, PAGE_BYTES),
        (OUTPUT_BASE, OUTPUT_KEPT),
        (STACK_TOP - STACK_KEPT, STACK_KEPT),
        (DATA_BASE, image.data_end - DATA_BASE),
        (HEAP_BASE, HEAP_KEPT),
        (LINEAR_BASE, LINEAR_KEPT.min(image.memory_bytes)),
    ]
}

/// What lies between ranges, from the start of the guest's own memory to its end.
fn gaps(ranges: &[(u64, u64)], end: u64) -> Vec<(u64, u64)> {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable();
    let mut gaps = Vec::new();
    let mut from = MAILBOX_BASE;
    for (start, length) in ranges {
        if from < start {
            gaps.push((from, start));
        }
        from = start + length;
    }
    if from < end {
        gaps.push((from, end));
    }
    gaps
}

impl Kept {
    fn save(memory: &Mapping, start: u64, length: u64) -> Self {
        let mut content = vec![0; usize::try_from(length).expect("a range within memory")];
        memory.read(start - MAILBOX_BASE, &mut content);
        let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        content.truncate(used);
        Self { start, length, content }
    }

    fn restore(&self, memory: &mut Mapping) {
        let (offset, used) = (self.start - MAILBOX_BASE, self.content.len() as u64);
        memory.write(offset, &self.content);
        memory.zero(offset + used, self.length - used);
    }
}

/// The pieces of a machine before it has a state.
struct Parts {
    vcpu: VcpuFd,
    vm: VmFd,
    tables: Mapping,
    constants: Mapping,
    memory: Mapping,
}

impl Parts {
    fn build(kvm: &Kvm, cpuid: &CpuId, image: &Image) -> io::Result<Self> {
        let vm = kvm.create_vm()?;
        let mut tables = Mapping::zeroed(image.tables.len() as u64)?;
        tables.write(0, &image.tables);
        let constants = Mapping::read_only(&image.constants, image.constants_bytes)?;
        let memory = Mapping::zeroed(image.memory_end() - MAILBOX_BASE)?;
        give(&vm, 0, TABLES_BASE, &tables, 0)?;
        give(&vm, 1, IMAGE_BASE, &constants, KVM_MEM_READONLY)?;
        give(&vm, 2, MAILBOX_BASE, &memory, 0)?;
        let vcpu = vm.create_vcpu(0)?;
        vcpu.set_cpuid2(cpuid)?;
        Ok(Self { vcpu, vm, tables, constants, memory })
    }
}

/// Makes `mapping` physical memory of the machine, all of it and nothing else.
fn give(vm: &VmFd, slot: u32, guest: u64, mapping: &Mapping, flags: u32) -> io::Result<()> {
    let region = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: guest,
        memory_size: mapping.length(),
        userspace_addr: mapping.address(),
    };
    // SAFETY: the range is a mapping of ours that lives longer than the machine, see the order of `Machine`'s fields.
    Ok(unsafe { vm.set_user_memory_region(region) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_is_between() {
        let base = MAILBOX_BASE;
        assert_eq!(gaps(&[], base + 10), [(base, base + 10)]);
        let ranges = [(base + 6, 2), (base, 3)];
        assert_eq!(gaps(&ranges, base + 8), [(base + 3, base + 6)]);
        assert_eq!(gaps(&ranges, base + 9), [(base + 3, base + 6), (base + 8, base + 9)]);
    }
}
