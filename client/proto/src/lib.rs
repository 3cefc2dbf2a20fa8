//! The contract: every message and service of tarn.
//!
//! The `.proto` files in `tarn/v1` are the one source from which the gRPC services, the command line's JSON output, the kernel's
//! commands and the SDKs follow. A request message that changes state *is* the kernel's command: [`v1::Command`] wraps it unchanged, and
//! [`v1::Outcome`] wraps the answer.
//!
//! Invariants: no logic lives here beyond naming and conversions between a message and the `oneof` that carries it; without the feature
//! `grpc` nothing here knows a network.

mod command;
mod secret;

pub use command::CommandBody;

/// The header of an answer in which a node that does not lead says where the leader is reached.
pub const LEADER_HEADER: &str = "tarn-leader";

/// Messages and, with the feature `grpc`, service stubs of package `tarn.v1`.
#[allow(missing_docs, clippy::large_enum_variant)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/tarn.v1.rs"));
}

/// The compiled descriptors of every file of the contract (a serialised `google.protobuf.FileDescriptorSet`), for gRPC reflection and for
/// rendering messages as JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tarn.descriptors.bin"));
