//! Explaining: from facts to plain sentences.
//!
//! The kernel gives the facts: a task as it is, what it waits for, and the records of what was decided about it. Nothing is looked up here
//! and nothing is guessed: a sentence says what a fact says, and at the higher levels which record it rests on.
//!
//! ```text
//!   TaskStory ──► task ──┬─► waits: why it waits, and what would end that
//!                        ├─► history: who submitted it, which attempts, who ended it
//!                        └─► records: every record, for auditors
//!   Decisions ──► request
//! ```
//!
//! | level | tells |
//! | --- | --- |
//! | brief | how it stands, and what would unblock it |
//! | detailed | and all that happened |
//! | technical | and the numbers that decided |
//! | audit | and every record, with its place in the chain |

mod history;
mod placement;
mod records;
mod request;
mod task;
#[cfg(test)]
mod tests;
mod waits;
mod words;

use tarn_proto::v1::{ExplainLevel, Sentence};

use crate::printable;

pub use request::request;
pub use task::task;

/// How much is told: each level tells what the ones before it tell, and more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// One or two sentences.
    Brief,
    /// All that happened, without numbers.
    Detailed,
    /// With the numbers that decided.
    Technical,
    /// With every record.
    Audit,
}

impl From<ExplainLevel> for Level {
    fn from(level: ExplainLevel) -> Self {
        match level {
            ExplainLevel::Brief => Level::Brief,
            ExplainLevel::Unspecified | ExplainLevel::Detailed => Level::Detailed,
            ExplainLevel::Technical => Level::Technical,
            ExplainLevel::Audit => Level::Audit,
        }
    }
}

/// Collects the sentences of one story, as far as its level tells them.
struct Teller {
    level: Level,
    sentences: Vec<Sentence>,
}

impl Teller {
    fn new(level: Level) -> Self {
        Self { level, sentences: Vec::new() }
    }

    /// Says how things are now.
    fn say(&mut self, from: Level, topic: &str, text: impl Into<String>) {
        self.tell(from, topic, text, 0, 0);
    }

    /// Says what happened then, by the record of that log entry.
    fn tell(&mut self, from: Level, topic: &str, text: impl Into<String>, at_ms: u64, index: u64) {
        if self.level >= from {
            self.sentences.push(Sentence {
                topic: topic.to_owned(),
                // Names in it are others' words: they must not look like sentences of their own.
                text: printable::line(&text.into()).into_owned(),
                at_ms,
                index,
            });
        }
    }
}
