//! Requests of parked connections, which are refused where they are read.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use http::{HeaderMap, Request};

use crate::connection::{
    incoming::Incoming,
    protocol::{
        http1::fast_path::{
            self, date,
            header_cache::HeaderCache,
            refusal::{Pressed, may_be_passed_by, pass_by},
            request,
        },
        lots::LATE,
        task::connection::Served,
    },
    reason::CloseReason,
    state::ConnectionState,
    table::record::Record,
};

/// What is used again from one request to the next.
#[derive(Default)]
pub(crate) struct Refuser {
    headers: HeaderMap,
    header_cache: HeaderCache,
    out: Vec<u8>,
    /// When the latest [lot](crate::connection::protocol::lots) was read, if that was the latest that was.
    latest_lot: Option<Duration>,
    /// Whether what is read now came not long ago.
    in_time: bool,
}

/// What is to become of what was read.
pub(crate) enum Judgement<'a> {
    /// It is a request that is refused by this answer.
    Refused(&'a [u8]),
    /// It is a request that is not refused here.
    Passed,
    /// It is for a task to say.
    Unknown,
}

impl Refuser {
    /// Something is read now, in a lot or as it came.
    pub(crate) fn begin_lot(&mut self, now: Duration, in_lots: bool) {
        self.in_time = self
            .since_lot(now, in_lots)
            .is_some_and(|since| since <= LATE);
    }

    /// Whether what is read now came not long ago, so that nobody has to ask the system for that.
    pub(crate) fn reads_in_time(&self) -> bool {
        self.in_time
    }

    /// It was read; how long ago the lot before was.
    pub(crate) fn end_lot(&mut self, now: Duration, in_lots: bool) -> Option<Duration> {
        let since = self.since_lot(now, in_lots);
        self.latest_lot = in_lots.then_some(now);
        since
    }

    fn since_lot(&self, now: Duration, in_lots: bool) -> Option<Duration> {
        let latest = self.latest_lot.filter(|_| in_lots);
        latest.map(|latest| now.saturating_sub(latest))
    }

    /// Judges what was read from a parked connection, and counts it if it is refused.
    ///
    /// # Errors
    /// Who judges has panicked.
    pub(crate) fn judge<S>(
        &mut self,
        served: &Served<S>,
        record: &Record,
        read: &[u8],
        (pressed, age): (&Pressed, &dyn Fn() -> Option<Duration>),
    ) -> Result<Judgement<'_>, CloseReason> {
        let shared = &served.shared;
        let Some(early) = served.early.who_may() else {
            return Ok(Judgement::Unknown);
        };
        if !may_be_passed_by(record, shared) || served.lots.rest(shared.clock.elapsed()) {
            return Ok(Judgement::Unknown);
        }
        let bytes = fast_path::share(read);
        let mut request = Request::new(Incoming::default());
        mem::swap(request.headers_mut(), &mut self.headers);
        let most = shared.config.max_head_bytes;
        let head = request::parse(&bytes, most, &mut self.header_cache, &mut request);
        let mut judged = Ok(Judgement::Unknown);
        if head == Some(bytes.len()) {
            date::look();
            self.out.clear();
            // The system takes as long to tell as to read.
            let again = || pressed.again(|| if self.in_time { None } else { age() });
            // Not the end of all connections, as it is not where each has a task.
            let refuse = AssertUnwindSafe(|| early.refuse(&mut request, &again, &mut self.out));
            judged = match catch_unwind(refuse) {
                Ok(true) => Ok(Judgement::Refused(&self.out)),
                Ok(false) => Ok(Judgement::Passed),
                Err(_) => Err(CloseReason::ServiceError),
            };
        }
        request.headers_mut().clear();
        mem::swap(request.headers_mut(), &mut self.headers);
        if let Ok(Judgement::Refused(_)) = judged {
            served.lots.note_refused(shared.clock.elapsed());
            pass_by(record, shared);
            let now = shared.clock.now();
            record.enter(ConnectionState::Idle, now);
            record.enter(ConnectionState::Parked, now);
        }
        judged
    }
}
