//! What a parameter may hold: `{id:u64}`, `{u:uuid}`, `{x:one(a|b)}`.

use std::fmt;

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
            let mut options: Vec<Box<str>> = inner.split('|').map(Into::into).collect();
            let plain = |o: &str| !o.is_empty() && !o.contains(['/', '{', '}', '%', '?', '#']);
            if !options.iter().all(|o| plain(o) && o.is_ascii()) {
                return Err("every option of `one(…)` must be plain ASCII text".to_owned());
            }
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
            Self::Date => {
                text.len() == 10
                    && digits(&text[..4])
                    && text[4] == b'-'
                    && matches!(&text[5..7], [b'0', b'1'..=b'9'] | [b'1', b'0'..=b'2'])
                    && text[7] == b'-'
                    && matches!(
                        &text[8..],
                        [b'0', b'1'..=b'9'] | [b'1' | b'2', b'0'..=b'9'] | [b'3', b'0' | b'1']
                    )
            }
            Self::U32 => digits(text) && parses::<u32>(text),
            Self::U64 => digits(text) && parses::<u64>(text),
            Self::I64 => digits(text.strip_prefix(b"-").unwrap_or(text)) && parses::<i64>(text),
            Self::Hex => text.iter().all(u8::is_ascii_hexdigit),
            Self::Alpha => text.iter().all(u8::is_ascii_alphabetic),
            Self::Alnum => text.iter().all(u8::is_ascii_alphanumeric),
            Self::Len(lo, hi) => (usize::from(*lo)..=usize::from(*hi)).contains(&text.len()),
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

    /// Some texts it accepts; for `one(…)` all of them.
    pub(crate) fn samples(&self) -> Vec<String> {
        let texts: &[&str] = match self {
            Self::One(options) => return options.iter().map(|o| o.to_string()).collect(),
            Self::Len(lo, hi) => {
                let text = |n: u16| "w".repeat(usize::from(n));
                return vec![text(*lo), text(*hi)];
            }
            Self::Uuid => &["67e55044-10b1-426f-9247-bb680e5fe0c8"],
            Self::Date => &["2026-08-21", "1970-01-01"],
            Self::U32 => &["42", "40961"],
            Self::U64 => &["42", "40961", "18446744073709551615"],
            Self::I64 => &["42", "-40961"],
            Self::Hex => &["c0ffee", "7f"],
            Self::Alpha => &["witness", "wq"],
            Self::Alnum => &["witness1", "wq2"],
            Self::Any => &["witness", "w~1", "42"],
        };
        texts.iter().map(|&t| t.to_owned()).collect()
    }
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
