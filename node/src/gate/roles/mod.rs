//! What may a principal do? Roles, as the log has them, judged without asking anybody.
//!
//! ```text
//!   principal ─► its bindings ─► those whose namespace pattern covers the wish ─► their roles' rules ─► one that covers verb and resource
//! ```
//!
//! Everything is denied that no rule allows, and nothing is ever taken away by a rule: who may do something may do it whatever else is bound.
//! A token's scopes are a second judgement beside it: both must allow.

mod built_in;
mod pattern;

use std::fmt;

use tarn_machine::Access;
use tarn_proto::v1::Rule;

pub use built_in::all as built_in_roles;
pub use pattern::covers;
use pattern::covers_resource;

use super::plain::{NAME_BYTES_MAX, plain};

/// The principal that may do everything, whatever is bound: whoever holds the cluster's certificate authority can be it anyway, and a cluster
/// that nobody may administer could not be saved.
pub const ROOT: &str = "user/admin";

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish<'a> {
    /// Such as `submit`.
    pub verb: &'a str,
    /// What kind of thing: `queue`.
    pub kind: &'a str,
    /// Which one; `*` for all.
    pub name: &'a str,
    /// `*` for what belongs to the whole cluster, or is in all namespaces; `None` where any namespace will do.
    pub namespace: Option<&'a str>,
}

impl fmt::Display for Wish<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wish { verb, kind, name, namespace } = self;
        let name = plain(name, NAME_BYTES_MAX);
        match *namespace {
            None => write!(f, "{verb} {kind}/{name}"),
            Some("*") => write!(f, "{verb} {kind}/{name} in the whole cluster"),
            Some(namespace) => {
                let namespace = plain(namespace, NAME_BYTES_MAX);
                write!(f, "{verb} {kind}/{name} in namespace {namespace}")
            }
        }
    }
}

/// Why something is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The asker is [`ROOT`].
    Root,
    /// A binding gives this role in the namespaces of this pattern.
    Role {
        /// The role's name.
        role: String,
        /// The pattern.
        namespace: String,
    },
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => write!(f, "{ROOT} may do everything"),
            Self::Role { role, namespace } => write!(f, "the role {role} in {namespace:?} allows it"),
        }
    }
}

/// What allows a wish; `None` if nothing does.
pub fn judge(access: &Access, principal: &str, wish: &Wish<'_>) -> Option<Ground> {
    if principal == ROOT {
        return Some(Ground::Root);
    }
    let reaches = |namespace: &str| wish.namespace.is_none_or(|wanted| covers(namespace, wanted));
    let (role, namespace) =
        bindings(access, principal).find(|(role, namespace)| reaches(namespace) && allows(rules_of(access, role), wish))?;
    Some(Ground::Role { role: role.to_owned(), namespace: namespace.to_owned() })
}

/// The roles of a principal, each with the pattern of its namespaces: its own, and those of everybody of its kind (`user/*`).
pub fn bindings<'a>(access: &'a Access, principal: &str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    let of_kind = everybody_like(principal).and_then(|all| access.bindings.get(all.as_str()));
    let own = access.bindings.get(principal);
    own.into_iter().chain(of_kind).flatten().map(|(role, namespace)| (&**role, &**namespace))
}

/// The principal whose bindings hold for all of a kind, `user/*`.
fn everybody_like(principal: &str) -> Option<String> {
    let (kind, _) = principal.split_once('/')?;
    Some(format!("{kind}/*"))
}

/// Whether one of these rules covers a wish's verb and resource.
pub fn allows(rules: &[Rule], wish: &Wish<'_>) -> bool {
    rules.iter().any(|rule| {
        rule.verbs.iter().any(|pattern| covers(pattern, wish.verb))
            && rule.resources.iter().any(|pattern| covers_resource(pattern, wish.kind, wish.name))
    })
}

/// The first thing that these rules would allow in this namespace and `may` denies.
pub fn first_beyond(rules: &[Rule], namespace: Option<&str>, may: impl Fn(&Wish<'_>) -> bool) -> Option<String> {
    let mut wishes = rules.iter().flat_map(|rule| {
        let pairs = rule.verbs.iter().flat_map(|verb| rule.resources.iter().map(move |resource| (verb, resource)));
        pairs.map(|(verb, resource)| {
            // Without a slash a pattern is of kinds, and of all their names.
            let (kind, name) = resource.split_once('/').unwrap_or((resource, "*"));
            Wish { verb, kind, name, namespace }
        })
    });
    wishes.find(|wish| !may(wish)).map(|wish| wish.to_string())
}

/// The first thing that rules would allow which others do not.
pub fn rules_beyond(own: &[Rule], asked: &[Rule]) -> Option<String> {
    first_beyond(asked, None, |wish| allows(own, wish))
}

/// The rules of a role, built in or not; none if there is no such role.
pub fn rules_of<'a>(access: &'a Access, role: &str) -> &'a [Rule] {
    match built_in::rules(role) {
        Some(rules) => rules,
        None => access.roles.get(role).map_or(&[], Vec::as_slice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beyond_rules(access: &Access, giver: &str, rules: &[Rule], namespace: &str) -> Option<String> {
        first_beyond(rules, Some(namespace), |wish| judge(access, giver, wish).is_some())
    }

    fn beyond(access: &Access, giver: &str, role: &str, namespace: &str) -> Option<String> {
        beyond_rules(access, giver, rules_of(access, role), namespace)
    }

    fn rule(verbs: &[&str], resources: &[&str]) -> Rule {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Rule { verbs: owned(verbs), resources: owned(resources) }
    }

    fn access(bindings: &[(&str, &str, &str)]) -> Access {
        let mut access = Access::default();
        let mailer = vec![rule(&["submit", "read"], &["queue/mail-*"])];
        access.roles.insert("mailer".into(), mailer);
        for (principal, role, namespace) in bindings {
            let of_one = access.bindings.entry((*principal).into()).or_default();
            of_one.insert(((*role).into(), (*namespace).into()));
        }
        access
    }

    fn wish<'a>(verb: &'a str, resource: &'a str, namespace: &'a str) -> Wish<'a> {
        let (kind, name) = resource.split_once('/').unwrap();
        Wish { verb, kind, name, namespace: Some(namespace) }
    }

    #[test]
    fn what_no_binding_allows_is_denied() {
        let access = access(&[("user/ada", "mailer", "team-*"), ("user/bob", "viewer", "*"), ("user/eve", "gone", "*")]);
        let may = |who: &str, verb, resource, namespace| judge(&access, who, &wish(verb, resource, namespace)).is_some();
        assert!(may("user/ada", "submit", "queue/mail-out", "team-1"));
        assert!(!may("user/ada", "submit", "queue/mail-out", "default"), "another namespace");
        assert!(!may("user/ada", "submit", "queue/mail-out", "*"), "every namespace");
        assert!(!may("user/ada", "submit", "queue/*", "team-1"), "every queue");
        assert!(!may("user/ada", "purge", "queue/mail-out", "team-1"), "another verb");
        assert!(may("user/bob", "read", "task/*", "*"));
        assert!(!may("user/bob", "read", "token/*", "*"));
        assert!(!may("user/eve", "read", "task/*", "*"), "a role that is gone allows nothing");
        assert!(!may("user/nobody", "read", "task/*", "default"));
        assert!(may(ROOT, "delete", "anything/at-all", "*"));
        assert!(!may("user/administrator", "read", "task/*", "*"));
    }

    #[test]
    fn nobody_gives_away_what_they_do_not_have() {
        let access = access(&[("user/lead", "developer", "team-1"), ("user/chief", "admin", "team-*"), ("user/chief", "viewer", "*")]);
        assert_eq!(beyond(&access, "user/lead", "viewer", "team-1"), None);
        assert!(beyond(&access, "user/lead", "viewer", "team-*").is_some());
        assert!(beyond(&access, "user/lead", "operator", "team-1").is_some());
        assert_eq!(beyond(&access, "user/chief", "operator", "team-7"), None);
        let refused = beyond(&access, "user/chief", "admin", "*").unwrap();
        assert!(refused.contains("whole cluster"), "{refused}");
        assert_eq!(beyond(&access, ROOT, "admin", "*"), None);
        let all = [rule(&["*"], &["*"])];
        assert!(beyond_rules(&access, "user/lead", &all, "team-1").is_some());
    }
}
