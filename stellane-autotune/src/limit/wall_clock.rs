use std::{
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::header::DATE;

use super::ResponseHead;
use crate::Clock;

/// The time of day, by which limits in several processes do the same at once: see
/// [`AdaptiveLimitBuilder::shared_bottleneck`](super::AdaptiveLimitBuilder::shared_bottleneck).
///
/// A cheap clone; all clones are the same clock. They must agree to some hundredths of a second, as machines do that run NTP.
/// Where nobody knows whether they do, let each listen to the `Date` of what all of them call. It has whole seconds, but the
/// first answer of each new one says when that began: of a hundred answers per second, to within some ten milliseconds. From the
/// sixth second on it is the time of that service which counts, whatever that is, so that nobody's own clock need be right.
///
/// ```
/// use std::time::Duration;
/// use stellane_autotune::{AdaptiveLimit, AdaptiveLimitLayer, WallClock};
///
/// let wall = WallClock::system();
/// let limit = AdaptiveLimit::builder().shared_bottleneck(&wall).build()?;
/// let heard = wall.clone();
/// let layer = AdaptiveLimitLayer::new(&limit).classify_response(move |head| {
///     heard.hear(head);
///     head.default_outcome()
/// });
/// // For a metric: how far off the machine's own clock is.
/// assert_eq!(wall.behind(), None);
/// # Ok::<_, stellane_autotune::BuildError>(())
/// ```
#[derive(Debug, Clone)]
pub struct WallClock(Arc<Wall>);

#[derive(Debug)]
struct Wall {
    source: Source,
    /// In nanoseconds; the least number while it is not known.
    behind: AtomicI64,
    heard: Mutex<Heard>,
}

#[derive(Debug)]
enum Source {
    System,
    Of(Clock, Duration),
}

/// What `Date` has said, in nanoseconds.
#[derive(Debug)]
struct Heard {
    /// The latest second.
    second: i64,
    /// How far it was ahead when it began, at most, of late and before.
    now: i64,
    before: i64,
    since: i64,
    /// How many seconds have begun.
    seconds: u32,
}

const UNKNOWN: i64 = i64::MIN;
const NANOS: i64 = 1_000_000_000;
/// After so long what was heard before is forgotten: clocks drift, and are set.
const FORGETS: i64 = 30 * NANOS;
/// With fewer the one that was heard first may have been heard late.
const ENOUGH: u32 = 4;

impl WallClock {
    /// That of the operating system.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Source::System)
    }

    /// One that goes with a [`Clock`], and was at `start`, since 1970, when that began: for tests.
    #[must_use]
    pub fn of(clock: Clock, start: Duration) -> Self {
        Self::new(Source::Of(clock, start))
    }

    fn new(source: Source) -> Self {
        let heard = Heard {
            second: UNKNOWN,
            now: UNKNOWN,
            before: UNKNOWN,
            since: 0,
            seconds: 0,
        };
        Self(Arc::new(Wall {
            source,
            behind: AtomicI64::new(UNKNOWN),
            heard: Mutex::new(heard),
        }))
    }

    /// Listens to the `Date` of an answer of the service that is shared, just when it is there. Of several machines behind one
    /// address it is the one whose clock is ahead of the others'. Answers out of caches do no harm among others; if there are no
    /// others, don't listen.
    pub fn hear(&self, head: ResponseHead<'_>) {
        let Some(second) = head
            .headers
            .get(DATE)
            .and_then(|date| seconds(date.as_bytes()))
        else {
            return;
        };
        // Whoever comes second brings the same.
        let mut heard = match self.0.heard.try_lock() {
            Ok(heard) => heard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if let Some(behind) = heard.hear(second * NANOS, self.own()) {
            self.0.behind.store(behind, Ordering::Relaxed);
        }
    }

    /// How far the clock of this machine is behind what it hears, in seconds; negative if it is ahead. None until that is known.
    #[must_use]
    pub fn behind(&self) -> Option<f64> {
        let behind = self.0.behind.load(Ordering::Relaxed);
        (behind != UNKNOWN).then(|| behind as f64 / NANOS as f64)
    }

    /// The same in nanoseconds, or 0.
    pub(crate) fn correction(&self) -> i64 {
        let behind = self.0.behind.load(Ordering::Relaxed);
        if behind == UNKNOWN { 0 } else { behind }
    }

    /// Since 1970.
    pub(crate) fn now(&self) -> Duration {
        let now = self.own().saturating_add(self.correction());
        Duration::from_nanos(now.max(0).unsigned_abs())
    }

    /// In nanoseconds: good until 2262.
    fn own(&self) -> i64 {
        let now = match &self.0.source {
            Source::System => SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(),
            Source::Of(clock, start) => start.saturating_add(clock.now()),
        };
        i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
    }
}

impl Heard {
    /// How far the clock that says `now` is behind, if that is known.
    fn hear(&mut self, second: i64, now: i64) -> Option<i64> {
        let age = now - self.since;
        if !(0..FORGETS).contains(&age) {
            let is_old = !(0..2 * FORGETS).contains(&age);
            self.before = if is_old { UNKNOWN } else { self.now };
            (self.now, self.since) = (UNKNOWN, now);
            // Whatever a clock that was wrong has said.
            (self.second, self.seconds) = (second, if is_old { 0 } else { self.seconds });
            return None;
        }
        if second <= self.second {
            return None;
        }
        // One that is skipped began unheard.
        let is_next = second == self.second + NANOS;
        self.second = second;
        if !is_next {
            return None;
        }
        self.seconds = self.seconds.saturating_add(1);
        // Whoever hears it late thinks that he is less behind than he is.
        self.now = self.now.max(second - now);
        (self.seconds > ENOUGH).then(|| self.now.max(self.before))
    }
}

/// Seconds since 1970 of an IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn seconds(date: &[u8]) -> Option<i64> {
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let number = |at: std::ops::Range<usize>| -> Option<i64> {
        date.get(at)?.iter().try_fold(0, |sum, digit| {
            let digit = digit.is_ascii_digit().then(|| i64::from(digit - b'0'))?;
            Some(10 * sum + digit)
        })
    };
    let name = date.get(8..11)?;
    let month = MONTHS.chunks(3).position(|month| month == name)?;
    let (month, day, year) = (month as i64, number(5..7)?, number(12..16)?);
    let (hour, minute, second) = (number(17..19)?, number(20..22)?, number(23..25)?);
    // Years that begin in March end with the day that not all of them have.
    let year = year - i64::from(month < 2);
    let days = 365 * year + year / 4 - year / 100 + year / 400;
    let days = days + (153 * ((month + 10) % 12) + 2) / 5 + day - 719_469;
    Some(((24 * days + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Response};

    use super::*;
    use crate::{ManualClock, clock::Rng};

    #[test]
    fn a_date_is_read() {
        for (date, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199)),
            ("Fri, 01 Mar 2024 00:00:00 GMT", Some(1_709_251_200)),
            ("Wed, 31 Dec 2025 12:00:00 GMT", Some(1_767_182_400)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("", None),
            ("Thu, 0x Jan 1970 00:00:00 GMT", None),
        ] {
            assert_eq!(seconds(date.as_bytes()), expected, "{date}");
        }
    }

    /// Of a service at 10:00:00 and so many milliseconds.
    fn answer(millis: u64) -> Response<()> {
        let seconds = millis / 1000;
        let date = format!(
            "Sat, 29 Nov 2025 10:{:02}:{:02} GMT",
            seconds / 60,
            seconds % 60
        );
        let mut answer = Response::new(());
        let date = HeaderValue::try_from(date).expect("text");
        answer.headers_mut().insert(DATE, date);
        answer
    }

    const TEN: u64 = 1_764_410_400;

    /// Hears a hundred answers per second, each after 5 to 20 ms, for so long; how far the clock is off then, in milliseconds.
    fn off_after(seconds: u64, ahead_millis: i64, also: impl Fn(&WallClock, u64)) -> i64 {
        let (time, mut rng) = (ManualClock::default(), Rng::new(1));
        let start = Duration::from_secs(TEN).as_millis() as i64 + ahead_millis;
        let start = Duration::from_millis(start.unsigned_abs());
        let wall = WallClock::of(time.clock(), start);
        let mut now = 0;
        while now < 1000 * seconds {
            now += 10;
            time.set(Duration::from_millis(now));
            let sent = now.saturating_sub(rng.between(5.0, 20.0) as u64);
            wall.hear(ResponseHead::from(&answer(sent)));
            also(&wall, now);
        }
        let truth = Duration::from_secs(TEN).as_millis() as i64 + now as i64;
        wall.now().as_millis() as i64 - truth
    }

    #[test]
    fn the_clocks_of_all_who_hear_the_same_service_agree() {
        for ahead in [0, 30_000, -30_000, 400, -1_700] {
            assert_eq!(off_after(4, ahead, |_, _| ()), ahead, "too soon");
            for seconds in [12, 70, 200] {
                let off = off_after(seconds, ahead, |_, _| ());
                assert!((-40..=0).contains(&off), "{ahead}: {off} after {seconds} s");
            }
        }
    }

    #[test]
    fn answers_out_of_a_cache_and_a_clock_that_was_wrong_once_change_nothing() {
        let cached = answer(0);
        let off = off_after(40, 700, |wall, _| wall.hear(ResponseHead::from(&cached)));
        assert!((-40..=0).contains(&off), "{off}");
        let wrong = answer(1_000_000);
        let off = off_after(90, 700, |wall, now| {
            if now == 2_000 {
                wall.hear(ResponseHead::from(&wrong));
            }
        });
        assert!((-40..=0).contains(&off), "{off}");
    }

    #[test]
    fn one_that_is_set_is_followed_within_a_minute() {
        let (time, wall_time) = (ManualClock::default(), ManualClock::default());
        let wall = WallClock::of(wall_time.clock(), Duration::from_secs(TEN));
        for now in (0..150_000).step_by(10) {
            time.set(Duration::from_millis(now));
            // 3 s back after a minute.
            let own = if now < 60_000 { now + 3_000 } else { now };
            wall_time.set(Duration::from_millis(own));
            wall.hear(ResponseHead::from(&answer(now)));
        }
        let behind = wall.behind().expect("known");
        assert!(behind.abs() < 0.04, "{behind}");
    }
}
