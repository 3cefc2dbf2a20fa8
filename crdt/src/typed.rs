//! What the federation shares, by name: nobody outside spells keys.

use std::collections::BTreeMap;

use crate::codec::{Malformed, Reader, Writer, whole};
use crate::commit::Commit;
use crate::id::ClusterId;
use crate::key::{Key, Own, Scope, Shared, member_key, removed_key};
use crate::limits::VALUE_BYTES_MAX;
use crate::records::Introduction;
use crate::replica::{Replica, WriteError};
use crate::signature::Identity;

/// What a cluster says of itself.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Entry {
    /// Its name, for people. Nothing keeps two clusters from having one name.
    pub name: String,
    /// Where its gateways listen, as `host:port`.
    pub gateways: Vec<String>,
}

/// All that is known of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Its raw ML-DSA-65 public key.
    pub public_key: Vec<u8>,
    /// Which shared sections it may write.
    pub scope: Scope,
    /// What it was introduced with.
    pub card: Vec<u8>,
    /// Who introduced it, ascending; the founder introduced itself.
    pub introduced_by: Vec<ClusterId>,
    /// Has trust in it been withdrawn?
    pub removed: bool,
    /// What it says of itself, if it did.
    pub entry: Option<Entry>,
    /// What it could take on, if it said so, in the caller's own encoding.
    pub capacity: Option<Vec<u8>>,
}

/// One thing to write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// What this cluster says of itself.
    Entry(Entry),
    /// What this cluster could take on, in the caller's own encoding.
    Capacity(Vec<u8>),
    /// Introduces a cluster, with a scope within this cluster's own.
    Introduce {
        /// Its raw ML-DSA-65 public key, 1,952 bytes.
        public_key: Vec<u8>,
        /// Which shared sections it may write.
        scope: Scope,
        /// What the others must know of it before they can hear of it from itself, such as its root certificate. At most 48 KiB.
        card: Vec<u8>,
        /// The cluster's own over the card: see [`Identity::sign_card`].
        signature: Vec<u8>,
    },
    /// Withdraws trust in a cluster, for ever: it can come back with a new key only.
    Remove(ClusterId),
    /// A policy; `None` deletes it.
    Policy {
        /// Its name: whatever the caller's own rules allow; not empty.
        name: String,
        /// Its content.
        value: Option<Vec<u8>>,
    },
    /// An agent; `None` deletes it.
    Agent {
        /// Its name: whatever the caller's own rules allow; not empty.
        name: String,
        /// Its content.
        value: Option<Vec<u8>>,
    },
    /// A key of a global context; `None` deletes it.
    Context {
        /// The namespace: not empty, without slashes.
        namespace: String,
        /// The context: not empty, without slashes.
        name: String,
        /// The key: not empty.
        key: String,
        /// Its value.
        value: Option<Vec<u8>>,
    },
}

impl Write {
    /// The key and the value (`None`: deleted) by which the cluster `me` writes it: see [`Replica::put`].
    pub fn put(self, me: ClusterId) -> (String, Option<Vec<u8>>) {
        match self {
            Self::Entry(entry) => (Own::Directory.key(me), Some(entry.encode())),
            Self::Capacity(capacity) => (Own::Capacity.key(me), Some(capacity)),
            Self::Introduce { public_key, scope, card, signature } => {
                let key = member_key(ClusterId::of(&public_key), me);
                (key, Some(Introduction { public_key, scope, card, signature }.encode()))
            }
            Self::Remove(cluster) => (removed_key(cluster, me), Some(Vec::new())),
            Self::Policy { name, value } => (shared_key(Shared::Policy, &[&name]), value),
            Self::Agent { name, value } => (shared_key(Shared::Agent, &[&name]), value),
            Self::Context { namespace, name, key, value } => (shared_key(Shared::Context, &[&namespace, &name, &key]), value),
        }
    }
}

/// The key of something shared, as it stands in a [`Commit`]'s entries: `policy/NAME`, `agent/NAME`, `context/NAMESPACE/NAME/KEY`.
pub fn shared_key(section: Shared, parts: &[&str]) -> String {
    format!("{}/{}", section.name(), parts.join("/"))
}

/// All clusters, removed ones too, ascending by id, of entries of a document: those whose keys begin with `directory/`, `member/`, `removed/` or
/// `capacity/`. For whoever has the entries and no [`Replica`].
pub fn clusters_of(entries: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<Cluster> {
    let mut found: BTreeMap<ClusterId, Cluster> = BTreeMap::new();
    let (mut said, mut removed) = (Vec::new(), Vec::new());
    for (key, value) in entries {
        match Key::parse(&key) {
            Ok(Key::Member { cluster, by }) => {
                let Ok(Introduction { public_key, scope, card, .. }) = Introduction::decode(&value) else { continue };
                let fresh = || Cluster {
                    id: cluster,
                    public_key,
                    scope,
                    card: card.clone(),
                    introduced_by: Vec::new(),
                    removed: false,
                    entry: None,
                    capacity: None,
                };
                let known = found.entry(cluster).or_insert_with(fresh);
                known.scope = known.scope | scope;
                // As the replica does: the card is the one that the least of them introduced it with.
                let at = known.introduced_by.partition_point(|other| *other < by);
                known.introduced_by.insert(at, by);
                if at == 0 {
                    known.card = card;
                }
            }
            Ok(Key::Removed { cluster, .. }) => removed.push(cluster),
            Ok(Key::Own(own, cluster)) => said.push((own, cluster, value)),
            _ => {}
        }
    }
    for (own, cluster, value) in said {
        match (own, found.get_mut(&cluster)) {
            (Own::Directory, Some(known)) => known.entry = Entry::decode(&value).ok(),
            (Own::Capacity, Some(known)) => known.capacity = Some(value),
            _ => {}
        }
    }
    for cluster in removed {
        if let Some(known) = found.get_mut(&cluster) {
            known.removed = true;
        }
    }
    found.into_values().collect()
}

impl Replica {
    /// Writes all of these at once, or none, as one signed change set.
    ///
    /// # Errors
    /// [`WriteError`]: this cluster may not write one of them, one is too large, or one stands there twice.
    pub fn write(&mut self, identity: &Identity, writes: Vec<Write>, now_ms: u64) -> Result<Commit, WriteError> {
        let me = self.cluster();
        self.put(identity, writes.into_iter().map(|write| write.put(me)).collect(), now_ms)
    }

    /// All clusters, removed ones too, ascending by id.
    pub fn clusters(&self) -> Vec<Cluster> {
        self.members.keys().filter_map(|id| self.about(*id)).collect()
    }

    /// What is known of a cluster; `None` if nobody introduced it.
    pub fn about(&self, id: ClusterId) -> Option<Cluster> {
        let member = self.members.get(&id)?;
        let introduced_by = self.keys(&format!("member/{id}/")).filter_map(|key| match Key::parse(&key) {
            Ok(Key::Member { by, .. }) => Some(by),
            _ => None,
        });
        Some(Cluster {
            id,
            public_key: member.public_key.clone(),
            scope: member.scope,
            card: member.card.clone(),
            introduced_by: introduced_by.collect(),
            removed: self.removed.contains(&id),
            entry: self.get(&Own::Directory.key(id)).and_then(|value| Entry::decode(&value).ok()),
            capacity: self.get(&Own::Capacity.key(id)),
        })
    }

    /// A policy.
    pub fn policy(&self, name: &str) -> Option<Vec<u8>> {
        self.get(&shared_key(Shared::Policy, &[name]))
    }

    /// An agent.
    pub fn agent(&self, name: &str) -> Option<Vec<u8>> {
        self.get(&shared_key(Shared::Agent, &[name]))
    }

    /// A key of a global context.
    pub fn context(&self, namespace: &str, name: &str, key: &str) -> Option<Vec<u8>> {
        self.get(&shared_key(Shared::Context, &[namespace, name, key]))
    }
}

impl Entry {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.bytes(self.name.as_bytes());
        out.number(self.gateways.len() as u64);
        self.gateways.iter().for_each(|gateway| out.bytes(gateway.as_bytes()));
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        whole(bytes, |r: &mut Reader<'_>| {
            let name = r.text(VALUE_BYTES_MAX)?.to_owned();
            Ok(Self { name, gateways: r.list(VALUE_BYTES_MAX, |r| r.text(VALUE_BYTES_MAX).map(str::to_owned))? })
        })
    }
}
