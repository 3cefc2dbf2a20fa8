//! The language of golden scripts. Messages are built and printed by reflection, so that every field of the contract can be said.

use std::collections::BTreeMap;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value};
use tarn_machine::Refusal;
use tarn_machine::ids::Id;
use tarn_proto::v1::{Command, Event, EventKind};

use super::Rig;

type Text<T> = Result<T, String>;

/// Runs the lines of one script against one machine.
pub struct Runner {
    rig: Rig,
    pool: DescriptorPool,
    names: Names,
}

/// Short names for ids and tokens, in the order in which they first appear: t1, w1, m1 (timers), k1 (tokens), v1
/// (versions of keys).
#[derive(Default)]
struct Names {
    by_name: BTreeMap<String, String>,
    by_value: BTreeMap<(bool, String), String>,
    counts: BTreeMap<char, usize>,
}

impl Names {
    fn name(&mut self, letter: char, value: &str) {
        let is_token = matches!(letter, 'k' | 'v');
        if value.is_empty() || value == "0" || self.by_value.contains_key(&(is_token, value.to_owned())) {
            return;
        }
        let count = self.counts.entry(letter).or_default();
        *count += 1;
        let name = format!("{letter}{count}");
        self.by_name.insert(name.clone(), value.to_owned());
        self.by_value.insert((is_token, value.to_owned()), name);
    }

    fn text(&self, value: &str) -> String {
        self.by_value.get(&(false, value.to_owned())).cloned().unwrap_or_else(|| quote(value))
    }

    fn token(&self, value: u64) -> String {
        self.by_value.get(&(true, value.to_string())).cloned().unwrap_or_else(|| value.to_string())
    }
}

impl Runner {
    /// A runner with a new cluster.
    pub fn new() -> Self {
        let pool = DescriptorPool::decode(tarn_proto::DESCRIPTORS).expect("the contract's descriptors are valid");
        Runner { rig: Rig::new(), pool, names: Names::default() }
    }

    /// Runs one line; gives the lines that it prints.
    pub fn run(&mut self, line: &str) -> Text<Vec<String>> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "at" => {
                self.rig.now_ms = number(rest)?;
                Ok(Vec::new())
            }
            "tick" => self.entry(Vec::new()),
            "pass" => {
                let events = self.rig.pass_to(self.rig.now_ms + number(rest)?);
                Ok(self.events(events))
            }
            "restart" => {
                self.rig.restart();
                Ok(Vec::new())
            }
            "next_wake" => Ok(vec![match self.rig.machine.next_wake_ms() {
                Some(at) => at.to_string(),
                None => "none".to_owned(),
            }]),
            _ if verb.starts_with("get_") || verb.starts_with("list_") || verb == "task_logs" => self.read(verb, rest),
            _ => {
                let commands = line.split(" && ").map(|part| self.command(part)).collect::<Text<_>>()?;
                self.entry(commands)
            }
        }
    }

    fn entry(&mut self, commands: Vec<Command>) -> Text<Vec<String>> {
        let applied = self.rig.apply(commands);
        let mut lines = Vec::new();
        for outcome in applied.outcomes {
            let outcome = self.dynamic("Outcome", outcome.encode_to_vec())?;
            self.learn(&outcome);
            let body = outcome.fields().next().map(|(field, value)| (field.name().to_owned(), value.clone()));
            let (name, value) = body.ok_or("an outcome without a body")?;
            let Value::Message(message) = value else {
                return Err("an outcome that is no message".to_owned());
            };
            lines.push(match name.as_str() {
                "rejected" => self.print(&message).trim().to_owned(),
                _ => format!("ok {}", self.print(&message)).trim().to_owned(),
            });
        }
        lines.extend(self.events(applied.events));
        Ok(lines)
    }

    fn events(&mut self, events: Vec<Event>) -> Vec<String> {
        let mut lines = Vec::new();
        for event in events {
            if event.kind() == EventKind::TaskEnqueued {
                self.names.name('t', &event.subject);
            }
            let mut line = event.kind().as_str_name().trim_start_matches("EVENT_KIND_").to_owned();
            for (key, value) in [
                ("", &event.subject),
                (" in=", &event.namespace),
                (" queue=", &event.queue),
                (" worker=", &event.worker),
                (" detail=", &event.detail),
            ] {
                let plain = key == " in=" && (value == "default" || value == &event.subject);
                let itself = key == " worker=" && value == &event.subject;
                if !(value.is_empty() || plain || itself) {
                    let space = if key.is_empty() { " " } else { "" };
                    line.push_str(&format!("{space}{key}{}", self.names.text(value)));
                }
            }
            if event.attempt != 0 {
                line.push_str(&format!(" attempt={}", event.attempt));
            }
            lines.push(format!("* {line}"));
        }
        lines
    }

    fn command(&self, text: &str) -> Text<Command> {
        let mut words = words(text)?;
        if words.is_empty() {
            return Err("a command without a name".to_owned());
        }
        let verb = words.remove(0);
        let command = self.descriptor("Command")?;
        let field = command.get_field_by_name(&verb).ok_or_else(|| format!("there is no command {verb}"))?;
        let Kind::Message(request) = field.kind() else {
            return Err(format!("{verb} is no command"));
        };
        let mut message = DynamicMessage::new(command.clone());
        if let Some(place) = outermost(&words, "gate{") {
            let mut rest: Vec<String> = words.split_off(place).into_iter().skip(1).rev().collect();
            let gate = self.fields(&self.descriptor("GateFacts")?, &mut rest)?;
            message.set_field_by_name("gate", Value::Message(gate));
            words.extend(rest.into_iter().rev());
        }
        let mut principal = "tester".to_owned();
        words.retain(|word| match word.strip_prefix("by=") {
            Some(who) => {
                principal = who.to_owned();
                false
            }
            None => true,
        });
        message.set_field(&field, Value::Message(self.build(&request, words)?));
        message.set_field_by_name("principal", Value::String(principal));
        message.transcode_to().map_err(|error| error.to_string())
    }

    fn read(&mut self, verb: &str, text: &str) -> Text<Vec<String>> {
        let camel: String = verb.split('_').map(capital).collect();
        let camel = if verb == "task_logs" { "GetTaskLogs".to_owned() } else { camel };
        let request = self.build(&self.descriptor(&format!("{camel}Request"))?, words(text)?)?;
        macro_rules! ask {
            ($method:ident) => {{
                let request = request.transcode_to().map_err(|error| error.to_string())?;
                self.rig.machine.$method(&request).map(|answer| answer.encode_to_vec())
            }};
        }
        let answer = match verb {
            "get_task" => ask!(get_task),
            "list_tasks" => ask!(list_tasks),
            "task_logs" => ask!(task_logs),
            "list_queues" => ask!(list_queues),
            "get_queue" => ask!(get_queue),
            "list_workers" => ask!(list_workers),
            "get_lease" => ask!(get_lease),
            "list_leases" => ask!(list_leases),
            "get_timer" => ask!(get_timer),
            "list_timers" => ask!(list_timers),
            "list_namespaces" => ask!(list_namespaces),
            "get_namespace" => ask!(get_namespace),
            "list_roles" => ask!(list_roles),
            "list_bindings" => ask!(list_bindings),
            "list_tokens" => ask!(list_tokens),
            "list_revocations" => ask!(list_revocations),
            "list_bundles" => ask!(list_bundles),
            "get_bundle" => ask!(get_bundle),
            "list_violations" => ask!(list_violations),
            "list_policy_handlers" => ask!(list_policy_handlers),
            "get_policy_settings" => ask!(get_policy_settings),
            "list_drivers" => ask!(list_drivers),
            "get_driver" => ask!(get_driver),
            "get_driver_settings" => ask!(get_driver_settings),
            "list_decisions" => ask!(list_decisions),
            "get_audit_settings" => ask!(get_audit_settings),
            "get_key" => ask!(get_key),
            "list_keys" => ask!(list_keys),
            "list_versions" => ask!(list_versions),
            "list_contexts" => ask!(list_contexts),
            "list_snapshots" => ask!(list_snapshots),
            _ => return Err(format!("there is no read {verb}")),
        };
        let answer = match answer {
            Ok(bytes) => self.dynamic(&format!("{camel}Response"), bytes)?,
            Err(Refusal::Rejected(rejection)) => self.dynamic("Rejection", rejection.encode_to_vec())?,
            Err(Refusal::Fatal(fatal)) => return Err(fatal.to_string()),
        };
        Ok(self.print_lines(&answer))
    }

    fn descriptor(&self, name: &str) -> Text<MessageDescriptor> {
        let found = self.pool.get_message_by_name(&format!("tarn.v1.{name}"));
        found.ok_or_else(|| format!("the contract has no message {name}"))
    }

    fn dynamic(&self, name: &str, bytes: Vec<u8>) -> Text<DynamicMessage> {
        DynamicMessage::decode(self.descriptor(name)?, bytes.as_slice()).map_err(|error| error.to_string())
    }

    // --- From text to messages ----------------------------------------------------------------------------------------------------------

    fn build(&self, descriptor: &MessageDescriptor, mut words: Vec<String>) -> Text<DynamicMessage> {
        words.reverse();
        let mut message = self.fields(descriptor, &mut words)?;
        if !words.is_empty() {
            return Err(format!("too many closing braces before {words:?}"));
        }
        let all = ["ListQueuesRequest", "ListDecisionsRequest", "ListViolationsRequest"].contains(&descriptor.name());
        if descriptor.get_field_by_name("namespace").is_some() && !message.has_field_by_name("namespace") && !all {
            message.set_field_by_name("namespace", Value::String("default".to_owned()));
        }
        Ok(message)
    }

    /// Reads fields up to the closing brace or the end. `words` is reversed: the next word is the last.
    fn fields(&self, descriptor: &MessageDescriptor, words: &mut Vec<String>) -> Text<DynamicMessage> {
        let mut message = DynamicMessage::new(descriptor.clone());
        while let Some(word) = words.pop() {
            if word == "}" {
                return Ok(message);
            }
            let (name, value) = match word.strip_suffix('{') {
                Some(name) => (name, None),
                None => word.split_once('=').map(|(n, v)| (n, Some(v))).ok_or_else(|| format!("what is {word:?}?"))?,
            };
            let no_field = || format!("{} has no field {name}", descriptor.name());
            let field = descriptor.get_field_by_name(name).ok_or_else(no_field)?;
            if field.is_map() {
                message.set_field(&field, Self::map(words)?);
                continue;
            }
            let value = match (field.kind(), value) {
                (Kind::Message(inner), None) => Value::Message(self.fields(&inner, words)?),
                (_, Some(text)) => self.value(&field, text)?,
                (_, None) => return Err(format!("{name} is no message")),
            };
            if field.is_list() {
                let mut list = message.get_field(&field).as_list().map(<[Value]>::to_vec).unwrap_or_default();
                list.push(value);
                message.set_field(&field, Value::List(list));
            } else {
                message.set_field(&field, value);
            }
        }
        Ok(message)
    }

    fn map(words: &mut Vec<String>) -> Text<Value> {
        let mut value = Value::Map(Default::default());
        let Value::Map(map) = &mut value else {
            return Err("a map is a map".to_owned());
        };
        while let Some(word) = words.pop().filter(|word| word != "}") {
            let (key, value) = word.split_once('=').ok_or_else(|| format!("what is {word:?}?"))?;
            map.insert(MapKey::String(key.to_owned()), Value::String(expand(value)));
        }
        Ok(value)
    }

    fn value(&self, field: &FieldDescriptor, text: &str) -> Text<Value> {
        let known = ["task_id", "task_ids", "after", "worker_id", "timer_id", "token", "page_token", "version", "expected_version"]
            .contains(&field.name());
        let named = self.names.by_name.get(text).filter(|_| known);
        let text = named.cloned().unwrap_or_else(|| expand(text));
        Ok(match field.kind() {
            Kind::String => Value::String(text),
            Kind::Bytes => Value::Bytes(text.into_bytes().into()),
            Kind::Uint64 => Value::U64(number(&text)?),
            Kind::Uint32 => Value::U32(number(&text)? as u32),
            Kind::Bool => Value::Bool(text == "true"),
            Kind::Enum(kind) => {
                let found = kind.values().find(|value| value.name().ends_with(&format!("_{text}")));
                let bare = text.parse::<i32>().ok();
                let found = found.map(|value| value.number()).or(bare);
                Value::EnumNumber(found.ok_or_else(|| format!("{} has no value {text}", kind.name()))?)
            }
            kind => return Err(format!("cannot say a {kind:?}")),
        })
    }

    // --- From messages to text ----------------------------------------------------------------------------------------------------------

    /// Gives names to ids and tokens that appear for the first time.
    fn learn(&mut self, message: &DynamicMessage) {
        for (field, value) in message.fields() {
            let letter = match field.name() {
                "task_id" | "task_ids" => Some('t'),
                "worker_id" => Some('w'),
                "timer_id" => Some('m'),
                "token" => Some('k'),
                "version" => Some('v'),
                _ => None,
            };
            self.learn_value(letter, value);
        }
    }

    fn learn_value(&mut self, letter: Option<char>, value: &Value) {
        match (value, letter) {
            (Value::Message(inner), _) => self.learn(inner),
            (Value::List(list), _) => list.iter().for_each(|value| self.learn_value(letter, value)),
            (Value::String(text), Some(letter)) if text.parse::<Id>().is_ok() => self.names.name(letter, text),
            (Value::U64(number), Some(letter @ ('k' | 'v'))) => self.names.name(letter, &number.to_string()),
            _ => {}
        }
    }

    /// One line per entry of the answer's list, or one line.
    fn print_lines(&self, message: &DynamicMessage) -> Vec<String> {
        let mut lines = Vec::new();
        for (field, value) in message.fields() {
            match value {
                _ if field.name() == "revision" => {}
                Value::List(list) => lines.extend(list.iter().map(|value| self.print_value(&field, value))),
                Value::Message(inner) => lines.push(self.print(inner)),
                value => lines.push(format!("{}={}", field.name(), self.print_value(&field, value))),
            }
        }
        if lines.is_empty() {
            lines.push("nothing".to_owned());
        }
        lines
    }

    fn print(&self, message: &DynamicMessage) -> String {
        let is_rejection = message.descriptor().name() == "Rejection";
        let mut parts = Vec::new();
        for (field, value) in message.fields() {
            let plain = field.name() == "namespace" && value.as_str() == Some("default");
            if plain || (is_rejection && field.name() == "code") {
                continue;
            }
            match value {
                Value::Message(inner) => parts.push(format!("{}{{{}}}", field.name(), self.print(inner))),
                Value::List(list) => {
                    for value in list {
                        match value {
                            Value::Message(inner) => parts.push(format!("{}{{{}}}", field.name(), self.print(inner))),
                            value => parts.push(format!("{}={}", field.name(), self.print_value(&field, value))),
                        }
                    }
                }
                Value::Map(map) => {
                    let sorted: BTreeMap<_, _> = map.iter().map(|(k, v)| (k.as_str().unwrap_or(""), v)).collect();
                    let inner = sorted.iter().map(|(k, v)| format!("{k}={}", self.print_value(&field, v)));
                    parts.push(format!("{}{{{}}}", field.name(), inner.collect::<Vec<_>>().join(" ")));
                }
                value if is_rejection && field.name() == "reason" => parts.push(value.as_str().unwrap_or("").to_owned()),
                value => parts.push(format!("{}={}", field.name(), self.print_value(&field, value))),
            }
        }
        parts.join(" ")
    }

    fn print_value(&self, field: &FieldDescriptor, value: &Value) -> String {
        match value {
            Value::String(text) => self.names.text(text),
            Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if !text.contains(char::is_control) => quote(text),
                _ => format!("<{} bytes>", bytes.len()),
            },
            Value::U64(number) if ["token", "version", "actual_version"].contains(&field.name()) => self.names.token(*number),
            Value::U64(number) => number.to_string(),
            Value::U32(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::EnumNumber(number) => match field.kind() {
                Kind::Enum(kind) => {
                    let prefix = format!("{}_", screaming(kind.name()));
                    let name = kind.get_value(*number).map(|value| value.name().to_owned());
                    name.map_or(number.to_string(), |name| name.trim_start_matches(&prefix).to_owned())
                }
                _ => number.to_string(),
            },
            Value::Message(inner) => self.print(inner),
            other => format!("{other:?}"),
        }
    }
}

/// Splits a line into words: quotes keep blanks together, a closing brace is a word of its own, an opening one ends a word.
fn words(text: &str) -> Text<Vec<String>> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => word.push(c),
            ' ' | '}' | '{' => {
                if c == '{' {
                    word.push('{');
                }
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                if c == '}' {
                    words.push("}".to_owned());
                }
            }
            c => word.push(c),
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// Where a word stands outside of all braces.
fn outermost(words: &[String], wanted: &str) -> Option<usize> {
    let mut depth = 0;
    words.iter().position(|word| {
        let here = depth == 0 && word == wanted;
        depth += i32::from(word.ends_with('{')) - i32::from(word == "}");
        here
    })
}

/// `x*5` stands for `xxxxx`, so that scripts can say what is too long.
fn expand(text: &str) -> String {
    match text.split_once('*').map(|(what, times)| (what, times.parse::<usize>())) {
        Some((what, Ok(times))) => what.repeat(times),
        _ => text.to_owned(),
    }
}

fn quote(text: &str) -> String {
    if text.len() > 200 {
        return format!("<{} bytes>", text.len());
    }
    match text.is_empty() || text.contains([' ', '{', '}', '"']) {
        true => format!("{text:?}"),
        false => text.to_owned(),
    }
}

fn number(text: &str) -> Text<u64> {
    text.replace('_', "").parse().map_err(|_| format!("{text:?} is no number"))
}

fn capital(word: &str) -> String {
    word[..1].to_uppercase() + &word[1..]
}

fn screaming(camel: &str) -> String {
    let mut out = String::new();
    for c in camel.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_uppercase());
    }
    out
}
