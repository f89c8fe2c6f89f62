//! How full a limit is, for tower's balancers.

use tower::load::Load;

use super::{AdaptiveLimit, AdaptiveLimitService};

/// What is in flight and what waits, of what may be in flight: 0 is idle, 1 is full, more is refused or waits. Two atomic
/// loads.
///
/// ```
/// use stellane_autotune::AdaptiveLimit;
/// use stellane_autotune::algorithm::Fixed;
/// use tower::load::Load;
///
/// let limit = AdaptiveLimit::builder().algorithm(Fixed::new(4)).build()?;
/// assert_eq!(limit.load(), 0.0);
/// let _permit = limit.try_acquire();
/// assert_eq!(limit.load(), 0.25);
/// # Ok::<_, stellane_autotune::BuildError>(())
/// ```
impl Load for AdaptiveLimit {
    type Metric = f64;

    fn load(&self) -> f64 {
        let (in_flight, limit) = self.shared.load();
        let asked = f64::from(in_flight) + f64::from(self.shared.waiting());
        asked / f64::from(limit.max(1))
    }
}

/// That of its limit. So `p2c` sends the next request to the replica that has the most room of what each can take, which
/// the limits find out, and not merely to the one with the fewest requests.
impl<S> Load for AdaptiveLimitService<S> {
    type Metric = f64;

    fn load(&self) -> f64 {
        self.limit.load()
    }
}
