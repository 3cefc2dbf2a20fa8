//! Text that the parser should not even see.

use crate::Problem;

/// Brackets within brackets.
const DEPTH_MAX: u32 = 12;
/// What the parser has to do at most. It tries a bracket as one thing, and if it is another, reads all of it again: the work doubles with
/// each level. A bracket at depth n counts as 2 to the power of n.
const WORK_MAX: u64 = 1 << 17;

/// Where and why a text is refused: line and column from 1.
pub(super) fn refusal(text: &str) -> Option<(u32, u32, String)> {
    let mut scan = Scan { line: 1, column: 0, depth: 0, work: 0 };
    let mut chars = text.chars().peekable();
    while let Some(char) = scan.step(chars.next()) {
        match char {
            '#' => while chars.peek().is_some_and(|next| *next != '\n') && scan.step(chars.next()).is_some() {},
            '`' => while scan.step(chars.next()).is_some_and(|inside| inside != '`') {},
            '"' => loop {
                match scan.step(chars.next()) {
                    Some('\\') => drop(scan.step(chars.next())),
                    None | Some('"' | '\n') => break,
                    Some(_) => {}
                }
            },
            '[' | '{' => {
                scan.depth += 1;
                scan.work += 1 << scan.depth.min(32);
            }
            ']' | '}' => scan.depth = scan.depth.saturating_sub(1),
            _ => {}
        }
        let message = if scan.depth > DEPTH_MAX {
            format!("brackets nest deeper than {DEPTH_MAX} levels; put inner parts into rules of their own")
        } else if scan.work > WORK_MAX {
            "too many brackets nest in each other up to here; put inner parts into rules of their own, or into the data".into()
        } else {
            continue;
        };
        return Some((scan.line, scan.column, message));
    }
    None
}

struct Scan {
    line: u32,
    column: u32,
    depth: u32,
    work: u64,
}

impl Scan {
    fn step(&mut self, char: Option<char>) -> Option<char> {
        if char == Some('\n') {
            self.line += 1;
            self.column = 0;
        } else {
            self.column += 1;
        }
        char
    }
}

/// The problem at a place of a text.
pub(super) fn problem(file: &str, text: &str, line: u32, column: u32, message: String) -> Problem {
    let source = text.lines().nth(line.saturating_sub(1) as usize).unwrap_or_default().chars().take(200).collect();
    Problem { file: file.into(), line, column, source, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_count_where_they_are_brackets() {
        let nested = |levels: usize| format!("x := {}1{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(refusal(&nested(12)), None);
        assert_eq!(refusal(&nested(13)).map(|(line, column, _)| (line, column)), Some((1, 18)));
        for quiet in
            ["# [[[[[[[[[[[[[[[[", "x := `[[[[[[[[[[[[[[[\n[[[[`", r#"x := "[[[[[[[[[[[\"[[[[[[[""#, "x := \"\\\\\" # [[[[[[[[[[[[[[["]
        {
            assert_eq!(refusal(quiet), None, "{quiet}");
        }
        assert!(refusal("x := \"\\\\\" [[[[[[[[[[[[[[[").is_some());
        assert!(refusal("\"no end [\n[[[[[[[[[[[[[").is_some(), "the parser ends a text at the line's end");
    }

    #[test]
    fn many_nested_brackets_are_refused() {
        let line = format!("x := {}1{}\n", "[".repeat(10), "]".repeat(10));
        assert_eq!(refusal(&line.repeat(50)), None);
        assert!(refusal(&line.repeat(100)).is_some());
        let plain = "deny contains {\"code\": \"X\", \"message\": sprintf(\"%s\", [x])} if {\n\tinput.x in {1, 2}\n}\n";
        assert_eq!(refusal(&plain.repeat(2_000)), None);
    }
}
