//! Keys: what each section holds, and who may write it.
//!
//! | key | holds | written by |
//! | --- | --- | --- |
//! | `member/CLUSTER/BY` | public key and scope: BY introduces CLUSTER | BY, once |
//! | `removed/CLUSTER/BY` | nothing: BY withdraws its trust in CLUSTER | BY, once |
//! | `directory/CLUSTER` | name and addresses | CLUSTER |
//! | `capacity/CLUSTER` | what it could take on, the caller's bytes | CLUSTER |
//! | `policy/NAME`, `agent/NAME`, `context/NAMESPACE/NAME/KEY` | the caller's bytes | whose scope holds the section |
//! | `seal/CLUSTER`, `confirm/CLUSTER`, `folded/CLUSTER` | the room's own books, see `epoch.rs` | CLUSTER |
//!
//! What must never be contested has its author in the key, so two clusters never write one key of it, and each fact stays once written.

use std::fmt;
use std::ops::BitOr;

use crate::codec::{Malformed, TOO_LONG};
use crate::id::ClusterId;
use crate::limits::KEY_BYTES_MAX;

/// A section that belongs to no cluster, which is written by those whose [`Scope`] holds it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Shared {
    /// `policy/NAME`.
    Policy,
    /// `agent/NAME`.
    Agent,
    /// `context/NAMESPACE/NAME/KEY`.
    Context,
}

impl Shared {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Policy, Self::Agent, Self::Context];

    /// The section's name, as it begins a key.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Agent => "agent",
            Self::Context => "context",
        }
    }
}

/// Which shared sections a cluster may write, and whether it may have others run its tasks. It only grows, by further introductions: nothing
/// that was allowed is forbidden later, but by removing the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Scope(u8);

impl Scope {
    /// Nothing but the cluster's own keys.
    pub const NONE: Self = Self(0);
    /// Every shared section, and tasks.
    pub const ALL: Self = Self(0b1111);
    /// To hand tasks over to other clusters. No section: the room only keeps it.
    pub const TASKS: Self = Self(0b1000);

    /// One section.
    pub const fn of(section: Shared) -> Self {
        Self(1 << section as u8)
    }

    /// Does it hold all of `other`?
    pub const fn holds(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    pub(crate) fn from_bits(bits: u8) -> Result<Self, Malformed> {
        (bits & !Self::ALL.0 == 0).then_some(Self(bits)).ok_or(Malformed("a scope names an unknown section"))
    }
}

impl BitOr for Scope {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sections = Shared::ALL.iter().filter(|section| self.holds(Self::of(**section))).map(|section| section.name());
        let names: Vec<_> = sections.chain(self.holds(Self::TASKS).then_some("tasks")).collect();
        write!(f, "Scope({})", names.join("+"))
    }
}

/// A section whose keys belong to the cluster that they name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Own {
    Directory,
    Capacity,
    Seal,
    Confirm,
    Folded,
}

impl Own {
    pub fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Capacity => "capacity",
            Self::Seal => "seal",
            Self::Confirm => "confirm",
            Self::Folded => "folded",
        }
    }

    pub fn key(self, cluster: ClusterId) -> String {
        format!("{}/{cluster}", self.name())
    }
}

/// A key, understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    Member { cluster: ClusterId, by: ClusterId },
    Removed { cluster: ClusterId, by: ClusterId },
    Own(Own, ClusterId),
    Shared(Shared),
}

impl Key {
    pub fn parse(key: &str) -> Result<Self, Malformed> {
        if key.len() > KEY_BYTES_MAX {
            return Err(TOO_LONG);
        }
        let (section, rest) = key.split_once('/').ok_or(Malformed("a key has no section"))?;
        match section {
            "member" => two(rest).map(|(cluster, by)| Self::Member { cluster, by }),
            "removed" => two(rest).map(|(cluster, by)| Self::Removed { cluster, by }),
            "directory" => one(rest).map(|cluster| Self::Own(Own::Directory, cluster)),
            "capacity" => one(rest).map(|cluster| Self::Own(Own::Capacity, cluster)),
            "seal" => one(rest).map(|cluster| Self::Own(Own::Seal, cluster)),
            "confirm" => one(rest).map(|cluster| Self::Own(Own::Confirm, cluster)),
            "folded" => one(rest).map(|cluster| Self::Own(Own::Folded, cluster)),
            "policy" if !rest.is_empty() => Ok(Self::Shared(Shared::Policy)),
            "agent" if !rest.is_empty() => Ok(Self::Shared(Shared::Agent)),
            "context" if is_context(rest) => Ok(Self::Shared(Shared::Context)),
            _ => Err(Malformed("a key is in no known section, or not of its section's form")),
        }
    }

    /// Keys that are about one epoch and mean nothing after it is folded.
    pub fn is_bookkeeping(self) -> bool {
        matches!(self, Self::Own(Own::Seal | Own::Confirm | Own::Folded, _))
    }
}

fn one(text: &str) -> Result<ClusterId, Malformed> {
    text.parse().map_err(|_| Malformed("a key of a cluster does not name one"))
}

fn two(text: &str) -> Result<(ClusterId, ClusterId), Malformed> {
    let (cluster, by) = text.split_once('/').ok_or(Malformed("a key of two clusters does not name two"))?;
    Ok((one(cluster)?, one(by)?))
}

/// NAMESPACE/NAME/KEY, none of them empty; KEY may hold further slashes.
fn is_context(rest: &str) -> bool {
    let mut parts = rest.splitn(3, '/');
    (0..3).all(|_| parts.next().is_some_and(|part| !part.is_empty()))
}

pub(crate) fn member_key(cluster: ClusterId, by: ClusterId) -> String {
    format!("member/{cluster}/{by}")
}

pub(crate) fn removed_key(cluster: ClusterId, by: ClusterId) -> String {
    format!("removed/{cluster}/{by}")
}
