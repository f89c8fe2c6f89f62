//! Where the nodes of the tree stand, so that a child is found by one addition.

use std::collections::HashSet;

use super::tree::NOWHERE;

/// How far from the end places for children are looked for, so that the time it takes is bounded.
const NEAR: usize = 256;

/// The places of nodes: the literal children of a node stand at a number of that node and their first bytes.
///
/// Between them others do. Whose child a node is, its own copy of the number says: no two nodes have the same.
#[derive(Default)]
pub(super) struct Places {
    taken: Vec<bool>,
    /// All before it are taken.
    full: usize,
    numbers: HashSet<u32>,
}

impl Places {
    pub(super) fn len(&self) -> usize {
        self.taken.len()
    }

    /// Takes the first place.
    pub(super) fn one(&mut self) -> usize {
        let place = self.full;
        self.take(place);
        place
    }

    /// Takes places for children with these first bytes, which ascend: the number, which wraps, or [`NOWHERE`] if there
    /// are none.
    pub(super) fn of_children(&mut self, first_bytes: &[u8]) -> u32 {
        let Some(&first) = first_bytes.first() else {
            return NOWHERE;
        };
        let from = self.full.max(self.len().saturating_sub(NEAR));
        let fits = |number: u32| {
            let free = |&byte: &u8| self.taken.get(place(number, byte)) != Some(&true);
            first_bytes.iter().all(free) && !self.numbers.contains(&number)
        };
        let mut number = (from as u32).wrapping_sub(first.into());
        while !fits(number) {
            number = number.wrapping_add(1);
        }
        for &byte in first_bytes {
            self.take(place(number, byte));
        }
        self.numbers.insert(number);
        number
    }

    fn take(&mut self, place: usize) {
        if place >= self.len() {
            self.taken.resize(place + 1, false);
        }
        self.taken[place] = true;
        while self.taken.get(self.full) == Some(&true) {
            self.full += 1;
        }
    }
}

fn place(number: u32, byte: u8) -> usize {
    number.wrapping_add(byte.into()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_by_the_number_of_its_parent_only() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut places = Places::default();
        let mut owners = vec![None; 1 << 17];
        let (mut taken, mut numbers) = (0, HashSet::new());
        for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
            let odds = [2, 5, 60][rng.usize(0..3)];
            let bytes: Vec<u8> = (b'!'..0x7f).filter(|_| rng.u8(0..odds) == 0).collect();
            let number = places.of_children(&bytes);
            assert_eq!(number == NOWHERE, bytes.is_empty());
            assert!(bytes.is_empty() || numbers.insert(number));
            for &byte in &bytes {
                assert_eq!(owners[place(number, byte)].replace(number), None);
            }
            assert_eq!(owners[places.one()].replace(NOWHERE), None);
            taken += bytes.len() + 1;
        }
        assert_eq!(owners.iter().flatten().count(), taken);
        assert!(places.len() < 2 * taken, "{} for {taken}", places.len());
    }
}
