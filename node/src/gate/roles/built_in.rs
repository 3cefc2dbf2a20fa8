//! The roles that come with tarn.

use std::sync::LazyLock;

use tarn_proto::v1::{Role, Rule};

/// Role, verbs, resources. A role may have several lines.
const RULES: &[(&str, &[&str], &[&str])] = &[
    ("admin", &["*"], &["*"]),
    // Keeps the cluster running, and work flowing: no tenant's payloads are submitted, and nobody's rights are changed. So it makes no join
    // tokens: a machine that is let in is trusted with everything.
    ("operator", &["read"], &["*"]),
    ("operator", &["update"], &["cluster/*", "worker/*"]),
    ("operator", &["create", "update"], &["namespace/*"]),
    ("operator", &["cancel", "requeue", "purge"], &["task/*", "queue/*", "timer/*"]),
    // Submits work and looks after it.
    ("developer", &["read"], &["task/*", "queue/*", "timer/*", "lease/*", "worker/*", "artifact/*", "event/*"]),
    ("developer", &["read"], &["namespace/*", "policy/*", "cluster/*"]),
    ("developer", &["submit", "cancel", "requeue", "purge"], &["task/*", "queue/*", "timer/*"]),
    ("developer", &["hold"], &["lease/*"]),
    ("developer", &["read", "write", "delete"], &["context/*"]),
    ("developer", &["create"], &["artifact/*"]),
    ("developer", &["read", "call"], &["driver/*"]),
    // Runs tasks, and nothing else.
    ("worker", &["work"], &["task/*", "worker/*"]),
    ("worker", &["read"], &["task/*", "artifact/*", "cluster/*"]),
    ("worker", &["hold"], &["lease/*"]),
    ("worker", &["read", "write"], &["context/*"]),
    // Sees what goes on, without who may do what.
    ("viewer", &["read"], &["task/*", "queue/*", "timer/*", "lease/*", "worker/*", "artifact/*", "event/*"]),
    ("viewer", &["read"], &["namespace/*", "policy/*", "cluster/*", "context/*"]),
    ("viewer", &["read"], &["driver/*"]),
    // Sees everything and changes nothing.
    ("auditor", &["read"], &["*"]),
];

static ROLES: LazyLock<Vec<Role>> = LazyLock::new(|| {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let rules_of = |role: &str| {
        let own = RULES.iter().filter(|(name, ..)| *name == role);
        own.map(|(_, verbs, resources)| Rule { verbs: texts(verbs), resources: texts(resources) }).collect()
    };
    let role = |name: &&str| Role { name: (*name).to_owned(), rules: rules_of(name), built_in: true };
    tarn_machine::BUILT_IN_ROLES.iter().map(role).collect()
});

/// All of them.
pub fn all() -> &'static [Role] {
    &ROLES
}

/// The rules of one of them.
pub fn rules(name: &str) -> Option<&'static [Rule]> {
    let role = ROLES.iter().find(|role| role.name == name)?;
    Some(&role.rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_role_has_rules_and_every_rule_a_role() {
        assert!(all().iter().all(|role| !role.rules.is_empty()));
        for (role, ..) in RULES {
            assert!(rules(role).is_some(), "{role}");
        }
    }
}
