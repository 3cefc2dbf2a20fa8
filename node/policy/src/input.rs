//! What a policy is asked about.

mod clock;
mod document;

pub use clock::Clock;
pub use document::{Cluster, ContextGrant, Document, Grants, Native, Payload, Resource, Task, Wasm};

use std::sync::LazyLock;

use serde_json::Value;

use crate::{Error, json, limits::INPUT_BYTES_MAX, reads::Reads};

/// An input document, ready to be judged: canonical, within its limits, immutable.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    value: Value,
    text: String,
}

impl Input {
    /// Takes a document. Its time is rounded down to the second and gets its [`Clock`] beside it.
    ///
    /// # Errors
    /// A document over [`INPUT_BYTES_MAX`].
    pub fn new(document: &Document) -> Result<Self, Error> {
        let failed = |error: serde_json::Error| Error::Json { field: "the input".into(), message: error.to_string() };
        Self::of(serde_json::to_value(document.rounded()).map_err(failed)?)
    }

    /// Reads a document from JSON: one that was kept with a decision, or written by hand for `tarn policy eval`. It is taken as it is:
    /// fields may be missing, and unknown ones are kept, for a policy may ask for them.
    ///
    /// # Errors
    /// What is no JSON object, nests too deeply, or is over [`INPUT_BYTES_MAX`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        Error::at_most("the input, in bytes", INPUT_BYTES_MAX, bytes.len())?;
        Self::of(json::parse("the input", bytes)?)
    }

    fn of(value: Value) -> Result<Self, Error> {
        if !value.is_object() {
            return Err(Error::malformed("the input", "must be a JSON object"));
        }
        let text = json::canonical(&value);
        Error::at_most("the input, in bytes", INPUT_BYTES_MAX, text.len())?;
        Ok(Self { value, text })
    }

    /// Canonical JSON of the whole document: the facts to keep with a decision, so that other policies can be asked later.
    pub fn json(&self) -> &str {
        &self.text
    }

    /// The document as a tree.
    pub fn value(&self) -> &Value {
        &self.value
    }
}

/// Every field that tarn fills in, for comparison with what bundles read.
pub(crate) fn known() -> &'static Value {
    static KNOWN: LazyLock<Value> = LazyLock::new(|| {
        let grants = Grants { context: Some(ContextGrant::default()), ..Grants::default() };
        let (wasm, native) = (Some(Wasm::default()), Some(Native::default()));
        let task = Task { wasm, native, grants, ..Task::default() };
        let document = Document { task: Some(task), ..Document::default() };
        serde_json::to_value(document).expect("the document consists of numbers, texts and lists")
    });
    &KNOWN
}

/// Sentences about fields that are read and that tarn does not fill in.
pub(crate) fn unknown(reads: &Reads) -> Vec<String> {
    let unknown = |path: &String| {
        let mut value = known();
        let mut fields = path.split('.').skip(1);
        // Below a list or the submitter's notes, everything may be.
        fields.any(|field| match value {
            Value::Object(known) if !known.is_empty() => match known.get(field) {
                Some(below) => {
                    value = below;
                    false
                }
                None => true,
            },
            _ => false,
        })
    };
    reads.paths().into_iter().filter(unknown).map(|path| format!("{path} is not a field that tarn fills in")).collect()
}
