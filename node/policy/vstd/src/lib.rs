//! Stands in for `vstd`, the library of the verifier Verus.
//!
//! regorus proves facts about its numbers with Verus. The proofs are erased when it is compiled for use: what remains are attributes that
//! say nothing and blocks that do nothing. The real library brings a parser of its own for them, whose demands on shared crates would have
//! all of tarn's dependencies, RocksDB among them, compiled in another way and once more. Here are the same names, erased from the start.

#![no_std]
#![warn(missing_docs)]

/// What the interpreter imports.
pub mod prelude {
    pub use crate::proof;
    pub use vstd_macros::{verus_spec, verus_verify};
}

/// A proof: nothing of it is left.
#[macro_export]
macro_rules! proof {
    ($($proof:tt)*) => {};
}
