//! W3C Trace Context: the `traceparent` header.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const TRACEPARENT: &str = "traceparent";

/// Which trace a request belongs to, and who its parent is.
///
/// ```
/// use stellane_metrics::TraceContext;
///
/// let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let context = TraceContext::parse(header).unwrap();
/// assert!(context.sampled);
/// assert_eq!(context.to_string(), header);
/// assert!(TraceContext::parse("00-00000000000000000000000000000000-b7ad6b7169203331-01").is_none());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceContext {
    /// The trace; never zero.
    pub trace_id: u128,
    /// The span that is the parent of what follows; never zero.
    pub span_id: u64,
    /// Whether somebody records the trace.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent` header; `None` if it is not one, in which case a new trace begins.
    pub fn parse(header: &str) -> Option<Self> {
        let bytes = header.as_bytes();
        let dashes = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        // Later versions may append fields, behind one more dash.
        let known =
            bytes.len() == 55 || (!header.starts_with("00") && bytes.get(55) == Some(&b'-'));
        let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let part = |range| header.get(range).filter(|text| hex(text));
        let version = part(0..2)?;
        if !dashes || !known || version == "ff" {
            return None;
        }
        let trace_id = u128::from_str_radix(part(3..35)?, 16)
            .ok()
            .filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(part(36..52)?, 16)
            .ok()
            .filter(|id| *id != 0)?;
        let flags = u8::from_str_radix(part(53..55)?, 16).ok()?;
        Some(Self {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
        })
    }

    /// The caller's trace with a new span, or a new trace that is sampled in `share` of 2^64 cases.
    pub(super) fn enter(headers: &HeaderMap, share: u64) -> (Self, Option<Self>) {
        let parent = Self::of(headers);
        let mut context = Self::below(parent);
        if parent.is_none() {
            context.sampled = share == u64::MAX || (context.trace_id as u64) < share;
        }
        (context, parent)
    }

    /// A new span of the parent's trace, or of a new trace that is sampled.
    pub(super) fn below(parent: Option<Self>) -> Self {
        let new = || u128::from(random()) << 64 | u128::from(random());
        Self {
            trace_id: parent.map_or_else(new, |parent| parent.trace_id),
            span_id: random(),
            sampled: parent.is_none_or(|parent| parent.sampled),
        }
    }

    /// What a request says of itself. Every one is asked, so by a walk: there are few fields, and the name would have to be
    /// checked and hashed.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        static NAME: HeaderName = HeaderName::from_static(TRACEPARENT);
        let (_, header) = headers.iter().find(|(name, _)| **name == NAME)?;
        Self::parse(header.to_str().ok()?)
    }

    /// A context of whoever makes ids of its own; `None` if one of them is zero.
    #[must_use]
    pub fn new(trace_id: u128, span_id: u64, sampled: bool) -> Option<Self> {
        let context = Self {
            trace_id,
            span_id,
            sampled,
        };
        (trace_id != 0 && span_id != 0).then_some(context)
    }

    pub(super) fn header(self) -> HeaderValue {
        // Hexadecimal digits and dashes are always a header value.
        HeaderValue::from_str(&self.to_string()).unwrap_or(HeaderValue::from_static(""))
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            sampled,
        } = self;
        write!(
            f,
            "00-{trace_id:032x}-{span_id:016x}-{:02x}",
            u8::from(*sampled)
        )
    }
}

/// A number that is unlikely to repeat and never zero: a keyed hash, with the key from the operating system, of a counter.
pub(super) fn random() -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    KEY.hash_one(NEXT.fetch_add(1, Relaxed)).max(1)
}
