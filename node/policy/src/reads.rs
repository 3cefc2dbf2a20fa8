//! Which parts of the input a bundle reads.
//!
//! A bundle is only shown what it reads. So a decision rests on that alone, and can be remembered under its digest: a bundle that never
//! asks for the time is not asked again each second, and one that only asks for the hour is asked again each hour.

use std::collections::BTreeMap;

use serde_json::Value;

/// A tree of field names. What lies below [`Reads::All`] is read as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// Everything from here on.
    All,
    /// These fields of an object, and whether it is there at all.
    Fields(BTreeMap<String, Reads>),
}

impl Default for Reads {
    fn default() -> Self {
        Self::Fields(BTreeMap::new())
    }
}

impl Reads {
    /// Adds that the value at `path` is read.
    pub(crate) fn add(&mut self, path: &[String]) {
        match (self, path) {
            (Self::All, _) => {}
            (this, []) => *this = Self::All,
            (Self::Fields(fields), [first, rest @ ..]) => fields.entry(first.clone()).or_default().add(rest),
        }
    }

    /// Adds what another bundle reads.
    pub(crate) fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::All, _) => {}
            (this, Self::All) => *this = Self::All,
            (Self::Fields(fields), Self::Fields(others)) => {
                for (name, other) in others {
                    fields.entry(name.clone()).or_default().merge(other);
                }
            }
        }
    }

    /// Canonical JSON of what is read of `value`.
    pub(crate) fn project(&self, value: &Value) -> String {
        let mut text = String::new();
        self.write(&mut text, value);
        text
    }

    fn write(&self, text: &mut String, value: &Value) {
        let (Self::Fields(reads), Value::Object(fields)) = (self, value) else {
            // Fields of what is no object are not there; that it is none can be seen.
            return text.push_str(&crate::json::canonical(value));
        };
        text.push('{');
        let mut first = true;
        for (name, below) in reads {
            let Some(field) = fields.get(name) else { continue };
            if !std::mem::take(&mut first) {
                text.push(',');
            }
            text.push_str(&crate::json::canonical(&Value::String(name.clone())));
            text.push(':');
            below.write(text, field);
        }
        text.push('}');
    }

    /// Paths that are read and are fields of `known`, but are not in `value`. A field of what is null or not an object is not missing:
    /// there is nothing that could have it.
    pub(crate) fn missing(&self, known: &Value, value: &Value) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_missing(known, value, "input", &mut paths);
        paths
    }

    fn collect_missing(&self, known: &Value, value: &Value, path: &str, paths: &mut Vec<String>) {
        let (Value::Object(known), Value::Object(value)) = (known, value) else {
            return;
        };
        for (name, known) in known {
            let below = match self {
                Self::All => &Self::All,
                Self::Fields(fields) => match fields.get(name) {
                    Some(below) => below,
                    None => continue,
                },
            };
            let path = format!("{path}.{name}");
            match value.get(name) {
                Some(value) => below.collect_missing(known, value, &path, paths),
                None => paths.push(path),
            }
        }
    }

    /// Every path, dotted, from `input`. One that ends in `.*` is read as a whole.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("input", &mut paths);
        paths
    }

    fn collect_paths(&self, path: &str, paths: &mut Vec<String>) {
        match self {
            Self::All => paths.push(path.to_owned()),
            Self::Fields(fields) => {
                for (name, below) in fields {
                    below.collect_paths(&format!("{path}.{name}"), paths);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reads(paths: &[&str]) -> Reads {
        let mut reads = Reads::default();
        for path in paths {
            reads.add(&path.split('.').map(String::from).collect::<Vec<_>>());
        }
        reads
    }

    #[test]
    fn only_what_is_read_is_shown() {
        let input = json!({"b": {"x": 1, "y": {"z": [2]}}, "a": 3, "c": null});
        assert_eq!(reads(&["b.y", "a.q", "d"]).project(&input), r#"{"a":3,"b":{"y":{"z":[2]}}}"#);
        assert_eq!(reads(&[]).project(&input), "{}");
        assert_eq!(Reads::All.project(&input), r#"{"a":3,"b":{"x":1,"y":{"z":[2]}},"c":null}"#);
    }

    #[test]
    fn a_wider_read_wins() {
        let mut one = reads(&["a.b", "c"]);
        one.merge(&reads(&["a"]));
        assert_eq!(one, reads(&["a", "c"]));
        one.add(&["a".into(), "d".into()]);
        assert_eq!(one, reads(&["a", "c"]));
        assert_eq!(one.paths(), ["input.a", "input.c"]);
    }

    #[test]
    fn missing_facts_are_those_that_could_be_there() {
        let known = json!({"a": {"b": 0, "c": 0}, "t": {"q": 0}, "n": 0});
        let stored = json!({"a": {"b": 1}, "t": null});
        assert_eq!(reads(&["a.c", "a.b.z", "t.q", "n", "unknown"]).missing(&known, &stored), ["input.a.c", "input.n"]);
        assert_eq!(Reads::All.missing(&known, &stored), ["input.a.c", "input.n"]);
        assert_eq!(reads(&["a.b"]).missing(&known, &stored), Vec::<String>::new());
    }
}
