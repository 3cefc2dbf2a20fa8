//! Everything that knows the Rego interpreter: analysis before it runs, guards while it runs, and the threads that it runs on.

mod analysis;
mod calls;
mod functions;
mod guard;
mod message;
mod path;
mod program;
mod sources;
mod text;
mod threads;
mod walk;
mod weight;

pub(crate) use analysis::{Analysis, Definition, RuleId};
pub(crate) use program::{Program, rule_texts};
pub(crate) use threads::{Outcome, Purpose, run};
pub(crate) use weight::weight_of;
