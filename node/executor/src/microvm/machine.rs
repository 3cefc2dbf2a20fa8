//! One virtual machine: memory, one vCPU, how it runs, and how it becomes again what it was.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use kvm_bindings::{
    CpuId, KVM_MEM_READONLY, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region, kvm_vcpu_events, kvm_xcrs,
    kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use super::abi::{
    CODE_BASE, DATA_BASE, DOORBELL, HEAP_BASE, IMAGE_BASE, INPUT_BASE, JOB_BASE, LINEAR_BASE, MAILBOX_BASE,
    OUTPUT_BASE, PAGE_BYTES, STACK_TOP, call,
};
use super::image::{DOORBELL_PHYSICAL, Image, TABLES_BASE};
use super::leash::{Leash, Stop};
use super::memory::{Mapping, whole_pages};

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

/// How a guest left the processor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// It made this host call. The number is the guest's word.
    Called(u32),
    /// It did what the machine does not allow. The machine must not be used any more.
    Fault(String),
    /// It was stopped from outside.
    Stopped(Stop),
}

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

struct Registers {
    general: kvm_regs,
    system: kvm_sregs,
    extended: Box<kvm_xsave>,
    control: kvm_xcrs,
    events: kvm_vcpu_events,
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
        let cpuid = kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(io::Error::from)?;
        let mut parts = Parts::build(&kvm, &cpuid, &image)?;
        let kept = kept_ranges(&image);
        for (start, end) in gaps(&kept, image.memory_end()) {
            parts.memory.forbid(start - MAILBOX_BASE, end - start, true)?;
        }
        for (start, bytes) in &image.data {
            parts.memory.write(start - MAILBOX_BASE, bytes);
        }
        set_start(&parts.vcpu, image.entry)?;
        match run(&mut parts.vcpu, leash)? {
            Exit::Called(call::READY) => {}
            exit => return Err(io::Error::other(format!("it did not get ready: {exit:?}"))),
        }
        settle(&mut parts.vcpu)?;
        let snapshot = Snapshot {
            registers: Registers::save(&parts.vcpu)?,
            kept: kept
                .into_iter()
                .map(|(start, length)| Kept::save(&parts.memory, start, length))
                .collect(),
        };
        Ok(Arc::new(Self {
            kvm,
            cpuid,
            image,
            snapshot,
        }))
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
        run(&mut self.vcpu, leash)
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
        settle(&mut self.vcpu)?;
        let template = Arc::clone(&self.template);
        self.forbid_from(template.image.memory_end())?;
        for (start, lent) in &mut self.lent {
            let overwritten = whole_pages(*lent).min(LENT_KEPT);
            self.memory.zero(*start - MAILBOX_BASE, overwritten);
            *lent = 0;
        }
        let ranges: Vec<(u64, u64)> = template
            .snapshot
            .kept
            .iter()
            .map(|kept| (kept.start, kept.length))
            .collect();
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
        Ok(Self {
            vcpu,
            vm,
            tables,
            constants,
            memory,
        })
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

impl Registers {
    fn save(vcpu: &VcpuFd) -> io::Result<Self> {
        Ok(Self {
            general: vcpu.get_regs()?,
            system: vcpu.get_sregs()?,
            extended: Box::new(vcpu.get_xsave()?),
            control: vcpu.get_xcrs()?,
            events: vcpu.get_vcpu_events()?,
        })
    }

    fn restore(&self, vcpu: &VcpuFd) -> io::Result<()> {
        vcpu.set_sregs(&self.system)?;
        vcpu.set_xcrs(&self.control)?;
        // SAFETY: no feature with a larger state than these 4 KiB is on: those have to be asked for, which nobody does.
        unsafe { vcpu.set_xsave(&self.extended) }?;
        vcpu.set_vcpu_events(&self.events)?;
        vcpu.set_regs(&self.general)?;
        Ok(())
    }
}

/// Lets the last host call come to its end, without running the guest: KVM finishes it on the next entry, and only then are the
/// registers what the guest will see.
fn settle(vcpu: &mut VcpuFd) -> io::Result<()> {
    vcpu.set_kvm_immediate_exit(1);
    let left = vcpu.run().map(|exit| format!("{exit:?}"));
    vcpu.set_kvm_immediate_exit(0);
    match left {
        Err(error) if error.errno() == libc::EINTR => Ok(()),
        other => Err(io::Error::other(format!("the vCPU does not settle: {other:?}"))),
    }
}

fn run(vcpu: &mut VcpuFd, leash: &Leash) -> io::Result<Exit> {
    loop {
        let flag = (&raw const vcpu.get_kvm_run().immediate_exit).cast::<AtomicU8>();
        // SAFETY: the flag lies in the page of this vCPU, which is mapped as long as the vCPU exists.
        let Some(left) = (unsafe { leash.hold(flag, || leave(vcpu)) }) else {
            let stop = leash.stopped().expect("only a stopped guest is not let in");
            return Ok(Exit::Stopped(stop));
        };
        match left {
            Ok(exit) => return Ok(exit),
            // A signal: ours, or one that has nothing to do with this.
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {}
            // The host has no memory behind this address any more: beyond the attempt's limit.
            Err(error) if error.errno() == libc::EFAULT => {
                return Ok(Exit::Fault(fault(vcpu, "it touched memory beyond its limit")));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Enters the guest once.
fn leave(vcpu: &mut VcpuFd) -> Result<Exit, kvm_ioctls::Error> {
    let what = match vcpu.run()? {
        VcpuExit::MmioWrite(DOORBELL_PHYSICAL, &[a, b, c, d]) => {
            return Ok(Exit::Called(u32::from_le_bytes([a, b, c, d])));
        }
        VcpuExit::MmioWrite(..) | VcpuExit::MmioRead(..) => {
            "it used the doorbell in another way than storing four bytes"
        }
        VcpuExit::Shutdown => "the processor raised an exception",
        VcpuExit::InternalError => "it executed an instruction that cannot be emulated",
        VcpuExit::MemoryFault { .. } => "it touched memory beyond its limit",
        _ => "it left the processor in a way that nothing here asks for",
    };
    Ok(Exit::Fault(fault(vcpu, what)))
}

/// What happened, and where as far as the processor says. Addresses are the guest's and tell its author everything and
/// nothing about us.
fn fault(vcpu: &VcpuFd, what: &str) -> String {
    let (Ok(general), Ok(system)) = (vcpu.get_regs(), vcpu.get_sregs()) else {
        return what.to_owned();
    };
    format!(
        "{what}, instruction {:#x}, last page fault {:#x}",
        general.rip, system.cr2
    )
}

/// Sets the registers so that the guest starts at `entry` in ring 3 of long mode, and can neither leave it nor do I/O:
/// there are no gates, no I/O privilege, no system calls.
fn set_start(vcpu: &VcpuFd, entry: u64) -> io::Result<()> {
    const PROTECTED: u64 = 1;
    const MONITOR_COPROCESSOR: u64 = 1 << 1;
    const EXTENSION_TYPE: u64 = 1 << 4;
    const NUMERIC_ERROR: u64 = 1 << 5;
    const WRITE_PROTECT: u64 = 1 << 16;
    const PAGING: u64 = 1 << 31;
    const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
    const FXSAVE: u64 = 1 << 9;
    const SIMD_EXCEPTIONS: u64 = 1 << 10;
    const BASE_REGISTERS: u64 = 1 << 16;
    const XSAVE: u64 = 1 << 18;
    const LONG_MODE: u64 = 1 << 8;
    const LONG_MODE_ACTIVE: u64 = 1 << 10;
    const NO_EXECUTE: u64 = 1 << 11;

    let mut system = vcpu.get_sregs()?;
    system.cr0 = PROTECTED | MONITOR_COPROCESSOR | EXTENSION_TYPE | NUMERIC_ERROR | WRITE_PROTECT | PAGING;
    system.cr3 = TABLES_BASE;
    // A guest may set its segment bases. Where ring 3 runs natively it can do so whatever is said here, so it is said, and the bases
    // are among the registers that are set again.
    system.cr4 = PHYSICAL_ADDRESS_EXTENSION | FXSAVE | SIMD_EXCEPTIONS | BASE_REGISTERS | XSAVE;
    system.efer = LONG_MODE | LONG_MODE_ACTIVE | NO_EXECUTE;
    system.cs = segment(true);
    let data = segment(false);
    (system.ds, system.es, system.fs, system.gs, system.ss) = (data, data, data, data, data);
    // No descriptor and no gate can be loaded: whatever needs one ends the machine.
    (system.gdt.limit, system.idt.limit) = (0, 0);
    vcpu.set_sregs(&system)?;

    let mut control = kvm_xcrs {
        nr_xcrs: 1,
        ..kvm_xcrs::default()
    };
    control.xcrs[0].value = extended_states(vcpu)?;
    vcpu.set_xcrs(&control)?;

    const RESERVED_ONE: u64 = 1 << 1;
    let general = kvm_regs {
        rip: entry,
        // As if the entry point had been called, and the address to return to had been zero.
        rsp: STACK_TOP - 8,
        rdi: DOORBELL,
        rflags: RESERVED_ONE,
        ..kvm_regs::default()
    };
    Ok(vcpu.set_regs(&general)?)
}

/// The registers beside the general ones that this processor has: x87, SSE, AVX and AVX-512, and nothing with a larger state. All of
/// them are on, because where ring 3 runs natively a guest can use them whatever is said here; what is on is saved and set again.
fn extended_states(vcpu: &VcpuFd) -> io::Result<u64> {
    const KNOWN: u64 = 0b1110_0111;
    const LEAF: u32 = 0xD;
    let cpuid = vcpu.get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?;
    let entries = cpuid.as_slice().iter();
    let states = entries.filter(|entry| entry.function == LEAF && entry.index == 0);
    let supported = states.map(|entry| u64::from(entry.eax)).next().unwrap_or(0);
    Ok(supported & KNOWN)
}

/// A flat segment of ring 3.
fn segment(code: bool) -> kvm_segment {
    const CODE: u8 = 0b1011;
    const DATA: u8 = 0b0011;
    kvm_segment {
        limit: u32::MAX,
        selector: if code { 0x1B } else { 0x23 },
        type_: if code { CODE } else { DATA },
        present: 1,
        dpl: 3,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..kvm_segment::default()
    }
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
