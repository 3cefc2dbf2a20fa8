//! The guest image: an ELF file that is loaded into every micro-VM.

use std::fs::File;

use object::Endianness;
use object::elf::{EM_X86_64, ET_EXEC, FileHeader64, PF_W, PF_X, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use super::abi::{
    CODE_BASE, CODE_END, DATA_BASE, DATA_END, DOORBELL, HEAP_BASE, HEAP_END, IMAGE_BASE, IMAGE_END, INPUT_BASE, INPUT_BYTES, JOB_BASE,
    JOB_BYTES, LINEAR_BASE, MAILBOX_BASE, OUTPUT_BASE, OUTPUT_BYTES, PAGE_BYTES, STACK_BASE, STACK_TOP,
};
use super::memory::{sealed_file, whole_pages};
use super::paging::{Access, LARGE_PAGE_BYTES, PageTables};

/// Where the page tables lie in physical memory. The guest has no address for them.
pub(super) const TABLES_BASE: u64 = 0x1000;

/// Where the doorbell leads in physical memory: to nothing.
pub(super) const DOORBELL_PHYSICAL: u64 = 1 << 40;

/// A guest image, checked and laid out. It is the same for all machines.
pub(super) struct Image {
    pub(super) entry: u64,
    /// Code and constants from [`IMAGE_BASE`] on, whole pages, in a file that all machines map.
    pub(super) constants: File,
    pub(super) constants_bytes: u64,
    /// Where variables begin with something else than zero.
    pub(super) data: Vec<(u64, Vec<u8>)>,
    /// The end of the last variable, rounded up to a page.
    pub(super) data_end: u64,
    /// The page tables from [`TABLES_BASE`] on.
    pub(super) tables: Vec<u8>,
    /// The most linear memory a machine has, in bytes.
    pub(super) memory_bytes: u64,
}

/// Why a file is not a guest image.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    #[error("it is not an ELF file for x86-64: {0}")]
    NotElf(String),
    #[error("it is not a static executable")]
    NotStatic,
    #[error("its segment at {0:#x} is writable and executable")]
    WritableCode(u64),
    #[error("its segment at {0:#x} is outside of the region for its kind")]
    OutOfRegion(u64),
    #[error("its segment at {0:#x} shares a page with another one")]
    SharedPage(u64),
    #[error("its segment at {0:#x} is cut off")]
    CutOff(u64),
    #[error("its entry point {0:#x} is not in code")]
    BadEntry(u64),
    #[error("it cannot be kept in memory: {0}")]
    Memory(#[from] std::io::Error),
}

struct Segment<'a> {
    start: u64,
    end: u64,
    bytes: &'a [u8],
    access: Access,
}

impl Image {
    /// Reads an ELF file and lays out machines with so much linear memory.
    pub(super) fn load(elf: &[u8], memory_bytes: u64) -> Result<Self, ImageError> {
        let (entry, segments) = segments(elf)?;
        let memory_bytes = memory_bytes.next_multiple_of(LARGE_PAGE_BYTES);
        let mut tables = fixed_tables(memory_bytes);
        let mut constants = Vec::new();
        let (mut data, mut data_end) = (Vec::new(), DATA_BASE);
        for segment in &segments {
            tables.map(segment.start & !(PAGE_BYTES - 1), whole_pages(segment.end), segment.access);
            if segment.access == Access::Write {
                data.push((segment.start, segment.bytes.to_vec()));
                data_end = data_end.max(whole_pages(segment.end));
            } else {
                let offset = usize::try_from(segment.start - IMAGE_BASE).expect("within the region");
                let end = usize::try_from(whole_pages(segment.end) - IMAGE_BASE).expect("within the region");
                constants.resize(end.max(constants.len()), 0);
                constants[offset..offset + segment.bytes.len()].copy_from_slice(segment.bytes);
            }
        }
        Ok(Self {
            entry,
            constants: sealed_file(&constants)?,
            constants_bytes: constants.len() as u64,
            data,
            data_end,
            tables: tables.bytes(),
            memory_bytes,
        })
    }

    /// The end of the guest's own memory.
    pub(super) fn memory_end(&self) -> u64 {
        LINEAR_BASE + self.memory_bytes
    }
}

/// Maps everything that does not depend on the image.
fn fixed_tables(memory_bytes: u64) -> PageTables {
    let mut tables = PageTables::new(TABLES_BASE);
    tables.map(MAILBOX_BASE, MAILBOX_BASE + PAGE_BYTES, Access::Write);
    tables.map(OUTPUT_BASE, OUTPUT_BASE + OUTPUT_BYTES, Access::Write);
    tables.map(INPUT_BASE, INPUT_BASE + INPUT_BYTES, Access::Read);
    tables.map(JOB_BASE, JOB_BASE + JOB_BYTES, Access::Read);
    tables.map(STACK_BASE, STACK_TOP, Access::Write);
    tables.map_to(DOORBELL, DOORBELL + PAGE_BYTES, DOORBELL_PHYSICAL, Access::Write);
    tables.map_large(HEAP_BASE, HEAP_END, Access::Write);
    tables.map_large(CODE_BASE, CODE_END, Access::Execute);
    tables.map_large(LINEAR_BASE, LINEAR_BASE + memory_bytes, Access::Write);
    tables
}

/// The segments to load, in order of address, each checked.
fn segments(elf: &[u8]) -> Result<(u64, Vec<Segment<'_>>), ImageError> {
    let bad = |error: object::Error| ImageError::NotElf(error.to_string());
    let header = FileHeader64::<Endianness>::parse(elf).map_err(bad)?;
    let endian = header.endian().map_err(bad)?;
    if endian != Endianness::Little || header.e_machine(endian) != EM_X86_64 {
        return Err(ImageError::NotElf("it is for another processor".into()));
    }
    if header.e_type(endian) != ET_EXEC {
        return Err(ImageError::NotStatic);
    }
    let mut segments = Vec::new();
    for program in header.program_headers(endian, elf).map_err(bad)? {
        if program.p_type(endian) == PT_LOAD && program.p_memsz(endian) > 0 {
            segments.push(segment(program, endian, elf)?);
        }
    }
    segments.sort_by_key(|segment| segment.start);
    for pair in segments.windows(2) {
        if pair[1].start & !(PAGE_BYTES - 1) < whole_pages(pair[0].end) {
            return Err(ImageError::SharedPage(pair[1].start));
        }
    }
    let entry = header.e_entry(endian);
    let code = |segment: &Segment<'_>| segment.access == Access::Execute && (segment.start..segment.end).contains(&entry);
    if !segments.iter().any(code) {
        return Err(ImageError::BadEntry(entry));
    }
    Ok((entry, segments))
}

fn segment<'a>(program: &object::elf::ProgramHeader64<Endianness>, endian: Endianness, elf: &'a [u8]) -> Result<Segment<'a>, ImageError> {
    let start = program.p_vaddr(endian);
    let flags = program.p_flags(endian);
    let access = match (flags & PF_W != 0, flags & PF_X != 0) {
        (true, true) => return Err(ImageError::WritableCode(start)),
        (true, false) => Access::Write,
        (false, true) => Access::Execute,
        (false, false) => Access::Read,
    };
    let region = if access == Access::Write { DATA_BASE..=DATA_END } else { IMAGE_BASE..=IMAGE_END };
    let size = program.p_memsz(endian);
    let end = start.checked_add(size).ok_or(ImageError::OutOfRegion(start))?;
    if !region.contains(&start) || !region.contains(&end) {
        return Err(ImageError::OutOfRegion(start));
    }
    let bytes = program.data(endian, elf).map_err(|()| ImageError::CutOff(start))?;
    if bytes.len() as u64 > size {
        return Err(ImageError::CutOff(start));
    }
    Ok(Segment { start, end, bytes, access })
}
