//! Who calls whom: no rule may need itself, and chains of calls have a limit.
//!
//! The interpreter finds rules that need themselves when it evaluates them. For functions it does not, and a deep chain of either takes
//! stack. So both are refused before anything runs, as Rego demands.

use std::collections::{BTreeMap, BTreeSet};

use super::RuleId;
use crate::limits::CALL_DEPTH_MAX;

/// The first rule that cannot be, and why. Pairs are a rule and what it refers to, in ascending order of rules.
pub(super) fn refusal(rules: &[(&RuleId, &BTreeSet<RuleId>)]) -> Option<(RuleId, String)> {
    let ids: BTreeMap<&[String], usize> = rules.iter().enumerate().map(|(index, (id, _))| (id.as_slice(), index)).collect();
    let calls: Vec<Vec<usize>> = rules.iter().map(|(_, uses)| called(&ids, uses)).collect();
    let mut search = Search { calls: &calls, depths: vec![None; calls.len()], path: Vec::new() };
    for start in 0..calls.len() {
        if let Err(Refused { at, why }) = search.depth_of(start) {
            return Some((rules[at].0.clone(), why.sentence(rules)));
        }
    }
    None
}

/// The rules that these paths reach: those that have the path's name, those below it, and those that it looks into.
fn called(ids: &BTreeMap<&[String], usize>, uses: &BTreeSet<RuleId>) -> Vec<usize> {
    let mut called = BTreeSet::new();
    for path in uses {
        let below = ids.range(path.as_slice()..).take_while(|(id, _)| id.starts_with(path));
        called.extend(below.map(|(_, index)| *index));
        called.extend((1..path.len()).filter_map(|length| ids.get(&path[..length]).copied()));
    }
    called.into_iter().collect()
}

enum Why {
    Circle(Vec<usize>),
    Deep,
}

impl Why {
    fn sentence(&self, rules: &[(&RuleId, &BTreeSet<RuleId>)]) -> String {
        match self {
            Self::Circle(circle) => {
                let names: Vec<_> = circle.iter().map(|index| rules[*index].0.join(".")).collect();
                let hint = "a variable with the name of a rule counts as that rule, so it may be enough to rename it";
                format!("the rule needs itself: {} ({hint})", names.join(" -> "))
            }
            Self::Deep => format!("rules and functions call each other in a chain of more than {CALL_DEPTH_MAX}"),
        }
    }
}

struct Refused {
    at: usize,
    why: Why,
}

struct Search<'a> {
    calls: &'a [Vec<usize>],
    /// The longest chain below each rule that is done.
    depths: Vec<Option<usize>>,
    path: Vec<usize>,
}

impl Search<'_> {
    /// The longest chain from here. Recursive, as deep as the limit and no deeper.
    fn depth_of(&mut self, rule: usize) -> Result<usize, Refused> {
        if let Some(depth) = self.depths[rule] {
            return Ok(depth);
        }
        if let Some(start) = self.path.iter().position(|on_path| *on_path == rule) {
            let circle = self.path[start..].iter().copied().chain([rule]).collect();
            return Err(Refused { at: rule, why: Why::Circle(circle) });
        }
        self.path.push(rule);
        let mut depth = 0;
        if self.path.len() > CALL_DEPTH_MAX {
            return Err(Refused { at: self.path[0], why: Why::Deep });
        }
        for index in 0..self.calls[rule].len() {
            depth = depth.max(1 + self.depth_of(self.calls[rule][index])?);
        }
        if self.path.len() + depth > CALL_DEPTH_MAX {
            return Err(Refused { at: self.path[0], why: Why::Deep });
        }
        self.path.pop();
        self.depths[rule] = Some(depth);
        Ok(depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(path: &str) -> RuleId {
        path.split('.').map(String::from).collect()
    }

    fn refused(rules: &[(&str, &[&str])]) -> Option<String> {
        let owned: BTreeMap<RuleId, BTreeSet<RuleId>> =
            rules.iter().map(|(name, uses)| (id(name), uses.iter().map(|path| id(path)).collect())).collect();
        refusal(&owned.iter().collect::<Vec<_>>()).map(|(_, why)| why)
    }

    #[test]
    fn circles_are_found_whichever_way_they_are_written() {
        assert_eq!(refused(&[("t.a", &["t.b"]), ("t.b", &["t.c", "x"]), ("t.c", &[])]), None);
        assert!(refused(&[("t.a", &["t.a"])]).unwrap().contains("t.a -> t.a"));
        assert!(refused(&[("t.a", &["t.b"]), ("t.b", &["t.a"])]).is_some());
        // A whole package, and a field of a rule's value.
        assert!(refused(&[("t.a", &["t"])]).is_some());
        assert!(refused(&[("t.a", &["t.b.x.y"]), ("t.b", &["t.a.z"])]).is_some());
        // Two names that only start alike.
        assert_eq!(refused(&[("t.a", &["t.ab"]), ("t.ab", &[])]), None);
    }

    #[test]
    fn long_chains_are_found() {
        let chain = |length: usize| {
            let names: Vec<String> = (0..length).map(|index| format!("t.r{index:05}")).collect();
            let rules: BTreeMap<RuleId, BTreeSet<RuleId>> = names
                .iter()
                .enumerate()
                .map(|(index, name)| (id(name), names.get(index + 1).map(|next| id(next)).into_iter().collect()))
                .collect();
            refusal(&rules.iter().collect::<Vec<_>>()).is_some()
        };
        assert!(!chain(CALL_DEPTH_MAX));
        assert!(chain(CALL_DEPTH_MAX + 1));
        assert!(chain(50_000));
    }
}
