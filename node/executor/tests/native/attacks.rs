//! Attempts to reach the machine, the node, and other attempts.

use crate::{Bench, c};

#[tokio::test]
async fn it_is_nobody_that_the_machine_knows_and_has_no_rights() {
    let Some(bench) = Bench::new().await else { return };
    let seen = bench.prints("id -u; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status").await;
    let mut lines = seen.lines();
    let user: u32 = lines.next().unwrap().parse().unwrap();
    assert!(user >= tarn_executor::native::USER_BASE, "{user}");
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        match name {
            "NoNewPrivs" => assert_eq!(value.trim(), "1"),
            "Seccomp" => assert_eq!(value.trim(), "2", "filtered"),
            name => assert_eq!(value.trim(), "0000000000000000", "{name}"),
        }
    }
}

#[tokio::test]
async fn files_of_the_machine_do_not_exist() {
    let Some(bench) = Bench::new().await else { return };
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "secret").unwrap();
    let outside = secret.path().display();
    let seen = bench
        .prints(&format!(
            "for file in /etc/shadow /etc/hostname /root /home /var /sys /proc/1/root/root {outside}; do \
               if cat $file 2>/dev/null || ls $file 2>/dev/null; then echo sees $file; fi; done; \
             echo $(ls /); ls /task /tmp"
        ))
        .await;
    assert!(!seen.contains("sees") && !seen.contains("secret"), "{seen}");
    let root: Vec<_> = seen.lines().next().unwrap().split_whitespace().collect();
    let known = ["bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sbin", "task", "tmp", "usr"];
    assert!(root.iter().all(|name| known.contains(name)), "{root:?}");
}

#[tokio::test]
async fn nothing_can_be_written_but_its_own_folder() {
    let Some(bench) = Bench::new().await else { return };
    let seen = bench
        .prints(
            "for place in / /usr /usr/bin /etc /dev /task /proc /proc/sys/kernel; do \
               if touch $place/file 2>/dev/null; then echo wrote $place; fi; done; \
             if sh -c 'echo x > /task/program' 2>/dev/null; then echo wrote program; fi; \
             if chmod 777 /task/program 2>/dev/null; then echo changed; fi; \
             echo kept > /tmp/file; cat /tmp/file",
        )
        .await;
    assert_eq!(seen, "kept\n");
}

#[tokio::test]
async fn the_next_attempt_finds_nothing_of_the_one_before() {
    let Some(bench) = Bench::new().await else { return };
    bench.prints("echo secret > /tmp/left; echo secret > /dev/shm/left; sleep 1000 & true").await;
    let seen = bench.prints("ls -A /tmp /dev/shm; ps -e -o comm= 2>/dev/null || ls /proc | grep -E '^[0-9]+$' | wc -l").await;
    assert!(!seen.contains("left") && !seen.contains("sleep"), "{seen}");
}

#[tokio::test]
async fn other_processes_are_not_there() {
    let Some(bench) = Bench::new().await else { return };
    let own = std::process::id();
    let seen = bench
        .prints(&format!(
            "ls -d /proc/[0-9]* | wc -l; kill -0 {own} 2>/dev/null && echo reaches {own}; \
             for id in $(seq 2 400); do [ $id = $$ ] || kill -9 $id 2>/dev/null && [ $id != $$ ] && echo killed $id; done; echo end"
        ))
        .await;
    let processes: u32 = seen.lines().next().unwrap().parse().unwrap();
    // The first process, the shell, and what the line itself started.
    assert!(processes <= 5, "{seen}");
    assert!(!seen.contains("reaches"), "{seen}");
}

#[tokio::test]
async fn system_calls_that_attack_the_kernel_are_refused() {
    let Some(bench) = Bench::new().await else { return };
    let report = bench
        .run(c(r#"
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
static void try(const char *name, long got) { if (got >= 0 || (errno != EPERM && errno != ENOSYS)) printf("%s: %ld, %d\n", name, got, errno); }
int main(void) {
    try("unshare user", syscall(SYS_unshare, CLONE_NEWUSER));
    try("unshare files", syscall(SYS_unshare, CLONE_NEWNS));
    try("clone with a namespace", syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0));
    try("clone3", syscall(SYS_clone3, 0, 0));
    try("setns", syscall(SYS_setns, 0, 0));
    try("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0));
    try("umount", syscall(SYS_umount2, "/tmp", 0));
    try("pivot_root", syscall(SYS_pivot_root, "/tmp", "/tmp"));
    try("chroot", syscall(SYS_chroot, "/tmp"));
    try("ptrace", syscall(SYS_ptrace, 0, 0, 0, 0));
    try("process_vm_readv", syscall(SYS_process_vm_readv, 1, 0, 0, 0, 0, 0));
    try("bpf", syscall(SYS_bpf, 0, 0, 0));
    try("keyctl", syscall(SYS_keyctl, 0, 0, 0, 0, 0));
    try("add_key", syscall(SYS_add_key, 0, 0, 0, 0, 0));
    try("io_uring_setup", syscall(SYS_io_uring_setup, 1, 0));
    try("userfaultfd", syscall(SYS_userfaultfd, 0));
    try("perf_event_open", syscall(SYS_perf_event_open, 0, 0, 0, 0, 0));
    try("init_module", syscall(SYS_init_module, 0, 0, ""));
    try("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
    try("open_by_handle_at", syscall(SYS_open_by_handle_at, 0, 0, 0));
    try("settimeofday", syscall(SYS_settimeofday, 0, 0));
    try("sethostname", syscall(SYS_sethostname, "x", 1));
    try("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
    try("swapon", syscall(SYS_swapon, "/tmp", 0));
    try("packet socket", socket(AF_PACKET, SOCK_RAW, 0));
    try("netlink socket", socket(AF_NETLINK, SOCK_RAW, 0));
    try("vsock socket", socket(AF_VSOCK, SOCK_STREAM, 0));
    try("quotactl", syscall(SYS_quotactl, 0, 0, 0, 0));
    if (setuid(0) == 0) puts("became root");
    return 0;
}
"#))
        .await
        .unwrap();
    assert_eq!(report.output, "", "none of them is allowed");
}

#[tokio::test]
async fn programs_that_give_rights_give_none() {
    let Some(bench) = Bench::new().await else { return };
    // Debian has at least one of these, owned by root and marked to run as root.
    let seen = bench
        .prints("for tool in /usr/bin/su /usr/bin/mount /usr/bin/newgrp /usr/bin/passwd; do if [ -u $tool ]; then echo has; $tool -c id </dev/null 2>/dev/null || true; fi; done; id -u")
        .await;
    assert!(seen.starts_with("has\n") && !seen.contains("uid=0") && !seen.ends_with("\n0\n"), "{seen}");
}
