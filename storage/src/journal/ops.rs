//! Reads the encoding of a batch back from a disk: `batch.rs` shows the format. Nothing is taken for granted here, not even that a
//! keyspace's name is one that this build knows.

use crate::batch::{DELETE, DELETE_RANGE, PUT};

/// An operation, and where it ends in the encoding.
pub(super) struct RawOp<'a> {
    pub name: &'a str,
    pub key: &'a [u8],
    pub change: Change<'a>,
    pub end: usize,
}

pub(super) enum Change<'a> {
    /// The value, which ends where the operation does.
    Put(&'a [u8]),
    Delete,
    /// The first key that stays.
    DeleteRange(&'a [u8]),
}

/// The operations of an encoding. `None` among them stands for what cannot be read, and is the last.
pub(super) struct RawOps<'a> {
    whole: &'a [u8],
    rest: &'a [u8],
}

impl<'a> RawOps<'a> {
    pub fn of(whole: &'a [u8]) -> Self {
        Self { whole, rest: whole }
    }

    fn op(&mut self) -> Option<RawOp<'a>> {
        let [tag, name_len] = *self.rest.split_off(..2)? else { return None };
        let name = std::str::from_utf8(self.rest.split_off(..usize::from(name_len))?).ok()?;
        let key = self.bytes()?;
        let change = match tag {
            PUT => Change::Put(self.bytes()?),
            DELETE => Change::Delete,
            DELETE_RANGE => Change::DeleteRange(self.bytes()?),
            _ => return None,
        };
        Some(RawOp { name, key, change, end: self.whole.len() - self.rest.len() })
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = u32::from_le_bytes(self.rest.split_off(..4)?.try_into().ok()?);
        self.rest.split_off(..len as usize)
    }
}

impl<'a> Iterator for RawOps<'a> {
    type Item = Option<RawOp<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let op = self.op();
        if op.is_none() {
            self.rest = &[];
        }
        Some(op)
    }
}
