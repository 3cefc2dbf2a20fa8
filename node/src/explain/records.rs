//! Every record, for auditors: what it says, and where it lies in the chain.

use tarn_proto::v1::Decision;

use super::{Level, Teller, words};

/// Tells every record.
pub fn tell(teller: &mut Teller, decisions: &[Decision]) {
    for decision in decisions {
        teller.tell(Level::Audit, "RECORD", one(decision), decision.at_ms, decision.index);
    }
}

fn one(decision: &Decision) -> String {
    let kind = decision.kind().as_str_name().trim_start_matches("DECISION_KIND_");
    let mut text = format!("Record {}.{} of {}: {kind}", decision.index, decision.ordinal, words::time(decision.at_ms));
    let mut say = |title: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!(", {title} {value}"));
        }
    };
    say("by", &decision.principal);
    say("action", &decision.action);
    say("of", &decision.resource);
    say("in", &decision.namespace);
    say("step", &decision.step);
    say("reason", &decision.reason);
    say("request", &decision.request_id);
    say("worker", &decision.worker);
    if decision.attempt > 0 {
        say("attempt", &decision.attempt.to_string());
    }
    if decision.count > 1 {
        say("count", &decision.count.to_string());
    }
    say("detail", &decision.detail);
    if let Some(gate) = &decision.gate {
        say("trace", &gate.trace);
        say("input", &data_encoding::HEXLOWER.encode(&gate.input_digest));
    }
    text.push('.');
    text
}
