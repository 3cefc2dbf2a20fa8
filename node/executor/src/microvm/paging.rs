//! Page tables of a guest: four levels, long mode (AMD64 Architecture Programmer's Manual, volume 2, chapter 5).

use super::abi::PAGE_BYTES;

/// A large page, which one entry of the second level maps.
pub(super) const LARGE_PAGE_BYTES: u64 = 0x20_0000;

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Set from the start, so that the processor never has to write into the tables.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

const ENTRIES: usize = 512;
const TABLE_BYTES: usize = ENTRIES * 8;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// What a guest may do with a page. There is no way to say both "write" and "execute".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    Execute,
}

impl Access {
    fn bits(self) -> u64 {
        match self {
            Self::Read => NO_EXECUTE,
            Self::Write => WRITE | NO_EXECUTE,
            Self::Execute => 0,
        }
    }
}

/// Page tables while they are made. They lie one after the other in physical memory, the root first.
pub(super) struct PageTables {
    base: u64,
    tables: Vec<[u64; ENTRIES]>,
}

impl PageTables {
    /// Tables that map nothing, and which the guest will find at the physical address `base`.
    pub(super) fn new(base: u64) -> Self {
        Self { base, tables: vec![[0; ENTRIES]] }
    }

    /// Maps the pages of a range, small ones, to the same physical addresses.
    ///
    /// # Panics
    /// The range is not made of whole pages, or one of them is mapped already: pages that two mappings share would have
    /// the rights of both.
    pub(super) fn map(&mut self, start: u64, end: u64, access: Access) {
        self.map_to(start, end, start, access);
    }

    /// Like [`map`](Self::map), to physical addresses from `physical` on.
    pub(super) fn map_to(&mut self, start: u64, end: u64, physical: u64, access: Access) {
        assert!((start | end | physical).is_multiple_of(PAGE_BYTES));
        for offset in (0..end - start).step_by(4096) {
            let leaf = (physical + offset) | PRESENT | USER | ACCESSED | DIRTY | access.bits();
            self.set(start + offset, 1, leaf);
        }
    }

    /// Like [`map`](Self::map), with large pages.
    pub(super) fn map_large(&mut self, start: u64, end: u64, access: Access) {
        assert!((start | end).is_multiple_of(LARGE_PAGE_BYTES));
        for address in (start..end).step_by(2 << 20) {
            let leaf = address | PRESENT | USER | ACCESSED | DIRTY | LARGE | access.bits();
            self.set(address, 2, leaf);
        }
    }

    /// Sets the entry of `address` in the table of `level`, making the tables above it.
    fn set(&mut self, address: u64, level: u32, leaf: u64) {
        let mut table = 0;
        for above in (level + 1..=4).rev() {
            table = self.descend(table, index(address, above));
        }
        let entry = &mut self.tables[table][index(address, level)];
        assert!(*entry == 0, "{address:#x} is mapped twice");
        *entry = leaf;
    }

    fn descend(&mut self, table: usize, index: usize) -> usize {
        let entry = self.tables[table][index];
        if entry != 0 {
            assert!(entry & LARGE == 0, "a small page within a large one");
            return usize::try_from((entry & ADDRESS) - self.base).expect("a table") / TABLE_BYTES;
        }
        let next = self.tables.len();
        self.tables.push([0; ENTRIES]);
        self.tables[table][index] = (self.base + (next * TABLE_BYTES) as u64) | PRESENT | WRITE | USER | ACCESSED;
        next
    }

    /// The bytes to put at the base.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let entries = self.tables.iter().flatten();
        entries.flat_map(|entry| entry.to_le_bytes()).collect()
    }
}

fn index(address: u64, level: u32) -> usize {
    usize::try_from((address >> (12 + 9 * (level - 1))) & 511).expect("nine bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the tables as a processor does; the entry that maps `address` and the physical address.
    fn walk(tables: &PageTables, address: u64) -> Option<(u64, u64)> {
        let bytes = tables.bytes();
        let mut base = tables.base;
        for level in (1..=4).rev() {
            let at = usize::try_from(base - tables.base).unwrap() + index(address, level) * 8;
            let entry = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 1 || entry & LARGE != 0 {
                let within = address & ((1 << (12 + 9 * (level - 1))) - 1);
                return Some((entry, (entry & ADDRESS) + within));
            }
            base = entry & ADDRESS;
        }
        unreachable!("the last level is a leaf")
    }

    #[test]
    fn what_is_mapped_is_found_and_nothing_else() {
        let mut tables = PageTables::new(0x1000);
        tables.map(0x40_0000, 0x40_2000, Access::Execute);
        tables.map_large(0x4000_0000, 0x4020_0000, Access::Write);
        tables.map_to(0x80_0000, 0x80_1000, 1 << 32, Access::Write);
        assert_eq!(walk(&tables, 0x40_1234).unwrap().1, 0x40_1234);
        assert_eq!(walk(&tables, 0x401F_FFFF).unwrap().1, 0x401F_FFFF);
        assert_eq!(walk(&tables, 0x80_0010).unwrap().1, (1 << 32) + 0x10);
        for address in [0, 0x3F_F000, 0x40_2000, 0x4020_0000, 1 << 40] {
            assert!(walk(&tables, address).is_none(), "{address:#x}");
        }
    }

    #[test]
    fn no_page_is_both_writable_and_executable() {
        let mut tables = PageTables::new(0x1000);
        for (page, access) in [Access::Read, Access::Write, Access::Execute].into_iter().enumerate() {
            let start = (page as u64 + 1) * PAGE_BYTES;
            tables.map(start, start + PAGE_BYTES, access);
            let (entry, _) = walk(&tables, start).unwrap();
            assert_eq!(entry & WRITE != 0, access == Access::Write);
            assert_eq!(entry & NO_EXECUTE == 0, access == Access::Execute);
            assert!(entry & USER != 0);
        }
    }

    #[test]
    #[should_panic(expected = "mapped twice")]
    fn a_page_cannot_be_mapped_twice() {
        let mut tables = PageTables::new(0x1000);
        tables.map(0x1000, 0x3000, Access::Execute);
        tables.map(0x2000, 0x3000, Access::Write);
    }
}
