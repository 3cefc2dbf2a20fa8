//! What several tests and the benchmark share.

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod cases;
pub mod ledger;
pub mod optimum;
pub mod script;
