//! The Rust SDK of tarn.

pub mod tls;
