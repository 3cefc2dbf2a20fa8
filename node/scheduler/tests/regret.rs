//! How far placing task by task falls behind the best of all assignments, measured on small cases.

mod support;

use support::cases::case;
use support::optimum::{Regret, regret};
use tarn_scheduler::Tuning;

const CASES: u64 = 3_000;

fn measure(tuning: &Tuning) -> Vec<Regret> {
    (0..CASES).map(|seed| regret(&case(seed), tuning)).collect()
}

fn mean(regrets: &[Regret]) -> f64 {
    regrets.iter().map(|regret| regret.share).sum::<f64>() / regrets.len() as f64
}

fn fewer(regrets: &[Regret]) -> usize {
    regrets.iter().filter(|regret| regret.unplaced > 0).count()
}

#[test]
fn the_regret_stays_within_its_bound() {
    let regrets = measure(&Tuning::default());
    let mut shares: Vec<f64> = regrets.iter().map(|regret| regret.share).collect();
    shares.sort_by(f64::total_cmp);
    for q in [0.5, 0.75, 0.9, 0.95, 0.99, 1.0] {
        println!("q {q} {:.4}", shares[((shares.len() - 1) as f64 * q) as usize]);
    }
    println!("mean {:.4} fewer {}", mean(&regrets), fewer(&regrets));
    let mut t = Tuning::default();
    t.moves = 0;
    let r = measure(&t);
    println!("no moves mean {:.4} fewer {}", mean(&r), fewer(&r));
    t.moves = 256;
    for thrift in [0, 20, 60] {
        t.weights.thrift = thrift;
        let r = measure(&t);
        println!("thrift {thrift} mean {:.4} fewer {}", mean(&r), fewer(&r));
    }
}
