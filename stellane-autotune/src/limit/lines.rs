//! Items that stand in lines, all in one allocation: who leaves from the middle is forgotten at once, however long the line
//! is, and who comes next takes that slot.

use std::{
    mem,
    ops::{Index, IndexMut},
};

/// Lines from the first who came to the last. An item that was [taken](Self::take) keeps its slot until it is
/// [freed](Self::free).
#[derive(Debug)]
pub(super) struct Lines<T> {
    slots: Vec<Slot<T>>,
    lines: [Line; LINES],
    /// The latest slot that was freed; each of those is `after` the next one.
    free: usize,
    /// How many slots somebody has.
    taken: usize,
}

#[derive(Debug)]
struct Slot<T> {
    item: T,
    line: usize,
    before: usize,
    after: usize,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    first: usize,
    last: usize,
    len: usize,
}

const NONE: usize = usize::MAX;
const LINES: usize = 2;
/// So many free slots are kept when nobody has one.
const KEPT: usize = 1024;

impl<T> Lines<T> {
    pub(super) const fn new() -> Self {
        let line = Line {
            first: NONE,
            last: NONE,
            len: 0,
        };
        Self {
            slots: Vec::new(),
            lines: [line; LINES],
            free: NONE,
            taken: 0,
        }
    }

    pub(super) fn len(&self, line: usize) -> usize {
        self.lines[line].len
    }

    /// The slot of the first, or of the last, in line.
    pub(super) fn end(&self, line: usize, last: bool) -> Option<usize> {
        let line = self.lines[line];
        let end = if last { line.last } else { line.first };
        (end != NONE).then_some(end)
    }

    /// The slot of the one behind, or before, that one.
    pub(super) fn beside(&self, slot: usize, before: bool) -> Option<usize> {
        let slot = &self.slots[slot];
        let beside = if before { slot.before } else { slot.after };
        (beside != NONE).then_some(beside)
    }

    /// Those in line, oldest first.
    #[cfg(any(feature = "tokio", test))]
    pub(super) fn slots(&self, line: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(self.end(line, false), |slot| self.beside(*slot, false))
    }

    /// The slot of an item at the end of that line.
    pub(super) fn push(&mut self, line: usize, item: T) -> usize {
        let Line { last, len, .. } = self.lines[line];
        let new = Slot {
            item,
            line,
            before: last,
            after: NONE,
        };
        let slot = match self.slots.get_mut(self.free) {
            Some(free) => {
                let next = free.after;
                *free = new;
                mem::replace(&mut self.free, next)
            }
            None => {
                self.slots.push(new);
                self.slots.len() - 1
            }
        };
        match last {
            NONE => self.lines[line].first = slot,
            last => self.slots[last].after = slot,
        }
        (self.lines[line].last, self.lines[line].len) = (slot, len + 1);
        self.taken += 1;
        slot
    }

    /// Takes it from its line, if it stands in one.
    pub(super) fn take(&mut self, slot: usize) -> &mut T {
        let of = &mut self.slots[slot];
        let (line, before, after) = (mem::replace(&mut of.line, NONE), of.before, of.after);
        if line != NONE {
            match before {
                NONE => self.lines[line].first = after,
                before => self.slots[before].after = after,
            }
            match after {
                NONE => self.lines[line].last = before,
                after => self.slots[after].before = before,
            }
            self.lines[line].len -= 1;
        }
        &mut self.slots[slot].item
    }

    /// The slot is another's from now on. What is in it stays until that one comes.
    pub(super) fn free(&mut self, slot: usize) {
        self.take(slot);
        self.slots[slot].after = mem::replace(&mut self.free, slot);
        self.taken -= 1;
        if self.taken == 0 && self.slots.len() > KEPT {
            *self = Self::new();
        }
    }
}

impl<T> Index<usize> for Lines<T> {
    type Output = T;

    fn index(&self, slot: usize) -> &T {
        &self.slots[slot].item
    }
}

impl<T> IndexMut<usize> for Lines<T> {
    fn index_mut(&mut self, slot: usize) -> &mut T {
        &mut self.slots[slot].item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Rng;

    #[test]
    fn whoever_comes_and_leaves_from_anywhere_the_others_keep_their_order() {
        for seed in 0..20 {
            let (mut rng, mut lines) = (Rng::new(seed), Lines::new());
            let mut expected = [Vec::new(), Vec::new()];
            let mut taken = Vec::new();
            for number in 0..5000_u64 {
                let line = rng.next() as usize % 2;
                // Rather in than out, then rather out than in.
                let comes = rng.next() % 100 < if number < 3000 { 80 } else { 20 };
                if comes {
                    expected[line].push((lines.push(line, number), number));
                } else if !expected[line].is_empty() {
                    let at = rng.next() as usize % expected[line].len();
                    let (slot, number) = expected[line].remove(at);
                    assert_eq!(lines[slot], number, "seed {seed}");
                    match rng.next() % 2 {
                        0 => lines.free(slot),
                        _ => {
                            assert_eq!(*lines.take(slot), number, "seed {seed}");
                            taken.push((slot, number));
                        }
                    }
                }
                if taken.len() > 5 {
                    let (slot, number) = taken.remove(0);
                    assert_eq!(lines[slot], number, "seed {seed}");
                    lines.free(slot);
                }
            }
            for (line, expected) in expected.iter().enumerate() {
                let found: Vec<_> = lines.slots(line).map(|slot| (slot, lines[slot])).collect();
                assert_eq!(&found, expected, "seed {seed}");
                assert_eq!(lines.len(line), expected.len());
                assert_eq!(lines.end(line, true), expected.last().map(|last| last.0));
            }
            let all = expected.into_iter().flatten().chain(taken);
            for (slot, number) in all {
                assert_eq!(lines[slot], number, "seed {seed}");
                lines.free(slot);
            }
            assert!(lines.slots.len() <= KEPT, "what a storm took is given back");
        }
    }
}
