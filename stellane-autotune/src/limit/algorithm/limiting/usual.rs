use super::super::Window;

/// What a service usually does under its limit, to notice when it is another service than the one that the baseline
/// was measured on.
#[derive(Debug, Clone)]
pub(super) struct Usual {
    /// The smoothed median and throughput.
    known: Option<(f64, f64)>,
    /// How many windows in a row were far off.
    jumps: u32,
    /// By how much throughput differs from window to window, as a fraction.
    noise: f64,
    throughput_before: f64,
    /// By how much it has fallen short of the usual of late, in windows.
    missing: f64,
}

/// A median that is so many times the usual, twice in a row, is another service.
/// Half: 98 % (`bad_requests`), a cold start of 2.9 s; twice: nothing.
const JUMP: f64 = 2.5;

impl Usual {
    pub(super) fn new() -> Self {
        Self {
            known: None,
            jumps: 0,
            noise: 0.05,
            throughput_before: 0.0,
            missing: 0.0,
        }
    }

    pub(super) fn forget(&mut self) {
        self.known = None;
    }

    /// Whether two windows in a row were far slower than usual, or answers have become fewer under the limit as
    /// it is, by more than chance makes them. `gain` is how much one window decides of the usual throughput.
    pub(super) fn has_jumped(
        &mut self,
        (median, throughput): (f64, f64),
        window: &Window<'_>,
        gain: f64,
    ) -> bool {
        let (usual_median, usual_throughput) = self.known.unwrap_or((median, throughput));
        // Fewer answers than usual are the doing of the service only as far as others were refused; and one window
        // without answers is a pause of it, not another service.
        let refused = window.refused as f64 / window.answers as f64 * throughput;
        let fall = (usual_throughput - throughput).min(refused) / usual_throughput;
        let fall = fall.min(0.3);
        let step = (throughput - self.throughput_before).abs() / usual_throughput;
        self.noise += 0.1 * (0.7 * step.min(0.5) - self.noise);
        self.throughput_before = throughput;
        // The sum of what is missing, less what chance takes: it stays near zero while nothing changes.
        self.missing = (self.missing + fall - (1.1 * self.noise).max(0.05)).max(0.0);
        let odd = median > JUMP * usual_median;
        self.jumps = if odd { self.jumps + 1 } else { 0 };
        if self.jumps >= 2 || self.missing > (5.0 * self.noise).max(0.3) {
            self.jumps = 0;
            self.missing = 0.0;
            self.known = None;
            return true;
        }
        if !odd {
            let smooth = |usual: f64, latest: f64, gain: f64| usual + gain * (latest - usual);
            let median = smooth(usual_median, median, 0.2);
            self.known = Some((median, smooth(usual_throughput, throughput, gain)));
        }
        false
    }
}
