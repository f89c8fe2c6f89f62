use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::Clock;

pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Until when somebody waits for the answer. In the extensions of a request; queues and clients
/// further in should look at [`Deadline::remaining`] before they begin.
#[derive(Debug, Clone)]
pub struct Deadline {
    clock: Clock,
    at: Duration,
}

impl Deadline {
    pub(super) fn new(clock: &Clock, timeout: Duration) -> Self {
        Self {
            at: clock.now().saturating_add(timeout),
            clock: clock.clone(),
        }
    }

    /// The time left; zero when it has passed.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.at.saturating_sub(self.clock.now())
    }

    /// Whether nobody waits any more.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Sets `grpc-timeout` to the time left: how a deadline is passed on to the next service.
    pub fn set_grpc_timeout(&self, headers: &mut HeaderMap) {
        let millis = self.remaining().as_millis().min(99_999_999);
        // Digits and a letter are always a header value.
        if let Ok(value) = HeaderValue::try_from(format!("{millis}m")) {
            headers.insert(&GRPC_TIMEOUT, value);
        }
    }
}

/// Up to so many headers, comparing each with two names costs less than looking these up: a browser sends some 17.
const FEW: usize = 32;

/// Whether one of both headers is there. Almost every request has neither, and need not be [`asked`].
#[inline]
pub(super) fn may_ask(
    headers: &HeaderMap,
    grpc: Option<&HeaderName>,
    other: Option<&HeaderName>,
) -> bool {
    if headers.len() > FEW {
        let mut names = [grpc, other].into_iter().flatten();
        return names.any(|name| headers.contains_key(name));
    }
    headers
        .keys()
        .any(|name| grpc == Some(name) || other == Some(name))
}

/// The timeout that a client asks for, in gRPC's header before the other one.
pub(super) fn asked(
    headers: &HeaderMap,
    grpc: Option<&HeaderName>,
    other: Option<&HeaderName>,
) -> Option<Duration> {
    look_up(headers, grpc, grpc_timeout).or_else(|| look_up(headers, other, header_timeout))
}

fn look_up(
    headers: &HeaderMap,
    name: Option<&HeaderName>,
    read: impl Fn(&HeaderValue) -> Option<Duration>,
) -> Option<Duration> {
    headers.get_all(name?).iter().find_map(read)
}

fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.len() > 8 {
        return None;
    }
    let value = number(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

fn header_timeout(value: &HeaderValue) -> Option<Duration> {
    let digits = value.as_bytes().trim_ascii();
    if digits.len() > 12 {
        return None;
    }
    number(digits).map(Duration::from_millis)
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        digits
            .iter()
            .fold(0, |value, digit| value * 10 + u64::from(digit - b'0')),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(&GRPC_TIMEOUT, HeaderValue::try_from(value).unwrap());
        asked(&headers, Some(&GRPC_TIMEOUT), None)
    }

    #[test]
    fn grpc_timeouts_are_read_in_every_unit() {
        let (s, ms) = (Duration::from_secs, Duration::from_millis);
        let good = [
            ("2H", s(7200)),
            ("3M", s(180)),
            ("5S", s(5)),
            ("250m", ms(250)),
        ];
        for (text, timeout) in good {
            assert_eq!(of(text), Some(timeout), "{text}");
        }
        assert_eq!(of("7u"), Some(Duration::from_micros(7)));
        assert_eq!(of("99999999n"), Some(Duration::from_nanos(99_999_999)));
    }

    #[test]
    fn few_and_many_headers_ask_for_the_same() {
        let (grpc, other) = (GRPC_TIMEOUT, HeaderName::from_static("x-timeout"));
        let ask = |lines: &[(&HeaderName, &'static str)], more: usize| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            for i in 0..more {
                let name = HeaderName::try_from(format!("x-{i}")).unwrap();
                headers.insert(name, HeaderValue::from_static("5S"));
            }
            let (grpc, other) = (Some(&grpc), Some(&other));
            assert_eq!(may_ask(&headers, grpc, other), !lines.is_empty());
            asked(&headers, grpc, other)
        };
        for lines in [
            &[][..],
            &[(&other, "7")],
            &[(&other, "none"), (&other, "7")],
            &[(&other, "7"), (&grpc, "5S")],
            &[(&grpc, "none"), (&grpc, "5S")],
            &[(&grpc, "none"), (&other, "7")],
        ] {
            assert_eq!(ask(lines, 0), ask(lines, 2 * FEW), "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_grpc_timeout_is_ignored() {
        for text in [
            "",
            "S",
            "5",
            "-5S",
            "1.5S",
            "123456789S",
            "5s",
            " 5S",
            "+5S",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
