//! Sets of places: which namespaces are meant, by where each stands among all of them.

/// A set of places. Sets are counted together a word at a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bits {
    /// Without zeros at the end.
    words: Vec<u64>,
}

impl Bits {
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub fn contains(&self, place: usize) -> bool {
        self.word(place / 64) & (1 << (place % 64)) != 0
    }

    pub fn set(&mut self, place: usize, there: bool) {
        self.words.resize(self.words.len().max(place / 64 + 1), 0);
        let (word, bit) = (&mut self.words[place / 64], 1 << (place % 64));
        *word = if there { *word | bit } else { *word & !bit };
        self.trim();
    }

    /// Whoever stood at this place or behind it stands one further on, or one further ahead if this place, which is not in the set, is gone.
    pub fn shift(&mut self, from: usize, comes: bool) {
        if from >= 64 * self.words.len() {
            return;
        }
        let behind = |number: usize| match number.cmp(&(from / 64)) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => u64::MAX << (from % 64),
            std::cmp::Ordering::Greater => u64::MAX,
        };
        let before = std::mem::take(&mut self.words);
        let at = |number: usize| before.get(number).copied().unwrap_or(0);
        let moved = |number: usize| {
            let moving = |number: usize| at(number) & behind(number);
            match comes {
                true => moving(number) << 1 | number.checked_sub(1).map_or(0, |less| moving(less) >> 63),
                false => moving(number) >> 1 | moving(number + 1) << 63,
            }
        };
        self.words = (0..=before.len()).map(|number| at(number) & !behind(number) | moved(number)).collect();
        self.trim();
    }

    pub fn union(&self, other: &Bits) -> Bits {
        let words = self.words.len().max(other.words.len());
        Bits { words: (0..words).map(|number| self.word(number) | other.word(number)).collect() }
    }

    pub fn words(&self) -> usize {
        self.words.len()
    }

    pub fn word(&self, number: usize) -> u64 {
        self.words.get(number).copied().unwrap_or(0)
    }

    fn trim(&mut self) {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_shift_as_those_of_a_sorted_list_do() {
        let places = [0usize, 1, 5, 62, 63, 64, 65, 127, 128, 190];
        let of = |places: &[usize]| {
            let mut bits = Bits::default();
            places.iter().for_each(|place| bits.set(*place, true));
            bits
        };
        for from in 0..200 {
            let mut bits = of(&places);
            bits.shift(from, true);
            let come: Vec<usize> = places.iter().map(|place| place + usize::from(*place >= from)).collect();
            assert_eq!(bits, of(&come));
            assert!((0..256).all(|place| bits.contains(place) == come.contains(&place)));
            // Whoever goes was in no set.
            bits.shift(from, false);
            assert_eq!(bits, of(&places));
        }
        let mut bits = of(&places);
        places.iter().for_each(|place| bits.set(*place, false));
        assert!(bits.is_empty());
    }
}
