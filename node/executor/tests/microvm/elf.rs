//! Guest images of a few bytes of machine code.

/// A segment's flags in an ELF file.
pub const EXECUTE: u32 = 1;
pub const WRITE: u32 = 2;
pub const READ: u32 = 4;

/// A segment of an image.
pub struct Segment<'a> {
    pub address: u64,
    pub flags: u32,
    pub bytes: &'a [u8],
}

/// A static ELF executable for x86-64 with these segments (System V Application Binary Interface, chapter 4).
pub fn executable(entry: u64, segments: &[Segment<'_>]) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM_HEADER: u64 = 56;
    let mut elf = vec![0x7F, b'E', b'L', b'F', 2, 1, 1, 0];
    elf.resize(16, 0);
    let halves = |elf: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|value| elf.extend(value.to_le_bytes()));
    let words = |elf: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|value| elf.extend(value.to_le_bytes()));
    let longs = |elf: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|value| elf.extend(value.to_le_bytes()));
    halves(&mut elf, &[2, 62]);
    words(&mut elf, &[1]);
    longs(&mut elf, &[entry, HEADER, 0]);
    words(&mut elf, &[0]);
    let count = u16::try_from(segments.len()).unwrap();
    halves(&mut elf, &[64, 56, count, 64, 0, 0]);
    let mut offset = HEADER + PROGRAM_HEADER * u64::from(count);
    for segment in segments {
        let size = segment.bytes.len() as u64;
        words(&mut elf, &[1, segment.flags]);
        longs(&mut elf, &[offset, segment.address, segment.address, size, size, 0x1000]);
        offset += size;
    }
    segments.iter().for_each(|segment| elf.extend_from_slice(segment.bytes));
    elf
}

/// An image that is only code.
pub fn code(bytes: &[u8]) -> Vec<u8> {
    let address = crate::abi::IMAGE_BASE;
    let flags = READ | EXECUTE;
    executable(address, &[Segment { address, flags, bytes }])
}

/// Assembles instructions. They become part of this program's own code, which jumps over them, so nothing but the compiler is needed;
/// and they run wherever they are copied to, as long as they only jump among themselves.
macro_rules! machine_code {
    ($($line:expr),+ $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: nothing of it is executed here but the two address computations and the jump.
        unsafe {
            std::arch::asm!(
                "lea {start}, [rip + 2f]", "lea {end}, [rip + 3f]", "jmp 3f", "2:", $($line),+, "3:",
                start = out(reg) start, end = out(reg) end, options(nomem, nostack),
            );
            std::slice::from_raw_parts(start, end.offset_from_unsigned(start)).to_vec()
        }
    }};
}
pub(crate) use machine_code;
