use std::fmt;

/// A class of requests of one limit, by which shares are guaranteed.
///
/// Made by [`AdaptiveLimit::class`](super::AdaptiveLimit::class); put into the extensions of a
/// request, or chosen by [`AdaptiveLimitLayer::classify_request`](super::AdaptiveLimitLayer::classify_request).
/// A class of another limit is treated as [`Class::DEFAULT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Class(pub(super) u16);

impl Class {
    /// Requests of no class: no guaranteed share.
    pub const DEFAULT: Self = Self(0);
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Shed {
    /// The limit is reached and nobody may wait.
    Limit = 0,
    /// The limit is reached and the queue is full.
    QueueFull = 1,
    /// No place became free in time, or it had [waited](super::Waited) for too long before it came.
    WaitTimeout = 2,
    /// The deadline of the request has passed, or will before it can be answered.
    Deadline = 3,
    /// The places of the request's class are taken.
    ClassFull = 4,
    /// The deadline passed while the request was being answered, or while it waited for that. Counted by
    /// [`OverloadStats`](crate::overload::OverloadStats) and not by a limit, which had let it in.
    TimedOut = 5,
}

impl Shed {
    pub(super) const COUNT: usize = 6;

    /// As a label: `limit`, `queue_full`, `wait_timeout`, `deadline`, `class_full`, `timed_out`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::QueueFull => "queue_full",
            Self::WaitTimeout => "wait_timeout",
            Self::Deadline => "deadline",
            Self::ClassFull => "class_full",
            Self::TimedOut => "timed_out",
        }
    }
}

impl fmt::Display for Shed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Shed {}

/// What an answer says about the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// A normal answer: its latency counts.
    Success,
    /// "Too much": the limit is cut at once.
    Overload,
    /// Says nothing: a client's mistake, a stream, a cancelled request.
    Ignore,
}
