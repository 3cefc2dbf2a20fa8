//! A node: the process that is one member of a tarn cluster, and the command line that talks to it.
//!
//! Each room is one step of a request's way, or one thing that a node does by itself:
//!
//! ```text
//!  client ─► identity ─► api ─► gate ─► tarn-raft ─► log, machine
//!            who are     one    may      propose,        │
//!            you?        path   you?     read            │ applied events
//!                         │                              ▼
//!                         └──► dispatch ◄────────────────┘
//!                              who waits for work?
//!                                 │
//!                    SDK workers ◄┴► host ─► tarn-executor
//!                                    this node's own worker
//! ```
//!
//! - `config`: settings, each with the place it came from.
//! - `identity`: who may connect, and as whom. `gate`: the steps that may refuse a request, in order.
//! - `way`: the one path of every command and every read. `api`: the services over it.
//! - `dispatch`: who waits for work, and who gets it. `host`: this node's own worker.
//! - `router`: which worker gets a task that leaves it open, decided on the leader's node.
//! - `drivers`: signed components that extend the cluster, run by the leader's node.
//! - `federation`: other clusters: the document that is shared with them, links, who is a member.
//! - `explain`: from what was decided to plain sentences.
//! - `escalation`: violations of policies on their way to those who asked to be told.
//! - `peer`, `artifacts`: between the nodes.
//! - `renewal`: certificates renew themselves.
//! - `printable`: texts of strangers, fit for a terminal.
//! - `ops`: health, metrics, logs, for people and their tools.
//! - `daemon`: starts the rooms in order and stops them in the other order. `cli`: the command line.
//!
//! Invariants: nothing in this crate decides what must be replicated; that is the kernel's. Nothing here keeps state that a restart
//! would miss.

pub mod api;
pub mod artifacts;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod dispatch;
pub mod drivers;
pub mod escalation;
pub mod explain;
pub mod federation;
pub mod gate;
pub mod host;
pub mod identity;
pub mod ops;
pub mod peer;
mod printable;
pub mod renewal;
pub mod router;
pub mod way;
