//! The field `date`, rendered once in a second.

use std::{
    cell::RefCell,
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue, header};
use httpdate::HttpDate;

/// The date of a second as the last field of a head, with the ends of the lines around it; and that second.
struct Date {
    last: Vec<u8>,
    from: SystemTime,
    until: SystemTime,
}

thread_local! {
    static DATE: RefCell<Date> = const { RefCell::new(Date::new()) };
}

/// Looks at the clock: for what this thread writes next.
pub(crate) fn look() {
    DATE.with_borrow_mut(|date| date.look(SystemTime::now()));
}

/// Writes the field `date`, as of the latest [`look`], and the end of the head, where a line has no end yet.
pub(crate) fn write_last(out: &mut Vec<u8>) {
    DATE.with_borrow(|date| out.extend_from_slice(&date.last));
}

/// Adds the field to those that say no date themselves.
#[cold]
pub(crate) fn tell(headers: &mut HeaderMap) {
    if let Ok(now) = HeaderValue::try_from(HttpDate::from(SystemTime::now()).to_string()) {
        headers.entry(header::DATE).or_insert(now);
    }
}

impl Date {
    const fn new() -> Self {
        Self {
            last: Vec::new(),
            from: UNIX_EPOCH,
            until: UNIX_EPOCH,
        }
    }

    fn look(&mut self, now: SystemTime) {
        // Clocks are set back, too.
        if now >= self.until || now < self.from {
            self.render(now);
        }
    }

    #[cold]
    fn render(&mut self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.from = UNIX_EPOCH + Duration::from_secs(since.as_secs());
        self.until = self.from + Duration::from_secs(1);
        self.last.clear();
        // Writing to memory does not fail.
        let _ = write!(self.last, "\r\ndate: {}\r\n\r\n", HttpDate::from(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_follows_the_clock_forward_and_back() {
        let mut date = Date::new();
        for (millis, expected) in [
            (0, "00:00:00"),
            (999, "00:00:00"),
            (1000, "00:00:01"),
            (61_500, "00:01:01"),
            (61_000, "00:01:01"),
            (60_999, "00:01:00"),
            (5000, "00:00:05"),
        ] {
            let now = UNIX_EPOCH + Duration::from_millis(millis);
            date.look(now);
            let shown = String::from_utf8_lossy(&date.last);
            assert!(shown.contains(expected), "{shown} at {millis}");
        }
    }
}
