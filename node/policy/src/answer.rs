//! What the deciding rules say, read and checked.

use regorus::Value;

use crate::{
    Severity, Violation,
    limits::{CODE_BYTES_MAX, MESSAGE_BYTES_MAX, RESULT_BYTES_MAX, VIOLATIONS_MAX},
    rego::weight_of,
};

/// What a bundle answered.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) allowed: bool,
    pub(crate) violations: Vec<Violation>,
    pub(crate) omitted: usize,
    pub(crate) rule: String,
}

/// Reads the object of answers. `must_allow` is whether there is a rule `allow`, which then has to be true. What does not have the form that the convention asks for is an error, never a silent pass.
pub(crate) fn read(answers: &Value, must_allow: bool) -> Result<Answer, String> {
    if weight_of(answers, RESULT_BYTES_MAX).is_none() {
        return Err(format!("what it says is larger than {RESULT_BYTES_MAX} bytes"));
    }
    let field = |name: &str| answers.as_object().ok().and_then(|fields| fields.get(&Value::from(name)));
    let mut violations = Vec::new();
    for (name, blocking) in [("deny", true), ("warn", false)] {
        if let Some(value) = field(name) {
            collect(name, blocking, value, &mut violations)?;
        }
    }
    let denied = violations.iter().any(|violation| violation.blocking);
    let refused = match field("allow") {
        Some(Value::Bool(true)) => false,
        Some(Value::Bool(false)) => true,
        Some(_) => return Err("allow is neither true nor false".into()),
        None => must_allow,
    };
    let rule = match (denied, refused) {
        (true, _) => "tarn.deny",
        (false, true) => "tarn.allow",
        (false, false) => "",
    };
    violations.sort_by(|one, other| other.blocking.cmp(&one.blocking).then_with(|| one.cmp(other)));
    violations.dedup();
    let omitted = violations.len().saturating_sub(VIOLATIONS_MAX);
    violations.truncate(VIOLATIONS_MAX);
    Ok(Answer { allowed: !denied && !refused, violations, omitted, rule: rule.into() })
}

/// A set or an array of messages or objects; true or one message for a rule that is not a set.
fn collect(name: &str, blocking: bool, value: &Value, violations: &mut Vec<Violation>) -> Result<(), String> {
    match value {
        Value::Set(entries) => {
            for entry in entries.iter() {
                violations.push(violation(name, blocking, entry)?);
            }
        }
        Value::Array(entries) => {
            for entry in entries.iter() {
                violations.push(violation(name, blocking, entry)?);
            }
        }
        Value::Bool(false) | Value::Undefined => {}
        Value::Bool(true) => violations.push(violation(name, blocking, &Value::from("the request is against this policy"))?),
        other => violations.push(violation(name, blocking, other)?),
    }
    Ok(())
}

fn violation(name: &str, blocking: bool, entry: &Value) -> Result<Violation, String> {
    let (code, severity) = if blocking { ("DENIED", Severity::Medium) } else { ("WARNED", Severity::Low) };
    let plain = |message: &str| Violation { code: code.into(), message: shortened(message), severity, blocking };
    let fields = match entry {
        Value::String(message) => return Ok(plain(message)),
        Value::Object(fields) => fields,
        _ => {
            return Err(format!("an entry of {name} is neither a message nor an object with a message"));
        }
    };
    let text = |field: &str| match fields.get(&Value::from(field)) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.to_string())),
        Some(_) => Err(format!("the {field} of an entry of {name} is no text")),
    };
    let known = ["message", "code", "severity"].map(Value::from);
    if fields.iter().any(|(field, _)| !known.contains(field)) {
        return Err(format!("an entry of {name} has fields beside message, code and severity"));
    }
    let message = text("message")?.ok_or_else(|| format!("an entry of {name} has no message"))?;
    let mut violation = plain(&message);
    if let Some(code) = text("code")? {
        if !is_code(&code) {
            return Err(format!("a code of {name} must consist of A-Z, 0-9 and _, up to {CODE_BYTES_MAX}"));
        }
        violation.code = code;
    }
    if let Some(severity) = text("severity")? {
        violation.severity = severity.parse().map_err(|error| format!("in {name}: {error}"))?;
    }
    Ok(violation)
}

fn is_code(code: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=CODE_BYTES_MAX).contains(&code.len()) && code.bytes().all(plain)
}

fn shortened(message: &str) -> String {
    let mut message = message.to_owned();
    crate::cut(&mut message, MESSAGE_BYTES_MAX);
    message
}
