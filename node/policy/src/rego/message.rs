//! The interpreter's errors, taken apart.

use std::sync::LazyLock;

use regex::Regex;

use crate::{Bundle, Problem};

/// `--> file:line:column`, and somewhere below it `error: what is wrong`.
static PLACE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"-->\s*([^\n:]+):(\d+):(\d+)\n").expect("the pattern is fixed and valid"));

/// Makes a problem of an error's text. `file` is where it happened if the text does not say.
pub(super) fn problem(bundle: &Bundle, file: &str, text: &str) -> Problem {
    let place = PLACE.captures(text);
    let number = |index: usize| place.as_ref().and_then(|place| place[index].parse().ok()).unwrap_or(0);
    let file = place.as_ref().map_or(file, |place| place.get(1).expect("the pattern has the group").as_str());
    let (line, column) = (number(2), number(3));
    Problem { file: file.into(), line, column, source: source_line(bundle, file, line), message: sentence(text) }
}

/// The text of one line of a module, from 1.
pub(super) fn source_line(bundle: &Bundle, file: &str, line: u32) -> String {
    let index = (line as usize).checked_sub(1);
    let text = index.and_then(|index| bundle.module(file)?.lines().nth(index));
    text.unwrap_or_default().chars().take(200).collect()
}

/// The part that says what is wrong.
pub(super) fn sentence(text: &str) -> String {
    let said = text.rsplit_once("error: ").map_or(text, |(_, said)| said);
    let mut sentence = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    crate::cut(&mut sentence, crate::limits::MESSAGE_BYTES_MAX);
    sentence
}

/// `file:line:column: ` if the text says where, else nothing.
pub(super) fn place(text: &str) -> String {
    let place = PLACE.captures(text);
    place.map_or_else(String::new, |place| format!("{}:{}:{}: ", &place[1], &place[2], &place[3]))
}
