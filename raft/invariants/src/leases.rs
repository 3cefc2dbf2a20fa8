//! Named leases: locks with a holder, an end, and a token that only grows.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Invariant, Verdict};

/// See [`no_overlap`].
pub const NO_OVERLAP: Invariant = Invariant {
    name: "no overlap of named leases",
    rule: "a named lease is given to the next holder after it was released or its time was up, with a higher token",
    source: "design, domains: named leases with holder, token, expiry; anchors, test 10",
};

/// One holding of a named lease, on one scale of time: the cluster's (the machine's milliseconds) or log positions, never
/// different machines' clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding<'a> {
    /// The lease's name, with its namespace if there are several.
    pub name: &'a str,
    /// Who held it.
    pub holder: &'a str,
    /// The fencing token.
    pub token: u64,
    /// When it was acquired.
    pub from: u64,
    /// When it ended: the release, or the expiry that the last accepted renewal gave.
    pub until: u64,
}

impl fmt::Display for Holding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, holder, token, from, .. } = self;
        write!(f, "lease {name} of {holder} under token {token} from {from} on")
    }
}

/// `next` is acquired after `previous` was held under the same name.
///
/// # Errors
///
/// It begins before the other has ended, or its token is not higher ([`NO_OVERLAP`]).
pub fn no_overlap(previous: Holding<'_>, next: Holding<'_>) -> Verdict {
    NO_OVERLAP.require(previous.until <= next.from && previous.token < next.token, || {
        format!("{next} begins while {previous} lasts, until {}", previous.until)
    })
}

/// Looks through all holdings of any names, in any order.
///
/// # Errors
///
/// The first pair that overlaps ([`NO_OVERLAP`]).
pub fn no_overlaps<'a>(holdings: impl IntoIterator<Item = Holding<'a>>) -> Verdict {
    let mut by_name: BTreeMap<&str, Vec<Holding<'a>>> = BTreeMap::new();
    for holding in holdings {
        by_name.entry(holding.name).or_default().push(holding);
    }
    for mut held in by_name.into_values() {
        held.sort_by_key(|holding| holding.token);
        for pair in held.windows(2) {
            no_overlap(pair[0], pair[1])?;
        }
    }
    Ok(())
}

/// A token is given to `holder` under a lease's name; `known` is who got the same token before, by name and holder, if anybody did. The same
/// holder may be told again.
///
/// # Errors
///
/// Somebody else has the token ([`NO_OVERLAP`]).
pub fn one_holder_a_token(token: u64, known: Option<(&str, &str)>, given: (&str, &str)) -> Verdict {
    NO_OVERLAP.require(known.is_none_or(|known| known == given), || {
        let (lease, holder) = known.unwrap_or_default();
        let (new_lease, new_holder) = given;
        format!("token {token} is given to {new_holder} for lease {new_lease} and was given to {holder} for lease {lease}")
    })
}

/// A lease is given under `token` to one who asked for it after `last` had been given under the same name: what is certain of tokens where
/// nobody's clock is.
///
/// # Errors
///
/// The token is not higher ([`NO_OVERLAP`]).
pub fn tokens_grow(name: &str, last: u64, token: u64) -> Verdict {
    NO_OVERLAP.require(token > last, || format!("lease {name} is given under token {token}, and was given under token {last} before"))
}

/// A protected resource that takes writes together with the lease's token: what a correct user of a lock builds. `highest`
/// is the highest token that it took before, 0 before the first; a lower one must have been refused.
///
/// # Errors
///
/// A write under an older token was taken ([`NO_OVERLAP`]).
pub fn writes_never_interleave(name: &str, highest: u64, token: u64) -> Verdict {
    NO_OVERLAP
        .require(token >= highest, || format!("a write under token {token} of lease {name} was taken after one under token {highest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(name: &str, token: u64, from: u64, until: u64) -> Holding<'_> {
        Holding { name, holder: "h", token, from, until }
    }

    #[test]
    fn holdings_of_one_name_follow_each_other() {
        no_overlaps([holding("a", 2, 20, 30), holding("a", 1, 10, 20), holding("b", 3, 0, 99)]).unwrap();
        let overlapping = [holding("a", 1, 10, 21), holding("a", 2, 20, 30)];
        assert_eq!(no_overlaps(overlapping).unwrap_err().invariant, NO_OVERLAP);
        assert!(no_overlap(holding("a", 2, 10, 20), holding("a", 2, 20, 30)).is_err());
    }

    #[test]
    fn tokens_have_one_holder_and_grow() {
        one_holder_a_token(5, None, ("a", "h")).unwrap();
        one_holder_a_token(5, Some(("a", "h")), ("a", "h")).unwrap();
        assert!(one_holder_a_token(5, Some(("a", "h")), ("a", "i")).is_err());
        assert!(one_holder_a_token(5, Some(("a", "h")), ("b", "h")).is_err());
        tokens_grow("a", 5, 6).unwrap();
        assert_eq!(tokens_grow("a", 5, 5).unwrap_err().invariant, NO_OVERLAP);
    }

    #[test]
    fn a_protected_resource_takes_no_older_token() {
        writes_never_interleave("a", 2, 2).unwrap();
        assert_eq!(writes_never_interleave("a", 2, 1).unwrap_err().invariant, NO_OVERLAP);
    }
}
