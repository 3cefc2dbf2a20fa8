//! What a term is.
//!
//! A *word* is a longest possible run of ASCII letters and digits. Every other byte separates words, those from 0x80
//! up included: there is no notion of an encoding, so that any bytes have well-defined terms (and a word with an
//! accented letter in UTF-8 falls apart at it).
//!
//! A word is a *term* if it begins with a letter and has [`TERM_BYTES_MIN`] to [`TERM_BYTES_MAX`] bytes, with `A` to
//! `Z` folded to `a` to `z`. Any other word is dropped whole. So numbers, dates and most hashes are no terms: they make
//! up half of the vocabulary of a Debian machine's documents, and nobody searches for them.

use crate::limits::{TERM_BYTES_MAX, TERM_BYTES_MIN};

/// The terms of a text in the order in which they occur, repeated as often as they occur.
pub fn terms(text: &[u8]) -> impl Iterator<Item = String> + '_ {
    text.split(|byte| !byte.is_ascii_alphanumeric())
        .filter(|word| (TERM_BYTES_MIN..=TERM_BYTES_MAX).contains(&word.len()))
        .filter(|word| word[0].is_ascii_alphabetic())
        .map(|word| String::from_utf8(word.to_ascii_lowercase()).expect("a word has only ASCII letters and digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8]) -> Vec<String> {
        terms(text).collect()
    }

    #[test]
    fn words_are_split_at_everything_but_ascii_letters_and_digits() {
        assert_eq!(of(b"GNU/Linux's x86_64, e.g. UTF-8"), ["gnu", "linux", "x86", "utf"]);
        assert_eq!(of("caf\u{e9} na\u{ef}ve".as_bytes()), ["caf", "na", "ve"]);
        assert_eq!(of(b"ab\0cd\xff\xfeef"), ["ab", "cd", "ef"]);
    }

    #[test]
    fn a_term_begins_with_a_letter() {
        assert_eq!(of(b"2nd 2026 a1b2 0xff deadbeef"), ["a1b2", "deadbeef"]);
    }

    #[test]
    fn words_that_are_too_short_or_too_long_are_dropped_whole() {
        let longest = "a".repeat(TERM_BYTES_MAX);
        assert_eq!(of(format!("a ab {longest} {longest}b").as_bytes()), ["ab", &longest]);
    }

    #[test]
    fn nothing_has_no_terms() {
        assert!(of(b"").is_empty());
        assert!(of(b" \n- 1 2 3").is_empty());
    }
}
