//! Exported functions of core modules: what they take and return, and whether a call fits.

use crate::{Argument, ExecutionError, Value};

/// The entry point of a command.
pub(crate) const START: &str = "_start";

/// How many of a module's exports an error lists: enough to recognise a typing error.
const EXPORTS_LISTED_MAX: usize = 10;

/// One of WebAssembly's four numeric types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    I32,
    I64,
    F32,
    F64,
}

/// The type of a function; `None` for what is not a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) params: Vec<Option<Number>>,
    pub(crate) results: Vec<Option<Number>>,
}

impl Number {
    fn name(self) -> &'static str {
        match self {
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// The number with these bits.
    pub(crate) fn value(self, bits: u64) -> Value {
        // The upper half of the bits of a narrow number means nothing.
        let low = bits as u32;
        match self {
            Self::I32 => Value::I32(low.cast_signed()),
            Self::I64 => Value::I64(bits.cast_signed()),
            Self::F32 => Value::F32(f32::from_bits(low)),
            Self::F64 => Value::F64(f64::from_bits(bits)),
        }
    }

    /// WebAssembly's integers have no sign of their own, so both readings are welcome.
    fn parse(self, text: &str) -> Option<Value> {
        match self {
            Self::I32 => text.parse().or_else(|_| text.parse().map(u32::cast_signed)).ok().map(Value::I32),
            Self::I64 => text.parse().or_else(|_| text.parse().map(u64::cast_signed)).ok().map(Value::I64),
            Self::F32 => text.parse().ok().map(Value::F32),
            Self::F64 => text.parse().ok().map(Value::F64),
        }
    }
}

impl Signature {
    /// Checks that a function of this type can be the entry point of a command.
    pub(crate) fn check_start(&self) -> Result<(), ExecutionError> {
        if self.params.is_empty() && self.results.is_empty() {
            return Ok(());
        }
        Err(ExecutionError::bad_arguments(
            "the module's `_start` takes or returns values, so it is not a command: call it as an exported function",
        ))
    }

    /// What the function `name` is called with, if that is what was given.
    pub(crate) fn arguments(&self, name: &str, given: &[Argument]) -> Result<Vec<Value>, ExecutionError> {
        if self.params.len() != given.len() {
            return Err(ExecutionError::bad_arguments(format!(
                "`{name}` takes {} arguments ({}) and got {}",
                self.params.len(),
                self.params.iter().map(|wanted| wanted.map_or("no number", Number::name)).collect::<Vec<_>>().join(", "),
                given.len()
            )));
        }
        let pairs = self.params.iter().zip(given).enumerate();
        let arguments = pairs.map(|(index, (wanted, given))| {
            let argument = index + 1;
            let wanted = wanted.ok_or_else(|| {
                let detail = format!("argument {argument} of `{name}` is no number, and only numbers can be given");
                ExecutionError::bad_arguments(detail)
            })?;
            convert(wanted, given).ok_or_else(|| {
                let (wanted, given) = (wanted.name(), shown(given));
                let detail = format!("argument {argument} of `{name}` must be a number of type {wanted}, not {given}");
                ExecutionError::bad_arguments(detail)
            })
        });
        arguments.collect()
    }

    /// The types of what the function `name` returns, if they are numbers.
    pub(crate) fn numeric_results(&self, name: &str) -> Result<Vec<Number>, ExecutionError> {
        let results = self.results.iter().copied();
        results.collect::<Option<_>>().ok_or_else(|| {
            ExecutionError::bad_arguments(format!(
                "`{name}` returns something that is no number, and only functions that return numbers can be called"
            ))
        })
    }
}

/// That there is no exported function of this name, but these.
pub(crate) fn missing_export<'a>(name: &str, exports: impl Iterator<Item = &'a str>) -> ExecutionError {
    let exports = exports.take(EXPORTS_LISTED_MAX).map(str::to_owned).collect();
    ExecutionError::MissingExport { name: name.to_owned(), exports }
}

fn convert(wanted: Number, given: &Argument) -> Option<Value> {
    match given {
        Argument::Value(value) => (value.type_name() == wanted.name()).then_some(*value),
        Argument::Text(text) => wanted.parse(text.trim()),
    }
}

/// What somebody sent, short enough for a message.
fn shown(given: &Argument) -> String {
    match given {
        Argument::Value(value) => format!("one of type {}", value.type_name()),
        Argument::Text(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
    }
}
