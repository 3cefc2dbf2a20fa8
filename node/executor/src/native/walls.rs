//! What stands between a process and the machine, and how the machine says which of it can be had.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The walls that a machine can put up. Each was tried, by a process of ours, when the executor started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// A user namespace, which lets an ordinary user have the rest.
    pub user_namespace: bool,
    /// A user and group of its own, so that nothing else on the machine is its owner.
    pub own_user: bool,
    /// A process namespace: it sees no other process, and all of it ends together.
    pub processes: bool,
    /// A file system of its own: the system's programs and libraries to read, a limited folder in memory to write, nothing else.
    pub files: bool,
    /// A network of its own, without a way out.
    pub network: bool,
    /// A filter of system calls (seccomp).
    pub system_calls: bool,
    /// Landlock's version on this kernel; 0 if it has none.
    pub landlock: u32,
    /// Which kind of control group limits memory and counts processes; 0 if none.
    pub cgroup: u32,
}

impl Walls {
    /// Whether nothing is missing that keeps an attempt away from the node and from other attempts. Landlock is a second wall behind
    /// the file system of its own, and not counted.
    #[must_use]
    pub fn are_complete(&self) -> bool {
        (self.own_user || self.user_namespace) && self.processes && self.files && self.network && self.system_calls && self.cgroup != 0
    }

    /// What is missing, as a person would call it.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let all = [
            (self.own_user || self.user_namespace, "a user of its own"),
            (self.processes, "a process namespace"),
            (self.files, "a file system of its own"),
            (self.network, "a network namespace"),
            (self.system_calls, "a filter of system calls"),
            (self.cgroup != 0, "a control group that limits memory and processes"),
            (self.landlock != 0, "landlock"),
        ];
        let missing = all.into_iter().filter(|(have, _)| !have);
        missing.map(|(_, name)| name).collect()
    }

    /// The walls as labels of a worker, for tasks that require one.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        let yes = |have: bool| if have { "yes" } else { "no" }.to_owned();
        let version = |version: u32| match version {
            0 => "no".to_owned(),
            version => format!("v{version}"),
        };
        let labels = [
            ("native.user", yes(self.own_user)),
            ("native.processes", yes(self.processes)),
            ("native.files", yes(self.files)),
            ("native.network", yes(self.network)),
            ("native.seccomp", yes(self.system_calls)),
            ("native.landlock", version(self.landlock)),
            ("native.cgroup", version(self.cgroup)),
        ];
        labels.map(|(name, value)| (name.to_owned(), value)).into()
    }
}
