use std::{fmt, str::FromStr, time::Duration};

/// How often: so many requests in a time, and how many of them at once.
///
/// Written as `10/s`, `1000/h`, `100/15m`, with `s`, `m`, `h`, `d`. Who has not asked for a while may ask for `burst` at once, by default
/// for all that the time allows; from then on one more becomes free each `window / limit`. `10/s burst 1` is one every tenth of
/// a second.
///
/// ```
/// use std::time::Duration;
/// use stellane_autotune::RateRule;
///
/// let rule: RateRule = "1000/h burst 50".parse()?;
/// assert_eq!(rule, RateRule::new(1000, Duration::from_secs(3600)).burst(50));
/// assert_eq!(rule.to_string(), "1000/h burst 50");
/// assert_eq!(RateRule::new(100, Duration::from_secs(900)).to_string(), "100/15m");
/// # Ok::<_, stellane_autotune::RateRuleError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", try_from = "String"))]
pub struct RateRule {
    limit: u32,
    window: Duration,
    burst: u32,
}

/// Seconds of each unit, the largest first.
const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

impl RateRule {
    /// So many requests in a time, at least one in at least a millisecond, and all of them at once if a client likes.
    #[must_use]
    pub fn new(limit: u32, window: Duration) -> Self {
        let limit = limit.max(1);
        Self {
            limit,
            window: window.clamp(Duration::from_millis(1), Duration::from_secs(366 * 86_400)),
            burst: limit,
        }
    }

    /// So many at once, at least one. Too few and a page that asks for its ten pictures at once loses some; too many and what the
    /// rule protects sees them all in one moment.
    #[must_use]
    pub fn burst(mut self, burst: u32) -> Self {
        self.burst = burst.max(1);
        self
    }

    /// The requests of a window.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The window.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.window
    }

    /// How long one request takes to be free again, in nanoseconds, at least one.
    pub(super) fn interval(&self) -> u64 {
        (crate::clock::saturating_nanos(self.window) / u64::from(self.limit)).max(1)
    }

    /// How far ahead of its rate a key may be, in nanoseconds.
    pub(super) fn tolerance(&self) -> u64 {
        self.interval().saturating_mul(u64::from(self.burst))
    }
}

impl fmt::Display for RateRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.limit)?;
        let seconds = self.window.as_secs();
        let whole = |(_, unit): &&(&str, u64)| seconds > 0 && seconds.is_multiple_of(*unit);
        match UNITS
            .iter()
            .find(whole)
            .filter(|_| self.window.subsec_nanos() == 0)
        {
            Some((name, unit)) if seconds == *unit => f.write_str(name)?,
            Some((name, unit)) => write!(f, "{}{name}", seconds / unit)?,
            None => write!(f, "{}ms", self.window.as_millis())?,
        }
        match self.burst == self.limit {
            true => Ok(()),
            false => write!(f, " burst {}", self.burst),
        }
    }
}

impl FromStr for RateRule {
    type Err = RateRuleError;

    fn from_str(text: &str) -> Result<Self, RateRuleError> {
        let parse = || {
            let (rate, burst) = match text.split_once("burst") {
                Some((rate, burst)) => (rate, Some(burst.trim().parse().ok()?)),
                None => (text, None),
            };
            let (limit, window) = rate.split_once('/')?;
            let window = window.trim();
            let digits = window.find(|c: char| !c.is_ascii_digit())?;
            let (number, unit) = window.split_at(digits);
            let number = match number {
                "" => 1,
                number => number.parse::<u64>().ok()?,
            };
            let window = match UNITS.iter().find(|(name, _)| *name == unit) {
                Some((_, seconds)) => Duration::from_secs(number.checked_mul(*seconds)?),
                None if unit == "ms" => Duration::from_millis(number),
                None => return None,
            };
            let limit: u32 = limit.trim().parse().ok()?;
            let rule = Self::new(limit, window);
            let is_as_written = limit == rule.limit && window == rule.window && burst != Some(0);
            is_as_written.then(|| rule.burst(burst.unwrap_or(limit)))
        };
        parse().ok_or_else(|| RateRuleError(text.to_owned()))
    }
}

/// What is no [`RateRule`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateRuleError(String);

impl fmt::Display for RateRuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        write!(
            f,
            "`{text}` is no rate: expected a number of requests in a time from 1ms to 366d, such as `10/s`, `1000/h` or \
             `100/15m burst 20`"
        )
    }
}

impl std::error::Error for RateRuleError {}

impl TryFrom<String> for RateRule {
    type Error = RateRuleError;

    fn try_from(text: String) -> Result<Self, RateRuleError> {
        text.parse()
    }
}

impl From<RateRule> for String {
    fn from(rule: RateRule) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_it_is_written() {
        for text in [
            "10/s",
            "1/d",
            "1000/h burst 50",
            "100/15m",
            "5/250ms",
            "7/90s",
            "10/s burst 1",
        ] {
            let rule: RateRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
        }
        assert_eq!(
            " 10 / 60s ".parse::<RateRule>().unwrap().to_string(),
            "10/m"
        );
    }

    #[test]
    fn what_is_no_rule_is_told_so() {
        for text in [
            "",
            "10",
            "/s",
            "0/s",
            "10/",
            "10/w",
            "-1/s",
            "10/0s",
            "10/s burst",
            "10/s burst 0",
            "10/s bursts 3",
            "10/s 3",
            "10/400d",
            "99999999999/s",
            "1/99999999999999999999s",
            "1/18446744073709551615d",
            "1.5/s",
        ] {
            let error = text.parse::<RateRule>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }
}
