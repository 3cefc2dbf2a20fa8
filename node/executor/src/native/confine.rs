//! The walls that a process puts around itself, one after the other, just before it becomes the program.

use std::collections::BTreeMap;
use std::io;

use caps::{CapSet, Capability};
use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus,
};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

use super::orders::Orders;
use super::syscalls::{ALLOWED, NETWORK_FAMILIES};

/// Limits that the kernel keeps for each process. `scratch` bounds each file where nothing bounds all of them.
pub(super) fn limit(orders: &Orders) -> nix::Result<()> {
    let fixed = |resource, value| setrlimit(resource, value, value);
    fixed(Resource::RLIMIT_CORE, 0)?;
    fixed(Resource::RLIMIT_NOFILE, orders.open_files)?;
    fixed(Resource::RLIMIT_FSIZE, orders.scratch_bytes)?;
    fixed(Resource::RLIMIT_MEMLOCK, 0)?;
    fixed(Resource::RLIMIT_MSGQUEUE, 0)?;
    fixed(Resource::RLIMIT_NICE, 0)?;
    fixed(Resource::RLIMIT_RTPRIO, 0)?;
    setrlimit(Resource::RLIMIT_CPU, orders.cpu_s, orders.cpu_s + 1)?;
    if let Some(processes) = orders.processes {
        fixed(Resource::RLIMIT_NPROC, processes)?;
    }
    if let Some(bytes) = orders.address_bytes {
        fixed(Resource::RLIMIT_AS, bytes)?;
    }
    Ok(())
}

/// Becomes another user for good, without any group besides.
pub(super) fn become_user(id: u32) -> nix::Result<()> {
    setgroups(&[])?;
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    setresgid(group, group, group)?;
    setresuid(user, user, user)
}

/// Takes every capability out of the set from which programs can be given some. It needs one itself, so it comes before the change of
/// user.
pub(super) fn empty_bounding_set() -> Result<(), caps::errors::CapsError> {
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    Ok(())
}

/// Gives up every capability for good.
pub(super) fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let sets = [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted];
    sets.into_iter().try_for_each(|set| caps::clear(None, set))
}

/// The newest landlock that the kernel has; 0 if none.
pub(super) fn landlock_version() -> u32 {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag the call takes no pointer and no size; it only returns a number.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, LANDLOCK_CREATE_RULESET_VERSION)
    };
    u32::try_from(version).unwrap_or(0)
}

/// Allows reading and executing where `readable` says and everything where `writable` says, and no other access to files.
pub(super) fn restrict_files(readable: &[&str], writable: &[&str]) -> Result<(), landlock::RulesetError> {
    // Of the versions that this crate knows, the newest; an older kernel enforces what it can.
    let abi = ABI::V5;
    let mut rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(AccessFs::from_all(abi))?.create()?;
    let paths = readable.iter().map(|path| (path, AccessFs::from_read(abi)));
    let paths = paths.chain(writable.iter().map(|path| (path, AccessFs::from_all(abi))));
    for (path, access) in paths {
        // A system without one of the folders has nothing there to allow.
        if let Ok(folder) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(folder, access))?;
        }
    }
    let status = rules.restrict_self()?;
    debug_assert_ne!(status.ruleset, RulesetStatus::NotEnforced, "the kernel has landlock");
    Ok(())
}

/// The filter of system calls, compiled: what is not on the list fails with "operation not permitted". `network` allows sockets of the network.
pub(super) fn filter(network: bool) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_clone, vec![plain_clone()?]);
    rules.insert(libc::SYS_socket, sockets(network)?);
    let filter =
        SeccompFilter::new(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    filter.try_into()
}

/// The second filter: `clone3` does not exist. Its flags lie in memory, where no filter can look; C libraries then use `clone`.
pub(super) fn no_clone3() -> Result<BpfProgram, seccompiler::BackendError> {
    let filter = SeccompFilter::new(
        [(libc::SYS_clone3, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    filter.try_into()
}

/// New threads and processes, but no new namespaces.
fn plain_clone() -> Result<SeccompRule, seccompiler::BackendError> {
    const NAMESPACES: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    let flags = 0;
    SeccompRule::new(vec![SeccompCondition::new(flags, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(NAMESPACES as u64), 0)?])
}

/// Sockets between its own processes, and of the network where there is none to reach or it was granted. No packet, netlink or vsock
/// sockets.
fn sockets(network: bool) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let network: &[i32] = if network { &NETWORK_FAMILIES } else { &[] };
    let families = [libc::AF_UNIX].into_iter().chain(network.iter().copied());
    let family = 0;
    families
        .map(|wanted| SeccompRule::new(vec![SeccompCondition::new(family, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, wanted as u64)?]))
        .collect()
}

/// From here on the process and all that it starts make only system calls of the list, and never get rights from a file.
pub(super) fn restrict_system_calls(filters: &[BpfProgram]) -> Result<(), seccompiler::Error> {
    filters.iter().try_for_each(|filter| seccompiler::apply_filter(filter))
}

/// Sets `no_new_privs`: no program that it starts is given more rights than it has.
pub(super) fn no_new_privileges() -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs().map_err(io::Error::from)
}
