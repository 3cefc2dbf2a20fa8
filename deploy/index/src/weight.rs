//! How much a term tells about a document, in integers.
//!
//! Floating point would give the guest and the reference two chances to disagree in the last bit, so that weights are
//! fixed-point numbers with 16 bits after the point, and the logarithm is defined by its algorithm:
//!
//! - `log2(x)` for an integer `x >= 1`: let `w` be the position of the highest bit of `x`, and `m = x * 2^(31 - w)`, a
//!   mantissa in \[1, 2) with 31 bits after the point. Sixteen times: `m = m * m`, cut to 31 bits after the point; if
//!   `m` is 2 or more, halve it (cutting) and the next bit of the fraction is 1, otherwise it is 0. The result is
//!   `w * 2^16 + fraction`. It is exact for powers of two and never falls when `x` grows.
//! - `weight = ((2^16 + log2(count)) * (log2(documents) - log2(frequency))) >> 16`, where `count` is how often the term
//!   occurs in the document, `frequency` in how many documents it occurs, and `documents` how many there are.
//!
//! A term that every document has weighs nothing. With at most 4,096 documents of 512 KiB no weight has over eight
//! digits: 19 * 12 * 2^16 is just under 15 million.

use crate::limits::{DOCUMENT_BYTES, DOCUMENTS};

/// How many bits of a weight stand after the point.
pub const FRACTION_BITS: u32 = 16;

/// The logarithm to base 2, in fixed point.
///
/// # Panics
/// If `x` is zero.
pub fn log2(x: u32) -> u32 {
    let whole = x.ilog2();
    let mut mantissa = u64::from(x) << (31 - whole);
    let mut fraction = 0;
    for _ in 0..FRACTION_BITS {
        mantissa = (mantissa * mantissa) >> 31;
        let bit = mantissa >> 32;
        mantissa >>= bit;
        fraction = fraction << 1 | bit as u32;
    }
    whole << FRACTION_BITS | fraction
}

/// The weight of a term that occurs `count` times in a document and in `frequency` of `documents` documents.
///
/// # Panics
/// If one of them is zero, or `frequency` is greater than `documents`.
pub fn weight(count: u32, frequency: u32, documents: u32) -> u32 {
    assert!(frequency <= documents, "a term cannot be in more documents than there are");
    let within = (1 << FRACTION_BITS) + u64::from(log2(count));
    let across = u64::from(log2(documents) - log2(frequency));
    u32::try_from((within * across) >> FRACTION_BITS).expect("at most 33 * 32, in fixed point")
}

// A term takes at least three bytes of text, and no logarithm rounds up, so that these bound every weight.
const _: () =
    assert!(((1 + (DOCUMENT_BYTES / 3).ilog2() as u64 + 1) * (DOCUMENTS.ilog2() as u64)) << FRACTION_BITS < 100_000_000, "eight digits");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_exact() {
        for power in 0..32 {
            assert_eq!(log2(1 << power), power << 16);
        }
    }

    #[test]
    fn known_values() {
        assert_eq!(log2(3), 103_872); // 1.58496 * 65536 = 103872.04
        assert_eq!(log2(10), 217_705); // 3.32193 * 65536 = 217705.92
        assert_eq!(log2(u32::MAX), (32 << 16) - 1);
        assert_eq!(weight(1, 1, 2), 1 << 16);
        assert_eq!(weight(4, 2, 16), 9 << 16);
        assert_eq!(weight(7, 5, 5), 0);
    }

    #[test]
    fn close_to_the_real_logarithm_and_never_falling() {
        let mut before = 0;
        for x in 1..100_000u32 {
            let fixed = log2(x);
            assert!(fixed >= before);
            before = fixed;
            let error = f64::from(x).log2() * 65536.0 - f64::from(fixed);
            assert!((0.0..1.001).contains(&error), "log2({x}) is off by {error}");
        }
    }
}
