//! The one processor of a machine: its registers, how it is entered and left.

use std::io;
use std::sync::atomic::AtomicU8;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::abi::{DOORBELL, STACK_TOP};
use super::image::{DOORBELL_PHYSICAL, TABLES_BASE};
use super::leash::{Leash, Stop};

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

/// All registers that a guest in ring 3 can change.
pub(super) struct Registers {
    general: kvm_regs,
    system: kvm_sregs,
    extended: Box<kvm_xsave>,
    control: kvm_xcrs,
    events: kvm_vcpu_events,
}

impl Registers {
    pub(super) fn save(vcpu: &VcpuFd) -> io::Result<Self> {
        Ok(Self {
            general: vcpu.get_regs()?,
            system: vcpu.get_sregs()?,
            extended: Box::new(vcpu.get_xsave()?),
            control: vcpu.get_xcrs()?,
            events: vcpu.get_vcpu_events()?,
        })
    }

    pub(super) fn restore(&self, vcpu: &VcpuFd) -> io::Result<()> {
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
pub(super) fn settle(vcpu: &mut VcpuFd) -> io::Result<()> {
    vcpu.set_kvm_immediate_exit(1);
    let left = vcpu.run().map(|exit| format!("{exit:?}"));
    vcpu.set_kvm_immediate_exit(0);
    match left {
        Err(error) if error.errno() == libc::EINTR => Ok(()),
        other => Err(io::Error::other(format!("the vCPU does not settle: {other:?}"))),
    }
}

pub(super) fn run(vcpu: &mut VcpuFd, leash: &Leash) -> io::Result<Exit> {
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
        VcpuExit::MmioWrite(..) | VcpuExit::MmioRead(..) => "it used the doorbell in another way than storing four bytes",
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
    format!("{what}, instruction {:#x}, last page fault {:#x}", general.rip, system.cr2)
}

/// Sets the registers so that the guest starts at `entry` in ring 3 of long mode, and can neither leave it nor do I/O:
/// there are no gates, no I/O privilege, no system calls.
pub(super) fn set_start(vcpu: &VcpuFd, entry: u64) -> io::Result<()> {
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

    let mut control = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
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
