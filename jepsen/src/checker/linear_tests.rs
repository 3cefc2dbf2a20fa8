//! Known-good and known-bad histories of a register, some of them long.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// A register that is written, read, and compared and set.
struct Register;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Op {
    Write(u32),
    Read(u32),
    /// From, to, and whether it was done; `None` where that is unknown.
    Swap(u32, u32, Option<bool>),
}

impl Model for Register {
    type State = u32;
    type Op = Op;

    fn initial(&self) -> u32 {
        0
    }

    fn step(&self, state: &u32, op: &Op) -> Option<u32> {
        match *op {
            Op::Write(value) => Some(value),
            Op::Read(value) => (value == *state).then_some(value),
            Op::Swap(from, to, done) if from == *state => (done != Some(false)).then_some(to),
            Op::Swap(_, _, done) => (done != Some(true)).then_some(*state),
        }
    }
}

fn call(op: Op, invoked: u64, returned: u64) -> Call<Op> {
    Call { op, invoked, returned: (returned > 0).then_some(returned) }
}

fn judge(calls: &[Call<Op>]) -> Answer {
    check(&Register, calls, Limits::default())
}

fn is_possible(calls: &[Call<Op>]) -> bool {
    match judge(calls) {
        Answer::Linearizable(_) => true,
        Answer::Impossible(..) => false,
        Answer::GaveUp(why) => panic!("{why}"),
    }
}

#[test]
fn concurrent_operations_may_take_either_order() {
    assert!(is_possible(&[call(Op::Write(1), 0, 3), call(Op::Read(0), 1, 2), call(Op::Read(1), 4, 5)]));
    assert!(is_possible(&[call(Op::Write(1), 0, 3), call(Op::Read(1), 1, 2)]));
}

#[test]
fn a_stale_read_is_found() {
    let stale = [call(Op::Write(1), 0, 1), call(Op::Read(0), 2, 3)];
    assert!(matches!(judge(&stale), Answer::Impossible(3, _)));
}

#[test]
fn a_value_that_was_seen_stays_seen() {
    let back = [call(Op::Write(1), 0, 9), call(Op::Read(1), 1, 2), call(Op::Read(0), 3, 4)];
    assert!(!is_possible(&back));
}

#[test]
fn two_swaps_from_one_value_cannot_both_be_done() {
    let both = [call(Op::Swap(0, 1, Some(true)), 0, 2), call(Op::Swap(0, 2, Some(true)), 1, 3)];
    assert!(!is_possible(&both));
    let one = [call(Op::Swap(0, 1, Some(true)), 0, 2), call(Op::Swap(0, 2, Some(false)), 1, 3)];
    assert!(is_possible(&one));
}

#[test]
fn an_unknown_operation_takes_effect_late_or_never_but_not_twice() {
    let late = [call(Op::Write(7), 0, 0), call(Op::Read(0), 1, 2), call(Op::Read(7), 3, 4)];
    assert!(is_possible(&late));
    let never = [call(Op::Write(7), 0, 0), call(Op::Read(0), 1, 2)];
    assert!(is_possible(&never));
    let twice =
        [call(Op::Write(7), 0, 0), call(Op::Read(7), 1, 2), call(Op::Write(1), 3, 4), call(Op::Read(1), 5, 6), call(Op::Read(7), 7, 8)];
    assert!(!is_possible(&twice));
    let two_of_them = [&[call(Op::Write(7), 9, 0)], &twice[..4], &[call(Op::Read(7), 10, 11)]].concat();
    assert!(is_possible(&two_of_them));
    let before = [call(Op::Read(7), 0, 1), call(Op::Write(7), 2, 0)];
    assert!(!is_possible(&before));
}

#[test]
fn a_search_that_costs_too_much_is_given_up() {
    let mut calls: Vec<_> = (0..40u32).map(|n| call(Op::Write(n), n.into(), 200 + u64::from(n))).collect();
    calls.push(call(Op::Read(99), 100, 101));
    let limits = Limits { configurations: 1_000, ..Limits::default() };
    assert!(matches!(check(&Register, &calls, limits), Answer::GaveUp(_)));
}

/// A history that a real register could show: each operation takes effect at a moment between its two events.
fn lived(seed: u64, count: usize) -> Vec<Call<Op>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut calls: Vec<Call<Op>> = Vec::new();
    let (mut value, mut clock, mut open) = (0, 0, Vec::new());
    while calls.len() < count || !open.is_empty() {
        clock += 1;
        if calls.len() < count && open.len() < 5 && rng.random_bool(0.5) {
            let op = match rng.random_range(0..3) {
                0 => Op::Write(rng.random_range(0..5)),
                1 => Op::Read(99),
                _ => Op::Swap(rng.random_range(0..5), rng.random_range(0..5), None),
            };
            open.push((calls.len(), false));
            calls.push(call(op, clock, 0));
            continue;
        }
        if open.is_empty() {
            continue;
        }
        let chosen = rng.random_range(0..open.len());
        let (at, effective) = open[chosen];
        if effective {
            open.swap_remove(chosen);
            // Now and then the answer is lost.
            if rng.random_bool(0.998) || matches!(calls[at].op, Op::Read(_)) {
                calls[at].returned = Some(clock);
            } else if let Op::Swap(_, _, done) = &mut calls[at].op {
                *done = None;
            }
        } else {
            open[chosen].1 = true;
            match &mut calls[at].op {
                Op::Write(to) => value = *to,
                Op::Read(seen) => *seen = value,
                Op::Swap(from, to, done) => {
                    *done = Some(*from == value);
                    value = if *from == value { *to } else { value };
                }
            }
        }
    }
    calls
}

/// Each event of a history costs no more than the configurations that are allowed: within this limit 10,000 operations are decided in seconds,
/// and beyond it the search is given up, which fails here.
#[test]
fn ten_thousand_operations_are_decided_with_little_work_good_or_bad() {
    let limits = Limits { configurations: 10_000, time: Duration::from_secs(3_600) };
    let good = lived(1, 10_000);
    assert_eq!(good.len(), 10_000);
    let answer = check(&Register, &good, limits);
    assert!(matches!(answer, Answer::Linearizable(_)), "a history that was lived: {answer:?}");
    println!("{answer:?}");
    let answered = |call: &Call<Op>| call.returned.is_some();
    let reads: Vec<usize> = (0..good.len()).filter(|at| answered(&good[*at]) && matches!(good[*at].op, Op::Read(_))).collect();
    for (what, read) in [("early", reads[10]), ("in the middle", reads[reads.len() / 2])] {
        let mut bad = good.clone();
        bad[read].op = Op::Read(77);
        let answer = check(&Register, &bad, limits);
        let found = bad[read].returned.expect("it was answered");
        assert!(matches!(answer, Answer::Impossible(index, _) if index == found), "{what}: nobody ever wrote 77: {answer:?}");
    }
}

/// A value that no later write explains comes back at the end: every open operation has to be tried before it is certain.
#[test]
fn a_lost_write_is_found_after_ten_thousand_operations() {
    let mut bad = lived(2, 10_000);
    let end = bad.iter().filter_map(|call| call.returned).max().expect("most were answered");
    bad.push(call(Op::Write(50), end + 1, end + 2));
    bad.push(call(Op::Write(51), end + 3, end + 4));
    let good = [bad.clone(), vec![call(Op::Read(51), end + 5, end + 6)]].concat();
    bad.push(call(Op::Read(50), end + 5, end + 6));
    let limits = Limits { configurations: 10_000, time: Duration::from_secs(3_600) };
    assert!(matches!(check(&Register, &good, limits), Answer::Linearizable(_)));
    let answer = check(&Register, &bad, limits);
    assert!(matches!(answer, Answer::Impossible(index, _) if index == end + 6), "{answer:?}");
}
