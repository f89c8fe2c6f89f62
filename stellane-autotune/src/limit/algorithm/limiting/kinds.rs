//! Requests of two kinds that are far apart: those that compute, and those that wait for something elsewhere.

use std::ops::RangeInclusive;

use super::{
    super::{
        Latencies,
        open::{FULL, SPARE},
    },
    fading::{DITHER, HEADROOM},
};

/// Whether there are two kinds, and what the machine says of their limit.
///
/// The median is then now of the one and now of the other, and tells nothing: a service of which half the requests compute
/// for 10 ms, and half wait for 200 ms, kept from 1 to 80 % of what it can do. The mean tells, as throughput times it is
/// what is in flight; but a queue must be long before it shows, since most of what is in flight waits elsewhere. Where it
/// is the machine that is full, its own signal shows that at once, and it is what the limit goes by.
#[derive(Debug, Clone, Default)]
pub(super) struct Kinds {
    /// The logarithm of the upper quartile of latencies in terms of the lower, of late.
    spread: f64,
    /// Whether the machine has been full since there is a limit.
    of_machine: bool,
    /// Whether each of its cores has had something to do since then.
    was_busy: bool,
    /// What it has to do, for each core.
    tasks: Option<f64>,
    /// The same a window before.
    tasks_before: Option<f64>,
}

/// Quartiles that are so many times apart are of two kinds. Of exponential latencies they are 4.8, and 7 by chance.
/// Half: 94 % (`capacity_halves`); twice: nothing.
const APART: f64 = 9.0;
/// How much one window decides of that, up, and down: when the quick ones queue, they are less apart.
/// Half or twice, of each: nothing.
const LEARN: (f64, f64) = (0.3, 0.02);
/// Tasks for each core below which the machine has next to nothing to do, and those below which nothing queues.
/// Half: nothing; twice: 87 % (`half_waits`).
const IDLE: f64 = 0.5;
/// Half: 94 % (`half_waits`); twice: 95 % (`retry_storm`).
const AT_EASE: f64 = 0.9;
/// By how much the limit grows below either (below the second by the first, where throughput follows all the way), and by how
/// much it falls while the machine is full,
/// First: half 1 % (`half_waits`), twice 80 % (`half_waits`); second: half 54 % (`half_waits`), twice 68 %
/// (`half_waits`).
const GROW: (f64, f64) = (1.5, 1.1);
/// Half: 87 % (`half_waits`); twice: 4 % (`half_waits`).
const FALL: f64 = 0.9;
/// if the mean is this many times what it is at ease: of one core a moment says little.
/// Half: 97 % (`half_waits`); twice: 90 % (`half_waits`).
const SLOWER: f64 = 1.1;
/// Less of it is none, or chance.
/// Half: 98 % (`black_hole`); twice: 97 % (`black_hole`).
const FOLLOWS: f64 = 0.2;
/// With so many each core has enough: a limit that begins with its [`SPARE`], however the dither moves it, is right. To look
/// for a better one at once took a second, and by chance one of four hundred starts five.
/// Half: 91 % (`black_hole`); twice: 95 % (`black_hole`).
const ENOUGH: f64 = SPARE * (1.0 + DITHER.new);
/// More than [`FULL`] by this, as a fraction of one core; of several, less by the root of how many they are. At 2 a dependency
/// that was quick again left a queue of three and a half tasks for each of 16 cores for ten seconds.
/// Half or twice: nothing.
const CHANCE: f64 = 1.0;
/// How far the limit goes at a time, in logarithms, where latency tells nothing and the machine does: so much of how far it is
/// from having [`ENOUGH`], down and up at most. By throughput alone, of a service that loses one request in twenty, one interval in
/// sixty was below nine tenths of what it can do.
/// Half: 96 % (`black_hole`); twice: nothing.
const TOWARDS: f64 = 0.3;
/// First: half 98 % (`black_hole`), twice nothing; second: half 95 % (`black_hole`), twice 98 % (`black_hole`).
const STEP: RangeInclusive<f64> = -0.1..=0.15;

impl Kinds {
    /// A limit begins, as the machine is full or for another reason.
    pub(super) fn begin(&mut self, of_machine: bool) {
        self.of_machine = of_machine;
        self.was_busy = of_machine;
    }

    pub(super) fn look(&mut self, latencies: &Latencies, tasks_per_core: Option<f64>) {
        let spread = (latencies.quantile(0.75) / latencies.quantile(0.25)).ln();
        if spread.is_finite() {
            let up = spread > self.spread;
            let gain = if up { LEARN.0 } else { LEARN.1 };
            self.spread += gain * (spread - self.spread);
        }
        self.tasks_before = std::mem::replace(&mut self.tasks, tasks_per_core);
        self.of_machine |= tasks_per_core.is_some_and(|tasks| tasks > FULL);
        self.was_busy |= tasks_per_core.is_some_and(|tasks| tasks > SPARE);
    }

    pub(super) fn are_apart(&self) -> bool {
        self.spread > APART.ln()
    }

    /// What the machine has to do, if it is to say.
    fn tasks(&self) -> Option<f64> {
        self.tasks.filter(|_| self.of_machine && self.are_apart())
    }

    pub(super) fn are_told_by_machine(&self) -> bool {
        self.tasks().is_some()
    }

    pub(super) fn are_idle(&self) -> bool {
        self.tasks().is_some_and(|tasks| tasks < IDLE)
    }

    pub(super) fn are_at_ease(&self) -> bool {
        self.tasks().is_some_and(|tasks| tasks < AT_EASE)
    }

    /// Whether the machine, which is what was full, has a core to spare now.
    pub(super) fn have_room(&self) -> bool {
        self.of_machine && self.tasks.is_some_and(|tasks| tasks < AT_EASE)
    }

    /// Whether it has no core to spare: more places answer no more.
    pub(super) fn are_busy(&self) -> bool {
        self.of_machine && self.tasks.is_some_and(|tasks| tasks >= AT_EASE)
    }

    /// Whether it has, twice in a row, enough to do and some to spare: what more is let in only queues. At most so many cores
    /// as that makes do it. Without the dither, that is, which is so many times what there is.
    pub(super) fn have_enough(&self, in_flight: f64, swing: f64) -> bool {
        let twice = self.tasks.zip(self.tasks_before);
        self.of_machine
            && twice.is_some_and(|(now, before)| {
                let tasks = now.min(before);
                swing * tasks > 1.0 + HEADROOM / (in_flight / tasks).sqrt()
            })
    }

    /// What the limit becomes, in terms of itself, if the machine has had a core to spare twice in a row, and throughput
    /// follows: where latency says too little it took ten seconds to see that the machine could do twice as much.
    pub(super) fn room(&self, elasticity: f64) -> Option<f64> {
        let twice = self.tasks.zip(self.tasks_before);
        let idles = twice.is_some_and(|(now, before)| now.max(before) < AT_EASE);
        (self.of_machine && idles && elasticity > FOLLOWS).then_some(GROW.1)
    }

    /// Whether it has, twice in a row, more than chance explains: it queues, however short latency is by what was known.
    pub(super) fn have_queue(&self, in_flight: f64) -> bool {
        let twice = self.tasks.zip(self.tasks_before);
        self.of_machine
            && twice.is_some_and(|(now, before)| {
                let tasks = now.min(before);
                tasks > FULL * (1.0 + CHANCE / (in_flight / tasks).sqrt())
            })
    }

    /// Whether it has just enough to do.
    pub(super) fn have_hardly_a_queue(&self) -> bool {
        self.of_machine && self.tasks.is_some_and(|tasks| tasks < ENOUGH)
    }

    /// How far the limit goes, in logarithms, where most places are held by what is not answered, if the machine can say: it
    /// has enough to do, whoever holds the others. Not up, if throughput does not follow: something else is full too. Nor down, if
    /// it follows `all_the_way`: it is not these requests that keep the machine busy.
    pub(super) fn off(&self, elasticity: f64, all_the_way: f64) -> Option<f64> {
        let tasks = self.tasks.filter(|_| self.was_busy)?;
        let off = TOWARDS * (ENOUGH / tasks).ln();
        let off = off.clamp(*STEP.start(), *STEP.end());
        let counts = if off > 0.0 {
            elasticity > FOLLOWS
        } else {
            elasticity < all_the_way
        };
        counts.then_some(off)
    }

    /// What the limit becomes, in terms of itself, if the machine is to say. The mean is so many times what it is at ease,
    /// and throughput follows the limit so far: if it does not, something else is full too; if it follows `all_the_way`, there
    /// is much room.
    pub(super) fn step(&self, slower: f64, elasticity: f64, all_the_way: f64) -> Option<f64> {
        let tasks = self.tasks()?;
        if tasks < AT_EASE && elasticity < FOLLOWS {
            return None;
        }
        Some(match tasks {
            tasks if tasks < IDLE || tasks < AT_EASE && elasticity > all_the_way => GROW.0,
            tasks if tasks < AT_EASE => GROW.1,
            tasks if tasks > FULL && slower > SLOWER => FALL,
            _ => 1.0,
        })
    }
}
