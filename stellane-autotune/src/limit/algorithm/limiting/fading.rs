//! What is larger while a service is not known yet.

/// A gain that is `new` for a service that is not known yet, and `settled` after [`SETTLED`] windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fading {
    pub(super) new: f64,
    pub(super) settled: f64,
}

/// Windows after which a service is known: five seconds of the shortest ones.
pub(super) const SETTLED: u32 = 25;
/// By how much the limit swings. Less, and throughput does not show it above the noise; more, and the swing itself costs.
pub(super) const DITHER: Fading = Fading {
    new: 0.12,
    settled: 0.05,
};
/// How much one probe decides of the baseline: one alone measures little.
pub(super) const AVERAGE: Fading = Fading {
    new: 0.5,
    settled: 0.2,
};
/// Places beyond the gradient, in square roots of the limit: what keeps a service busy. Less, and 16 cores idle at times;
/// more, and latency grows for nothing.
pub(super) const HEADROOM: f64 = 0.75;
