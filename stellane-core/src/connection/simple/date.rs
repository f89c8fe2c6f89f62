use std::{
    cell::RefCell,
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use httpdate::HttpDate;

/// The date of a second as a header field, and when that second is over.
struct Date {
    field: Vec<u8>,
    until: SystemTime,
}

thread_local! {
    static DATE: RefCell<Date> = const { RefCell::new(Date { field: Vec::new(), until: UNIX_EPOCH }) };
}

/// Writes the field `date`.
pub(super) fn write(out: &mut Vec<u8>) {
    DATE.with_borrow_mut(|date| {
        let now = SystemTime::now();
        if now >= date.until || date.field.is_empty() {
            date.render(now);
        }
        out.extend_from_slice(&date.field);
    });
}

impl Date {
    #[cold]
    fn render(&mut self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.until = UNIX_EPOCH + Duration::from_secs(since.as_secs() + 1);
        self.field.clear();
        // Writing to memory does not fail.
        let _ = write!(self.field, "date: {}\r\n", HttpDate::from(now));
    }
}
