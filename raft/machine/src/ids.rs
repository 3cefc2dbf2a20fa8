//! Ids and fencing tokens: numbers that come from the log position and therefore only grow.
//!
//! A number is `(log index << 20) | ordinal`. Its text form, which clients see as the id of a task, timer or worker, is thirteen digits of
//! lower-case Crockford base32: it sorts as the number does, has no look-alikes, and fits a file name.

use std::fmt;
use std::str::FromStr;

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// What each byte is worth as a digit.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT as u8; 256];
    let mut value = 0;
    while value < DIGITS.len() {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};
const NO_DIGIT: u64 = u8::MAX as u64;

/// Digits of an id's text form: enough for 64 bits.
pub const ID_DIGITS: usize = 13;

/// The number behind the id of a task, timer or worker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Id(pub u64);

/// The text is not an id: it must be thirteen digits as [`Id`] writes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an id is {ID_DIGITS} digits of lower-case Crockford base32")]
pub struct InvalidId;

impl Id {
    /// The log index at which the number was made.
    pub fn index(self) -> u64 {
        self.0 >> crate::limits::ORDINAL_BITS
    }
}

impl Id {
    /// The text form.
    pub fn text(self) -> String {
        let mut text = vec![0; ID_DIGITS];
        for (place, digit) in text.iter_mut().enumerate() {
            let shift = 5 * (ID_DIGITS - 1 - place);
            *digit = DIGITS[(self.0 >> shift) as usize & 31];
        }
        String::from_utf8(text).expect("the digits are ASCII")
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() != ID_DIGITS {
            return Err(InvalidId);
        }
        let mut number: u64 = 0;
        for byte in text.bytes() {
            let digit = u64::from(VALUES[usize::from(byte)]);
            if digit == NO_DIGIT {
                return Err(InvalidId);
            }
            // Thirteen digits hold 65 bits: the first must leave the top one alone.
            if number >> 59 != 0 {
                return Err(InvalidId);
            }
            number = number << 5 | digit;
        }
        Ok(Id(number))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_and_number_round_trip_and_sort_alike(a: u64, b: u64) {
            let (x, y) = (Id(a).to_string(), Id(b).to_string());
            prop_assert_eq!(x.parse::<Id>(), Ok(Id(a)));
            prop_assert_eq!(a.cmp(&b), x.cmp(&y));
        }

        #[test]
        fn whatever_parses_is_written_the_same(text in "[0-9a-z]{13}") {
            if let Ok(id) = text.parse::<Id>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in ["", "0", "00000000000000", "000000000000O", "000000000000i", "g000000000000", "zzzzzzzzzzzzz", "00000000000é"] {
            assert_eq!(text.parse::<Id>(), Err(InvalidId), "{text}");
        }
        assert_eq!("fzzzzzzzzzzzz".parse(), Ok(Id(u64::MAX)));
    }
}
