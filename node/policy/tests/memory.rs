//! Policies that ask for more memory than there is, in a program whose allocator rations them.

mod support;

use std::time::Duration;

use support::{compiled, input};
use tarn_policy::{FailureKind, Rationed};

#[global_allocator]
static ALLOCATOR: Rationed<std::alloc::System> = Rationed(std::alloc::System);

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// A value of sixty lists that each hold the one before twice: small, but its text has 2 to the power of 60 parts.
#[test]
fn errors_that_print_giants_are_left_behind() {
    let mut giants = String::from("v0 := [1, 2]\n");
    for index in 1..60 {
        giants += &format!("v{index} := [v{}, v{}]\n", index - 1, index - 1);
    }
    let before = resident_mib();
    // None of these is a call of a function, so no guard is before them.
    for body in ["deny contains \"x\" if v59 + 1 == 2", "deny contains \"x\" if v59 & {1} == {1}"] {
        let policy = compiled(&format!("package tarn\n\n{giants}{body}\n"));
        let verdict = policy.evaluate(&input(), Duration::from_millis(50));
        assert!(!verdict.allowed);
        assert_eq!(verdict.error.unwrap().kind, FailureKind::PolicyOverBudget, "{body}");
        let again = policy.evaluate(&input(), Duration::from_millis(50));
        assert_eq!(again.error.unwrap().kind, FailureKind::PolicyStuck, "{body}");
    }
    let grown = resident_mib() - before;
    assert!(grown < 600, "{grown} MiB more than before");
    // The process lives, and others are judged.
    assert!(compiled("package tarn\n\nallow if input.verb == \"create\"\n").evaluate(&input(), Duration::from_secs(1)).allowed);
}

#[test]
fn what_a_policy_used_is_there_again_for_the_next() {
    // Together far more than one ration.
    let policy = compiled("package tarn\n\nallow if count([[x] | some x in numbers.range(1, 10000)]) == 10000\n");
    for _ in 0..200 {
        let verdict = policy.evaluate(&input(), Duration::from_secs(1));
        assert_eq!(verdict.error, None);
        assert!(verdict.allowed);
    }
}
