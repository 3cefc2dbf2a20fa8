//! Text of strangers, fit for a terminal.
//!
//! Names, reasons and messages come from whoever may write them. In the terminal of somebody else, a control character could move the cursor,
//! and one that turns the direction of writing could make a line read as another.

use std::borrow::Cow;

/// The text with every control character as an escape, line ends too: for what stands in one line.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_unfit)
}

/// The text with every control character as an escape but line ends and tabs: for text of several lines.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_unfit(c) && !matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, unfit: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&unfit) {
        return text.into();
    }
    let mut fit = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match unfit(c) {
            true => fit.extend(c.escape_default()),
            false => fit.push(c),
        }
    }
    fit.into()
}

/// Controls, Unicode's line ends, and what turns the direction of writing.
pub(crate) fn is_unfit(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_shown_and_not_obeyed() {
        assert_eq!(line("\u{1b}[2Ja\nb\u{9b}"), "\\u{1b}[2Ja\\nb\\u{9b}");
        assert_eq!(line("user/\u{202e}nimda"), "user/\\u{202e}nimda");
        assert_eq!(lines("a\tb\nc\rd"), "a\tb\nc\\rd");
        assert!(matches!(line("größe 7 ✓"), Cow::Borrowed("größe 7 ✓")));
    }
}
