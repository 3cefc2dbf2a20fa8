//! Attacks clusters of real `tarn` processes, and judges what their clients saw.
//!
//! tarn promises that nothing acknowledged is ever lost. Here that promise is attacked the way the world attacks it: real processes on real
//! sockets and disks are cut off, killed, paused, given wrong clocks and failing disks, replaced and upgraded while clients work. What the
//! clients saw is written down as a *history*, and a checker decides afterwards whether any correct cluster could have shown it to them.
//! Nothing of the server is linked: the harness knows the SDK, the contract and the names of the invariants, and so cannot inherit the
//! server's mistakes.
//!
//! # One run
//! ```text
//!              ┌───────────────── run ─────────────────┐
//!   seed ────► │ clients ──► workload ──► history.jsonl │ ──► checker ──► verdict ──► report folder
//!              │ schedule ──► nemesis ──► cluster       │
//!              └────────────────────────────────────────┘
//! ```
//! [`run`] starts a [`cluster`], sets up a [`workload`], lets its clients work while a schedule drawn from the seed injects and heals the
//! faults of one or more [`nemesis`]es, with a quiet quarter; then it stops the clients, heals everything, waits until accepted work has
//! ended (*drain*), compares the digests of all nodes, and hands the [`history`] to the workload's [`checker`]. [`report`] writes the folder
//! that a person reads, and [`soak`] repeats all of it for hours.
//!
//! # What an outcome means
//! Each operation ends in one of three ways, which are never mixed up. *ok*: the cluster answered, and what it said must be true. *fail*: the
//! cluster certainly did not do it, and a trace of it later is a violation. *unknown*: no answer came; it may have happened, may still
//! happen, or never. A checker has to find *some* choice for the unknown ones that makes everything else possible.
//!
//! A verdict has three values too. *valid* and *invalid* speak about tarn. *unknown* means that this run proves nothing: the cluster did not
//! drain, or a search was given up. A failure of the harness itself is none of them: it is an error, and no verdict is written.
//!
//! # What a seed repeats
//! The seed decides the schedule of faults, their targets and the clients' choices. It does not decide what real machines do between them,
//! so the same seed shows the same bug often rather than always: the history in the report folder, which can be checked again at any time
//! with `jepsen check`, is the proof. What must repeat exactly belongs in the simulation.

pub mod checker;
pub mod cli;
pub mod cluster;
pub mod coverage;
pub mod disk;
pub mod faults;
pub mod figures;
pub mod history;
pub mod nemesis;
pub mod recovery;
pub mod report;
pub mod run;
pub mod schedule;
pub mod soak;
pub mod workload;
