/// A service under one limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    ln_limit: f64,
    ln_throughput: f64,
    ln_median: f64,
}

impl Measured {
    /// All three must be above zero.
    pub(super) fn new(limit: u32, throughput: f64, median: f64) -> Self {
        Self {
            ln_limit: f64::from(limit).ln(),
            ln_throughput: throughput.ln(),
            ln_median: median.ln(),
        }
    }

    /// The same with a concurrency that is no limit.
    pub(super) fn of(in_flight: f64, throughput: f64, median: f64) -> Self {
        Self {
            ln_limit: in_flight.max(0.1).ln(),
            ln_throughput: throughput.ln(),
            ln_median: median.ln(),
        }
    }

    pub(super) fn throughput(self) -> f64 {
        self.ln_throughput.exp()
    }

    pub(super) fn median(self) -> f64 {
        self.ln_median.exp()
    }

    /// By how many per cent throughput grew with one per cent of limit: as throughput itself tells it, and as
    /// latency does.
    pub(super) fn slopes(self, before: Self) -> Option<[f64; 2]> {
        let limit = self.ln_limit - before.ln_limit;
        // Little's law: what more concurrency does not add to throughput, it adds to latency.
        (limit.abs() > 1e-9).then(|| {
            [
                (self.ln_throughput - before.ln_throughput) / limit,
                1.0 - (self.ln_median - before.ln_median) / limit,
            ]
        })
    }
}

/// By how many per cent throughput grows with one per cent of limit: 1 where nothing queues, about 0 where all
/// of it queues, below where more concurrency does harm, and between where others share the service.
///
/// Throughput is noisy where few requests do most of the work, and the median where latency varies by itself:
/// whichever has varied less counts for more.
#[derive(Debug, Clone)]
pub(super) struct Elasticity {
    value: f64,
    /// How far the two estimates stray from the value, squared.
    spreads: [f64; 2],
}

/// How much one pair of windows decides of the spreads.
/// Half: 96 % (`capacity_halves`); twice: 95 % (`capacity_halves`).
const SPREAD_GAIN: f64 = 0.05;
/// The furthest that one pair counts as astray, squared.
/// Half: 96 % (`bimodal`); twice: 97 % (`bimodal`).
const ASTRAY: f64 = 16.0;
/// How far from `worth` a slope may be: alike on both sides, so that what is cut off of noise does not become
/// a trend.
/// Half: 94 % (`knee`); twice: 95 % (`capacity_halves`).
const CUT_OFF: f64 = 1.6;

impl Elasticity {
    pub(super) fn new() -> Self {
        Self {
            value: 0.5,
            spreads: [1.0; 2],
        }
    }

    pub(super) fn value(&self) -> f64 {
        self.value
    }

    /// One estimate from both slopes.
    pub(super) fn weigh(&self, slopes: [f64; 2]) -> f64 {
        let share = self.spreads[1] / (self.spreads[0] + self.spreads[1]).max(1e-9);
        share * slopes[0] + (1.0 - share) * slopes[1]
    }

    pub(super) fn learn(&mut self, slopes: [f64; 2], gain: f64, worth: f64) {
        let slope = self.weigh(slopes).clamp(worth - CUT_OFF, worth + CUT_OFF);
        for (spread, slope) in self.spreads.iter_mut().zip(slopes) {
            let off = (slope - self.value).powi(2).min(ASTRAY);
            *spread += SPREAD_GAIN * (off - *spread);
        }
        self.value += gain * (slope - self.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of windows of a service without a queue, one of whose estimates is noise.
    fn learned(noisy: usize) -> f64 {
        let mut elasticity = Elasticity::new();
        for turn in 0..400 {
            let mut slopes = [1.0; 2];
            slopes[noisy] = if turn % 2 == 0 { 4.0 } else { -4.0 };
            elasticity.learn(slopes, 0.1, 0.6);
        }
        elasticity.value()
    }

    #[test]
    fn the_quieter_estimate_counts() {
        for noisy in [0, 1] {
            let value = learned(noisy);
            assert!((value - 1.0).abs() < 0.15, "{noisy}: {value}");
        }
    }

    #[test]
    fn little_s_law_makes_both_slopes_agree() {
        // Sixteen cores: twenty places make a queue, eight do not.
        let queueing = Measured::new(24, 1600.0, 0.015).slopes(Measured::new(20, 1600.0, 0.0125));
        for slope in queueing.unwrap_or([9.0; 2]) {
            assert!(slope.abs() < 1e-9, "{slope}");
        }
        let idle = Measured::new(8, 800.0, 0.01).slopes(Measured::new(4, 400.0, 0.01));
        for slope in idle.unwrap_or([9.0; 2]) {
            assert!((slope - 1.0).abs() < 1e-9, "{slope}");
        }
        let same = Measured::new(8, 800.0, 0.01);
        assert_eq!(same.slopes(same), None);
    }
}
