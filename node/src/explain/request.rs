//! The story of a request: was it let through or refused, by whom, and what would let it through.

use tarn_proto::v1::{Decision, DecisionKind, Sentence, Violation};

use super::{Level, Teller, history, records, words};
use crate::gate::permission::ALL;

/// The story of a request, from the records that name its id, and what policies had against it.
#[must_use]
pub fn request(id: &str, decisions: &[Decision], violations: &[Violation], level: Level) -> Vec<Sentence> {
    let mut teller = Teller::new(level);
    if decisions.is_empty() {
        let text = format!(
            "No record names {id}. Reads that were let through leave none, nor do the calls of workers; and records are kept only for a time."
        );
        teller.say(Level::Brief, "NOTHING", text);
    }
    for decision in decisions {
        match decision.kind() {
            DecisionKind::Refused => refused(&mut teller, decision),
            DecisionKind::Admitted => admitted(&mut teller, decision),
            _ => {}
        }
        objections(&mut teller, decision, violations);
        if let Some(gate) = &decision.gate {
            history::judged(&mut teller, decision, gate);
        }
    }
    records::tell(&mut teller, decisions);
    teller.sentences
}

/// What was asked for, as a sentence has it.
fn asked(decision: &Decision) -> String {
    let mut text = words::action(decision).to_owned();
    if !decision.resource.is_empty() {
        text.push_str(&format!(" of {}", decision.resource));
    }
    if !decision.task_id.is_empty() && decision.resource.is_empty() {
        text.push_str(&format!(" of task/{}", decision.task_id));
    }
    match decision.namespace.as_str() {
        "" => {}
        ALL => text.push_str(" in the whole cluster"),
        namespace => text.push_str(&format!(" in namespace {namespace}")),
    }
    text
}

/// What policies refused it for, in their own words.
fn objections(teller: &mut Teller, decision: &Decision, violations: &[Violation]) {
    let of_this = |found: &&Violation| found.blocking && found.request_id == decision.request_id;
    let refused = decision.kind() == DecisionKind::Refused && decision.step == "policy";
    for found in violations.iter().filter(|_| refused).filter(of_this) {
        let text = format!("Policy {} {} said: {} ({}).", found.policy, found.version, found.message.trim_end_matches('.'), found.code);
        teller.tell(Level::Brief, "POLICY", text, decision.at_ms, decision.index);
    }
}

fn refused(teller: &mut Teller, decision: &Decision) {
    let times = match decision.count {
        0 | 1 => String::new(),
        count => format!(" {count} times"),
    };
    let text = format!(
        "At {}, {} asked for {} and was refused{times} by the {}: {}.",
        words::time(decision.at_ms),
        words::who(decision),
        asked(decision),
        history::step(&decision.step),
        decision.reason
    );
    teller.tell(Level::Brief, "REFUSED", text, decision.at_ms, decision.index);
    if let Some(text) = unblock(decision) {
        teller.tell(Level::Brief, "UNBLOCK", text, decision.at_ms, decision.index);
    }
}

/// What would let it through.
fn unblock(decision: &Decision) -> Option<String> {
    let who = words::who(decision);
    Some(match decision.step.as_str() {
        "identity" => "Check the certificate or token: it may have expired, been revoked, or be another cluster's.".to_owned(),
        "role" => format!(
            "Somebody who may can give {who} a role that allows it: `tarn role bind {who} ROLE --in {}`; `tarn auth can-i` tells what is missing.",
            match decision.namespace.as_str() {
                "" => "NAMESPACE",
                ALL => "'*'",
                namespace => namespace,
            }
        ),
        "validation" => "The request can never succeed as it stands: correct the field that the refusal named.".to_owned(),
        "policy" => match decision.gate.as_ref().map(|gate| gate.rule.as_str()) {
            None | Some("") => {
                "Change the request so that the environment's policies allow it: `tarn policy eval` tells which do not.".to_owned()
            }
            Some(rule) => format!("Change the request so that the rule {rule} allows it: `tarn policy eval` tries it without effect."),
        },
        "quota" => "Ask again a little later, or have the namespace's limit raised.".to_owned(),
        "kernel" if decision.reason == "STALE_TOKEN" => {
            "Nothing would: the lease had passed to somebody else, who may be at work. The fencing token kept the two apart.".to_owned()
        }
        "kernel" if decision.reason.starts_with("QUOTA_") => {
            "Wait until the namespace has less in use, or have its quota raised: `tarn namespace usage` shows both.".to_owned()
        }
        _ => return None,
    })
}

fn admitted(teller: &mut Teller, decision: &Decision) {
    let text = format!(
        "At {}, {} asked for {}; it was let through and carried out.",
        words::time(decision.at_ms),
        words::who(decision),
        asked(decision)
    );
    teller.tell(Level::Brief, "ADMITTED", text, decision.at_ms, decision.index);
    if !decision.task_id.is_empty() {
        let tasks = match decision.count {
            0 | 1 => format!("It is about task {}.", decision.task_id),
            count => format!("It is about {count} tasks, whose ids follow each other from {} on.", decision.task_id),
        };
        teller.tell(Level::Detailed, "ADMITTED", tasks, decision.at_ms, decision.index);
    }
}
