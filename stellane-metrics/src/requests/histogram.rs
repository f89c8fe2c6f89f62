//! A log-linear histogram of durations: fixed size, at most 1.6% error of a percentile.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::slot;

/// Values are counted in units of 2^7 = 128 ns; below 32 units each has its own cell, above each octave has 32.
const UNIT_BITS: u32 = 7;
const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;
/// Up to 2^30 units = 137 s; what is longer counts as that.
const OCTAVES: usize = 26;
pub(crate) const CELLS: usize = SUB * OCTAVES;

#[inline]
pub(crate) fn cell_of(ns: u64) -> usize {
    let units = ns >> UNIT_BITS;
    if units < SUB as u64 {
        return units as usize;
    }
    let octave = 63 - units.leading_zeros() - SUB_BITS;
    let sub = (units >> octave) as usize & (SUB - 1);
    ((octave as usize + 1) * SUB + sub).min(CELLS - 1)
}

/// The smallest value of a cell, in nanoseconds.
pub(crate) fn lowest_of(cell: usize) -> u64 {
    if cell < SUB {
        return (cell as u64) << UNIT_BITS;
    }
    ((SUB + cell % SUB) as u64) << (octave_of(cell) + UNIT_BITS)
}

/// The middle of a cell, in nanoseconds.
pub(crate) fn middle_of(cell: usize) -> u64 {
    lowest_of(cell) + (1 << (octave_of(cell) + UNIT_BITS - 1))
}

fn octave_of(cell: usize) -> u32 {
    (cell / SUB).saturating_sub(1) as u32
}

/// One shard's histogram, written by its thread.
pub(crate) struct Histogram {
    cells: Box<[AtomicU64; CELLS]>,
    sum_ns: AtomicU64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            cells: Box::new([const { AtomicU64::new(0) }; CELLS]),
            sum_ns: AtomicU64::new(0),
        }
    }

    /// Adds a duration that lies in this [cell](cell_of).
    #[inline]
    pub(crate) fn record(&self, cell: usize, ns: u64, exclusive: bool) {
        slot::add(&self.cells[cell], 1, exclusive);
        slot::add(&self.sum_ns, ns, exclusive);
    }

    pub(crate) fn add_to(&self, totals: &mut Totals) {
        for (total, cell) in totals.cells.iter_mut().zip(&*self.cells) {
            *total += cell.load(Relaxed);
        }
        totals.sum_ns = totals.sum_ns.wrapping_add(self.sum_ns.load(Relaxed));
    }
}

/// The sum of all shards, or the difference of two such sums.
#[derive(Clone)]
pub(crate) struct Totals {
    pub(crate) cells: Box<[u64]>,
    pub(crate) sum_ns: u64,
}

impl Totals {
    pub(crate) fn new() -> Self {
        Self {
            cells: vec![0; CELLS].into(),
            sum_ns: 0,
        }
    }

    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            cells: self
                .cells
                .iter()
                .zip(&earlier.cells)
                .map(|(a, b)| a.saturating_sub(*b))
                .collect(),
            sum_ns: self.sum_ns.wrapping_sub(earlier.sum_ns),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (total, n) in self.cells.iter_mut().zip(&other.cells) {
            *total += n;
        }
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }

    pub(crate) fn remove(&mut self, other: &Self) {
        for (total, n) in self.cells.iter_mut().zip(&other.cells) {
            *total = total.saturating_sub(*n);
        }
        self.sum_ns = self.sum_ns.wrapping_sub(other.sum_ns);
    }

    pub(crate) fn count(&self) -> u64 {
        self.cells.iter().sum()
    }

    pub(crate) fn mean(&self) -> Duration {
        match self.count() {
            0 => Duration::ZERO,
            n => Duration::from_nanos(self.sum_ns / n),
        }
    }

    /// The smallest value that `q` of the values do not exceed; zero when there are none.
    pub(crate) fn quantile(&self, q: f64) -> Duration {
        let count = self.count();
        let rank = ((q * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        for (cell, n) in self.cells.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return Duration::from_nanos(middle_of(cell));
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_cell_is_within_1_6_percent_of_every_value_in_it() {
        let mut value = 5_000_u64;
        while value < 130_000_000_000 {
            let middle = middle_of(cell_of(value)) as f64;
            let error = (middle - value as f64).abs() / value as f64;
            assert!(error <= 0.016, "{value} ns: error {error}");
            value += value / 97 + 1;
        }
    }

    #[test]
    fn cells_never_go_down_as_values_go_up_and_never_leave_the_table() {
        let mut last = 0;
        for value in (0..40_000_u64)
            .chain((16..64).map(|bit| 1 << bit))
            .chain([u64::MAX])
        {
            let cell = cell_of(value);
            assert!(
                cell >= last && cell < CELLS,
                "{value} ns: cell {cell} after {last}"
            );
            last = cell;
        }
    }
}
