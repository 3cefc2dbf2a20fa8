//! Sessions: a client that was cut off, however long, is served again once the cluster is, over the same connections, and what it sends then
//! is not swallowed.

use serde::{Deserialize, Serialize};

use super::{Check, Findings};
use crate::history::{Event, infos};

/// A session was tried after everything was healed: a [`Tried`].
pub const TRIED: &str = "session";

/// What became of a session after everything was healed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tried {
    /// Which session.
    pub session: String,
    /// Whether it was served in time.
    pub served: bool,
    /// Whether a client that was made afterwards was served in the same time.
    pub fresh: bool,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// No session stays stuck while new clients are served.
pub fn served_again(history: &[Event]) -> Check {
    let mut findings = Findings::new("sessions are served again");
    let tried = infos::<Tried>(history, TRIED);
    if tried.is_empty() {
        findings.doubt("no session was tried after everything was healed");
    }
    findings.count("sessions", tried.len());
    for (event, tried) in tried {
        findings.at_least("slowest_ms", tried.took_ms);
        match (tried.served, tried.fresh) {
            (true, _) => {}
            (false, true) => findings.violation(format!(
                "event {}: {} got no answer for {} ms, while a new client did",
                event.index, tried.session, tried.took_ms
            )),
            (false, false) => findings.doubt(format!("{} and a new client got no answer", tried.session)),
        }
    }
    findings.finish("every session that was cut off was served again")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checker::Outcome;
    use crate::checker::testing::{Script, told};

    #[test]
    fn a_stuck_session_is_found_and_told_apart_from_a_dead_cluster() {
        let mut script = Script::new("");
        assert_eq!(told(served_again(script.events())), Outcome::Unknown);
        script.info(TRIED, json!({"session": "one", "served": true, "fresh": true}));
        assert_eq!(told(served_again(script.events())), Outcome::Valid);
        let mut dead = script.clone();
        dead.info(TRIED, json!({"session": "two"}));
        assert_eq!(told(served_again(dead.events())), Outcome::Unknown);
        script.info(TRIED, json!({"session": "two", "fresh": true}));
        assert_eq!(told(served_again(script.events())), Outcome::Invalid);
    }
}
