//! The quota in front of `wasi:filesystem`.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{DescriptorFlags, ErrorCode, HostDescriptor, OpenFlags, PathFlags};
use wasmtime_wasi::p2::{DynOutputStream, FsResult, OutputStream, Pollable, StreamError};

use super::{NAME_BYTES, Quota};
use crate::wasm::guest::Guest;

/// The interface, in the version that is offered; guests that want another 0.2 get the same.
const TYPES: &str = "wasi:filesystem/types@0.2.12";

type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

/// Puts a function that charges the quota in front of each one that writes. `linker` allows shadowing.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_async("[method]descriptor.write", |mut store, (file, bytes, offset): (Resource<Descriptor>, Vec<u8>, u64)| {
        Box::new(async move {
            let guest = store.data_mut();
            let hole = offset.saturating_sub(size(guest, &file)?);
            if !guest.charge((bytes.len() as u64).saturating_add(hole)) {
                return full();
            }
            answer(HostDescriptor::write(&mut guest.filesystem(), file, bytes, offset).await)
        })
    })?;
    types.func_wrap_async("[method]descriptor.set-size", |mut store, (file, wanted): (Resource<Descriptor>, u64)| {
        Box::new(async move {
            let guest = store.data_mut();
            let grown = wanted.saturating_sub(size(guest, &file)?);
            if !guest.charge(grown) {
                return full();
            }
            answer(HostDescriptor::set_size(&mut guest.filesystem(), file, wanted).await)
        })
    })?;
    types.func_wrap("[method]descriptor.write-via-stream", |mut store, (file, offset): (Resource<Descriptor>, u64)| {
        let guest = store.data_mut();
        let hole = offset.saturating_sub(size(guest, &file)?);
        if !guest.charge(hole) {
            return full();
        }
        let stream = HostDescriptor::write_via_stream(&mut guest.filesystem(), file, offset);
        count(guest, stream)
    })?;
    types.func_wrap("[method]descriptor.append-via-stream", |mut store, (file,): (Resource<Descriptor>,)| {
        let guest = store.data_mut();
        let stream = HostDescriptor::append_via_stream(&mut guest.filesystem(), file);
        count(guest, stream)
    })?;
    add_names(linker)
}

/// Those that make a name.
fn add_names(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store, (dir, lookup, path, open, flags): (Resource<Descriptor>, PathFlags, String, OpenFlags, DescriptorFlags)| {
            Box::new(async move {
                let guest = store.data_mut();
                if open.contains(OpenFlags::CREATE) && !guest.charge(NAME_BYTES) {
                    return full();
                }
                answer(HostDescriptor::open_at(&mut guest.filesystem(), dir, lookup, path, open, flags).await)
            })
        },
    )?;
    types.func_wrap_async("[method]descriptor.create-directory-at", |mut store, (dir, path): (Resource<Descriptor>, String)| {
        Box::new(async move {
            let guest = store.data_mut();
            if !guest.charge(NAME_BYTES) {
                return full();
            }
            answer(HostDescriptor::create_directory_at(&mut guest.filesystem(), dir, path).await)
        })
    })?;
    types.func_wrap_async("[method]descriptor.symlink-at", |mut store, (dir, old, new): (Resource<Descriptor>, String, String)| {
        Box::new(async move {
            let guest = store.data_mut();
            if !guest.charge(NAME_BYTES) {
                return full();
            }
            answer(HostDescriptor::symlink_at(&mut guest.filesystem(), dir, old, new).await)
        })
    })?;
    types.func_wrap_async(
        "[method]descriptor.link-at",
        |mut store, (dir, lookup, old, new_dir, new): (Resource<Descriptor>, PathFlags, String, Resource<Descriptor>, String)| {
            Box::new(async move {
                let guest = store.data_mut();
                if !guest.charge(NAME_BYTES) {
                    return full();
                }
                answer(HostDescriptor::link_at(&mut guest.filesystem(), dir, lookup, old, new_dir, new).await)
            })
        },
    )
}

impl Guest {
    fn charge(&mut self, bytes: u64) -> bool {
        // Without a directory there is no file to write to; the call itself says so.
        self.scratch.as_ref().is_none_or(|scratch| scratch.quota.charge(bytes))
    }
}

fn full<T>() -> Answer<T> {
    Ok((Err(ErrorCode::InsufficientSpace),))
}

fn answer<T>(result: FsResult<T>) -> Answer<T> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

/// The size of a file; nothing for what is none, which the call itself says.
fn size(guest: &mut Guest, file: &Resource<Descriptor>) -> wasmtime::Result<u64> {
    match guest.ctx().table.get(file)? {
        Descriptor::File(file) => Ok(file.file.metadata().map_or(0, |metadata| metadata.len())),
        Descriptor::Dir(_) => Ok(0),
    }
}

/// Puts a counter in front of a stream into a file.
fn count(guest: &mut Guest, stream: FsResult<Resource<DynOutputStream>>) -> Answer<Resource<DynOutputStream>> {
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => return Ok((Err(error.downcast()?),)),
    };
    let Some(scratch) = &guest.scratch else {
        return Ok((Ok(stream),));
    };
    let quota = Arc::clone(&scratch.quota);
    let inner = guest.ctx().table.delete(stream)?;
    let counted: DynOutputStream = Box::new(Counted { inner, quota });
    Ok((Ok(guest.ctx().table.push(counted)?),))
}

/// A stream that charges what is written to it.
struct Counted {
    inner: DynOutputStream,
    quota: Arc<Quota>,
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Counted {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        if !self.quota.charge(bytes.len() as u64) {
            let error = io::Error::from(io::ErrorKind::StorageFull);
            return Err(StreamError::LastOperationFailed(error.into()));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        self.inner.check_write()
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Counted {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}
