//! The words of rules: which verbs and kinds of resources there are.
//!
//! The cluster takes any word, for a rule may be older or newer than what it speaks of. Whoever types one is warned of a word that nothing
//! asks for: a right that was misspelt is not missed before it is needed.

use tarn_proto::v1::Rule;

/// All verbs that the gate asks for.
pub const VERBS: [&str; 14] =
    ["activate", "call", "cancel", "create", "delete", "hold", "purge", "read", "requeue", "revoke", "submit", "update", "work", "write"];

/// All kinds of resources that the gate asks for.
pub const KINDS: [&str; 24] = [
    "artifact",
    "audit",
    "binding",
    "certificate",
    "cluster",
    "context",
    "driver",
    "driver-settings",
    "federation",
    "event",
    "join-token",
    "lease",
    "namespace",
    "policy",
    "policy-handler",
    "policy-settings",
    "queue",
    "role",
    "scheduler",
    "task",
    "timer",
    "token",
    "violation",
    "worker",
];

/// Warns, on standard error, of words in rules that stand for nothing.
pub fn warn_of_rules(rules: &[Rule]) {
    for rule in rules {
        warn(&rule.verbs, &rule.resources);
    }
}

/// Warns, on standard error, of verbs and resources that stand for nothing.
pub fn warn(verbs: &[String], resources: &[String]) {
    let verbs = verbs.iter().filter_map(|verb| doubt("verb", verb, &VERBS));
    let kinds = resources.iter().filter_map(|resource| doubt("kind", kind(resource), &KINDS));
    for doubt in verbs.chain(kinds) {
        eprintln!("warning: {doubt}");
    }
}

/// The kind in `KIND/NAME`, or in a pattern of that.
fn kind(resource: &str) -> &str {
    resource.split_once('/').map_or(resource, |(kind, _)| kind)
}

/// What is doubtful about a word, or a pattern with `*` at its end.
fn doubt(what: &str, word: &str, known: &[&str]) -> Option<String> {
    let fits = |known: &&str| match word.strip_suffix('*') {
        Some(begin) => known.starts_with(begin),
        None => *known == word,
    };
    if known.iter().any(fits) {
        return None;
    }
    let near = known.iter().min_by_key(|known| distance(known, word))?;
    Some(match distance(near, word) {
        0..=2 => format!("nothing asks for the {what} {word:?}: did you mean {near:?}?"),
        _ => format!("nothing asks for the {what} {word:?}: there are {}", known.join(", ")),
    })
}

/// How many letters must be put in, left out or changed to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use tarn_proto::v1;

    use super::*;
    use crate::gate::{Question, permission};

    /// An empty command of each kind that the contract has.
    fn commands() -> Vec<v1::command::Body> {
        let number = |field: u32| {
            // A field of length zero: the message's key, then its length.
            let mut bytes = Vec::new();
            prost::encoding::encode_key(field, prost::encoding::WireType::LengthDelimited, &mut bytes);
            bytes.push(0);
            v1::Command::decode(bytes.as_slice()).ok()?.body
        };
        (1..1_000).filter_map(number).collect()
    }

    #[test]
    fn every_permission_that_the_gate_asks_for_is_known() {
        let mut asked: BTreeSet<(String, String)> = BTreeSet::new();
        let commands = commands();
        assert!(commands.len() > 30, "{}", commands.len());
        for body in &commands {
            let _ = permission::of_command(body, |wish| {
                asked.insert((wish.verb.to_owned(), wish.kind.to_owned()));
                Ok::<(), ()>(())
            });
        }
        let reads: [&dyn Question; 17] = [
            &v1::CallDriverRequest::default(),
            &v1::GetQueueRequest::default(),
            &v1::GetTaskRequest::default(),
            &v1::GetLeaseRequest::default(),
            &v1::GetTimerRequest::default(),
            &v1::ListWorkersRequest::default(),
            &v1::ListNamespacesRequest::default(),
            &v1::ListRolesRequest::default(),
            &v1::ListRevocationsRequest::default(),
            &v1::ListBundlesRequest::default(),
            &v1::ListPolicyHandlersRequest::default(),
            &v1::GetClusterRequest::default(),
            &v1::ListArtifactsRequest::default(),
            &v1::ListDecisionsRequest::default(),
            &v1::ListViolationsRequest::default(),
            &v1::WatchRequest::default(),
            &v1::ListTokensRequest::default(),
        ];
        for read in reads {
            let wish = read.wish();
            asked.insert((wish.verb.to_owned(), wish.kind.to_owned()));
        }
        for (verb, kind) in &asked {
            assert!(VERBS.contains(&verb.as_str()), "{verb}");
            assert!(KINDS.contains(&kind.as_str()), "{kind}");
        }
        for verb in VERBS {
            assert!(asked.iter().any(|(asked, _)| asked == verb), "nothing asks for {verb}");
        }
        for kind in KINDS {
            assert!(asked.iter().any(|(_, asked)| asked == kind), "nothing asks for {kind}");
        }
    }

    #[test]
    fn a_misspelt_word_is_doubted_and_a_pattern_is_not() {
        assert_eq!(doubt("verb", "submitt", &VERBS).unwrap(), "nothing asks for the verb \"submitt\": did you mean \"submit\"?");
        assert!(doubt("verb", "fly", &VERBS).unwrap().contains("there are activate, call, cancel"));
        for fine in ["*", "re*", "submit"] {
            assert_eq!(doubt("verb", fine, &VERBS), None, "{fine}");
        }
        assert_eq!(doubt("kind", kind("queue/mail-*"), &KINDS), None);
        assert_eq!(doubt("kind", kind("policy*"), &KINDS), None);
        assert!(doubt("kind", kind("queues/x"), &KINDS).is_some());
    }
}
