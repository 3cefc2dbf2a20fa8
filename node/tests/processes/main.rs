//! Whole clusters of real `tarn` processes: killed, stopped, added, removed, and driven from the command line.
//!
//! ```text
//! scene          a cluster with its seed; on failure it prints the seed and the ends of the nodes' logs
//! load           numbered tasks submitted and worked on until told to stop, and the proof that each was done once
//!
//! kills          SIGKILL at any instant                    members        joining, removing, replacing
//! stops          SIGTERM: leadership handed over           command_line   exit codes, errors, help, configuration
//! snapshots      catching up after the log was purged      crash_points   dying at each named point
//! sdk            the SDK's own example                     audit          `tarn audit verify`
//! executors      tasks of each runtime, by the binary itself          kv             `tarn kv`
//! ```
//!
//! `TARN_TEST_SEED=N` repeats the choices of a run; the schedule of the processes is the machine's. The crash points need a binary that can
//! die at them, so they are a build of their own:
//!
//! ```text
//! cargo test -p tarn --test processes --features crash-points crash_points
//! ```

mod audit;
mod command_line;
#[cfg(feature = "crash-points")]
mod crash_points;
mod dev;
mod executors;
mod kills;
mod kv;
mod load;
mod members;
mod scene;
mod sdk;
mod snapshots;
mod stops;
