//! A guest's private directory, and the quota that it cannot exceed.
//!
//! The quota counts what is **written**: each byte, each byte by which a file grows without being written (a hole, a larger size), and a
//! page for each name that is made. It is charged before the call and never given back, so however a guest writes, the
//! directory never holds more; deleting and writing again uses the quota up too.

mod component;

pub(super) use component::add_to_linker as add_to_component_linker;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use wasmtime::{AsContextMut as _, Caller, Extern, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as preview1, WasiSnapshotPreview1 as _};
use wiggle::GuestMemory;

use super::guest::Guest;
use crate::durable::own_directory;

/// Where a guest finds the directory.
pub(super) const GUEST_PATH: &str = "/scratch";

/// How the directories are named.
const PREFIX: &str = "tarn-scratch-";

/// What a new file, directory or link costs, in bytes: about what it takes on a disk.
const NAME_BYTES: u64 = 4096;

/// `ENOSPC` among the error numbers of WASI preview 1.
const ERRNO_NOSPC: i32 = 51;
/// `EFAULT` among them.
const ERRNO_FAULT: i32 = 21;

/// `O_CREAT` among the flags of `path_open`.
const OFLAGS_CREAT: i32 = 1;

/// The largest descriptor that is one of the three standard streams.
const STDERR: i32 = 2;

/// A private directory, removed when it is dropped.
pub(super) struct Scratch {
    dir: TempDir,
    quota: Arc<Quota>,
    /// Whether one of the three standard streams was closed or replaced, so that its descriptor may now be a file.
    streams_moved: bool,
}

impl Scratch {
    pub(super) fn new(parent: &Path, bytes: u64) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        let quota = Quota { left: AtomicU64::new(bytes) };
        Ok(Self { dir, quota: Arc::new(quota), streams_moved: false })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// How many bytes may still be written.
struct Quota {
    left: AtomicU64,
}

impl Quota {
    /// Takes so many, or none if there are not so many left.
    fn charge(&self, bytes: u64) -> bool {
        let take = |left: u64| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// Makes a directory of our own ready for scratch directories, and removes those that an executor left which did not come to its end.
pub(super) fn open(dir: &Path) -> io::Result<()> {
    own_directory(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Puts a function that charges the quota in front of each one that writes. `linker` allows shadowing.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>, module: &str) -> wasmtime::Result<()> {
    linker.func_wrap_async(module, "fd_write", |mut caller, (fd, iovs, len, out): (i32, i32, i32, i32)| {
        Box::new(async move {
            if let Err(errno) = charge_write(&mut caller, fd, iovs, len, None).await? {
                return Ok(errno);
            }
            let (wasi, mut memory) = parts(&mut caller)?;
            preview1::fd_write(wasi, &mut memory, fd, iovs, len, out).await
        })
    })?;
    linker.func_wrap_async(module, "fd_pwrite", |mut caller, (fd, iovs, len, offset, out): (i32, i32, i32, i64, i32)| {
        Box::new(async move {
            let start = Some(offset.cast_unsigned());
            if let Err(errno) = charge_write(&mut caller, fd, iovs, len, start).await? {
                return Ok(errno);
            }
            let (wasi, mut memory) = parts(&mut caller)?;
            preview1::fd_pwrite(wasi, &mut memory, fd, iovs, len, offset, out).await
        })
    })?;
    linker.func_wrap_async(module, "fd_filestat_set_size", |mut caller, (fd, size): (i32, i64)| {
        Box::new(async move {
            let grown = match size_and_position(&mut caller, fd).await? {
                Some((now, _)) => size.cast_unsigned().saturating_sub(now),
                None => 0,
            };
            if !charge(&mut caller, grown) {
                return Ok(ERRNO_NOSPC);
            }
            let (wasi, mut memory) = parts(&mut caller)?;
            preview1::fd_filestat_set_size(wasi, &mut memory, fd, size).await
        })
    })?;
    add_moves(linker, module)?;
    add_names(linker, module)
}

/// Those after which the first three descriptors may be files.
fn add_moves(linker: &mut Linker<Guest>, module: &str) -> wasmtime::Result<()> {
    linker.func_wrap_async(module, "fd_close", |mut caller, (fd,): (i32,)| {
        Box::new(async move {
            note_move(&mut caller, fd);
            let (wasi, mut memory) = parts(&mut caller)?;
            preview1::fd_close(wasi, &mut memory, fd).await
        })
    })?;
    linker.func_wrap_async(module, "fd_renumber", |mut caller, (from, to): (i32, i32)| {
        Box::new(async move {
            note_move(&mut caller, from);
            note_move(&mut caller, to);
            let (wasi, mut memory) = parts(&mut caller)?;
            preview1::fd_renumber(wasi, &mut memory, from, to).await
        })
    })?;
    Ok(())
}

fn note_move(caller: &mut Caller<'_, Guest>, fd: i32) {
    if let Some(scratch) = &mut caller.data_mut().scratch {
        scratch.streams_moved |= is_stream(fd);
    }
}

fn is_stream(fd: i32) -> bool {
    (0..=STDERR).contains(&fd)
}

/// Those that make a name.
fn add_names(linker: &mut Linker<Guest>, module: &str) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        module,
        "path_open",
        |mut caller, (fd, lookup, path, len, oflags, rights, inherited, flags, out): (i32, i32, i32, i32, i32, i64, i64, i32, i32)| {
            Box::new(async move {
                if oflags & OFLAGS_CREAT != 0 && !charge(&mut caller, NAME_BYTES) {
                    return Ok(ERRNO_NOSPC);
                }
                let (wasi, mut memory) = parts(&mut caller)?;
                preview1::path_open(wasi, &mut memory, fd, lookup, path, len, oflags, rights, inherited, flags, out).await
            })
        },
    )?;
    linker.func_wrap_async(module, "path_create_directory", |mut caller, (fd, path, len): (i32, i32, i32)| {
        Box::new(async move {
            if !charge(&mut caller, NAME_BYTES) {
                return Ok(ERRNO_NOSPC);
            }
            let (wasi, mut memory) = parts(&mut caller)?;
            preview1::path_create_directory(wasi, &mut memory, fd, path, len).await
        })
    })?;
    linker.func_wrap_async(module, "path_symlink", |mut caller, (old, old_len, fd, new, new_len): (i32, i32, i32, i32, i32)| {
        Box::new(async move {
            if !charge(&mut caller, NAME_BYTES) {
                return Ok(ERRNO_NOSPC);
            }
            let (wasi, mut memory) = parts(&mut caller)?;
            preview1::path_symlink(wasi, &mut memory, old, old_len, fd, new, new_len).await
        })
    })?;
    linker.func_wrap_async(
        module,
        "path_link",
        |mut caller, (old_fd, flags, old, old_len, new_fd, new, new_len): (i32, i32, i32, i32, i32, i32, i32)| {
            Box::new(async move {
                if !charge(&mut caller, NAME_BYTES) {
                    return Ok(ERRNO_NOSPC);
                }
                let (wasi, mut memory) = parts(&mut caller)?;
                preview1::path_link(wasi, &mut memory, old_fd, flags, old, old_len, new_fd, new, new_len).await
            })
        },
    )?;
    Ok(())
}

fn charge(caller: &mut Caller<'_, Guest>, bytes: u64) -> bool {
    match &caller.data().scratch {
        Some(scratch) => scratch.quota.charge(bytes),
        // There is no file to write to; the call itself says so.
        None => true,
    }
}

/// Charges a write to a file, at `start` or where the descriptor stands. The inner error is the call's error number.
async fn charge_write(
    caller: &mut Caller<'_, Guest>,
    fd: i32,
    iovs: i32,
    len: i32,
    start: Option<u64>,
) -> wasmtime::Result<Result<(), i32>> {
    match &caller.data().scratch {
        Some(scratch) if !is_stream(fd) || scratch.streams_moved => {}
        _ => return Ok(Ok(())),
    }
    let Some(bytes) = pieces_bytes(caller, iovs, len) else {
        return Ok(Err(ERRNO_FAULT));
    };
    // What is no file says so in the call itself.
    let Some((size, position)) = size_and_position(caller, fd).await? else {
        return Ok(Ok(()));
    };
    let hole = start.or(position).unwrap_or(size).saturating_sub(size);
    let fits = charge(caller, bytes.saturating_add(hole));
    Ok(if fits { Ok(()) } else { Err(ERRNO_NOSPC) })
}

/// How many bytes the pieces of a write have together. Each piece is a pointer and a length, four bytes each, little-endian.
fn pieces_bytes(caller: &mut Caller<'_, Guest>, iovs: i32, len: i32) -> Option<u64> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return None;
    };
    let start = iovs.cast_unsigned() as usize;
    let end = start.checked_add((len.cast_unsigned() as usize).checked_mul(8)?)?;
    let pieces = memory.data(&*caller).get(start..end)?;
    let lengths = pieces.chunks_exact(8).map(|piece| {
        let length = piece[4..].try_into().expect("four of eight bytes are left");
        u64::from(u32::from_le_bytes(length))
    });
    Some(lengths.sum())
}

/// The size of a file and where its descriptor stands (nothing: at the end), or nothing if it is no file.
async fn size_and_position(caller: &mut Caller<'_, Guest>, fd: i32) -> wasmtime::Result<Option<(u64, Option<u64>)>> {
    let (wasi, mut memory) = parts(caller)?;
    let Ok(stat) = wasi.fd_filestat_get(&mut memory, fd.into()).await else {
        return Ok(None);
    };
    let position = wasi.fd_tell(&mut memory, fd.into()).ok();
    Ok(Some((stat.size, position)))
}

/// What a function of WASI works on.
fn parts<'a>(caller: &'a mut Caller<'_, Guest>) -> wasmtime::Result<(&'a mut wasmtime_wasi::p1::WasiP1Ctx, GuestMemory<'a>)> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Err(wasmtime::Error::msg("the module exports no `memory`"));
    };
    let fuel = caller.as_context_mut().hostcall_fuel();
    let (bytes, guest) = memory.data_and_store_mut(caller);
    let wasi = guest.preview1();
    wasi.set_hostcall_fuel(fuel);
    Ok((wasi, GuestMemory::Unshared(bytes)))
}
