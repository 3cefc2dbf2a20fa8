//! Which part of a keyspace a scan reads, and in which direction.

use std::borrow::Cow;
use std::ops::Bound;

/// The order in which a scan yields its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Direction {
    /// From the smallest key to the largest.
    #[default]
    Ascending,
    /// From the largest key to the smallest.
    Descending,
}

/// A half-open range of keys, `start` included and `end` excluded, with the direction in which to read it.
///
/// A range whose end is not above its start is empty; that is no error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range<'a> {
    start: Cow<'a, [u8]>,
    end: Option<Cow<'a, [u8]>>,
    direction: Direction,
}

impl<'a> Range<'a> {
    /// Every key.
    pub fn all() -> Self {
        Self::starting_at(&[])
    }

    /// Every key from `start` on.
    pub fn starting_at<K: AsRef<[u8]> + ?Sized>(start: &'a K) -> Self {
        Self { start: Cow::Borrowed(start.as_ref()), end: None, direction: Direction::Ascending }
    }

    /// Every key from `start` on that is below `end`.
    pub fn between<S: AsRef<[u8]> + ?Sized, E: AsRef<[u8]> + ?Sized>(start: &'a S, end: &'a E) -> Self {
        Self { start: Cow::Borrowed(start.as_ref()), end: Some(Cow::Borrowed(end.as_ref())), direction: Direction::Ascending }
    }

    /// Every key that begins with `prefix`. The empty prefix means every key.
    pub fn prefix<K: AsRef<[u8]> + ?Sized>(prefix: &'a K) -> Self {
        Self { start: Cow::Borrowed(prefix.as_ref()), end: prefix_end(prefix.as_ref()).map(Cow::Owned), direction: Direction::Ascending }
    }

    /// The same keys in the opposite order.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        self.direction = match self.direction {
            Direction::Ascending => Direction::Descending,
            Direction::Descending => Direction::Ascending,
        };
        self
    }

    /// The first key that belongs to the range.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// The first key after the range, or `None` if the range has no upper end.
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// The order of the entries.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Whether no key at all can lie in the range.
    pub fn is_empty(&self) -> bool {
        self.end().is_some_and(|end| end <= self.start())
    }

    /// Whether a key lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start() && self.end().is_none_or(|end| key < end)
    }

    /// The range as the pair of bounds that the standard library's ordered maps take.
    ///
    /// An empty range must be sorted out before, because those maps panic when start and end cross.
    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let end = self.end().map_or(Bound::Unbounded, Bound::Excluded);
        (Bound::Included(self.start()), end)
    }
}

/// The smallest key above every key with this prefix: for the upper end of a range or of a `delete_range`.
///
/// `None` when no such key exists, which is when the prefix is empty or consists of `0xff` bytes only.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_without_it() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }

    #[test]
    fn a_range_holds_its_start_and_not_its_end() {
        let range = Range::between("b", "d");
        assert!(!range.contains(b"a"));
        assert!(range.contains(b"b"));
        assert!(range.contains(b"c\xff"));
        assert!(!range.contains(b"d"));
        assert!(Range::between("b", "b").is_empty());
        assert!(Range::between("b", "a").is_empty());
        assert!(!Range::all().is_empty());
    }

    #[test]
    fn turning_twice_is_not_turning() {
        assert_eq!(Range::all().reversed().direction(), Direction::Descending);
        assert_eq!(Range::all().reversed().reversed(), Range::all());
    }
}
