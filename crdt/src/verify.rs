//! Does the replica still agree with itself?

use automerge::{ROOT, ReadDoc, ScalarValue, Value};

use crate::base::Base;
use crate::layer::{Found, Layer};
use crate::replica::Replica;

/// A replica that contradicts itself: a bug, or memory or rows that somebody changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the replica contradicts itself: {0}")]
pub struct Inconsistent(pub String);

impl Replica {
    /// Compares the index with automerge's documents, key by key, and the base with its digest. It reads everything: for tests, and for an
    /// operator who suspects something.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn verify(&mut self) -> Result<(), Inconsistent> {
        let again = Base::of(self.base.epoch, self.base.vector.clone(), self.base.entries.clone());
        if (again.digest, again.bytes) != (self.base.digest, self.base.bytes) {
            return Err(Inconsistent("the base is not what its digest says".to_owned()));
        }
        for layer in &mut self.layers {
            layer.settle();
            verify_heads(layer)?;
            layer.keys_from("").try_for_each(|key| verify_key(layer, key))?;
        }
        Ok(())
    }
}

fn verify_heads(layer: &Layer) -> Result<(), Inconsistent> {
    let mut heads = layer.doc.get_heads();
    heads.sort();
    match heads.iter().eq(layer.heads()) {
        true => Ok(()),
        false => Err(Inconsistent(format!("epoch {}: automerge has other heads", layer.epoch))),
    }
}

/// Automerge lists the values of a key with the winner last.
fn verify_key(layer: &Layer, key: &str) -> Result<(), Inconsistent> {
    let wrong = |what: &str| Inconsistent(format!("epoch {}, {key:?}: {what}", layer.epoch));
    let theirs = layer.doc.get_all(ROOT, key).map_err(|error| wrong(&error.to_string()))?;
    let theirs = theirs.into_iter().rev().map(|(value, _)| match value {
        Value::Scalar(value) => match value.as_ref() {
            ScalarValue::Bytes(bytes) => Some(Some(bytes.clone())),
            ScalarValue::Null => Some(None),
            _ => None,
        },
        Value::Object(_) => None,
    });
    let ours = layer.versions(key, layer.vector());
    let ours = ours.iter().map(Found::value).map(|value| Some(value.map(<[u8]>::to_vec)));
    match theirs.eq(ours) {
        true => Ok(()),
        false => Err(wrong("automerge has other values, or in another order")),
    }
}
