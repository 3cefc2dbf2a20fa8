//! Numbers that go into and come out of exported functions.

use std::fmt::{self, Write as _};

/// A number of one of WebAssembly's four numeric types.
///
/// Its text form is a JSON value: decimal digits, the shortest decimal that gives the same float back, and the strings
/// `"NaN"`, `"inf"` and `"-inf"` for what JSON has no number for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A 32-bit integer, shown as signed.
    I32(i32),
    /// A 64-bit integer, shown as signed.
    I64(i64),
    /// A 32-bit float.
    F32(f32),
    /// A 64-bit float.
    F64(f64),
}

impl Value {
    /// The name of the value's type in WebAssembly text.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::I32(_) => "i32",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::I32(value) => write!(f, "{value}"),
            Self::I64(value) => write!(f, "{value}"),
            // The debug form of a float is its shortest exact decimal, and unlike the display form it keeps the
            // fraction of a whole number and uses an exponent for very large and very small ones.
            Self::F32(value) if value.is_finite() => write!(f, "{value:?}"),
            Self::F64(value) if value.is_finite() => write!(f, "{value:?}"),
            Self::F32(value) => write!(f, "\"{value}\""),
            Self::F64(value) => write!(f, "\"{value}\""),
        }
    }
}

/// One argument of an exported function: a typed number, or text that is read as the type that the function declares.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument {
    /// A number whose type must be the declared one.
    Value(Value),
    /// A decimal number. An integer may be given as signed or as unsigned; a float also as `inf`, `-inf` or `NaN`.
    Text(String),
}

impl From<Value> for Argument {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

impl From<&str> for Argument {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Argument {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Formats the results of a function as output: nothing for none, the JSON value for one, a JSON array for several.
pub(crate) fn format_results(values: &[Value]) -> String {
    match values {
        [] => String::new(),
        [value] => value.to_string(),
        [first, rest @ ..] => {
            let mut text = format!("[{first}");
            for value in rest {
                write!(text, ",{value}").expect("writing to a string cannot fail");
            }
            text.push(']');
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_json() {
        assert_eq!(format_results(&[]), "");
        assert_eq!(format_results(&[Value::I32(-1)]), "-1");
        assert_eq!(format_results(&[Value::F64(1.0)]), "1.0");
        assert_eq!(format_results(&[Value::F32(0.1)]), "0.1");
        assert_eq!(format_results(&[Value::F64(1e300)]), "1e300");
        let several = [Value::I64(i64::MIN), Value::F64(f64::NAN), Value::F32(f32::NEG_INFINITY)];
        assert_eq!(format_results(&several), "[-9223372036854775808,\"NaN\",\"-inf\"]");
    }
}
