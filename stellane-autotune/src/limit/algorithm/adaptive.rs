use std::time::Duration;

use crate::limit::WallClock;

use super::beat::Beat;
use super::limiting::Limiting;
use super::open::{Open, Start};
use super::overloads::Overloads;
use super::{Algorithm, LimitEvidence, LimitState, Next, Tick, Window, WindowSize};

/// The default: no limit while nothing says that the service is full, then one that finds its own value.
///
/// ```text
///  answers                          latency
///  per second                                             :      /
///       |         ___________            |                :    /
///       |       /:                       |                :  /
///       |     /  :                       |________________:/
///       |   /    :                       |                :
///       | /      :                       |                :
///       +--------+---------- in flight   +----------------+---- in flight
///               knee                                     knee
/// ```
///
/// Left of the knee a service answers the more the more is in flight, and nobody waits for anybody: there is nothing to
/// limit, be it five requests of a millisecond or a thousand that take a minute. Right of it more in flight is only
/// answered later. Where the knee is nobody knows beforehand, and it moves.
///
/// **Open.** There is no limit, only a cap on what begins at once: 256, and twice as much each tenth of a second while
/// it is used. What exceeds the cap waits for its next step; it is not refused. Throughput, latency and concurrency
/// are compared with those at half the concurrency or less. If throughput has stayed what it was and latency has not, for
/// long enough to be no chance, that is evidence. So is a machine whose own queue is long
/// (see [`LocalSignal`](crate::LocalSignal)), and a service of which many answers say that it is overloaded while the
/// others are the same number however many ask. To know that takes some seconds in which the load varies: a route that
/// fails, for a third of all or for most, is no overload.
///
/// Where the machine is not heard, or is not busy, flat throughput alone says little: an upstream that became slow looks
/// like that, and so do requests of another kind than before. There more must come than is answered, by more than chance,
/// and it takes more evidence: for a service that queues some tenths of a second to seconds longer, and while the load
/// climbs. Clients that came at once, each of whom waits for its answer, may look like those of a slow service from then on:
/// then all of them are served as fast as it can be done, and nobody is refused. Nor does it do for a service whose
/// throughput *collapses* under more concurrency and that has not been seen at less: hardly anything is answered then, and
/// a hundred handlers that have just begun and take a minute look the same for a minute. Those are the ones that get the
/// benefit of the doubt. A lower `initial` (64) helps, at the price that a surge of honest requests waits for longer.
///
/// **Limiting.** From the knee on, as far as it is known:
///
/// - The limit follows a gradient on the window median against a baseline that is actively re-probed,
///   with a tolerance learned from how much throughput answers to the limit.
/// - It acts only while the limit is what holds the load back; otherwise it holds, and keeps the
///   limit within a few times what is really in flight, so that a spike does not meet a limit
///   that grew while idle. When it has held nothing back for four seconds, it is open again.
/// - The limit is dithered on alternate windows, by ±12 % while the service is not known yet and ±5 %
///   later. If throughput follows the dither (elasticity), more concurrency is worth its latency and the
///   tolerance grows; else it shrinks. Elasticity is read from throughput and from latency, and whichever
///   is the quieter counts for more. When throughput follows all the way and nothing queues, it grows by half at a time.
/// - Small errors of the median move the limit little, large ones at once: noise does not. What one
///   window decides is much at first and after a change, and little once the service is known. Past the
///   point where more concurrency costs throughput nothing is left to chance: the limit goes down.
/// - The baseline is re-probed after 8 s, doubling to 32 s while nothing changes; sooner when latency or
///   throughput have jumped, when the median is far above the baseline although nothing seems to queue,
///   and after 6 cuts in a row. The limit then steps down by 0.7 per window until throughput goes with it,
///   and what it takes there is the latency without a queue. A probe that finds much the same is over with that step, and
///   averaged with those before; only one that does not stays there, to be sure.
///   The baseline thus follows a service that became slower or faster, without ever pinning the limit to a
///   few requests. A probe that costs most of the throughput in a step is given up; one that goes
///   deep shows that the limit itself was far too high, and it stays lower.
/// - Where requests are of two kinds that are far apart, such as those that compute and those that wait for something
///   elsewhere, the mean takes the place of the median; and if it is the machine that is full, its signal says whether
///   the limit goes up or down.
/// - Where the machine was what was full, it has a say of its own: with a core to spare and a throughput that follows the
///   limit grows by a tenth at a time, and a queue that latency does not show, since the service has become faster under
///   a limit that was right for a slower one, is looked for by a probe. Where most places are held by what is not answered, be
///   it lost or without end, latency tells nothing: then the limit goes to where each core has enough to do.
/// - An answer that says "overloaded" takes a twentieth of the limit, at most once per median, if it is known that the
///   other answers do not follow what is asked.
///
/// Limit a service where it serves rather than where many clients call it: to a client, the others' requests are
/// a queue that it cannot shed, and a limit that it raises takes throughput from them. Two clients that
/// share a service share it fairly and together reach from half to nearly all of what one limit in front of it
/// reaches; with four the limits grow too high, and it may be a third or less. Those that must be there go
/// [in step](Self::aligned).
///
/// ```
/// use stellane_autotune::algorithm::{Adaptive, Algorithm};
///
/// assert_eq!(Adaptive::new(256, 4, 100_000, 0).initial(), 256);
/// ```
#[derive(Debug, Clone)]
pub struct Adaptive {
    state: LimitState,
    open: Open,
    limiting: Limiting,
    overloads: Overloads,
    evidence: Option<LimitEvidence>,
}

/// Latencies of a window while there is no limit, and its milliseconds: many short ones, since what they say adds up.
const OPEN_WINDOW: (u64, u64) = (8, 5);

impl Adaptive {
    /// Begins open, with so many at once at first, and limits within `min..=max`. Processes that must not probe
    /// together differ in their `seed`.
    #[must_use]
    pub fn new(initial: u32, min: u32, max: u32, seed: u64) -> Self {
        Self {
            state: LimitState::Open,
            open: Open::new(initial, min, max),
            limiting: Limiting::new(min, max, seed),
            overloads: Overloads::default(),
            evidence: None,
        }
    }

    /// Cuts by a fifth whenever the 99th percentile of a window exceeds twice this latency. Zero is
    /// off.
    #[must_use]
    pub fn latency_target(mut self, target: Duration) -> Self {
        let target = Some(target.as_secs_f64()).filter(|seconds| *seconds > 0.0);
        self.open.set_target(target);
        self.limiting.set_target(target);
        self
    }

    /// One of several that limit the same service, in step by a wall clock: see
    /// [`AdaptiveLimitBuilder::shared_bottleneck`](crate::AdaptiveLimitBuilder::shared_bottleneck).
    #[must_use]
    pub fn aligned(mut self, wall: WallClock) -> Self {
        self.limiting.align(Beat::new(wall));
        self.open.share();
        self
    }

    fn is_open(&self) -> bool {
        self.state == LimitState::Open
    }

    fn begin_to_limit(&mut self, start: Start) {
        self.state = LimitState::Limiting;
        self.evidence = Some(start.evidence);
        self.limiting.begin(start);
    }
}

impl Algorithm for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive"
    }

    fn initial(&self) -> u32 {
        self.open.cap()
    }

    fn window(&self, limit: u32) -> WindowSize {
        match self.state {
            LimitState::Open => WindowSize {
                duration: Duration::from_millis(OPEN_WINDOW.1),
                samples: OPEN_WINDOW.0,
                patience: Duration::MAX,
            },
            LimitState::Limiting => self.limiting.window_size(limit),
        }
    }

    fn on_window(&mut self, window: &Window<'_>) -> Next {
        if self.is_open() {
            let median = self.open.median();
            self.overloads
                .add(window.end, window.so_far, window.in_flight, median);
            if window.latencies.is_empty() || window.answers == 0 {
                return Next::at_once(window.limit);
            }
            let doubt = self.limiting.doubt();
            return match self.open.on_window(window, &self.overloads, doubt) {
                None => Next::at_once(self.open.cap()),
                Some(start) => {
                    self.begin_to_limit(start);
                    self.limiting.start(f64::from(window.in_flight))
                }
            };
        }
        self.limiting.on_window(window).unwrap_or_else(|| {
            self.state = LimitState::Open;
            self.evidence = None;
            self.open.begin(window.limit, window.end);
            Next::at_once(self.open.cap())
        })
    }

    fn on_tick(&mut self, tick: Tick) -> Option<Next> {
        if !self.is_open() {
            return None;
        }
        let median = self.open.median();
        self.overloads
            .add(tick.now, tick.so_far, tick.in_flight, median);
        let before = self.open.cap();
        if let Some(start) = self.open.on_tick(tick, &self.overloads) {
            self.begin_to_limit(start);
            return Some(self.limiting.start(f64::from(tick.in_flight)));
        }
        let cap = self.open.cap();
        (cap > before).then(|| Next::at_once(cap))
    }

    fn on_overload(&mut self, now: Duration, _in_flight: u32) -> Option<u32> {
        // While there is no limit one answer says little: the window tells.
        if self.is_open() || self.overloads.evidence().is_none() {
            return None;
        }
        self.limiting.on_overload(now)
    }

    fn on_late(&mut self) -> Option<u32> {
        (!self.is_open()).then(|| self.limiting.on_late())
    }

    fn set_range(&mut self, min: u32, max: u32) {
        self.open.set_range(min, max);
        self.limiting.set_range(min, max);
    }

    fn state(&self) -> LimitState {
        self.state
    }

    fn evidence(&self) -> Option<LimitEvidence> {
        self.evidence
    }

    fn next_step(&self) -> Duration {
        if self.is_open() {
            self.open.next_step()
        } else {
            Duration::MAX
        }
    }
}
