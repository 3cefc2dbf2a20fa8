//! Patterns of verbs, resources and namespaces: a text, with at most one `*`, at its end, that stands for anything.

/// Whether a pattern matches a text, or all that another pattern matches.
///
/// `mail-*` covers `mail-in` and `mail-in-*`; it does not cover `*`.
pub fn covers(pattern: &str, wanted: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => wanted.starts_with(start),
        None => pattern == wanted,
    }
}

/// The same for a resource: a kind and a name, with a slash between them, which is never written out.
pub fn covers_resource(pattern: &str, kind: &str, name: &str) -> bool {
    match pattern.split_once('/') {
        Some((of_kind, of_name)) => of_kind == kind && covers(of_name, name),
        // Without a slash only a star can match anything that has one: `*`, or `que*`.
        None => pattern.strip_suffix('*').is_some_and(|start| kind.starts_with(start)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_only_at_the_end() {
        for (pattern, wanted) in [("*", "mail"), ("*", "*"), ("*", ""), ("mail-*", "mail-in-*"), ("mail", "mail")] {
            assert!(covers(pattern, wanted), "{pattern} {wanted}");
        }
        for (pattern, wanted) in [("mail", "*"), ("mail", "mail-in"), ("mail-*", "*"), ("mail-*", "mail"), ("", "mail")] {
            assert!(!covers(pattern, wanted), "{pattern} {wanted}");
        }
    }

    #[test]
    fn a_pattern_of_resources_keeps_to_its_kind() {
        for pattern in ["*", "queue/*", "queue/mail", "queue/ma*", "que*"] {
            assert!(covers_resource(pattern, "queue", "mail"), "{pattern}");
        }
        for pattern in ["queue/mail-*", "task/*", "queue", "queue/", "queues/*", "", "/mail", "queue/mailbox"] {
            assert!(!covers_resource(pattern, "queue", "mail"), "{pattern}");
        }
        assert!(!covers_resource("queue/mail", "queue", "*"), "one is not all");
        assert!(covers_resource("queue/*", "queue", "a/b*"));
    }
}
