//! The simulation's own random numbers: splitmix64 (Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, 2014).
//!
//! Each part of the simulation has dice of its own, so that a change in one part does not change what another one draws.

/// A stream of numbers that follows from a seed and a name.
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// The dice of a part of the simulation.
    pub fn new(seed: u64, part: &str) -> Self {
        let state = part.bytes().fold(mix(seed), |state, byte| mix(state ^ u64::from(byte)));
        Self { state }
    }

    /// Dice of their own that follow from these, without a draw from these.
    pub fn apart(&self, part: &str) -> Self {
        Self::new(self.state, part)
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        finish(self.state)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        debug_assert!(low <= high, "a range has an order");
        low + self.draw() % (high - low + 1)
    }

    /// True `percent` times of a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.draw() % 100 < percent
    }

    /// True `millionths` times of a million.
    pub fn ppm(&mut self, millionths: u64) -> bool {
        self.draw() % 1_000_000 < millionths
    }

    /// A place in something of this length, which is not 0.
    pub fn below(&mut self, length: usize) -> usize {
        usize::try_from(self.draw() % length as u64).expect("a remainder is less than a length")
    }

    /// One of them; `None` of nothing.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        match from.is_empty() {
            true => None,
            false => Some(&from[self.below(from.len())]),
        }
    }

    /// A random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// One round of splitmix64.
pub fn mix(number: u64) -> u64 {
    finish(number.wrapping_add(0x9e37_79b9_7f4a_7c15))
}

fn finish(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A hash of bytes for traces and comparisons: FNV-1a, mixed.
pub fn hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_name_decide_everything() {
        let draw = |seed, part| {
            let mut dice = Dice::new(seed, part);
            (0..8).map(|_| dice.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, "net"), draw(1, "net"));
        assert_ne!(draw(1, "net"), draw(2, "net"));
        assert_ne!(draw(1, "net"), draw(1, "disk"));
        let mut dice = Dice::new(1, "net");
        assert_ne!(dice.apart("a").draw(), dice.apart("b").draw());
        assert_eq!(dice.draw(), draw(1, "net")[0], "nothing was drawn from it");
    }

    #[test]
    fn numbers_stay_within_their_bounds_and_reach_them() {
        let mut dice = Dice::new(7, "bounds");
        let drawn: std::collections::BTreeSet<u64> = (0..200).map(|_| dice.between(3, 6)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
        let mut order = [1, 2, 3, 4, 5];
        dice.shuffle(&mut order);
        order.sort_unstable();
        assert_eq!(order, [1, 2, 3, 4, 5]);
        assert!(!dice.percent(0) && dice.percent(100));
        assert_eq!(dice.pick::<u8>(&[]), None);
    }
}
