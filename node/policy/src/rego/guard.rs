//! Guards before built-in functions.
//!
//! The interpreter looks at its clock between steps, but a call of a built-in function is one step: `concat` of a million references to
//! one string is a gigabyte before the clock is looked at. So functions whose work can outgrow the time that it took to build their
//! arguments are called through a guard, which weighs the arguments and estimates the result first.

use std::sync::LazyLock;

use anyhow::{Result, bail};
use regorus::{
    Engine, Source, Value,
    unstable::{BUILTINS, BuiltinFcn, Expr, Ref, Span},
};

use super::{functions::GUARDED, weight::weight_of};
use crate::limits::{ARGUMENT_BYTES_MAX, NUMBER_BYTES_MAX, PATTERN_BYTES_MAX, PRODUCT_BYTES_MAX, RANGE_MAX, SHIFT_MAX, WIDTH_MAX};
use crate::ration;

/// A call that was refused for its size. The text is how the failure is recognised after the interpreter has wrapped it.
pub(super) const TOO_LARGE: &str = "too large for a policy";

/// Puts the guards before the functions of an engine.
pub(super) fn install(engine: &mut Engine) -> Result<()> {
    for (name, arguments) in GUARDED {
        let builtin = *BUILTINS.get(name).ok_or_else(|| anyhow::anyhow!("no function {name}"))?;
        let guarded = move |values: Vec<Value>| call(name, builtin, &values);
        engine.add_extension((*name).into(), *arguments, Box::new(guarded))?;
    }
    Ok(())
}

fn call(name: &str, builtin: BuiltinFcn, values: &[Value]) -> Result<Value> {
    check(name, values)?;
    // What a function takes is bounded now. And it may hold a lock that others need, so it must not run out of memory within.
    let _exempt = ration::exempt();
    let place = &PLACE[0];
    // Strict: an argument that a function cannot take is an error of the policy, not an absence.
    (builtin.0)(place.span(), &PLACE[..values.len()], values, true)
}

/// Functions want to know where they are called, for their errors. The interpreter adds the true place around them.
static PLACE: LazyLock<Vec<Ref<Expr>>> = LazyLock::new(|| {
    let source = Source::from_contents("function".into(), " ".into()).expect("the text is short");
    let span = Span { source, line: 1, col: 1, start: 0, end: 0 };
    let place = || Ref::new(Expr::Null { span: span.clone(), value: Value::Null, eidx: 0 });
    (0..8).map(|_| place()).collect()
});

/// Refuses arguments that are too large, or whose result would be.
fn check(name: &str, values: &[Value]) -> Result<()> {
    // These take as long for a large collection as for a small one, or as the caller takes for going through it.
    let expected = match (name, values) {
        ("count", [Value::Array(_) | Value::Set(_) | Value::Object(_)]) => return Ok(()),
        ("object.get", [Value::Object(_), key, _]) => return weigh(name, &[key]).map(drop),
        ("object.keys", [Value::Object(_)]) | ("array.slice", [Value::Array(_), Value::Number(_), Value::Number(_)]) => {
            return Ok(());
        }
        _ => values.iter().collect::<Vec<_>>(),
    };
    let weight = weigh(name, &expected)?;
    match (name, values) {
        ("concat", [delimiter, parts]) => product(name, weight + length(delimiter) * elements(parts)),
        ("replace", [text, old, new]) => product(name, replaced(length(text), length(old), length(new))),
        ("strings.replace_n", [patterns, text]) => {
            let news = patterns.as_object().map_or(0, |fields| fields.iter().map(|(_, new)| length(new)).sum());
            product(name, replaced(length(text), 1, news))
        }
        ("regex.replace", [text, pattern, new]) => {
            short(name, pattern, PATTERN_BYTES_MAX)?;
            product(name, 2 * (length(text) + 1) * (length(new) + 1))
        }
        ("regex.match" | "regex.is_valid" | "regex.split" | "regex.find_n" | "glob.match", [pattern, ..])
        | ("regex.find_all_string_submatch_n", [pattern, ..]) => short(name, pattern, PATTERN_BYTES_MAX),
        ("indexof_n" | "strings.count", [text, part]) => product(name, (length(text) + 1) * (length(part) + 1) / 64),
        ("strings.any_prefix_match" | "strings.any_suffix_match", [texts, parts]) => {
            product(name, elements(texts).max(1) * elements(parts).max(1) * 16)
        }
        ("object.subset", [outer, inner]) => product(name, elements(outer).max(1) * elements(inner).max(1) * 16),
        ("sprintf", [format, _]) => widths(format),
        ("numbers.range", [from, to]) => range(from, to, 1),
        ("numbers.range_step", [from, to, step]) => range(from, to, step.as_u64().unwrap_or(1).max(1)),
        ("bits.lsh" | "bits.rsh", [_, shift]) => match shift.as_u64() {
            Ok(shift) if shift <= SHIFT_MAX => Ok(()),
            _ => bail!("a shift of {name} is {TOO_LARGE}: it must be 0 to {SHIFT_MAX}"),
        },
        ("to_number" | "units.parse" | "units.parse_bytes", [text]) => number(name, text),
        _ => Ok(()),
    }
}

/// The weight of arguments together, if it is not too much.
fn weigh(name: &str, values: &[&Value]) -> Result<usize> {
    let mut weight = 0;
    for value in values {
        let Some(more) = weight_of(value, ARGUMENT_BYTES_MAX - weight) else {
            bail!("an argument of {name} is {TOO_LARGE}: more than {ARGUMENT_BYTES_MAX} bytes");
        };
        weight += more;
    }
    Ok(weight)
}

fn product(name: &str, bytes: usize) -> Result<()> {
    if bytes > PRODUCT_BYTES_MAX {
        bail!("the result of {name} would be {TOO_LARGE}: up to {bytes} bytes, at most {PRODUCT_BYTES_MAX} are allowed");
    }
    Ok(())
}

/// The longest text that replacing can give.
fn replaced(text: usize, old: usize, new: usize) -> usize {
    let places = text / old.max(1) + 1;
    text + places * new
}

fn length(value: &Value) -> usize {
    value.as_string().map_or(0, |text| text.len())
}

fn elements(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Set(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    }
}

fn short(name: &str, value: &Value, limit: usize) -> Result<()> {
    if length(value) > limit {
        bail!("the pattern of {name} is {TOO_LARGE}: more than {limit} bytes");
    }
    Ok(())
}

fn range(from: &Value, to: &Value, step: u64) -> Result<()> {
    let (Ok(from), Ok(to)) = (from.as_i64(), to.as_i64()) else {
        bail!("a range goes from one whole number to another, both of 64 bits");
    };
    if from.abs_diff(to) / step >= RANGE_MAX {
        bail!("a range is {TOO_LARGE}: more than {RANGE_MAX} numbers");
    }
    Ok(())
}

/// Text that becomes a number: short, and without an exponent that would make a giant of it.
fn number(name: &str, value: &Value) -> Result<()> {
    let Ok(text) = value.as_string() else { return Ok(()) };
    let exponent = text.rsplit_once(['e', 'E']).map_or("", |(_, digits)| digits.trim_start_matches(['+', '-', '0']));
    let digits = exponent.bytes().take_while(u8::is_ascii_digit).count();
    if text.len() > NUMBER_BYTES_MAX || digits > 2 {
        bail!("the number that {name} is to read is {TOO_LARGE}: at most {NUMBER_BYTES_MAX} characters, and exponents below 100");
    }
    Ok(())
}

/// Widths in a format. Only ASCII digits are numbers; the function itself would stumble over others.
fn widths(format: &Value) -> Result<()> {
    let Ok(format) = format.as_string() else { return Ok(()) };
    let mut rest = format.as_ref();
    while let Some((_, after)) = rest.split_once('%') {
        if let Some(after) = after.strip_prefix('%') {
            rest = after;
            continue;
        }
        let verb = after.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
        let width = after[..after.len() - verb.len()].trim_start_matches('.');
        if width.contains('.') || verb.starts_with(|c: char| !c.is_ascii()) {
            bail!("sprintf does not know the form {:?}", after.chars().take(12).collect::<String>());
        }
        if width.len() > 4 || width.parse::<usize>().is_ok_and(|width| width > WIDTH_MAX) {
            bail!("a width of sprintf is {TOO_LARGE}: more than {WIDTH_MAX}");
        }
        rest = verb;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, values: &[Value]) -> bool {
        check(name, values).is_err_and(|error| error.to_string().contains(TOO_LARGE))
    }

    #[test]
    fn what_would_blow_up_is_refused_before_it_runs() {
        let text = |length| Value::from("a".repeat(length));
        let parts = |count| Value::from(vec![Value::from("b"); count]);
        assert!(refused("concat", &[text(1_000), parts(10_000)]));
        assert!(!refused("concat", &[text(10), parts(1_000)]));
        assert!(refused("replace", &[text(10_000), text(1), text(1_000)]));
        assert!(!refused("replace", &[text(10_000), text(100), text(1_000)]));
        assert!(refused("regex.replace", &[text(10_000), text(1), text(100)]));
        assert!(refused("regex.match", &[text(PATTERN_BYTES_MAX + 1), text(1)]));
        assert!(refused("numbers.range", &[Value::from(0), Value::from(1_000_000_000)]));
        assert!(refused("numbers.range", &[Value::from(i64::MIN), Value::from(i64::MAX)]));
        assert!(!refused("numbers.range_step", &[Value::from(0), Value::from(1_000_000), Value::from(1_000)]));
        assert!(refused("bits.lsh", &[Value::from(1), Value::from(1_000_000_000_000_u64)]));
        assert!(refused("to_number", &[Value::from("1e999999999")]));
        assert!(refused("to_number", &[text(100)]));
        assert!(!refused("to_number", &[Value::from("1.5e03")]));
        assert!(refused("sprintf", &[Value::from("%4000000000d"), parts(1)]));
        assert!(refused("sprintf", &[Value::from("%% %d %1001d"), parts(1)]));
        assert!(!refused("sprintf", &[Value::from("%% %10d %.2f"), parts(1)]));
        assert!(check("sprintf", &[Value::from("%²d"), parts(1)]).is_err());
        assert!(check("sprintf", &[Value::from("%1²d"), parts(1)]).is_err());
        assert!(refused("json.marshal", &[text(ARGUMENT_BYTES_MAX)]));
    }
}
