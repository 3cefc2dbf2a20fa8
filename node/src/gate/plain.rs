//! What others wrote, where this node repeats it: in answers, in its log and in the cluster's records.

use crate::printable::is_unfit;

/// The longest that a name is quoted in a message. Names that exist are shorter.
pub(super) const NAME_BYTES_MAX: usize = 128;

/// The longest message of a refusal: it goes in a header, and those are small.
pub(super) const MESSAGE_BYTES_MAX: usize = 2_048;

/// What stands for the rest of a text that was cut.
const REST: char = '…';

/// A text with nothing in it that could pass for something else, such as a new line of the log, in at most so many bytes.
pub(super) fn plain(text: &str, bytes_max: usize) -> String {
    let mut plain = String::new();
    // As much of it as leaves room to say that there is more.
    let mut fits = 0;
    for character in text.chars() {
        match is_unfit(character) {
            true => plain.extend(character.escape_default()),
            false => plain.push(character),
        }
        if plain.len() > bytes_max {
            plain.truncate(fits);
            plain.push(REST);
            break;
        }
        if plain.len() + REST.len_utf8() <= bytes_max {
            fits = plain.len();
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_as_they_are() {
        for name in ["", "mail", "größe/日本", "a \"b\" \\n"] {
            assert_eq!(plain(name, NAME_BYTES_MAX), name);
        }
        let whole = "x".repeat(NAME_BYTES_MAX);
        assert_eq!(plain(&whole, NAME_BYTES_MAX), whole);
    }

    #[test]
    fn nothing_passes_for_a_new_line_or_turns_the_text_around() {
        let forged = "x\nFORGED\r\u{1b}[2J\u{202e}\u{2066}\u{2028}\u{85}\0";
        let shown = plain(forged, NAME_BYTES_MAX);
        assert!(shown.starts_with("x\\nFORGED\\r"), "{shown}");
        assert!(shown.is_ascii() && !shown.contains(char::is_control), "{shown}");
        assert_eq!(plain(&shown, NAME_BYTES_MAX), shown);
    }

    #[test]
    fn it_is_never_longer_than_allowed() {
        for long in ["x", "é", "日", "\u{1}", "\u{202e}"] {
            for bytes_max in [3, 20, 21, 22, 23, NAME_BYTES_MAX] {
                let shown = plain(&long.repeat(1 << 20), bytes_max);
                assert!(shown.len() <= bytes_max && shown.ends_with(REST), "{shown}");
            }
        }
    }
}
