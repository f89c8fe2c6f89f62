//! The field `date`, rendered once in a second.

use std::{
    cell::RefCell,
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use httpdate::HttpDate;

/// The date of a second as the last field of a head, with the ends of the lines around it; and when that second is over.
struct Date {
    last: Vec<u8>,
    until: SystemTime,
}

thread_local! {
    static DATE: RefCell<Date> = const { RefCell::new(Date { last: Vec::new(), until: UNIX_EPOCH }) };
}

/// Writes the field `date` and the end of the head, where a line has no end yet.
pub(crate) fn write_last(out: &mut Vec<u8>) {
    DATE.with_borrow_mut(|date| {
        let now = SystemTime::now();
        if now >= date.until || date.last.is_empty() {
            date.render(now);
        }
        out.extend_from_slice(&date.last);
    });
}

impl Date {
    #[cold]
    fn render(&mut self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.until = UNIX_EPOCH + Duration::from_secs(since.as_secs() + 1);
        self.last.clear();
        // Writing to memory does not fail.
        let _ = write!(self.last, "\r\ndate: {}\r\n\r\n", HttpDate::from(now));
    }
}
