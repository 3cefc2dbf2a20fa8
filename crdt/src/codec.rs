//! The room's bytes: varints (LEB128, shortest form only), and what is prefixed with its length.
//!
//! One value has one encoding: the reader refuses any other, so that bytes can be compared, hashed and signed.

use crate::limits::EPOCH_MAX;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// A list or a string of bytes is longer than its bound.
pub(crate) const TOO_LONG: Malformed = Malformed("a list, a text or a value is longer than allowed");

type Read<T> = Result<T, Malformed>;

/// Reads from the front of a slice; allocates nothing that the slice does not hold.
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed("the bytes end too early"))?;
        self.0 = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many were taken"))
    }

    pub fn byte(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn number(&mut self) -> Read<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(Malformed("a number has more than 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return shortest.then_some(value).ok_or(Malformed("a number is not in its shortest form"));
            }
        }
        Err(Malformed("a number has more than 64 bits"))
    }

    /// The number of an epoch.
    pub fn epoch(&mut self) -> Read<u64> {
        let epoch = self.number()?;
        (epoch <= EPOCH_MAX).then_some(epoch).ok_or(Malformed("an epoch's number is higher than any can be"))
    }

    /// A count of things of which each takes at least one byte.
    pub fn count(&mut self, max: usize) -> Read<usize> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if count > max {
            return Err(TOO_LONG);
        }
        if count > self.0.len() {
            return Err(Malformed("the bytes end too early"));
        }
        Ok(count)
    }

    pub fn bytes(&mut self, max: usize) -> Read<&'a [u8]> {
        let count = self.count(max)?;
        self.take(count)
    }

    pub fn text(&mut self, max: usize) -> Read<&'a str> {
        std::str::from_utf8(self.bytes(max)?).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// Something that may be absent: a byte 0, or a byte 1 and the thing.
    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<Option<T>> {
        match self.byte()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Malformed("a flag is neither 0 nor 1")),
        }
    }

    pub fn list<T>(&mut self, max: usize, mut read: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        (0..self.count(max)?).map(|_| read(self)).collect()
    }

    pub fn end(&self) -> Read<()> {
        self.0.is_empty().then_some(()).ok_or(Malformed("there are bytes after the end"))
    }
}

/// Reads all of `bytes` with `read`.
pub(crate) fn whole<'a, T>(bytes: &'a [u8], read: impl FnOnce(&mut Reader<'a>) -> Read<T>) -> Read<T> {
    let mut reader = Reader(bytes);
    let value = read(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Refuses a list that is not in strictly ascending order: each set has one encoding.
pub(crate) fn ascending<T: Ord>(list: &[T]) -> Read<()> {
    list.is_sorted_by(|a, b| a < b).then_some(()).ok_or(Malformed("a list is not in ascending order"))
}

/// Writes to the end of a vector.
pub(crate) trait Writer {
    fn number(&mut self, value: u64);
    fn bytes(&mut self, bytes: &[u8]);
    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T));
}

impl Writer for Vec<u8> {
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_has_one_encoding(value: u64) {
            let mut bytes = Vec::new();
            bytes.number(value);
            prop_assert_eq!(whole(&bytes, |r| r.number()), Ok(value));
        }

        #[test]
        fn bytes_that_are_read_are_the_bytes_that_would_be_written(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(value) = whole(&bytes, |r| r.number()) {
                let mut again = Vec::new();
                again.number(value);
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn a_long_list_is_refused_before_it_is_allocated() {
        let mut bytes = Vec::new();
        bytes.number(u64::MAX);
        assert_eq!(Reader(&bytes).list(10, |r| r.byte()), Err(TOO_LONG));
        assert_eq!(Reader(&bytes).bytes(usize::MAX), Err(Malformed("the bytes end too early")));
    }
}
