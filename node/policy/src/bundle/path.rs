//! Which paths modules may have.

use crate::{
    Error,
    limits::{PATH_BYTES_MAX, PATH_PARTS_MAX},
};

/// A path is relative, has `/` between its parts, and each part consists of ASCII letters, digits, `.`, `_` and `-` and starts with a
/// letter, a digit or `_`. So there is no `..`, no hidden file, no drive, no look-alike letter. It ends in `.rego`.
pub(super) fn check(path: &str) -> Result<(), Error> {
    Error::at_most("a module's path, in bytes", PATH_BYTES_MAX, path.len())?;
    let refused = |why: &str| Err(Error::malformed(format!("the path {path:?}"), why));
    let parts: Vec<_> = path.split('/').collect();
    Error::at_most(format!("the parts of the path {path:?}"), PATH_PARTS_MAX, parts.len())?;
    for part in &parts {
        let Some(first) = part.bytes().next() else {
            return refused("must be relative and without empty parts, such as limits/gpu.rego");
        };
        if !(first.is_ascii_alphanumeric() || first == b'_') {
            return refused("each part must start with a letter, a digit or _");
        }
        if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return refused("may hold only ASCII letters, digits, '.', '_', '-', and '/' between its parts");
        }
    }
    match parts.last().and_then(|name| name.strip_suffix(".rego")) {
        Some(stem) if !stem.is_empty() => Ok(()),
        _ => refused("must end in .rego"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_pass() {
        for good in ["a.rego", "limits/gpu.rego", "a/b/c/d/e/f/g/h.rego", "_x/y-1.2_test.rego"] {
            assert!(check(good).is_ok(), "{good}");
        }
        let long = format!("{}.rego", "a".repeat(PATH_BYTES_MAX));
        for bad in [
            "",
            "/a.rego",
            "../a.rego",
            "a/../b.rego",
            "a/./b.rego",
            "./a.rego",
            "a//b.rego",
            "a.rego/",
            ".hidden.rego",
            ".rego",
            "a/.rego",
            "a.txt",
            "a",
            "a\\b.rego",
            "C:a.rego",
            "a b.rego",
            "a\0.rego",
            "pоlicy.rego",
            "a\n.rego",
            "-a.rego",
            "a/b/c/d/e/f/g/h/i.rego",
            &long,
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
