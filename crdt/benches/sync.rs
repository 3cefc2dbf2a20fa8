//! How fast a cluster that was away catches up, and what the parts of that cost. `cargo bench -p tarn-crdt --bench sync`, or with a number
//! of change sets behind `--`. Of real time: everything is in one thread, so both sides together.

#![allow(clippy::disallowed_types, reason = "a bench measures time")]

use std::time::Instant;

use tarn_crdt::{AwsLc, Commit, Identity, Pqcrypto, Replica, Scheme, Scope, Session, Tuning, Write};

const LAZY: Tuning = Tuning { history_bytes_min: u64::MAX, history_multiple: 1, history_bytes_max: u64::MAX };

fn main() {
    let count = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(10_000);
    signatures("pqcrypto", &Pqcrypto);
    signatures("aws-lc", &AwsLc);
    backlog(count);
}

fn signatures(name: &str, scheme: &'static dyn Scheme) {
    const ROUNDS: u32 = 500;
    let identity = Identity::from_seed(scheme, &[1; 32]);
    let start = Instant::now();
    let signatures: Vec<_> = (0..ROUNDS).map(|round| identity.sign(&round.to_be_bytes())).collect();
    let signing = start.elapsed() / ROUNDS;
    let start = Instant::now();
    let right =
        (0..ROUNDS).zip(&signatures).all(|(round, signature)| scheme.verify(identity.public_key(), &round.to_be_bytes(), signature));
    assert!(right, "every signature is right");
    println!("{name}: sign {signing:?}, verify {:?}", start.elapsed() / ROUNDS);
}

fn backlog(count: usize) {
    let (first, second) = (Identity::from_seed(&Pqcrypto, &[1; 32]), Identity::from_seed(&Pqcrypto, &[2; 32]));
    let (mut a, _) = Replica::found(&first, "bench", b"card", LAZY, 0).expect("a federation can be founded");
    let signature = second.sign_card(&a.federation(), b"");
    let introduce = Write::Introduce { public_key: second.public_key().to_vec(), scope: Scope::ALL, card: Vec::new(), signature };
    a.write(&first, vec![introduce], 0).expect("the founder introduces");
    let start = Instant::now();
    for number in 0..count {
        let value = Some(vec![number as u8; 100]);
        let key = format!("{}", number % 2000);
        let write = Write::Context { namespace: "n".into(), name: "c".into(), key, value };
        a.write(&first, vec![write], number as u64).expect("the founder writes");
    }
    rate("write and sign", count, start);
    let (mut b, joined) = Replica::join(a.federation(), &second, first.id(), LAZY);
    let (mut at_a, mut at_b) = (Session::new(second.id(), 1), Session::new(first.id(), 1));
    let start = Instant::now();
    let mut bytes = 0;
    let mut rows: Vec<(Vec<u8>, Vec<u8>)> = joined.rows.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    loop {
        let moved = carry(&mut at_a, &mut a, &mut at_b, &mut b, &mut rows) + carry(&mut at_b, &mut b, &mut at_a, &mut a, &mut Vec::new());
        bytes += moved;
        if moved == 0 {
            break;
        }
    }
    rate("catch up", count, start);
    assert_eq!(a.digest(), b.digest(), "both hold the same");
    println!("{} bytes on the wire for each change set", bytes / count.max(1));
    let start = Instant::now();
    let loaded = Replica::load(&Pqcrypto, LAZY, rows).expect("what was stored can be loaded");
    rate("load", count, start);
    assert_eq!(loaded.digest(), a.digest(), "both hold the same");
    let start = Instant::now();
    for number in 0..100 {
        let key = format!("{number}");
        let write = Write::Context { namespace: "n".into(), name: "c".into(), key, value: Some(vec![1]) };
        a.write(&first, vec![write], 0).expect("the founder writes");
        while carry(&mut at_a, &mut a, &mut at_b, &mut b, &mut Vec::new()) + carry(&mut at_b, &mut b, &mut at_a, &mut a, &mut Vec::new())
            > 0
        {}
    }
    println!("one change set, written, carried and acknowledged: {:?}", start.elapsed() / 100);
}

/// Carries all that one side has to say; gives the bytes.
fn carry(from: &mut Session, sender: &mut Replica, to: &mut Session, receiver: &mut Replica, rows: &mut Vec<(Vec<u8>, Vec<u8>)>) -> usize {
    let mut bytes = 0;
    while let Some(frame) = from.poll(sender) {
        bytes += frame.len();
        let received = to.receive(receiver, &frame, 0);
        received.outcome.expect("all is well");
        let Commit { rows: changed, .. } = received.commit;
        rows.extend(changed.into_iter().filter_map(|(key, value)| Some((key, value?))));
    }
    bytes
}

fn rate(what: &str, count: usize, start: Instant) {
    let elapsed = start.elapsed();
    println!("{what}: {count} change sets in {elapsed:.2?}, {:.0} each second", count as f64 / elapsed.as_secs_f64());
}
