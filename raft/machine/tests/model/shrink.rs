//! Makes a failing script short, and writes it down in the language of the golden scripts.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};

use crate::generate::Step;
use crate::reference::{Flaw, Line};
use crate::run::Run;

/// How often a script is tried while it is made shorter.
const TRIES: usize = 600;

/// Why a script fails: the step, and what was found.
pub fn failure(steps: &[Step], flaw: Option<Flaw>) -> Option<(usize, String)> {
    let mut run = Run::new(flaw);
    for (place, step) in steps.iter().enumerate() {
        if let Err(found) = run.step(step) {
            return Some((place, found));
        }
    }
    run.finish().err().map(|found| (steps.len(), found))
}

/// A short script that fails too. Entries are emptied rather than left out, because ids come from their places in the log.
pub fn shrink(mut steps: Vec<Step>, flaw: Option<Flaw>) -> Vec<Step> {
    let mut tries = 0;
    let mut fails = |steps: &[Step]| {
        tries += 1;
        if tries > TRIES { None } else { failure(steps, flaw) }
    };
    let mut size = steps.len().div_ceil(2);
    while size > 0 {
        let mut start = 0;
        while start < steps.len() {
            let end = (start + size).min(steps.len());
            let mut shorter = steps.clone();
            for place in (start..end).rev() {
                silence(&mut shorter, place);
            }
            if shorter != steps
                && let Some((place, _)) = fails(&shorter)
            {
                shorter.truncate(place + 1);
                steps = shorter;
            }
            start = end;
        }
        size /= 2;
    }
    for place in (0..steps.len()).rev() {
        for line in (0..lines(&steps, place)).rev() {
            let mut shorter = steps.clone();
            if let Some(Step::Entry { lines, .. }) = shorter.get_mut(place) {
                lines.remove(line);
            }
            if let Some((place, _)) = fails(&shorter) {
                shorter.truncate(place + 1);
                steps = shorter;
            }
        }
    }
    // Clocks that stand still where nothing happens make it easier to read.
    for place in 1..steps.len() {
        let before = steps[..place].iter().rev().find_map(|step| match step {
            Step::Entry { now_ms, .. } => Some(*now_ms),
            _ => None,
        });
        let mut simpler = steps.clone();
        if let (Some(Step::Entry { now_ms, lines }), Some(before)) = (simpler.get_mut(place), before)
            && lines.is_empty()
            && *now_ms != before
        {
            *now_ms = before;
            if fails(&simpler).is_some() {
                steps = simpler;
            }
        }
    }
    steps
}

fn lines(steps: &[Step], place: usize) -> usize {
    match steps.get(place) {
        Some(Step::Entry { lines, .. }) => lines.len(),
        _ => 0,
    }
}

/// Takes away what a step does; an entry keeps its place in the log and its time.
fn silence(steps: &mut Vec<Step>, place: usize) {
    match &mut steps[place] {
        Step::Entry { lines, .. } => lines.clear(),
        Step::Note => {}
        Step::Restart | Step::Sync | Step::Crash(_) => drop(steps.remove(place)),
    }
}

/// The script as text.
pub fn script(steps: &[Step]) -> String {
    let pool = DescriptorPool::decode(tarn_proto::DESCRIPTORS).expect("the contract's descriptors are valid");
    let mut text = String::new();
    let (mut clock, mut ticks) = (0, 0);
    for step in steps {
        if matches!(step, Step::Entry { now_ms, lines } if *now_ms == clock && lines.is_empty()) {
            ticks += 1;
            continue;
        }
        match std::mem::take(&mut ticks) {
            0 => {}
            1 => text.push_str("> tick\n"),
            ticks => text.push_str(&format!("> tick ({ticks} times)\n")),
        }
        match step {
            Step::Entry { now_ms, lines } => {
                if *now_ms != clock {
                    clock = *now_ms;
                    text.push_str(&format!("> at {now_ms}\n"));
                }
                let commands: Vec<String> = lines.iter().map(|line| command(&pool, line)).collect();
                text.push_str(&format!("> {}\n", if commands.is_empty() { "tick".to_owned() } else { commands.join(" && ") }));
            }
            Step::Note => text.push_str("> note\n"),
            Step::Restart => text.push_str("> restart\n"),
            Step::Sync => text.push_str("> sync\n"),
            Step::Crash(seed) => text.push_str(&format!("> crash {seed}\n")),
        }
    }
    text
}

fn command(pool: &DescriptorPool, line: &Line) -> String {
    let descriptor = pool.get_message_by_name("tarn.v1.Command").expect("the contract has commands");
    let bytes = line.command.encode_to_vec();
    let message = DynamicMessage::decode(descriptor, bytes.as_slice()).expect("a command can be decoded");
    let body = message.fields().find_map(|(field, value)| match value {
        Value::Message(body) if field.name() != "gate" => Some(format!("{} {}", field.name(), fields(body))),
        _ => None,
    });
    let gate = message.get_field_by_name("gate").filter(|_| line.command.gate.is_some());
    let gate = gate.map_or_else(String::new, |gate| format!(" {}", one("gate", &gate)));
    let spoilt = line.refused_as.map_or_else(String::new, |reason| format!(" (spoilt: {reason})"));
    format!("{}{gate} by={}{spoilt}", body.unwrap_or_default().trim_end(), line.command.principal)
}

fn fields(message: &DynamicMessage) -> String {
    let mut parts = Vec::new();
    for (field, value) in message.fields() {
        match value {
            Value::List(list) => parts.extend(list.iter().map(|value| one(field.name(), value))),
            Value::Map(map) => {
                let mut entries: Vec<_> = map.iter().map(|(k, v)| format!("{}={}", k.as_str().unwrap_or(""), plain(v))).collect();
                entries.sort();
                parts.push(format!("{}{{{}}}", field.name(), entries.join(" ")));
            }
            value => parts.push(one(field.name(), value)),
        }
    }
    parts.join(" ")
}

fn one(name: &str, value: &Value) -> String {
    match value {
        Value::Message(inner) => format!("{name}{{{}}}", fields(inner)),
        value => format!("{name}={}", plain(value)),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.len() > 100 => format!("x*{}", text.len()),
        Value::String(text) if text.is_empty() || text.contains(' ') => format!("{text:?}"),
        Value::String(text) => text.clone(),
        Value::Bytes(bytes) if bytes.len() > 100 || bytes.is_empty() => format!("x*{}", bytes.len()),
        Value::Bytes(bytes) => format!("\"{}\"", String::from_utf8_lossy(bytes)),
        Value::U64(number) => number.to_string(),
        Value::U32(number) => number.to_string(),
        Value::I32(number) | Value::EnumNumber(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        other => format!("{other:?}"),
    }
}
