//! What a parameter may hold: `{id:u64}`, `{u:uuid}`, `{x:one(a|b)}`.

use std::fmt;

use crate::escape;

/// A constraint, checked on the bytes as they stand in the path.
///
/// The order of the variants is the order of preference: of two parameters at the same place the
/// narrower kind is tried first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Constraint {
    One(Box<[Box<str>]>),
    Uuid,
    Date,
    U32,
    U64,
    I64,
    Hex,
    Alpha,
    Alnum,
    Len(u16, u16),
    Any,
}

impl Constraint {
    /// Reads what stands between `:` and `}`; the error says what would have been right.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(inner) = text.strip_prefix("one(").and_then(|t| t.strip_suffix(')')) {
            let plain = |o: &str| !o.is_empty() && !o.contains(['/', '{', '}', '?', '#']);
            if !inner.split('|').all(plain) {
                return Err(
                    "an option of `one(…)` is text without `/`, `?`, `#` and braces; \
                            `|` separates, write `%7C`"
                        .to_owned(),
                );
            }
            let option = |o: &str| escape::literal(o.as_bytes()).into_boxed_str();
            let mut options: Vec<Box<str>> = inner.split('|').map(option).collect();
            options.sort_unstable();
            options.dedup();
            return Ok(Self::One(options.into()));
        }
        if let Some(inner) = text.strip_prefix("len(").and_then(|t| t.strip_suffix(')')) {
            let bounds = inner
                .split_once("..")
                .and_then(|(lo, hi)| Some((lo.parse::<u16>().ok()?, hi.parse::<u16>().ok()?)));
            return match bounds {
                Some((lo, hi)) if 0 < lo && lo <= hi => Ok(Self::Len(lo, hi)),
                _ => Err("`len(a..b)` wants 0 < a <= b <= 65535, both included".to_owned()),
            };
        }
        Ok(match text {
            "uuid" => Self::Uuid,
            "date" => Self::Date,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "i64" => Self::I64,
            "hex" => Self::Hex,
            "alpha" => Self::Alpha,
            "alnum" => Self::Alnum,
            _ => {
                return Err(format!(
                    "unknown constraint `{text}`; known are u32, u64, i64, uuid, date, hex, alpha, \
                     alnum, len(a..b), one(a|b) and atom"
                ));
            }
        })
    }

    #[inline]
    pub(crate) fn accepts(&self, text: &[u8]) -> bool {
        match self {
            Self::Any => true,
            _ => self.accepts_constrained(text),
        }
    }

    fn accepts_constrained(&self, text: &[u8]) -> bool {
        let digits = |t: &[u8]| !t.is_empty() && t.iter().all(u8::is_ascii_digit);
        match self {
            Self::Any => true,
            Self::One(options) => options.iter().any(|o| o.as_bytes() == text),
            Self::Uuid => {
                text.len() == 36
                    && text.iter().enumerate().all(|(i, b)| match i {
                        8 | 13 | 18 | 23 => *b == b'-',
                        _ => b.is_ascii_hexdigit(),
                    })
            }
            Self::Date => is_date(text),
            Self::U32 => digits(text) && parses::<u32>(text),
            Self::U64 => digits(text) && parses::<u64>(text),
            Self::I64 => digits(text.strip_prefix(b"-").unwrap_or(text)) && parses::<i64>(text),
            Self::Hex => text.iter().all(u8::is_ascii_hexdigit),
            Self::Alpha => text.iter().all(u8::is_ascii_alphabetic),
            Self::Alnum => text.iter().all(u8::is_ascii_alphanumeric),
            Self::Len(lo, hi) => {
                (usize::from(*lo)..=usize::from(*hi)).contains(&escape::chars(text))
            }
        }
    }

    /// The place in the order of preference: equal for two constraints of one kind.
    pub(crate) const fn rank(&self) -> u8 {
        match self {
            Self::One(_) => 0,
            Self::Uuid => 1,
            Self::Date => 2,
            Self::U32 => 3,
            Self::U64 => 4,
            Self::I64 => 5,
            Self::Hex => 6,
            Self::Alpha => 7,
            Self::Alnum => 8,
            Self::Len(..) => 9,
            Self::Any => 10,
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::One(options) => options.iter().map(|o| size_of_val(o) + o.len()).sum(),
            _ => 0,
        }
    }

    /// Whether every text that the other accepts is accepted here: `false` if that is not certain.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::One(options)) => options.iter().all(|o| self.accepts(o.as_bytes())),
            (Self::U64 | Self::I64, Self::U32) => true,
            (Self::Hex | Self::Alnum, Self::U32 | Self::U64) => true,
            (Self::Alnum, Self::Hex | Self::Alpha) => true,
            (Self::Len(lo, hi), Self::Len(low, high)) => lo <= low && high <= hi,
            // A path cannot be longer.
            (Self::Len(lo, u16::MAX), _) => *lo <= 1,
            (Self::Len(lo, hi), Self::Uuid) => *lo <= 36 && 36 <= *hi,
            (Self::Len(lo, hi), Self::Date) => *lo <= 10 && 10 <= *hi,
            _ => self == other,
        }
    }
}

/// `2026-02-28`, in the Gregorian calendar.
fn is_date(text: &[u8]) -> bool {
    let number = |part: &[u8]| part.iter().fold(0, |n, b| n * 10 + u32::from(b - b'0'));
    let shape = |(i, b): (usize, &u8)| {
        matches!(i, 4 | 7) == (*b == b'-') && (matches!(i, 4 | 7) || b.is_ascii_digit())
    };
    if text.len() != 10 || !text.iter().enumerate().all(shape) {
        return false;
    }
    let (year, month, day) = (number(&text[..4]), number(&text[5..7]), number(&text[8..]));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    (1..=days).contains(&day)
}

fn parses<T: std::str::FromStr>(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|t| t.parse::<T>().is_ok())
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(options) => write!(f, "one({})", options.join("|")),
            Self::Len(lo, hi) => write!(f, "len({lo}..{hi})"),
            Self::Uuid => f.write_str("uuid"),
            Self::Date => f.write_str("date"),
            Self::U32 => f.write_str("u32"),
            Self::U64 => f.write_str("u64"),
            Self::I64 => f.write_str("i64"),
            Self::Hex => f.write_str("hex"),
            Self::Alpha => f.write_str("alpha"),
            Self::Alnum => f.write_str("alnum"),
            Self::Any => f.write_str("any"),
        }
    }
}
