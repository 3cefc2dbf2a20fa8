//! A bundle as bytes.
//!
//! ```text
//! magic      8 bytes   "tarnpol" and a zero byte
//! format     u32       1
//! manifest   u32 length, then JSON: format, name, version, environment, description, in this order
//! modules    u32 count, then for each, in ascending order of paths:
//!              path    u32 length, then ASCII
//!              text    u32 length, then UTF-8
//! data       u32 length, then canonical JSON, an object
//! ```
//! Integers are big-endian. Nothing follows.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Manifest;
use crate::{Error, json, limits::MODULES_MAX};

/// The version of the format that this program reads and writes.
pub const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"tarnpol\0";

pub(super) fn encode(manifest: &Manifest, modules: &BTreeMap<String, String>, data: &str) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    integer(&mut bytes, FORMAT);
    piece(&mut bytes, &serde_json::to_vec(manifest).expect("a manifest consists of strings and a number"));
    integer(&mut bytes, u32::try_from(modules.len()).expect("the number of modules is bounded"));
    for (path, text) in modules {
        piece(&mut bytes, path.as_bytes());
        piece(&mut bytes, text.as_bytes());
    }
    piece(&mut bytes, data.as_bytes());
    bytes
}

fn integer(bytes: &mut Vec<u8>, value: u32) {
    bytes.extend_from_slice(&value.to_be_bytes());
}

fn piece(bytes: &mut Vec<u8>, content: &[u8]) {
    integer(bytes, u32::try_from(content.len()).expect("every piece's length is bounded"));
    bytes.extend_from_slice(content);
}

type Parts = (Manifest, Vec<(String, String)>, Value);

pub(super) fn decode(bytes: &[u8]) -> Result<Parts, Error> {
    let mut reader = Reader(bytes);
    if reader.take(MAGIC.len())? != MAGIC {
        return Err(broken("it does not start as one"));
    }
    let found = reader.integer()?;
    if found != FORMAT {
        return Err(Error::Format { found, known: FORMAT });
    }
    let manifest = serde_json::from_slice(reader.piece()?).map_err(|error| Error::malformed("manifest", error.to_string()))?;
    let count = reader.integer()? as usize;
    Error::at_most("the number of modules", MODULES_MAX, count)?;
    let mut modules = Vec::with_capacity(count);
    for _ in 0..count {
        let path = text(reader.piece()?, "a module's path")?;
        let content = text(reader.piece()?, &path)?;
        modules.push((path, content));
    }
    let data = json::parse("data", reader.piece()?)?;
    if !reader.0.is_empty() {
        return Err(broken("something follows its end"));
    }
    Ok((manifest, modules, data))
}

fn text(bytes: &[u8], what: &str) -> Result<String, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Encoding(format!("{what} is not UTF-8")))?;
    Ok(text.into())
}

fn broken(why: &str) -> Error {
    Error::Encoding(why.into())
}

/// Reads from the front. Lengths are compared with what is there before anything is reserved.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| broken("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn integer(&mut self) -> Result<u32, Error> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    fn piece(&mut self) -> Result<&'a [u8], Error> {
        let length = self.integer()? as usize;
        self.take(length)
    }
}
