//! The whole keyspace in one enum. What lies under a key is a row of `rows.rs`.
//!
//! A key is one byte that says what it is, then its parts: numbers as eight big-endian bytes, so that rows lie in the order of their
//! numbers; a name, where there is one, last and bare. First bytes are part of the format on disk: they are never reused or renumbered.
//!
//! | first byte | key | row | lifetime |
//! | --- | --- | --- | --- |
//! | `01` | machine | `MetaRow` | for ever |
//! | `02` | digest | 32 bytes | for ever |
//! | `08` | namespace's name | `NamespaceRow` | until deleted |
//! | `09` | namespace | `PassRow` | until deleted |
//! | `0a` | namespace, queue's name | `QueueRow` | until idle for a day |
//! | `0b` | namespace | `UsageRow` | until deleted |
//! | `10` | namespace, live task | `TaskRow` | until it ends |
//! | `11` | namespace, dead task | `TaskRow` | until requeued or purged |
//! | `12` | namespace, ended task | `TaskRow` | its retention |
//! | `13` | namespace, task | `SpecRow`, written once | as the task |
//! | `14` | namespace, task | the payload, if large, written once | as the task |
//! | `15` | namespace, task | the result, if large | as the ended task |
//! | `16` | namespace, task, attempt | the attempt's log | as the task |
//! | `17` | namespace, dependency, dependent | empty while it is waited for, `01` once settled | until the dependent ended |
//! | `18` | namespace, ended task | `01` if it succeeded, else `00`: its dependents are still being settled | until they are |
//! | `19` | time, namespace, ended task | empty | the retention |
//! | `20` | namespace, named lease's name | `NamedLeaseRow` | until released or expired |
//! | `28` | namespace, pending timer | `TimerRow` | until fired or cancelled |
//! | `29` | namespace, fired timer | `TimerRow` | a day |
//! | `2a` | time, namespace, fired timer | empty | a day |
//! | `30` | worker | `WorkerRow` | until it expires |
//! | `38` | hash of a request id | `RequestRow` | the retention window |
//! | `39` | time, log index | `RequestExpiryRow` | the retention window |
//! | `40` | log index | `EventsRow` | [`EVENT_REVISIONS_KEPT`](crate::limits::EVENT_REVISIONS_KEPT) entries |
//! | `48` | hash of a join token's key | `JoinTokenRow` | until it expires |
//! | `50` | role's name | `RoleRow` | until deleted |
//! | `51` | principal, role and namespace pattern, a zero byte after each of the first two | empty | until deleted |
//! | `52` | token | `TokenRow` | until it expires or is revoked |
//! | `53` | serial number of a revoked certificate | `RevocationRow` | until the certificate has expired |
//! | `58` | environment, bundle's name, version, with zero bytes between | `BundleRow` | until deleted |
//! | `59` | policies | `PolicySettingsRow` | for ever |
//! | `5a` | handler's name | `HandlerRow` | until deleted |
//! | `5b` | violation | `ViolationRow` | [`VIOLATION_KEPT_MS`](crate::limits::VIOLATION_KEPT_MS), or until there is no room |
//! | `60` | log index | the hash of the row before, then `DecisionsRow` | as [`AuditSettings`](tarn_proto::v1::AuditSettings) say |
//! | `61` | decisions | `ChainRow` | for ever |
//! | `62` | decisions' settings | `AuditSettings` | for ever |
//! | `68` | router's settings | `SchedulerSettings` | for ever |
//! | `70` | namespace, context's name | `ContextRow` | until deleted |
//! | `71` | context, snapshot's name | `SnapshotRow` | until deleted |
//! | `72` | context, key | `KeyRow` | until deleted, and no snapshot holds it |
//! | `73` | context, version | a value, written once | as long as the key's row names it |
//! | `74` | deleted context | the last of its keys that went | until all of it is deleted |
//! | `90` | namespace, driver's name | `DriverRow` | until removed |
//! | `91` | namespace, driver's name | `DriverProgressRow` | as the driver |
//! | `92` | drivers | [`DriverSettings`](tarn_proto::v1::DriverSettings) | for ever |
//! | `a0` | federation | `FederationRow` | until the cluster has left |
//! | `a1` | a row of the document's copy | bytes of that room | until it deletes it |
//! | `a2` | number in the outbox | [`SharedEntry`](tarn_proto::v1::SharedEntry) | until it is in a change set |
//! | `a3` | key of the document, outside of contexts | its value | until deleted |
//! | `a4` | hash of an invitation's key | `InvitationRow` | until it expires |
//! | `b0` | federation | `FederationBooksRow` | as `a0` |
//! | `b1` | number | a piece of a commit whose last one has not come yet | until it has |
//! | `a8` | a transfer's id | `TransferRow` | until closed, and nobody could accept it any more |

use crate::key_bytes::KeyBytes;

/// A key of the keyspace `state`. The module's page says what lies under each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Key<'a> {
    Meta,
    Digest,
    Namespace { name: &'a str },
    Pass { ns: u64 },
    Queue { ns: u64, name: &'a str },
    Usage { ns: u64 },
    LiveTask { ns: u64, id: u64 },
    DeadTask { ns: u64, id: u64 },
    EndedTask { ns: u64, id: u64 },
    Spec { ns: u64, id: u64 },
    Payload { ns: u64, id: u64 },
    Result { ns: u64, id: u64 },
    Log { ns: u64, id: u64, attempt: u64 },
    Edge { ns: u64, dependency: u64, dependent: u64 },
    Settling { ns: u64, id: u64 },
    EndedExpiry { at: u64, ns: u64, id: u64 },
    NamedLease { ns: u64, name: &'a str },
    PendingTimer { ns: u64, id: u64 },
    FiredTimer { ns: u64, id: u64 },
    FiredTimerExpiry { at: u64, ns: u64, id: u64 },
    Worker { id: u64 },
    Request { hash: &'a [u8; 32] },
    RequestExpiry { at: u64, index: u64 },
    Events { index: u64 },
    JoinToken { hash: &'a [u8; 32] },
    Role { name: &'a str },
    Binding { parts: &'a str },
    Token { id: u64 },
    Revocation { serial: &'a str },
    Bundle { parts: &'a str },
    PolicySettings,
    PolicyHandler { name: &'a str },
    Violation { id: u64 },
    Decisions { index: u64 },
    Chain,
    AuditSettings,
    SchedulerSettings,
    Context { ns: u64, name: &'a str },
    Snapshot { context: u64, name: &'a str },
    ContextKey { context: u64, key: &'a str },
    ContextValue { context: u64, version: u64 },
    GoneContext { context: u64 },
    Driver { ns: u64, name: &'a str },
    DriverProgress { ns: u64, name: &'a str },
    DriverSettings,
    Federation,
    Replica { row: &'a [u8] },
    Outbox { number: u64 },
    Shared { key: &'a str },
    Invitation { hash: &'a [u8; 32] },
    FederationBooks,
    StagedCommit { number: u64 },
    Transfer { id: &'a str },
}

/// The first bytes of keys: what a scan over all keys of a kind starts from.
#[allow(missing_docs)]
pub mod first {
    pub const META: u8 = 0x01;
    pub const DIGEST: u8 = 0x02;
    pub const NAMESPACE: u8 = 0x08;
    pub const PASS: u8 = 0x09;
    pub const QUEUE: u8 = 0x0a;
    pub const USAGE: u8 = 0x0b;
    pub const LIVE_TASK: u8 = 0x10;
    pub const DEAD_TASK: u8 = 0x11;
    pub const ENDED_TASK: u8 = 0x12;
    pub const SPEC: u8 = 0x13;
    pub const PAYLOAD: u8 = 0x14;
    pub const RESULT: u8 = 0x15;
    pub const LOG: u8 = 0x16;
    pub const EDGE: u8 = 0x17;
    pub const SETTLING: u8 = 0x18;
    pub const ENDED_EXPIRY: u8 = 0x19;
    pub const NAMED_LEASE: u8 = 0x20;
    pub const PENDING_TIMER: u8 = 0x28;
    pub const FIRED_TIMER: u8 = 0x29;
    pub const FIRED_TIMER_EXPIRY: u8 = 0x2a;
    pub const WORKER: u8 = 0x30;
    pub const REQUEST: u8 = 0x38;
    pub const REQUEST_EXPIRY: u8 = 0x39;
    pub const EVENTS: u8 = 0x40;
    pub const JOIN_TOKEN: u8 = 0x48;
    pub const ROLE: u8 = 0x50;
    pub const BINDING: u8 = 0x51;
    pub const TOKEN: u8 = 0x52;
    pub const REVOCATION: u8 = 0x53;
    pub const BUNDLE: u8 = 0x58;
    pub const POLICY_SETTINGS: u8 = 0x59;
    pub const POLICY_HANDLER: u8 = 0x5a;
    pub const VIOLATION: u8 = 0x5b;
    pub const DECISIONS: u8 = 0x60;
    pub const CHAIN: u8 = 0x61;
    pub const AUDIT_SETTINGS: u8 = 0x62;
    pub const SCHEDULER_SETTINGS: u8 = 0x68;
    pub const CONTEXT: u8 = 0x70;
    pub const SNAPSHOT: u8 = 0x71;
    pub const CONTEXT_KEY: u8 = 0x72;
    pub const CONTEXT_VALUE: u8 = 0x73;
    pub const GONE_CONTEXT: u8 = 0x74;
    pub const DRIVER: u8 = 0x90;
    pub const DRIVER_PROGRESS: u8 = 0x91;
    pub const DRIVER_SETTINGS: u8 = 0x92;
    pub const FEDERATION: u8 = 0xa0;
    pub const REPLICA: u8 = 0xa1;
    pub const OUTBOX: u8 = 0xa2;
    pub const SHARED: u8 = 0xa3;
    pub const INVITATION: u8 = 0xa4;
    pub const FEDERATION_BOOKS: u8 = 0xb0;
    pub const STAGED_COMMIT: u8 = 0xb1;
    pub const TRANSFER: u8 = 0xa8;
}

/// A kind's first byte and the numbers that follow it: the prefix under which the rows of a namespace, or of a task, lie.
pub fn prefix(first: u8, numbers: &[u64]) -> Vec<u8> {
    KeyBytes::new(first, numbers, &[]).to_vec()
}

impl Key<'_> {
    /// The bytes of the key, in memory of their own.
    pub fn encode(&self) -> Vec<u8> {
        self.bytes().to_vec()
    }

    /// The bytes of the key.
    pub(crate) fn bytes(&self) -> KeyBytes {
        let prefix = |first: u8, numbers: &[u64]| KeyBytes::new(first, numbers, &[]);
        let named = KeyBytes::new;
        match *self {
            Key::Meta => prefix(first::META, &[]),
            Key::Digest => prefix(first::DIGEST, &[]),
            Key::Namespace { name } => named(first::NAMESPACE, &[], name.as_bytes()),
            Key::Pass { ns } => prefix(first::PASS, &[ns]),
            Key::Queue { ns, name } => named(first::QUEUE, &[ns], name.as_bytes()),
            Key::Usage { ns } => prefix(first::USAGE, &[ns]),
            Key::LiveTask { ns, id } => prefix(first::LIVE_TASK, &[ns, id]),
            Key::DeadTask { ns, id } => prefix(first::DEAD_TASK, &[ns, id]),
            Key::EndedTask { ns, id } => prefix(first::ENDED_TASK, &[ns, id]),
            Key::Spec { ns, id } => prefix(first::SPEC, &[ns, id]),
            Key::Payload { ns, id } => prefix(first::PAYLOAD, &[ns, id]),
            Key::Result { ns, id } => prefix(first::RESULT, &[ns, id]),
            Key::Log { ns, id, attempt } => prefix(first::LOG, &[ns, id, attempt]),
            Key::Edge { ns, dependency, dependent } => prefix(first::EDGE, &[ns, dependency, dependent]),
            Key::Settling { ns, id } => prefix(first::SETTLING, &[ns, id]),
            Key::EndedExpiry { at, ns, id } => prefix(first::ENDED_EXPIRY, &[at, ns, id]),
            Key::NamedLease { ns, name } => named(first::NAMED_LEASE, &[ns], name.as_bytes()),
            Key::PendingTimer { ns, id } => prefix(first::PENDING_TIMER, &[ns, id]),
            Key::FiredTimer { ns, id } => prefix(first::FIRED_TIMER, &[ns, id]),
            Key::FiredTimerExpiry { at, ns, id } => prefix(first::FIRED_TIMER_EXPIRY, &[at, ns, id]),
            Key::Worker { id } => prefix(first::WORKER, &[id]),
            Key::Request { hash } => named(first::REQUEST, &[], hash),
            Key::RequestExpiry { at, index } => prefix(first::REQUEST_EXPIRY, &[at, index]),
            Key::Events { index } => prefix(first::EVENTS, &[index]),
            Key::JoinToken { hash } => named(first::JOIN_TOKEN, &[], hash),
            Key::Role { name } => named(first::ROLE, &[], name.as_bytes()),
            Key::Binding { parts } => named(first::BINDING, &[], parts.as_bytes()),
            Key::Token { id } => prefix(first::TOKEN, &[id]),
            Key::Revocation { serial } => named(first::REVOCATION, &[], serial.as_bytes()),
            Key::Bundle { parts } => named(first::BUNDLE, &[], parts.as_bytes()),
            Key::PolicySettings => prefix(first::POLICY_SETTINGS, &[]),
            Key::PolicyHandler { name } => named(first::POLICY_HANDLER, &[], name.as_bytes()),
            Key::Violation { id } => prefix(first::VIOLATION, &[id]),
            Key::Decisions { index } => prefix(first::DECISIONS, &[index]),
            Key::Chain => prefix(first::CHAIN, &[]),
            Key::AuditSettings => prefix(first::AUDIT_SETTINGS, &[]),
            Key::SchedulerSettings => prefix(first::SCHEDULER_SETTINGS, &[]),
            Key::Context { ns, name } => named(first::CONTEXT, &[ns], name.as_bytes()),
            Key::Snapshot { context, name } => named(first::SNAPSHOT, &[context], name.as_bytes()),
            Key::ContextKey { context, key } => named(first::CONTEXT_KEY, &[context], key.as_bytes()),
            Key::ContextValue { context, version } => prefix(first::CONTEXT_VALUE, &[context, version]),
            Key::GoneContext { context } => prefix(first::GONE_CONTEXT, &[context]),
            Key::Driver { ns, name } => named(first::DRIVER, &[ns], name.as_bytes()),
            Key::DriverProgress { ns, name } => named(first::DRIVER_PROGRESS, &[ns], name.as_bytes()),
            Key::DriverSettings => prefix(first::DRIVER_SETTINGS, &[]),
            Key::Federation => prefix(first::FEDERATION, &[]),
            Key::Replica { row } => named(first::REPLICA, &[], row),
            Key::Outbox { number } => prefix(first::OUTBOX, &[number]),
            Key::Shared { key } => named(first::SHARED, &[], key.as_bytes()),
            Key::Invitation { hash } => named(first::INVITATION, &[], hash),
            Key::FederationBooks => prefix(first::FEDERATION_BOOKS, &[]),
            Key::StagedCommit { number } => prefix(first::STAGED_COMMIT, &[number]),
            Key::Transfer { id } => named(first::TRANSFER, &[], id.as_bytes()),
        }
    }

    /// The key that these bytes are; `None` if they are none.
    pub fn decode(bytes: &[u8]) -> Option<Key<'_>> {
        let mut parts = Parts(bytes.get(1..)?);
        let key = match bytes[0] {
            first::META => Key::Meta,
            first::DIGEST => Key::Digest,
            first::NAMESPACE => Key::Namespace { name: parts.name()? },
            first::PASS => Key::Pass { ns: parts.number()? },
            first::QUEUE => Key::Queue { ns: parts.number()?, name: parts.name()? },
            first::USAGE => Key::Usage { ns: parts.number()? },
            first::LIVE_TASK => Key::LiveTask { ns: parts.number()?, id: parts.number()? },
            first::DEAD_TASK => Key::DeadTask { ns: parts.number()?, id: parts.number()? },
            first::ENDED_TASK => Key::EndedTask { ns: parts.number()?, id: parts.number()? },
            first::SPEC => Key::Spec { ns: parts.number()?, id: parts.number()? },
            first::PAYLOAD => Key::Payload { ns: parts.number()?, id: parts.number()? },
            first::RESULT => Key::Result { ns: parts.number()?, id: parts.number()? },
            first::LOG => Key::Log { ns: parts.number()?, id: parts.number()?, attempt: parts.number()? },
            first::EDGE => Key::Edge { ns: parts.number()?, dependency: parts.number()?, dependent: parts.number()? },
            first::SETTLING => Key::Settling { ns: parts.number()?, id: parts.number()? },
            first::ENDED_EXPIRY => Key::EndedExpiry { at: parts.number()?, ns: parts.number()?, id: parts.number()? },
            first::NAMED_LEASE => Key::NamedLease { ns: parts.number()?, name: parts.name()? },
            first::PENDING_TIMER => Key::PendingTimer { ns: parts.number()?, id: parts.number()? },
            first::FIRED_TIMER => Key::FiredTimer { ns: parts.number()?, id: parts.number()? },
            first::FIRED_TIMER_EXPIRY => Key::FiredTimerExpiry { at: parts.number()?, ns: parts.number()?, id: parts.number()? },
            first::WORKER => Key::Worker { id: parts.number()? },
            first::REQUEST => Key::Request { hash: parts.hash()? },
            first::REQUEST_EXPIRY => Key::RequestExpiry { at: parts.number()?, index: parts.number()? },
            first::EVENTS => Key::Events { index: parts.number()? },
            first::JOIN_TOKEN => Key::JoinToken { hash: parts.hash()? },
            first::ROLE => Key::Role { name: parts.name()? },
            first::BINDING => Key::Binding { parts: parts.name()? },
            first::TOKEN => Key::Token { id: parts.number()? },
            first::REVOCATION => Key::Revocation { serial: parts.name()? },
            first::BUNDLE => Key::Bundle { parts: parts.name()? },
            first::POLICY_SETTINGS => Key::PolicySettings,
            first::POLICY_HANDLER => Key::PolicyHandler { name: parts.name()? },
            first::VIOLATION => Key::Violation { id: parts.number()? },
            first::DECISIONS => Key::Decisions { index: parts.number()? },
            first::CHAIN => Key::Chain,
            first::AUDIT_SETTINGS => Key::AuditSettings,
            first::SCHEDULER_SETTINGS => Key::SchedulerSettings,
            first::CONTEXT => Key::Context { ns: parts.number()?, name: parts.name()? },
            first::SNAPSHOT => Key::Snapshot { context: parts.number()?, name: parts.name()? },
            first::CONTEXT_KEY => Key::ContextKey { context: parts.number()?, key: parts.name()? },
            first::CONTEXT_VALUE => Key::ContextValue { context: parts.number()?, version: parts.number()? },
            first::GONE_CONTEXT => Key::GoneContext { context: parts.number()? },
            first::DRIVER => Key::Driver { ns: parts.number()?, name: parts.name()? },
            first::DRIVER_PROGRESS => Key::DriverProgress { ns: parts.number()?, name: parts.name()? },
            first::DRIVER_SETTINGS => Key::DriverSettings,
            first::FEDERATION => Key::Federation,
            first::REPLICA => Key::Replica { row: std::mem::take(&mut parts.0) },
            first::OUTBOX => Key::Outbox { number: parts.number()? },
            first::SHARED => Key::Shared { key: parts.name()? },
            first::INVITATION => Key::Invitation { hash: parts.hash()? },
            first::FEDERATION_BOOKS => Key::FederationBooks,
            first::STAGED_COMMIT => Key::StagedCommit { number: parts.number()? },
            first::TRANSFER => Key::Transfer { id: parts.name()? },
            _ => return None,
        };
        parts.0.is_empty().then_some(key)
    }
}

/// What of a key is still to be read.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    fn name(&mut self) -> Option<&'a str> {
        std::str::from_utf8(std::mem::take(&mut self.0)).ok()
    }

    fn hash(&mut self) -> Option<&'a [u8; 32]> {
        let (hash, rest) = self.0.split_first_chunk::<32>()?;
        self.0 = rest;
        Some(hash)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn every_key<'a>(a: u64, b: u64, c: u64, name: &'a str, hash: &'a [u8; 32]) -> Vec<Key<'a>> {
        vec![
            Key::Meta,
            Key::Digest,
            Key::Namespace { name },
            Key::Pass { ns: a },
            Key::Queue { ns: a, name },
            Key::LiveTask { ns: a, id: b },
            Key::DeadTask { ns: a, id: b },
            Key::EndedTask { ns: a, id: b },
            Key::Spec { ns: a, id: b },
            Key::Payload { ns: a, id: b },
            Key::Result { ns: a, id: b },
            Key::Log { ns: a, id: b, attempt: c },
            Key::Edge { ns: a, dependency: b, dependent: c },
            Key::Settling { ns: a, id: b },
            Key::EndedExpiry { at: a, ns: b, id: c },
            Key::NamedLease { ns: a, name },
            Key::PendingTimer { ns: a, id: b },
            Key::FiredTimer { ns: a, id: b },
            Key::FiredTimerExpiry { at: a, ns: b, id: c },
            Key::Worker { id: a },
            Key::Request { hash },
            Key::RequestExpiry { at: a, index: b },
            Key::Events { index: a },
            Key::JoinToken { hash },
            Key::Usage { ns: a },
            Key::Role { name },
            Key::Binding { parts: name },
            Key::Token { id: a },
            Key::Revocation { serial: name },
            Key::Decisions { index: a },
            Key::Chain,
            Key::AuditSettings,
            Key::SchedulerSettings,
            Key::Context { ns: a, name },
            Key::Snapshot { context: a, name },
            Key::ContextKey { context: a, key: name },
            Key::ContextValue { context: a, version: b },
            Key::GoneContext { context: a },
            Key::Driver { ns: a, name },
            Key::DriverProgress { ns: a, name },
            Key::DriverSettings,
            Key::Federation,
            Key::Replica { row: hash },
            Key::Outbox { number: a },
            Key::Shared { key: name },
            Key::Invitation { hash },
            Key::Transfer { id: name },
            Key::FederationBooks,
            Key::StagedCommit { number: a },
        ]
    }

    proptest! {
        #[test]
        fn keys_round_trip(a: u64, b: u64, c: u64, name in "[a-z0-9][a-z0-9._-]{0,63}", hash: [u8; 32]) {
            for key in every_key(a, b, c, &name, &hash) {
                let bytes = key.encode();
                prop_assert_eq!(Key::decode(&bytes), Some(key));
            }
        }

        #[test]
        fn whatever_decodes_encodes_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(key) = Key::decode(&bytes) {
                prop_assert_eq!(key.encode(), bytes);
            }
        }

        #[test]
        fn rows_lie_in_the_order_of_their_numbers(a: (u64, u64), b: (u64, u64)) {
            let bytes = |x: (u64, u64)| Key::LiveTask { ns: x.0, id: x.1 }.encode();
            prop_assert_eq!(a.cmp(&b), bytes(a).cmp(&bytes(b)));
        }
    }

    /// The format on disk: this list may grow and never change.
    #[test]
    fn first_bytes_are_stable() {
        let hash = [0; 32];
        let bytes: Vec<u8> = every_key(0, 0, 0, "x", &hash).iter().map(|key| key.encode()[0]).collect();
        assert_eq!(
            bytes,
            [
                0x01, 0x02, 0x08, 0x09, 0x0a, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x20, 0x28, 0x29, 0x2a, 0x30,
                0x38, 0x39, 0x40, 0x48, 0x0b, 0x50, 0x51, 0x52, 0x53, 0x60, 0x61, 0x62, 0x68, 0x70, 0x71, 0x72, 0x73, 0x74, 0x90, 0x91,
                0x92, 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa8, 0xb0, 0xb1
            ]
        );
    }
}
