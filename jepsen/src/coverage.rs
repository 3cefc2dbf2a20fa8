//! The list of tests that this harness works through, and what covers each today.
//!
//! The list was drawn from what fault injection has found in neighbouring systems. A test whose subject tarn has is covered by runs of a
//! workload under nemeses, or elsewhere in the workspace; the others name the feature that they wait for.

/// One test of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Its number, from 1.
    pub number: u32,
    /// What is tried, and what must hold.
    pub subject: &'static str,
    /// What covers it.
    pub by: By,
}

/// What covers a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Runs of these workloads under these nemeses. The note says what of the test is left out, if anything is.
    Runs {
        /// Names of workloads.
        workloads: &'static [&'static str],
        /// Names of nemeses.
        nemeses: &'static [&'static str],
        /// What of it is left out, or how it is done.
        note: &'static str,
    },
    /// Another part of the workspace.
    Elsewhere(&'static str),
    /// Nothing: tarn does not have this yet.
    Waits(&'static str),
}

/// All of them, by number.
pub const TESTS: &[Test] = &[
    runs(
        1,
        "register: reads, writes and compare-and-set are linearizable per key",
        &["register"],
        &["partition", "pause", "kill", "slow"],
        "",
    ),
    waits(2, "transactions over several keys: no lost update, no cycles", "a key-value API with transactions"),
    runs(
        3,
        "every acknowledged submission ends exactly once, with many workers",
        &["queue"],
        &["kill", "partition", "pause", "slow", "disk-full", "disk-errors"],
        "",
    ),
    runs(
        4,
        "the same, and disks lose what was not synced: on one node, a minority, a majority, all",
        &["queue"],
        &["power-loss", "power-loss-all"],
        "",
    ),
    runs(
        5,
        "the same, and bytes of a minority's logs, states, snapshots and metadata are damaged",
        &["queue"],
        &["disk-damage"],
        "a damaged node stops and is replaced; it does not repair itself",
    ),
    waits(6, "the same, and every node's disk is damaged at another place", "the repair of damaged logs from peers"),
    runs(
        7,
        "a node whose disk is gone is replaced without loss",
        &["queue"],
        &["membership", "disk-damage"],
        "the dead node's data is never used again; its successor joins with an empty disk",
    ),
    runs(
        8,
        "nodes join, leave and are replaced under kills and partitions; no loss, never below a majority by tarn's own action",
        &["queue", "register"],
        &["membership", "kill", "partition"],
        "the workload membership does the same from clients, under kill and partition",
    ),
    runs(
        9,
        "a client stuck on the minority's side gets an unknown outcome or a clear error, and nothing it sends later is swallowed",
        &["session"],
        &["partition", "partition-one-way", "client-links"],
        "",
    ),
    runs(10, "locks with fencing tokens: a store outside sees only growing tokens", &["lock"], &["pause", "clock", "slow"], ""),
    runs(
        11,
        "no lease ends while its renewals are accepted, nor before its time by the leader's clock",
        &["lock"],
        &["transfer", "kill-leader", "slow"],
        "the SDK's own watchdog is tested in client/tests/sdk/locking.rs",
    ),
    runs(
        12,
        "a task is always either waiting, running or ended, whatever crashes between the steps",
        &["queue", "dependencies"],
        &["kill", "kill-all"],
        "kills between the durable steps themselves are in raft/tests/crash; tarn has no slots for concurrency yet",
    ),
    runs(
        13,
        "workers that hear nothing or finish nothing lose their tasks to others within a bound",
        &["session", "queue"],
        &["partition-one-way", "pause"],
        "the queue's own workers stall and walk away too",
    ),
    runs(
        14,
        "attempts are bounded, and a task is in exactly one of waiting, running, done and dead; dead letters are put back",
        &["queue"],
        &["kill", "partition"],
        "",
    ),
    runs(
        15,
        "strict priorities under steady overload",
        &["priorities"],
        &["kill-leader", "transfer", "kill"],
        "shares by weight are tested in raft/machine/tests/fairness.rs",
    ),
    waits(16, "the sum of what was granted never exceeds a quota", "quotas"),
    waits(17, "preemption and fair share settle", "preemption"),
    runs(
        18,
        "timers are never early, fire once, and never after their cancellation was acknowledged",
        &["timers"],
        &["clock", "pause", "kill-leader", "restart"],
        "cron waits for recurring timers",
    ),
    waits(19, "workflows survive a kill at every write of their journal", "workflows"),
    waits(20, "a workflow that waits on a hung worker's step is rescheduled", "workflows"),
    waits(21, "stored histories replay with each new build", "workflows"),
    waits(22, "approvals have at most one outcome", "approvals"),
    waits(23, "each decision carries exactly one version of the policy", "policies"),
    waits(24, "the audit log is complete, chained and equal on all nodes", "the audit log"),
    runs(
        25,
        "watchers see the same order without gap or repeat, and are told when events are gone",
        &["watch"],
        &["kill", "partition", "transfer", "snapshot"],
        "",
    ),
    runs(
        26,
        "snapshots and purged logs under load: equal digests at equal index",
        &["queue", "membership"],
        &["snapshot", "kill"],
        "every run takes a snapshot each 500 entries and compares digests at its end",
    ),
    runs(
        27,
        "rolling upgrade and downgrade between two builds",
        &["queue"],
        &["upgrade", "kill"],
        "needs --tarn-next; refusals of unknown entries and snapshots are in raft/tests/cluster",
    ),
    runs(
        28,
        "federated clusters converge and never merge what needs consensus",
        &["federation"],
        &["links", "kill-leader", "clock"],
        "with tasks that any cluster may run",
    ),
    waits(29, "leases of devices never exceed the device", "leases of devices"),
    elsewhere(30, "a task that breaks its limits ends alone", "node/executor/tests/wasm/limits.rs"),
    runs(
        31,
        "the client library keeps deadlines and tells unknown outcomes from failures",
        &["session", "register"],
        &["client-links", "partition", "restart"],
        "wrong clusters and closing while calls run are in client/tests/sdk",
    ),
    runs(
        32,
        "one slow node slows down, and does not stop, the others",
        &["register", "queue"],
        &["slow", "disk-slow"],
        "the figures tell latency, no bound is judged",
    ),
    elsewhere(
        33,
        "lists with filters give the rows of a full scan",
        "only whole lists, in raft/machine/tests/model; filters are not compared yet",
    ),
    elsewhere(
        34,
        "expired, foreign and downgraded credentials and replayed tokens are refused; certificates rotate",
        "node/tests/identity; revocation waits for its feature",
    ),
    runs(
        35,
        "liveness: after the last fault every node is back, writes succeed and accepted work ends",
        &["queue", "register", "membership"],
        &["partition", "kill", "pause", "clock", "slow"],
        "every run ends with it; `jepsen recovery` measures leaders that die",
    ),
];

const fn runs(
    number: u32,
    subject: &'static str,
    workloads: &'static [&'static str],
    nemeses: &'static [&'static str],
    note: &'static str,
) -> Test {
    Test { number, subject, by: By::Runs { workloads, nemeses, note } }
}

const fn elsewhere(number: u32, subject: &'static str, place: &'static str) -> Test {
    Test { number, subject, by: By::Elsewhere(place) }
}

const fn waits(number: u32, subject: &'static str, feature: &'static str) -> Test {
    Test { number, subject, by: By::Waits(feature) }
}

/// What covers a test, in words.
pub fn covered(by: &By) -> String {
    match by {
        By::Runs { workloads, nemeses, note } => {
            let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
            format!("{} under {}{note}", workloads.join(", "), nemeses.join(", "))
        }
        By::Elsewhere(place) => (*place).to_owned(),
        By::Waits(feature) => format!("waits for {feature}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{nemesis, workload};

    #[test]
    fn the_list_is_whole_and_names_what_exists() {
        assert_eq!(TESTS.iter().map(|test| test.number).collect::<Vec<_>>(), (1..=35).collect::<Vec<_>>());
        for test in TESTS {
            if let By::Runs { workloads, nemeses, .. } = test.by {
                assert!(workloads.iter().all(|name| workload::named(name).is_some()), "{test:?}");
                assert!(nemeses.iter().all(|name| nemesis::named(name).is_some()), "{test:?}");
            }
        }
    }

    #[test]
    fn every_workload_and_every_kind_of_fault_serves_a_test() {
        let served = |name: &str| {
            TESTS.iter().any(|test| match test.by {
                By::Runs { workloads, nemeses, .. } => workloads.contains(&name) || nemeses.contains(&name),
                _ => false,
            })
        };
        let names = workload::names().iter().map(|(name, _)| *name);
        for name in names.chain(nemesis::mixed().iter().copied()) {
            assert!(served(name), "{name}");
        }
    }

    #[test]
    fn the_readme_has_the_same_list() {
        let readme = include_str!("../README.md");
        for test in TESTS {
            let row = format!("| {} | {} | {} |", test.number, test.subject, covered(&test.by));
            assert!(readme.contains(&row), "README.md lacks: {row}");
        }
    }
}
