//! W3C Trace Context: the `traceparent` header.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    ops::Range,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

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
        Self::of_bytes(header.as_bytes())
    }

    fn of_bytes(header: &[u8]) -> Option<Self> {
        // Later versions may append fields, behind one more dash.
        let (version, rest) = header.split_at_checked(2)?;
        let (known, more) = rest.split_at_checked(53)?;
        let is_known = more.is_empty() || (version != b"00" && more[0] == b'-');
        let dashes = [known[0], known[33], known[50]];
        if !is_known || dashes != *b"---" || version == b"ff" {
            return None;
        }
        hexadecimal(version)?;
        let [high, low] = [&known[1..17], &known[17..33]].map(hexadecimal);
        let flags = hexadecimal(&known[51..53])?;
        let trace_id = u128::from(high?) << 64 | u128::from(low?);
        Self::new(trace_id, hexadecimal(&known[34..50])?, flags & 1 == 1)
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

    /// Whether a request says something of itself. Every one is asked, so by a walk: there are few fields, and the name would
    /// have to be hashed.
    #[inline]
    pub(super) fn is_in(headers: &HeaderMap) -> bool {
        headers.keys().any(|name| *name == TRACEPARENT)
    }

    /// What a request says of itself.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::of_bytes(headers.get(&TRACEPARENT)?.as_bytes())
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

    pub(super) fn text(self) -> Text {
        let mut text = *b"00-................................-................-0.";
        digits((self.trace_id >> 64) as u64, &mut text[3..19]);
        digits(self.trace_id as u64, &mut text[19..35]);
        digits(self.span_id, &mut text[36..52]);
        text[54] = b'0' + u8::from(self.sampled);
        Text(text)
    }
}

/// A context as its header has it, and the ids in it.
pub(super) struct Text([u8; 55]);

impl Text {
    pub(super) fn header(&self) -> HeaderValue {
        // Hexadecimal digits and dashes are always a header value.
        HeaderValue::from_bytes(&self.0).unwrap_or(HeaderValue::from_static(""))
    }

    pub(super) fn trace_id(&self) -> &str {
        self.part(3..35)
    }

    pub(super) fn span_id(&self) -> &str {
        self.part(36..52)
    }

    fn part(&self, range: Range<usize>) -> &str {
        // All of it is ASCII.
        str::from_utf8(&self.0[range]).unwrap_or_default()
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().part(0..55))
    }
}

/// Of lower case alone, as the specification wants it.
fn hexadecimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(digit))
    })
}

fn digits(mut number: u64, to: &mut [u8]) {
    for digit in to.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// A number that is unlikely to repeat and never zero: a keyed hash, with the key from the operating system, of a counter.
pub(super) fn random() -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    KEY.hash_one(NEXT.fetch_add(1, Relaxed)).max(1)
}
