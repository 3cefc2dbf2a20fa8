//! When which fault begins and how long it lasts: decided by the seed alone, before the run.
//!
//! The time falls into four quarters. One of the last three, drawn from the seed, is quiet: what goes wrong there goes wrong without help. In
//! the first of the other three faults come one at a time; in the second, up to two nemeses are at work at once; in the last, up to three.
//! Mixes that grow like this find both what a single fault breaks and what only their meeting does, and a report shows which it was. All
//! faults are healed when a quarter ends.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::nemesis::Rhythm;

/// The shortest fault that is worth beginning before a quarter ends.
const SHORTEST: Duration = Duration::from_secs(1);
/// How many nemeses may be at work at once in the last busy quarter. With more, nothing would be left to attack.
const LANES: usize = 3;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// When it begins, since clients began to work.
    pub at: Duration,
    /// Which nemesis, by its position.
    pub nemesis: usize,
    /// From its beginning to its healing.
    pub on: Duration,
}

/// The faults of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// In the order of their beginnings.
    pub steps: Vec<Step>,
    /// When no fault is made: from, to.
    pub quiet: (Duration, Duration),
}

/// Draws the faults of a run of this length. `rhythms` has one entry per nemesis.
pub fn draw(seed: u64, time: Duration, rhythms: &[Rhythm]) -> Schedule {
    let mut rng = StdRng::seed_from_u64(seed);
    let quarter = time / 4;
    let quiet = rng.random_range(1..4u32);
    let mut bag = Bag::new(rhythms.len());
    let mut steps = Vec::new();
    for (nth, busy) in (0..4).filter(|busy| *busy != quiet).enumerate() {
        let lanes = (nth + 1).min(LANES).min(rhythms.len());
        let (begin, end) = (quarter * busy, quarter * (busy + 1));
        // A nemesis is in one lane of a quarter only, because it cannot be at work twice.
        for lane in bag.deal(lanes, &mut rng) {
            steps.extend(fill(begin, end, &lane, rhythms, &mut rng));
        }
    }
    steps.sort_by_key(|step| step.at);
    Schedule { steps, quiet: (quarter * quiet, quarter * (quiet + 1)) }
}

/// Fills a lane with faults, one after the other.
fn fill(begin: Duration, end: Duration, lane: &[usize], rhythms: &[Rhythm], rng: &mut StdRng) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = begin + Duration::from_millis(rng.random_range(200..1_000));
    for &nemesis in lane.iter().cycle() {
        if at + SHORTEST > end {
            break;
        }
        let on = varied(rhythms[nemesis].on, rng).min(end - at).max(SHORTEST);
        steps.push(Step { at, nemesis, on });
        at += on + varied(rhythms[nemesis].off, rng);
    }
    steps
}

/// A time, changed by up to a half either way.
fn varied(time: Duration, rng: &mut StdRng) -> Duration {
    time.mul_f64(rng.random_range(0.5..1.5))
}

/// Deals nemeses to lanes so that over the quarters each has its turn before any has two.
struct Bag {
    all: Vec<usize>,
    dealt: usize,
}

impl Bag {
    fn new(size: usize) -> Self {
        Self { all: (0..size).collect(), dealt: 0 }
    }

    fn deal(&mut self, lanes: usize, rng: &mut StdRng) -> Vec<Vec<usize>> {
        if self.dealt == 0 {
            self.all.shuffle(rng);
        }
        let mut hands = vec![Vec::new(); lanes];
        for (at, hand) in (0..self.all.len()).zip((0..lanes).cycle()) {
            hands[hand].push(self.all[(self.dealt + at) % self.all.len()]);
        }
        // A quarter seldom has time for all: the next begins with others.
        self.dealt += self.all.len().div_ceil(3);
        hands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rhythm(on: u64, off: u64) -> Rhythm {
        Rhythm { on: Duration::from_secs(on), off: Duration::from_secs(off) }
    }

    #[test]
    fn the_seed_decides_everything() {
        let rhythms = [rhythm(5, 5), rhythm(3, 2), rhythm(8, 4)];
        let time = Duration::from_secs(120);
        assert_eq!(draw(7, time, &rhythms), draw(7, time, &rhythms));
        assert_ne!(draw(7, time, &rhythms), draw(8, time, &rhythms));
    }

    #[test]
    fn a_quarter_is_quiet_and_every_fault_ends_in_its_quarter() {
        let rhythms = [rhythm(5, 5), rhythm(3, 2), rhythm(30, 4), rhythm(1, 1)];
        for seed in 0..200 {
            let time = Duration::from_secs(60);
            let schedule = draw(seed, time, &rhythms);
            let (from, to) = schedule.quiet;
            assert_eq!(to - from, time / 4);
            assert!(from >= time / 4, "the first quarter is busy");
            for step in &schedule.steps {
                let quarter = |at: Duration| at.as_millis() / (time / 4).as_millis();
                let end = step.at + step.on;
                assert!(end <= from || step.at >= to, "{step:?} is in the quiet quarter {from:?}");
                assert!(end <= time);
                assert_eq!(quarter(step.at), quarter(end - Duration::from_millis(1)), "{step:?} goes over a quarter's end");
            }
        }
    }

    #[test]
    fn a_nemesis_is_never_at_work_twice_and_at_most_three_are_at_once() {
        let rhythms = [rhythm(2, 1), rhythm(3, 2), rhythm(1, 4), rhythm(5, 1)];
        let mut together = 0;
        for seed in 0..200 {
            let steps = draw(seed, Duration::from_secs(240), &rhythms).steps;
            for (at, step) in steps.iter().enumerate() {
                let others = steps[..at].iter().filter(|other| other.at + other.on > step.at);
                assert!(others.clone().all(|other| other.nemesis != step.nemesis));
                together = together.max(others.count() + 1);
            }
        }
        assert_eq!(together, 3);
    }

    #[test]
    fn every_nemesis_has_its_turn() {
        let rhythms = [rhythm(4, 2); 6];
        for seed in 0..50 {
            let steps = draw(seed, Duration::from_secs(90), &rhythms).steps;
            for nemesis in 0..rhythms.len() {
                assert!(steps.iter().any(|step| step.nemesis == nemesis), "seed {seed}: {nemesis}");
            }
        }
    }

    #[test]
    fn without_nemeses_there_are_no_faults() {
        assert!(draw(1, Duration::from_secs(60), &[]).steps.is_empty());
    }
}
