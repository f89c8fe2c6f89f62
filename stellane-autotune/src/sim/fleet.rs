//! Several limits before one service.

use std::time::Duration;

use http::{Extensions, HeaderMap, HeaderValue, StatusCode, header::DATE};

use super::Contender;
use crate::{LimitConfig, ManualClock, ResponseHead, WallClock, clock::Rng};

/// One of several clients that share a service, behind a limit of its own.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its limit.
    pub contender: Contender,
    /// The lowest that this may become. Default: that of [`LimitConfig`].
    pub min: u32,
    /// How far its wall clock is off, in seconds, if it is [aligned](crate::AdaptiveLimitBuilder::shared_bottleneck).
    pub aligned: Option<f64>,
    /// Whether it [hears](WallClock::hear) the `Date` of the service.
    pub hears: bool,
    /// Its part of the load, in terms of the parts of the others. Default: 1.
    pub part: f64,
    /// When it comes, and when it goes, in seconds. What the load is does not change: the others have it.
    pub stays: std::ops::Range<f64>,
}

impl Member {
    /// One that is there all the time.
    #[must_use]
    pub fn new(contender: Contender) -> Self {
        Self {
            contender,
            min: LimitConfig::default().min,
            aligned: None,
            hears: false,
            part: 1.0,
            stays: 0.0..f64::INFINITY,
        }
    }

    /// One with the default limit that is in step with the others, by a clock that is so many seconds ahead. Its limit
    /// may be a single place.
    #[must_use]
    pub fn aligned(ahead: f64) -> Self {
        Self {
            min: 1,
            aligned: Some(ahead),
            ..Self::new(Contender::Default)
        }
    }

    pub(super) fn wall(&self, clock: &ManualClock) -> Option<WallClock> {
        let ahead = self.aligned?;
        let start = Duration::from_secs_f64(BEGAN as f64 + ahead);
        Some(WallClock::of(clock.clock(), start))
    }
}

/// When the time of the simulator was 0, in seconds since 1970: a full hour.
const BEGAN: u64 = 1_764_410_400;

/// The `Date` of the service, for those who hear it.
pub(super) struct Dates {
    hearers: Vec<Option<WallClock>>,
    headers: HeaderMap,
    extensions: Extensions,
    second: u64,
}

impl Dates {
    pub(super) fn of(members: &[Member], walls: &[Option<WallClock>]) -> Self {
        let hearers = members.iter().zip(walls);
        Self {
            hearers: hearers
                .map(|(member, wall)| wall.clone().filter(|_| member.hears))
                .collect(),
            headers: HeaderMap::new(),
            extensions: Extensions::new(),
            second: u64::MAX,
        }
    }

    /// One of them has an answer.
    pub(super) fn tell(&mut self, client: usize, now: f64) {
        let Some(wall) = self.hearers.get(client).and_then(Option::as_ref) else {
            return;
        };
        let second = now as u64;
        if second != self.second {
            self.second = second;
            let (minute, second) = (second / 60, second % 60);
            let date = format!("Sat, 29 Nov 2025 10:{minute:02}:{second:02} GMT");
            if let Ok(date) = HeaderValue::try_from(date) {
                self.headers.insert(DATE, date);
            }
        }
        wall.hear(ResponseHead {
            status: StatusCode::OK,
            headers: &self.headers,
            extensions: &self.extensions,
        });
    }
}

/// Who has which part of the load.
pub(super) struct Parts {
    /// Up to where on a line each has its own, while nobody comes or goes; empty if all are alike.
    ends: Vec<f64>,
    members: Vec<(f64, std::ops::Range<f64>)>,
    /// Until when that is so.
    until: f64,
}

impl Parts {
    pub(super) fn of(members: &[Member]) -> Self {
        let parts = members.iter().map(|m| (m.part, m.stays.clone()));
        Self {
            ends: Vec::new(),
            members: parts.collect(),
            until: 0.0,
        }
    }

    /// Whose the next request is.
    pub(super) fn draw(&mut self, now: f64, rng: &mut Rng) -> usize {
        if now >= self.until {
            self.look(now);
        }
        if self.ends.is_empty() {
            return rng.next() as usize % self.members.len();
        }
        let at = rng.between(0.0, self.ends.last().copied().unwrap_or(0.0));
        let client = self.ends.partition_point(|end| *end <= at);
        client.min(self.members.len() - 1)
    }

    fn look(&mut self, now: f64) {
        let times = self
            .members
            .iter()
            .flat_map(|(_, stays)| [stays.start, stays.end]);
        self.until = times.filter(|at| *at > now).fold(f64::INFINITY, f64::min);
        self.ends.clear();
        if self
            .members
            .iter()
            .all(|(part, stays)| *part == 1.0 && stays.contains(&now))
        {
            return;
        }
        let mut end = 0.0;
        for (part, stays) in &self.members {
            end += if stays.contains(&now) { *part } else { 0.0 };
            self.ends.push(end);
        }
    }
}
