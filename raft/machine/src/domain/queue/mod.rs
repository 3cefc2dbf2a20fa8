//! Queues: tasks from their submission to their end.
//!
//! ```text
//!               ┌─────────┐ dependencies ended ┌─────────┐ time ┌───────┐ lease ┌─────────┐ complete ┌───────────┐
//!  enqueue ────►│ BLOCKED │───────────────────►│ DELAYED │─────►│ READY │──────►│ RUNNING │─────────►│ SUCCEEDED │
//!               └─────────┘                    └─────────┘      └───────┘       └─────────┘          └───────────┘
//!                    │                           ▲  │  fail, lease ended │            │
//!                    │ a dependency failed       └──┼────(attempts left)──────────────┤ no attempts left, final, deadline
//!                    ▼                              ▼               ▼                 ▼
//!               ┌──────┐ requeue: BLOCKED, DELAYED or READY     ┌───────────┐     ┌──────┐
//!               │ DEAD │                                        │ CANCELLED │     │ DEAD │
//!               └──────┘                                        └───────────┘     └──────┘
//! ```

pub mod admit;
pub mod cancel;
pub mod dead;
pub mod dependency;
pub mod lease;
pub mod report;
