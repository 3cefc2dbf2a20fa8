//! The bytes of a key, without memory of their own where the key is short, as nearly all are.

use std::cmp::Ordering;
use std::ops::Deref;

/// The longest key that is short, in bytes.
const SHORT: usize = 39;

/// A key's bytes, ordered as such.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyBytes {
    /// The first bytes, filled up with zeros, and how many there are, or one more than [`SHORT`] of a long key: as numbers in big-endian
    /// order, these compare as short keys do.
    head: [u8; SHORT + 1],
    /// All bytes of a long key.
    long: Box<[u8]>,
}

impl KeyBytes {
    /// A first byte, numbers in big-endian order, and a name.
    pub fn new(first: u8, numbers: &[u64], name: &[u8]) -> Self {
        let named = 1 + 8 * numbers.len();
        let len = named + name.len();
        let mut key = KeyBytes { head: [0; SHORT + 1], long: Box::default() };
        if len > SHORT {
            key.long = vec![0; len].into();
        }
        let bytes = if len > SHORT { &mut key.long[..] } else { &mut key.head[..len] };
        bytes[0] = first;
        for (place, number) in bytes[1..named].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes[named..].copy_from_slice(name);
        if len > SHORT {
            key.head[..SHORT].copy_from_slice(&key.long[..SHORT]);
        }
        key.head[SHORT] = len.min(SHORT + 1) as u8;
        key
    }
}

impl Deref for KeyBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let len = usize::from(self.head[SHORT]);
        if len > SHORT { &self.long } else { &self.head[..len] }
    }
}

impl Ord for KeyBytes {
    fn cmp(&self, other: &Self) -> Ordering {
        let (words, _) = self.head.as_chunks::<8>();
        let (others, _) = other.head.as_chunks::<8>();
        for (word, other) in words.iter().zip(others) {
            if word != other {
                return u64::from_be_bytes(*word).cmp(&u64::from_be_bytes(*other));
            }
        }
        self.long.cmp(&other.long)
    }
}

impl PartialOrd for KeyBytes {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few different bytes, so that keys often begin alike, and lengths around the longest short one.
        #[test]
        fn keys_compare_as_their_bytes_do(
            a in proptest::collection::vec(0..2_u8, 0..60), b in proptest::collection::vec(0..2_u8, 0..60), shared in 0..50_usize,
        ) {
            let shared = vec![0; shared];
            let (a, b) = ([&shared[..], &a].concat(), [&shared[..], &b].concat());
            let (x, y) = (KeyBytes::new(1, &[7], &a), KeyBytes::new(1, &[7], &b));
            prop_assert_eq!(&x[..], &[&[1, 0, 0, 0, 0, 0, 0, 0, 7], &a[..]].concat());
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x == y, a == b);
        }
    }
}
