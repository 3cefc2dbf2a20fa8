//! One JSON text per document: keys in ascending order of their bytes, no white space, fractions with 15 digits. Equal documents have equal
//! bytes, so digests of them can be compared.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{Error, limits::JSON_DEPTH_MAX};

/// Reads a document, up to the depth that is allowed.
pub(crate) fn parse(field: &str, bytes: &[u8]) -> Result<Value, Error> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| refused(field, error.to_string()))?;
    check_depth(field, &value)?;
    Ok(value)
}

/// Refuses a document that nests deeper than is allowed.
pub(crate) fn check_depth(field: &str, value: &Value) -> Result<(), Error> {
    if shallower(value, JSON_DEPTH_MAX) { Ok(()) } else { Err(refused(field, format!("it nests deeper than {JSON_DEPTH_MAX} levels"))) }
}

fn refused(field: &str, message: String) -> Error {
    Error::Json { field: field.into(), message }
}

fn shallower(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| shallower(item, levels - 1)),
        Value::Object(fields) => levels > 0 && fields.values().all(|field| shallower(field, levels - 1)),
        _ => true,
    }
}

/// The one text of `value`.
pub(crate) fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value);
    text
}

fn write(text: &mut String, value: &Value) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                comma(text, index);
                write(text, item);
            }
            text.push(']');
        }
        // The map's own order depends on features that another crate may turn on.
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            text.push('{');
            for (index, (key, field)) in sorted.into_iter().enumerate() {
                comma(text, index);
                scalar(text, key);
                text.push(':');
                write(text, field);
            }
            text.push('}');
        }
        Value::Number(number) if number.is_f64() => scalar(text, &rounded(number.as_f64().unwrap_or_default())),
        other => scalar(text, other),
    }
}

/// The fraction with 15 significant digits, which every double keeps. The parser may be off by the last bits of a double, so with more
/// digits, reading what was written would not always give what it was written from.
fn rounded(fraction: f64) -> f64 {
    let digits = |fraction: f64| format!("{fraction:.14e}").parse().unwrap_or(fraction);
    let rounded: f64 = digits(fraction);
    // Rounding up the largest doubles leaves their range.
    if rounded.is_finite() { rounded } else { digits(fraction * 0.999_999_999_999_99) }
}

fn comma(text: &mut String, index: usize) {
    if index > 0 {
        text.push(',');
    }
}

fn scalar(text: &mut String, value: &(impl serde::Serialize + ?Sized)) {
    text.push_str(&serde_json::to_string(value).expect("strings, numbers, booleans and null always have a text"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_documents_have_one_text() {
        let one = parse("x", br#"{ "b": [1, 2.5, -3], "a": {"y": null, "x": "\u00e9\n"} }"#).unwrap();
        let two = parse("x", br#"{"a":{"x":"\u00e9\u000a","y":null},"b":[1,2.5,-3]}"#).unwrap();
        assert_eq!(canonical(&one), canonical(&two));
        assert_eq!(canonical(&one), "{\"a\":{\"x\":\"é\\n\",\"y\":null},\"b\":[1,2.5,-3]}");
    }

    #[test]
    fn fractions_come_out_as_they_went_in() {
        for text in ["4.459467210863953e-78", "1e308", "5e-324", "2.2250738585072011e-308", "0.1", "123456789.123456789e-30"] {
            let once = parse("x", text.as_bytes()).unwrap();
            let twice = parse("x", canonical(&once).as_bytes()).unwrap();
            assert_eq!(canonical(&once), canonical(&twice), "{text}");
        }
        assert!(parse("x", b"1e309").is_err());
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse("x", nested(JSON_DEPTH_MAX).as_bytes()).is_ok());
        let error = parse("x", nested(JSON_DEPTH_MAX + 1).as_bytes()).unwrap_err();
        assert_eq!(error.reason(), "POLICY_JSON");
        assert!(parse("x", nested(100_000).as_bytes()).is_err());
    }
}
