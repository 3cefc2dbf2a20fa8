//! A whole node, in process, over real connections on free ports. One program, because each test program links all of tarn.

mod api;
mod audit;
mod cluster;
mod common;
#[allow(dead_code, reason = "the program around it is for a script")]
#[path = "../../executor/examples/componentize.rs"]
mod componentize;
mod contexts;
mod drivers;
mod executor;
mod federation;
mod foresight;
mod gate;
mod handover;
mod ops;
mod pipeline;
mod policy;
mod redaction;
mod refusals;
mod renewal;
mod revocation;
mod router;
mod streams;
mod tenancy;
mod web;
mod web_attacks;
mod web_client;
mod workers;
