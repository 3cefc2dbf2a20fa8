//! What the tests share: a few clusters and the links between them, all in one thread.

#![allow(dead_code, reason = "every test binary uses a part of it")]

// Also included by the fuzz targets, so it stands by itself: `exchange.rs`.
pub mod forge;
pub mod world;
