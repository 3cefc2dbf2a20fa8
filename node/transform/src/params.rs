//! Parameters of a transform: a JSON object, checked against what the transform declares.

use serde_json::{Map, Value};

use crate::TransformError;

/// The longest text of parameters, in bytes.
pub const PARAMS_BYTES_MAX: usize = 64 << 10;

/// One parameter that a transform takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Param {
    /// Its key in the JSON object.
    pub name: &'static str,
    /// What it may be.
    pub kind: ParamKind,
    /// What is taken when it is not given; `None` makes it required, [`Fallback::Absent`] optional.
    pub default: Option<Fallback>,
    /// What it means, with its unit, for people.
    pub help: &'static str,
}

/// What a parameter may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ParamKind {
    /// A whole number in a range.
    Integer {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A finite number in a range, both ends included.
    Number {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// What a parameter is when it is not given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fallback {
    /// Nothing: the transform then chooses by itself, as the help says.
    Absent,
    /// This whole number.
    Integer(u64),
    /// This number.
    Number(f64),
    /// This word.
    Word(&'static str),
}

/// Checked parameters: each declared one is there with a value of its kind, or is optional and absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Params {
    values: Vec<(&'static str, Chosen)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Chosen {
    Absent,
    Integer(u64),
    Number(f64),
    Word(&'static str),
}

impl Params {
    /// Reads `text`, a JSON object (nothing is an empty one), against the declared parameters.
    ///
    /// # Errors
    /// [`TransformError::BadParams`] names the parameter and what it may be.
    pub fn read(text: &str, declared: &[Param]) -> Result<Self, TransformError> {
        if text.len() > PARAMS_BYTES_MAX {
            return Err(TransformError::TooLarge {
                what: "the length of the parameters in bytes",
                value: text.len() as u64,
                limit: PARAMS_BYTES_MAX as u64,
            });
        }
        let given: Map<String, Value> = if text.trim().is_empty() {
            Map::new()
        } else {
            serde_json::from_str(text).map_err(|error| TransformError::params(format!("they are not a JSON object ({error})")))?
        };
        if let Some(name) = given.keys().find(|name| declared.iter().all(|param| param.name != name.as_str())) {
            let shown: String = name.chars().take(40).collect();
            return Err(TransformError::params(format!("`{shown}` is none of {}", names(declared))));
        }
        let values = declared.iter().map(|param| Ok((param.name, choose(param, given.get(param.name))?)));
        Ok(Self { values: values.collect::<Result<_, TransformError>>()? })
    }

    fn get(&self, name: &str) -> Chosen {
        let found = self.values.iter().find(|(key, _)| *key == name);
        found.map_or(Chosen::Absent, |(_, value)| *value)
    }

    pub(crate) fn optional_integer(&self, name: &str) -> Option<usize> {
        match self.get(name) {
            Chosen::Integer(value) => usize::try_from(value).ok(),
            _ => None,
        }
    }

    pub(crate) fn integer(&self, name: &str) -> usize {
        self.optional_integer(name).expect("an integer is declared with a default or as required")
    }

    pub(crate) fn optional_number(&self, name: &str) -> Option<f64> {
        match self.get(name) {
            Chosen::Number(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn number(&self, name: &str) -> f64 {
        self.optional_number(name).expect("a number is declared with a default or as required")
    }

    pub(crate) fn word(&self, name: &str) -> &'static str {
        match self.get(name) {
            Chosen::Word(word) => word,
            _ => unreachable!("a choice is declared with a default or as required"),
        }
    }
}

fn names(declared: &[Param]) -> String {
    if declared.is_empty() {
        return "this transform's parameters, for it has none".to_owned();
    }
    let names: Vec<&str> = declared.iter().map(|param| param.name).collect();
    names.join(", ")
}

fn choose(param: &Param, given: Option<&Value>) -> Result<Chosen, TransformError> {
    let Some(given) = given.filter(|value| !value.is_null()) else {
        return match param.default {
            None => Err(TransformError::params(format!("`{}` is missing: {}", param.name, param.help))),
            Some(Fallback::Absent) => Ok(Chosen::Absent),
            Some(Fallback::Integer(value)) => Ok(Chosen::Integer(value)),
            Some(Fallback::Number(value)) => Ok(Chosen::Number(value)),
            Some(Fallback::Word(word)) => Ok(Chosen::Word(word)),
        };
    };
    let chosen = match param.kind {
        ParamKind::Integer { min, max } => {
            let value = given.as_u64().filter(|value| (min..=max).contains(value));
            value.map(Chosen::Integer).ok_or_else(|| format!("a whole number from {min} to {max}"))
        }
        ParamKind::Number { min, max } => {
            let value = given.as_f64().filter(|value| (min..=max).contains(value));
            value.map(Chosen::Number).ok_or_else(|| format!("a number from {min:?} to {max:?}"))
        }
        ParamKind::Choice(words) => {
            let word = words.iter().find(|word| given.as_str() == Some(word));
            word.map(|word| Chosen::Word(word)).ok_or_else(|| format!("one of \"{}\"", words.join("\", \"")))
        }
    };
    chosen.map_err(|wanted| TransformError::params(format!("`{}` must be {wanted}", param.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECLARED: &[Param] = &[
        Param { name: "levels", kind: ParamKind::Integer { min: 1, max: 4 }, default: None, help: "how many" },
        Param { name: "ratio", kind: ParamKind::Number { min: 0.0, max: 1.0 }, default: Some(Fallback::Number(0.5)), help: "how much" },
        Param { name: "norm", kind: ParamKind::Choice(&["one", "two"]), default: Some(Fallback::Word("two")), help: "which" },
        Param { name: "points", kind: ParamKind::Integer { min: 1, max: 4 }, default: Some(Fallback::Absent), help: "how many" },
    ];

    #[test]
    fn given_and_default_values_are_read() {
        let params = Params::read(r#"{"levels": 3, "norm": "one"}"#, DECLARED).unwrap();
        assert_eq!(params.integer("levels"), 3);
        assert_eq!(params.number("ratio"), 0.5);
        assert_eq!(params.word("norm"), "one");
        assert_eq!(params.optional_integer("points"), None);
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, wanted) in [
            ("", "`levels` is missing: how many"),
            ("[]", "not a JSON object"),
            ("{", "not a JSON object"),
            (r#"{"levels": 5}"#, "`levels` must be a whole number from 1 to 4"),
            (r#"{"levels": 1.5}"#, "`levels` must be a whole number"),
            (r#"{"levels": 1, "ratio": 2}"#, "`ratio` must be a number from 0.0 to 1.0"),
            (r#"{"levels": 1, "norm": "six"}"#, "`norm` must be one of \"one\", \"two\""),
            (r#"{"levels": 1, "level": 1}"#, "`level` is none of levels, ratio, norm, points"),
        ] {
            let error = Params::read(text, DECLARED).unwrap_err();
            assert_eq!(error.reason(), "TRANSFORM_BAD_PARAMS");
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }
}
