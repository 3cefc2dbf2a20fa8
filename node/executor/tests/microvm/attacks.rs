//! Attacks from inside: machine code in the place of the guest image, which is what a module would be that broke out of
//! WebAssembly's sandbox. Each must end in its own attempt with a distinct reason, and the next attempt must work.
//!
//! An image here first says that it is ready. Its jobs whose input begins with `x` attack; the others end well.

use std::path::PathBuf;

use tarn_executor::{ExecutionError, Kind, MicroVmConfig, MicroVmExecutor};

use crate::abi::{CODE_BASE, DOORBELL, HEAP_BASE, INPUT_BASE, JOB_BASE, LINEAR_BASE, MAILBOX_BASE, OUTPUT_BASE, STACK_BASE, STACK_TOP};
use crate::elf::{self, machine_code};
use crate::{assert_reason, attempt, fail, has_kvm, succeed, with_input};

/// The module does not matter: the image never looks at it.
pub const MODULE: &str =
    "(module (memory (export \"memory\") 1) (func (export \"_start\")) (func (export \"one\") (result i64) i64.const 1))";

// The addresses that the instructions below spell out.
const _: () = assert!(MAILBOX_BASE == 0x100_0000 && OUTPUT_BASE == 0x110_0000 && INPUT_BASE == 0x120_0000);
const _: () = assert!(JOB_BASE == 0x140_0000 && STACK_BASE == 0x190_0000 && STACK_TOP == 0x1A0_0000);
const _: () = assert!(DOORBELL == 0x1F0_0000 && HEAP_BASE == 0x200_0000 && CODE_BASE == 0x800_0000);
const _: () = assert!(LINEAR_BASE == 0xC00_0000);

/// An image on disk and the executor that boots it.
pub struct Raw {
    _dir: tempfile::TempDir,
    pub executor: MicroVmExecutor,
}

pub fn boot(image: &[u8], slots: usize) -> Result<Raw, ExecutionError> {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("image.elf");
    std::fs::write(&path, image).unwrap();
    let config = MicroVmConfig { slots, idle: slots, memory_bytes_max: 16 << 20, ..MicroVmConfig::new(path) };
    let executor = MicroVmExecutor::new(config)?;
    Ok(Raw { _dir: dir, executor })
}

/// An attempt that attacks if the input says so.
pub fn job(input: &'static str) -> tarn_executor::Attempt {
    let mut attempt = with_input(MODULE, input);
    attempt.limits.memory_bytes = 4 << 20;
    attempt
}

/// An image that attacks with these instructions. `rdi` is the doorbell; what falls through ends the job as returned.
macro_rules! attacker {
    ($($line:expr),+ $(,)?) => {
        machine_code!(
            "mov dword ptr [rdi], 1",
            "mov esi, 0x1200000",
            "cmp byte ptr [rsi], 0x78",
            "jne 90f",
            "mov ebp, 0x1000000",
            $($line),+,
            "90:",
            "mov dword ptr [rdi], 7",
            "91: jmp 91b",
        )
    };
}

/// Attacks, and then runs a job that does not.
async fn contained(name: &str, code: &[u8], reason: &str) -> ExecutionError {
    println!("{name}");
    let raw = boot(&elf::code(code), 1).unwrap();
    let mut attack = job("x");
    if reason == "TIME_LIMIT" {
        attack.limits.time_ms = 50;
    }
    let error = fail(&raw.executor, attack).await.error;
    assert_eq!(error.reason(), reason, "{name}: {error}");
    succeed(&raw.executor, job("good")).await;
    error
}

#[tokio::test]
async fn privileged_instructions_end_the_machine() {
    if !has_kvm() {
        return;
    }
    let attacks: [(&str, Vec<u8>); 33] = [
        ("halt", attacker!("hlt")),
        ("interrupts off", attacker!("cli")),
        ("interrupts on", attacker!("sti")),
        ("page table base", attacker!("mov cr3, rax")),
        ("read page table base", attacker!("mov rax, cr3")),
        ("control register 0", attacker!("mov cr0, rax")),
        ("control register 4", attacker!("mov cr4, rax")),
        ("clear task switched", attacker!("clts")),
        ("debug register", attacker!("mov dr7, rax")),
        ("global descriptors", attacker!("lgdt [rsp - 16]")),
        ("interrupt descriptors", attacker!("lidt [rsp - 16]")),
        ("local descriptors", attacker!("xor eax, eax", "lldt ax")),
        ("task register", attacker!("mov eax, 0x28", "ltr ax")),
        ("write model-specific register", attacker!("mov ecx, 0xC0000080", "xor eax, eax", "xor edx, edx", "wrmsr")),
        ("read model-specific register", attacker!("mov ecx, 0xC0000080", "rdmsr")),
        ("extended control register", attacker!("xor ecx, ecx", "mov eax, 1", "xor edx, edx", "xsetbv")),
        ("swap gs", attacker!("swapgs")),
        ("flush caches", attacker!("wbinvd")),
        ("forget caches", attacker!("invd")),
        ("forget translations", attacker!("invlpg [rsp]")),
        ("input", attacker!("in al, 0x60")),
        ("output", attacker!("mov edx, 0x3F8", "out dx, al")),
        ("string output", attacker!("mov edx, 0x3F8", "mov ecx, 100", "rep outsb")),
        (
            "output after asking for the privilege",
            attacker!("pushfq", "or dword ptr [rsp], 0x3000", "popfq", "mov edx, 0x3F8", "out dx, al"),
        ),
        ("system call", attacker!("syscall")),
        ("old system call", attacker!("sysenter")),
        ("return from system call", attacker!("sysretq")),
        ("monitor", attacker!("mov rax, rsp", "xor ecx, ecx", "xor edx, edx", "monitor")),
        ("run a machine", attacker!("mov eax, 0x1000", "vmrun")),
        ("turn machines on", attacker!("vmxon [rsp - 8]")),
        ("return to ring 0", attacker!("push 0", "push rsp", "push 2", "push 8", "push 0x200000", "iretq")),
        ("far return to 32 bits", attacker!("push 0x23", "push 0x200000", "retfq")),
        ("load a segment", attacker!("mov eax, 0x10", "mov ss, ax")),
    ];
    for (name, code) in &attacks {
        contained(name, code, "MICROVM_FAULT").await;
    }
}

#[tokio::test]
async fn exceptions_end_the_machine() {
    if !has_kvm() {
        return;
    }
    let attacks: [(&str, Vec<u8>); 12] = [
        ("interrupt 0x80", attacker!("int 0x80")),
        ("interrupt 8", attacker!("int 8")),
        ("interrupt 2", attacker!("int 2")),
        ("breakpoint", attacker!("int3")),
        ("single step", attacker!("pushfq", "or dword ptr [rsp], 0x100", "popfq", "nop", "nop")),
        ("undefined instruction", attacker!("ud2")),
        ("division by zero", attacker!("xor ecx, ecx", "div ecx")),
        ("address that is none", attacker!("mov rax, 0x8000000000000000", "mov al, [rax]")),
        ("stack that never ends", attacker!("22: push rax", "jmp 22b")),
        ("stack pointer astray", attacker!("xor esp, esp", "push rax")),
        ("bad floating point state", attacker!("mov dword ptr [rsp - 4], -1", "ldmxcsr [rsp - 4]")),
        ("jump to nowhere", attacker!("mov rax, 0x7FFFFFFFF000", "jmp rax")),
    ];
    for (name, code) in &attacks {
        contained(name, code, "MICROVM_FAULT").await;
    }
}

#[tokio::test]
async fn memory_that_is_not_the_guests_cannot_be_touched() {
    if !has_kvm() {
        return;
    }
    let attacks: [(&str, Vec<u8>); 16] = [
        ("read address zero", attacker!("xor eax, eax", "mov al, [rax]")),
        ("read the page tables", attacker!("mov eax, 0x1000", "mov al, [rax]")),
        ("write the page tables", attacker!("mov eax, 0x1000", "mov qword ptr [rax], 7")),
        ("write its own code", attacker!("mov eax, 0x200000", "mov byte ptr [rax], 0xF4")),
        ("write the module's code", attacker!("mov eax, 0x8000000", "mov byte ptr [rax], 0xC3")),
        ("write its input", attacker!("mov byte ptr [rsi], 0")),
        ("write its job", attacker!("mov eax, 0x1400000", "mov byte ptr [rax], 0")),
        ("execute its stack", attacker!("mov eax, 0x19FF000", "mov byte ptr [rax], 0xC3", "call rax")),
        ("execute its heap", attacker!("mov eax, 0x2000000", "mov byte ptr [rax], 0xC3", "call rax")),
        ("execute linear memory", attacker!("mov eax, 0xC000000", "mov byte ptr [rax], 0xC3", "call rax")),
        ("execute its output", attacker!("mov eax, 0x1100000", "mov byte ptr [rax], 0xC3", "call rax")),
        ("execute its input", attacker!("call rsi")),
        ("execute the doorbell", attacker!("call rdi")),
        ("write above its memory", attacker!("mov eax, 0x40000000", "mov byte ptr [rax], 0")),
        ("read the upper half", attacker!("mov rax, 0xFFFF800000000000", "mov al, [rax]")),
        // The machine has memory there, but not in this attempt, whose limit is 4 MiB.
        ("write above its limit", attacker!("mov eax, 0xC400000", "mov byte ptr [rax], 0")),
    ];
    for (name, code) in &attacks {
        contained(name, code, "MICROVM_FAULT").await;
    }
}

#[tokio::test]
async fn wild_stores_hit_only_the_guests_own_memory() {
    if !has_kvm() {
        return;
    }
    // Everything that can be written, without a fault; then the end as if nothing had happened.
    let all = attacker!(
        "mov rbx, rdi",
        "mov rax, -1",
        "mov edi, 0x1000000",
        "mov ecx, 0x200",
        "rep stosq",
        "mov edi, 0x1100000",
        "mov ecx, 0x8000",
        "rep stosq",
        "mov edi, 0x1900000",
        "mov ecx, 0x20000",
        "rep stosq",
        "mov edi, 0x2000000",
        "mov ecx, 0x10000",
        "rep stosq",
        "mov edi, 0xC000000",
        "mov ecx, 0x80000",
        "rep stosq",
        "mov rdi, rbx",
    );
    let error = contained("all of it", &all, "MICROVM_FAULT").await;
    // The host noticed what the guest wrote over its mailbox, and took none of it for a length.
    assert!(error.to_string().contains("claims 18446744073709551615 bytes of output"), "{error}");
    // From the start of memory upwards, whatever is there.
    let upwards = attacker!("xor eax, eax", "22: mov byte ptr [rax], al", "add rax, 0x1000", "jmp 22b");
    contained("upwards", &upwards, "MICROVM_FAULT").await;
    let downwards = attacker!("mov rax, rsp", "22: mov byte ptr [rax], al", "sub rax, 0x1000", "jmp 22b");
    contained("downwards", &downwards, "MICROVM_FAULT").await;
}

#[tokio::test]
async fn the_doorbell_takes_one_kind_of_store() {
    if !has_kvm() {
        return;
    }
    let attacks: [(&str, Vec<u8>); 11] = [
        ("read", attacker!("mov eax, [rdi]")),
        ("one byte", attacker!("mov byte ptr [rdi], 7")),
        ("two bytes", attacker!("mov word ptr [rdi], 7")),
        ("eight bytes", attacker!("mov qword ptr [rdi], 7")),
        ("elsewhere in the page", attacker!("mov dword ptr [rdi + 8], 7")),
        ("across its end", attacker!("mov dword ptr [rdi + 0xFFE], 7")),
        ("read and write", attacker!("xchg eax, [rdi]")),
        ("locked", attacker!("lock add dword ptr [rdi], 7")),
        ("a string", attacker!("mov eax, 2", "mov ecx, 0x1000", "rep stosd")),
        ("a vector", attacker!("movups [rdi], xmm0")),
        ("a push", attacker!("lea rsp, [rdi + 8]", "push 7")),
    ];
    for (name, code) in &attacks {
        contained(name, code, "MICROVM_FAULT").await;
    }
}

#[tokio::test]
async fn hostile_arguments_of_host_calls_are_refused() {
    if !has_kvm() {
        return;
    }
    let attacks: [(&str, Vec<u8>, &str); 12] = [
        ("an unknown call", attacker!("mov dword ptr [rdi], 8"), "unknown host call 8"),
        ("call zero", attacker!("mov dword ptr [rdi], 0"), "unknown host call 0"),
        ("ready again", attacker!("mov dword ptr [rdi], 1"), "unknown host call 1"),
        ("a huge number", attacker!("mov dword ptr [rdi], -1"), "unknown host call 4294967295"),
        ("output longer than its region", attacker!("mov qword ptr [rbp + 8], 0x40001", "mov dword ptr [rdi], 2"), "claims 262145 bytes"),
        (
            "output of negative length",
            attacker!("mov qword ptr [rbp + 8], -8", "mov dword ptr [rdi], 7"),
            "claims 18446744073709551608 bytes",
        ),
        (
            "a record longer than the output",
            attacker!(
                "mov eax, 0x1100000",
                "mov dword ptr [rax], 1",
                "mov dword ptr [rax + 4], 9",
                "mov qword ptr [rbp + 8], 16",
                "mov dword ptr [rdi], 2",
            ),
            "ends within a record",
        ),
        (
            "a record of the largest length",
            attacker!(
                "mov eax, 0x1100000",
                "mov dword ptr [rax], 1",
                "mov dword ptr [rax + 4], -1",
                "mov qword ptr [rbp + 8], 0x40000",
                "mov dword ptr [rdi], 2",
            ),
            "ends within a record",
        ),
        ("half a header", attacker!("mov qword ptr [rbp + 8], 7", "mov dword ptr [rdi], 7"), "ends within a record"),
        (
            "an unknown stream",
            attacker!(
                "mov eax, 0x1100000",
                "mov dword ptr [rax], 5",
                "mov dword ptr [rax + 4], 0",
                "mov qword ptr [rbp + 8], 8",
                "mov dword ptr [rdi], 2",
            ),
            "unknown stream 5",
        ),
        ("an unknown end", attacker!("mov qword ptr [rbp + 0x10], 99", "mov dword ptr [rdi], 7"), "unknown way 99"),
        (
            "endless explanations",
            attacker!(
                "mov eax, 0x1100000",
                "mov dword ptr [rax], 4",
                "mov dword ptr [rax + 4], 0x3FFF8",
                "22:",
                "mov qword ptr [rbp + 8], 0x40000",
                "mov dword ptr [rdi], 2",
                "jmp 22b",
            ),
            "more to a stream than anything needs",
        ),
    ];
    for (name, code, expected) in &attacks {
        let error = contained(name, code, "MICROVM_FAULT").await;
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
}

#[tokio::test]
async fn claims_of_the_guest_are_bounded() {
    if !has_kvm() {
        return;
    }
    // A trap whose text would break a terminal or a log; more memory and fuel than there is.
    let text = attacker!(
        "mov eax, 0x1100000",
        "mov dword ptr [rax], 4",
        "mov dword ptr [rax + 4], 6",
        "mov dword ptr [rax + 8], 0x0A0D1B61",
        "mov word ptr [rax + 12], 0xFF62",
        "mov qword ptr [rbp + 8], 14",
        "mov qword ptr [rbp + 0x20], -1",
        "mov qword ptr [rbp + 0x28], -1",
        "mov qword ptr [rbp + 0x10], 2",
    );
    let raw = boot(&elf::code(&text), 1).unwrap();
    let mut attack = job("x");
    attack.limits.fuel = Some(1000);
    let failure = fail(&raw.executor, attack).await;
    assert_eq!(failure.error, ExecutionError::Trap { trap: "a b\u{fffd}".into() });
    assert_eq!(failure.usage.memory_bytes_peak, 4 << 20);
    assert_eq!(failure.usage.fuel, Some(1000));

    // A function that returns without its results.
    let export = Kind::Export { name: "one".into(), params: vec![] };
    let failure = fail(&raw.executor, attempt(MODULE, export.clone())).await;
    assert_eq!(failure.error.reason(), "LIMIT_OUT_OF_RANGE", "{}", failure.error);
    let mut call = attempt(MODULE, export);
    call.limits.memory_bytes = 4 << 20;
    let failure = fail(&raw.executor, call).await;
    assert_reason(&failure.error, "MICROVM_FAULT", false);
    assert!(failure.error.to_string().contains("number of results"), "{}", failure.error);
}

#[tokio::test]
async fn endless_work_ends_with_the_time_limit() {
    if !has_kvm() {
        return;
    }
    let attacks: [(&str, Vec<u8>); 5] = [
        ("a loop", attacker!("22: jmp 22b")),
        ("a loop of pauses", attacker!("22: pause", "jmp 22b")),
        ("calls without end", attacker!("22: mov dword ptr [rdi], 2", "jmp 22b")),
        ("clocks without end", attacker!("22: mov dword ptr [rdi], 4", "jmp 22b")),
        ("the longest sleep", attacker!("mov qword ptr [rbp], -1", "22: mov dword ptr [rdi], 6", "jmp 22b")),
    ];
    for (name, code) in &attacks {
        contained(name, code, "TIME_LIMIT").await;
    }
}

#[tokio::test]
async fn output_without_end_ends_with_its_limit() {
    if !has_kvm() {
        return;
    }
    let flood = attacker!(
        "mov eax, 0x1100000",
        "mov dword ptr [rax], 1",
        "mov dword ptr [rax + 4], 0x3FFF8",
        "22:",
        "mov qword ptr [rbp + 8], 0x40000",
        "mov dword ptr [rdi], 2",
        "jmp 22b",
    );
    let raw = boot(&elf::code(&flood), 1).unwrap();
    let failure = fail(&raw.executor, job("x")).await;
    assert_reason(&failure.error, "OUTPUT_LIMIT", false);
    // As logs it is dropped and counted, until the time is over.
    let flood = attacker!(
        "mov eax, 0x1100000",
        "mov dword ptr [rax], 2",
        "mov dword ptr [rax + 4], 0x3FFF8",
        "mov ebx, 100",
        "22:",
        "mov qword ptr [rbp + 8], 0x40000",
        "mov dword ptr [rdi], 2",
        "dec ebx",
        "jnz 22b",
    );
    let raw = boot(&elf::code(&flood), 1).unwrap();
    let mut attack = job("x");
    attack.limits.log_bytes = 1000;
    let report = succeed(&raw.executor, attack).await;
    let dropped = 100 * 0x3FFF8 - 1000;
    let marker = format!("\n[tarn: {dropped} more bytes dropped, the limit log_bytes is 1000]\n");
    assert!(report.logs.ends_with(marker.as_bytes()));
}

#[tokio::test]
async fn images_that_are_no_images_are_refused() {
    if !has_kvm() {
        return;
    }
    let (base, data) = (crate::abi::IMAGE_BASE, crate::abi::DATA_BASE);
    let good = machine_code!("mov dword ptr [rdi], 1", "22: jmp 22b");
    let segment = |address, flags, bytes| elf::Segment { address, flags, bytes };
    let (code, rwx) = (elf::READ | elf::EXECUTE, elf::READ | elf::WRITE | elf::EXECUTE);
    boot(&elf::code(&good), 1).unwrap_or_else(|error| panic!("{error}"));
    let mut cut = elf::code(&good);
    cut.truncate(cut.len() - 1);
    let mut other = elf::code(&good);
    other[18] = 0x28;
    let images = [
        ("empty", Vec::new(), "ELF"),
        ("text", b"no image".to_vec(), "ELF"),
        ("for another processor", other, "another processor"),
        ("cut off", cut, "cut off"),
        ("writable code", elf::executable(base, &[segment(base, rwx, &good)]), "writable and executable"),
        ("no code at its entry", elf::executable(base + 0x10_0000, &[segment(base, code, &good)]), "entry point"),
        ("entry in data", elf::executable(base, &[segment(base, elf::READ, &good)]), "entry point"),
        ("over the page tables", elf::executable(0x1000, &[segment(0x1000, code, &good)]), "outside of the region"),
        ("at the end of all", elf::executable(base, &[segment(u64::MAX, code, &good)]), "outside of the region"),
        ("data among code", elf::executable(base, &[segment(base, elf::READ | elf::WRITE, &good)]), "outside of the region"),
        (
            "two segments on a page",
            elf::executable(base, &[segment(base, code, &good), segment(base + 0x800, elf::READ, b"x")]),
            "shares a page",
        ),
        (
            "never ready",
            elf::executable(base, &[segment(base, code, &machine_code!("hlt")), segment(data, elf::READ | elf::WRITE, b"x")]),
            "did not get ready",
        ),
        ("another call first", elf::code(&machine_code!("mov dword ptr [rdi], 7")), "did not get ready"),
        // What it writes before it is ready must be in the part of memory that is copied.
        (
            "data where it is not kept",
            elf::code(&machine_code!("mov eax, 0x3000000", "mov byte ptr [rax], 1", "mov dword ptr [rdi], 1")),
            "did not get ready",
        ),
    ];
    for (name, image, expected) in images {
        let error = boot(&image, 1).map(|_| ()).expect_err(name);
        assert_reason(&error, "NO_GUEST_IMAGE", true);
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_hundred_attackers_do_not_disturb_each_other() {
    if !has_kvm() {
        return;
    }
    let code = attacker!("ud2");
    let raw = boot(&elf::code(&code), 8).unwrap();
    let attempts = (0..100).map(|index| {
        let executor = &raw.executor;
        async move {
            if index % 2 == 0 {
                assert_eq!(fail(executor, job("x")).await.error.reason(), "MICROVM_FAULT");
            } else {
                succeed(executor, job("good")).await;
            }
        }
    });
    futures::future::join_all(attempts).await;
    raw.executor.settled().await;
    assert_eq!(raw.executor.idle(), 8);
    assert_eq!(raw.executor.admitted(), 0);
}

#[tokio::test]
async fn random_bytes_as_code_are_contained() {
    if !has_kvm() {
        return;
    }
    // A small generator, so that the bytes are the same everywhere (Marsaglia, Xorshift RNGs, 2003).
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    for round in 0..64 {
        let mut code = machine_code!("mov dword ptr [rdi], 1");
        code.extend((0..256).map(|_| byte()));
        let raw = boot(&elf::code(&code), 1).unwrap();
        for _ in 0..2 {
            let mut attack = job("x");
            attack.limits.time_ms = 20;
            if let Err(failure) = crate::run(&raw.executor, attack).await {
                let reason = failure.error.reason();
                assert!(["MICROVM_FAULT", "TIME_LIMIT"].contains(&reason), "{round}: {}", failure.error);
            }
        }
        raw.executor.settled().await;
        assert_eq!(raw.executor.idle(), 1, "{round}");
    }
}
