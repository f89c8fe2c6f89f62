//! What is larger while a service is not known yet.

/// A gain that is `new` for a service that is not known yet, and `settled` after [`SETTLED`] windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fading {
    pub(super) new: f64,
    pub(super) settled: f64,
}

/// Windows after which a service is known: five seconds of the shortest ones.
/// Half: 95 % (`overload_10x`); twice: 96 % (`slow_dependency`).
pub(super) const SETTLED: u32 = 25;
/// By how much the limit swings. Less, and throughput does not show it above the noise; more, and the swing itself costs.
/// First: half 95 % (`shallow_knee`), twice 96 % (`shallow_knee`), a cold start of 6.1 s; second: half 97 %
/// (`capacity_halves`), twice 93 % (`half_waits`).
pub(super) const DITHER: Fading = Fading {
    new: 0.12,
    settled: 0.05,
};
/// How much one probe decides of the baseline: one alone measures little.
/// First: half 96 % (`capacity_halves`), twice 96 % (`slow_dependency`); second: half 98 % (`capacity_halves`), twice
/// 97 % (`capacity_halves`).
pub(super) const AVERAGE: Fading = Fading {
    new: 0.5,
    settled: 0.2,
};
/// Places beyond the gradient, in square roots of the limit: what keeps a service busy. Less, and 16 cores idle at times;
/// more, and latency grows for nothing.
/// Half: 96 % (`overload_2x`); twice: 91 % (`capacity_halves`).
pub(super) const HEADROOM: f64 = 0.75;
