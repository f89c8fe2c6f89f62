use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use super::scenario::Plant;

/// Processor sharing in virtual time: a job is done when the virtual clock reaches its mark.
#[derive(Default)]
pub(super) struct Sharing {
    virtual_now: f64,
    marks: BinaryHeap<Reverse<Mark>>,
}

#[derive(PartialEq)]
struct Mark(f64, usize);

impl Eq for Mark {}

impl Ord for Mark {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

impl PartialOrd for Mark {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Sharing {
    fn rate(&self, plant: &Plant) -> f64 {
        let jobs = self.marks.len() as f64;
        if plant.stalled {
            0.0
        } else if jobs <= plant.cores {
            1.0
        } else {
            let excess = (jobs - plant.cores) / plant.cores;
            plant.cores / jobs / (1.0 + plant.contention * excess)
        }
    }

    /// When the next job is done.
    pub(super) fn next(&self, now: f64, plant: &Plant) -> f64 {
        let rate = self.rate(plant);
        match self.marks.peek() {
            Some(Reverse(mark)) if rate > 0.0 => now + (mark.0 - self.virtual_now).max(0.0) / rate,
            _ => f64::INFINITY,
        }
    }

    pub(super) fn pass(&mut self, seconds: f64, plant: &Plant) {
        self.virtual_now += seconds * self.rate(plant);
    }

    pub(super) fn begin(&mut self, job: usize, work: f64) {
        self.marks.push(Reverse(Mark(self.virtual_now + work, job)));
    }

    /// The job that is done next.
    pub(super) fn pop(&mut self) -> Option<usize> {
        self.marks.pop().map(|Reverse(mark)| mark.1)
    }

    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }
}
