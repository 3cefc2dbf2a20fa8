//! Patterns of paths: `?` is one character but `/`, `*` any number of them, and `**` any number of characters, `/` too.

/// Whether a pattern fits a whole path.
pub(super) fn fits(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<char>, Vec<char>) = (pattern.chars().collect(), path.chars().collect());
    matches(&pattern, &path)
}

fn matches(pattern: &[char], path: &[char]) -> bool {
    match pattern {
        [] => path.is_empty(),
        // `**/` may also stand for no folder at all.
        ['*', '*', '/', rest @ ..] if matches(rest, path) => true,
        ['*', '*', rest @ ..] => (0..=path.len()).any(|taken| matches(rest, &path[taken..])),
        ['*', rest @ ..] => {
            let longest = path.iter().position(|c| *c == '/').unwrap_or(path.len());
            (0..=longest).any(|taken| matches(rest, &path[taken..]))
        }
        ['?', rest @ ..] => path.first().is_some_and(|c| *c != '/') && matches(rest, &path[1..]),
        [c, rest @ ..] => path.first() == Some(c) && matches(rest, &path[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn patterns() {
        for (pattern, path) in [
            ("log/*.sst", "log/000012.sst"),
            ("**/*.sst", "log/000012.sst"),
            ("**/*.sst", "000012.sst"),
            ("state/**", "state/g00000001/CURRENT"),
            ("**", "a/b"),
            ("a?c", "abc"),
            ("log/MANIFEST-*", "log/MANIFEST-000004"),
        ] {
            assert!(fits(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("log/*.sst", "log/old/000012.sst"),
            ("*.sst", "log/000012.sst"),
            ("a?c", "a/c"),
            ("log", "log/x"),
            ("log/*", "log"),
            ("", "a"),
        ] {
            assert!(!fits(pattern, path), "{pattern} {path}");
        }
    }
}
