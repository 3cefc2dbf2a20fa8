//! No byte of one attempt reaches the next one. The guest images here are machine code, so that they see all that a guest
//! which broke out of the sandbox would see.

use tarn_executor::{Attempt, Command, Kind};

use crate::attacks::{MODULE, boot};
use crate::elf::{self, machine_code};
use crate::{attempt, executor, guests, has_kvm, succeed};

/// Eight bytes that occur nowhere else, and an address as a base register takes it. The image never has them in its code: it computes them.
const SECRET: u64 = 0x0000_6C2E_75EC_2E75;

/// The image, with what it looks for and what it plants in registers that not every processor has.
macro_rules! searcher {
    ($($look:literal),+ ; $($plant:literal),+) => {
    machine_code!(
        "mov dword ptr [rdi], 1",
        // Registers first: none is used before it is looked at, apart from rdi and rsi.
        "mov rsi, 0xFFFF93D18A13D18A",
        "not rsi",
        "cmp rsi, rax", "je 80f", "cmp rsi, rbx", "je 80f", "cmp rsi, rcx", "je 80f", "cmp rsi, rdx", "je 80f",
        "cmp rsi, rbp", "je 80f", "cmp rsi, r8", "je 80f", "cmp rsi, r9", "je 80f", "cmp rsi, r10", "je 80f",
        "cmp rsi, r11", "je 80f", "cmp rsi, r12", "je 80f", "cmp rsi, r13", "je 80f", "cmp rsi, r14", "je 80f",
        "cmp rsi, r15", "je 80f",
        "movq rax, xmm0", "cmp rsi, rax", "je 80f",
        "movq rax, xmm15", "cmp rsi, rax", "je 80f",
        "vextractf128 xmm7, ymm7, 1", "movq rax, xmm7", "cmp rsi, rax", "je 80f",
        $($look),+,
        "rdfsbase rax", "cmp rsi, rax", "je 80f", "rdgsbase rax", "cmp rsi, rax", "je 80f",
        "fstp qword ptr [rsp - 8]", "mov rax, [rsp - 8]", "mov qword ptr [rsp - 8], 0", "cmp rsi, rax", "je 80f",
        "mov r8d, 0x1200000", "cmp byte ptr [r8], 0x6C", "je 50f",
        // Plant: mailbox, output, stack, heap, linear memory.
        "mov rax, rsi", "mov rbx, rdi",
        "mov edi, 0x1000000", "mov ecx, 0x200", "rep stosq",
        "mov edi, 0x1100000", "mov ecx, 0x8000", "rep stosq",
        "mov edi, 0x1900000", "mov ecx, 0x20000", "rep stosq",
        "mov edi, 0x2000000", "mov ecx, 0x800000", "rep stosq",
        "mov edi, 0xC000000", "mov ecx, 0x200000", "rep stosq",
        "mov rdi, rbx",
        "mov qword ptr [0x1000008], 0", "mov qword ptr [0x1000010], 0",
        "cmp byte ptr [r8], 0x62", "je 50f",
        "movq xmm0, rsi", "movq xmm15, rsi", "movq xmm8, rsi", "vinsertf128 ymm7, ymm7, xmm8, 1",
        $($plant),+,
        "fld qword ptr [0x1100000]", "wrfsbase rsi", "wrgsbase rsi",
        "mov rax, rsi", "mov rbx, rsi", "mov rcx, rsi", "mov rdx, rsi", "mov rbp, rsi", "mov r8, rsi", "mov r9, rsi",
        "mov r10, rsi", "mov r11, rsi", "mov r12, rsi", "mov r13, rsi", "mov r14, rsi", "mov r15, rsi",
        "mov dword ptr [rdi], 7", "22: jmp 22b",
        // Look: all that is readable, eight bytes at a time.
        "50:",
        "mov eax, 0x1000000", "mov ecx, 0x200", "call 60f",
        "mov eax, 0x1100000", "mov ecx, 0x8000", "call 60f",
        "mov eax, 0x1200000", "mov ecx, 0x8000", "call 60f",
        "mov eax, 0x1400000", "mov ecx, 0x80000", "call 60f",
        "mov eax, 0x1900000", "mov ecx, 0x20000", "call 60f",
        "mov eax, 0x2000000", "mov ecx, 0x800000", "call 60f",
        "mov eax, 0x8000000", "mov ecx, 0x80000", "call 60f",
        "mov eax, 0xC000000", "mov ecx, 0x200000", "call 60f",
        "mov edx, 0x6E", "jmp 81f",
        "60:", "cmp [rax], rsi", "je 80f", "add rax, 8", "dec ecx", "jnz 60b", "ret",
        "80:", "mov edx, 0x79",
        "81:", "mov eax, 0x1100000", "mov dword ptr [rax], 1", "mov dword ptr [rax + 4], 1", "mov [rax + 8], edx",
        "mov qword ptr [0x1000008], 9", "mov qword ptr [0x1000010], 0",
        "mov dword ptr [rdi], 7", "22: jmp 22b",
    )
    };
}

/// `p` in the input plants the secret wherever the guest can write and in every register; `l` looks for it wherever the guest can
/// read, and in every register first; `b` does both. Prints one letter: `y` if it was found, `n` if not.
fn image() -> Vec<u8> {
    if std::arch::is_x86_feature_detected!("avx512f") {
        searcher!(
            "vextracti32x4 xmm6, zmm31, 3", "movq rax, xmm6", "cmp rsi, rax", "je 80f",
            "vextracti32x4 xmm6, zmm3, 3", "movq rax, xmm6", "cmp rsi, rax", "je 80f",
            "vmovq rax, xmm16", "cmp rsi, rax", "je 80f",
            "kmovw eax, k1", "cmp ax, si", "je 80f", "kmovw eax, k7", "cmp ax, si", "je 80f";
            "vpbroadcastq zmm3, rsi", "vpbroadcastq zmm16, rsi", "vpbroadcastq zmm31, rsi", "kmovw k1, esi", "kmovw k7, esi"
        )
    } else {
        searcher!("nop"; "nop")
    }
}

/// A job of the image above. All that it is given holds `given`, which has eight bytes, or nothing.
fn job(what: &str, given: Option<&str>) -> Attempt {
    let text = given.unwrap_or_default();
    let kind = Kind::Command(Command {
        args: given.iter().map(|text| (*text).to_owned()).collect(),
        env: given.iter().map(|text| ((*text).to_owned(), (*text).to_owned())).collect(),
        input: format!("{what}.......{}", text.repeat(50_000)).into(),
    });
    let mut attempt = attempt(MODULE, kind);
    attempt.limits.memory_bytes = 16 << 20;
    attempt
}

#[tokio::test]
async fn nothing_that_a_guest_writes_is_there_in_the_next_attempt() {
    if !has_kvm() {
        return;
    }
    // One machine, so that every attempt gets what the one before left.
    let raw = boot(&elf::code(&image()), 1).unwrap();
    assert_eq!(succeed(&raw.executor, job("l", None)).await.output, "n");
    // The search works: it finds what the same attempt planted.
    assert_eq!(succeed(&raw.executor, job("b", None)).await.output, "y");
    for _ in 0..2 {
        succeed(&raw.executor, job("p", None)).await;
        raw.executor.settled().await;
        assert_eq!(raw.executor.idle(), 1);
        assert_eq!(succeed(&raw.executor, job("l", None)).await.output, "n");
    }
}

#[tokio::test]
async fn nothing_that_a_guest_was_given_is_there_in_the_next_attempt() {
    if !has_kvm() {
        return;
    }
    // The secret as text: bytes of the image's number, in the order of memory. They are no UTF-8, so the image looks for
    // another number here.
    let text = "sesame!!";
    let number = u64::from_le_bytes(text.as_bytes().try_into().unwrap());
    let mut code = image();
    let place = code.windows(8).position(|bytes| bytes == (!SECRET).to_le_bytes()).unwrap();
    code[place..place + 8].copy_from_slice(&(!number).to_le_bytes());
    let raw = boot(&elf::code(&code), 1).unwrap();
    // The letter and seven dots before it, so that the search, which goes by eight, meets it.
    assert_eq!(succeed(&raw.executor, job("l", Some(text))).await.output, "y");
    for _ in 0..2 {
        assert_eq!(succeed(&raw.executor, job("l", None)).await.output, "n");
        assert_eq!(succeed(&raw.executor, job("l", Some(text))).await.output, "y");
    }
}

#[tokio::test]
async fn linear_memory_starts_as_zeroes_every_time() {
    // Counts the bytes that are not zero in 8 MiB, and then leaves none of them zero.
    let module = guests::module(
        r#"(func (export "_start") (local $at i32) (local $dirty i32)
            (drop (memory.grow (i32.const 126)))
            (local.set $at (i32.const 4096))
            (loop $next
                (if (i32.load (local.get $at)) (then (local.set $dirty (i32.const 1))))
                (i32.store (local.get $at) (i32.const -1))
                (local.set $at (i32.add (local.get $at) (i32.const 4)))
                (br_if $next (i32.lt_u (local.get $at) (i32.const 8388608))))
            (if (local.get $dirty) (then unreachable)))"#,
    );
    let Some(executor) = executor(1) else { return };
    for _ in 0..5 {
        succeed(&executor, crate::command(&module)).await;
    }
}
