//! Disks that fail on command: full, slow, with errors, damaged, or without what was not synced.
//!
//! A [`FaultyDisk`] is a file system in user space (FUSE) over a plain folder. Processes use it like any other; the harness, which serves it on
//! threads of its own, decides what goes wrong.
//!
//! # What a power cut takes
//! **Data.** The backing files always hold what processes see; beside them stands what the disk would have. A byte that was written is lost
//! unless a sync of its file came after: `fsync`, `fdatasync`, or a write to a file opened with `O_SYNC` or `O_DSYNC`. Writes through a shared
//! mapping count once the kernel hands them over, at `msync`, `munmap` or the process's end. `sync_file_range` is no sync, since it promises
//! nothing about a power cut. `sync` and `syncfs` never reach such a file system: a program that relies on them loses data here although it
//! would be right elsewhere. The size goes with the data: a file that grew and was not synced has its old size again, zero if it is new.
//! Nothing becomes durable by itself, however long it waits; a real kernel writes back after half a minute.
//!
//! **Names.** Under [`Promise::Posix`] a name that was made, changed or removed is durable once its *folder* was synced. Syncing a new file
//! does not make its name durable, as POSIX allows and ext4 does not do. The two names of a rename are one transaction on every journaling
//! file system, and become durable together. Under [`Promise::Journal`] changes of names are committed in order, and any sync commits all of
//! them, as ext4 does. Unlike ext4, replacing a file by a rename does not write its data back: its new content must have been synced.
//! What a lost name stood for is gone; what a removed name stood for is back. Permissions, owners and times are never lost.
//!
//! **What survives by luck** is up to [`Survival`]: nothing; the last write torn at a sector of 512 bytes; or sectors scattered over all files.
//!
//! # What the rest does
//! A failed sync is final for the data it covered ([`FaultyDisk::io_errors`]), which is what Linux does and what programs tend to overlook.
//! A full disk ([`FaultyDisk::fill`]) gives `ENOSPC` for growth beyond what was reserved with `fallocate`, also in the middle of a write,
//! which then is short. Damage ([`FaultyDisk::corrupt`]) changes bytes behind everybody's back. Slowness ([`FaultyDisk::slow`]) adds to each
//! operation. A lying disk ([`FaultyDisk::lie`]) confirms syncs that it does not do. What lies in the kernel's page cache is read without asking the disk, so each of these first makes the kernel forget it.
//!
//! # When the harness dies
//! The kernel fails everything that waits for a server that is gone, so no process hangs. The dead mount stays in the table of mounts until
//! the next harness mounts a disk or calls [`sweep`]. The names of the files are lost with the harness; their bytes are in `.objects`.

mod adopt;
mod beneath;
mod content;
mod cut;
mod damage;
mod extents;
mod faults;
mod faulty;
mod glob;
mod mount;
mod names;
mod serve;
mod volume;

#[cfg(test)]
mod tarn_tests;
#[cfg(test)]
mod tests;

pub use cut::{Loss, Survival};
pub use damage::{Damage, Wound};
pub use faults::{How, IoErrors, Operation, Slowness};
pub use faulty::{FaultyDisk, Unsynced};
pub use mount::{available, sweep};
pub use names::Promise;
