//! The processes that executors start: a node's own binary in one of these roles.

use std::io;

use crate::{cuda, native};

/// The role of a process that touches CUDA devices.
pub(crate) const CUDA: &str = "cuda";

/// Does the work of a child process of an executor. The binary calls it before it makes any thread, with what follows the argument by
/// which it knows.
///
/// # Errors
/// The node is gone, or there is no such role.
pub fn child_main(role: &str, args: impl Iterator<Item = String>) -> io::Result<()> {
    if role == CUDA {
        cuda::child_main(&cuda::Cuda);
    }
    native::child_main(role, args).unwrap_or_else(|| Err(io::Error::other(format!("no child process is called {role:?}"))))
}
