use std::{cell::Cell, time::Duration};

#[cfg(feature = "preset")]
use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

#[cfg(feature = "preset")]
use crate::connection::protocol::http1::fast_path::{date, response};
use crate::connection::{early::MOMENT, lifecycle::Shared, table::record::Record};

/// When a client was last asked about while all places were taken.
#[derive(Debug, Default)]
pub(crate) struct Pressed(Cell<Option<Instant>>);

/// Nobody who is asked about later has asked again at once.
pub(crate) const LATE: Duration = Duration::from_secs(1);

impl Pressed {
    /// Whether it has asked again within a [`MOMENT`]: its request may have waited to be read, since so long.
    #[cold]
    pub(crate) fn again(&self, age: impl FnOnce() -> Option<Duration>) -> bool {
        let now = Instant::now();
        let Some(before) = self.0.replace(Some(now)) else {
            return false;
        };
        let since = now.duration_since(before);
        let has_waited = || age().is_some_and(|age| since.saturating_sub(age) < MOMENT);
        since < MOMENT || since < LATE && has_waited()
    }
}

/// What is known of a client before its connection has a task.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) pressed: Pressed,
    /// Whether its first request is not to be refused early: it might have been.
    pub(crate) passed: bool,
    /// Whether it was parked since a request before was refused.
    pub(crate) was_refused: bool,
}

/// Whether the answer to the next request, if it is a simple one, has nothing to say about its connection.
pub(crate) fn may_be_passed_by(record: &Record, shared: &Shared) -> bool {
    !(shared.config.keep_alive_header
        || shared.is_last(record.requests() + 1)
        || record.flags().closes_after_response()
        || shared.drains(record))
}

/// Counts a request that the service does not hear of.
pub(crate) fn pass_by(record: &Record, shared: &Shared) {
    record.begin_request(false, shared.clock.now());
}

/// Writes a refusal that is a problem document, without a map of headers.
#[cfg(feature = "preset")]
pub(crate) fn write_problem(
    status: StatusCode,
    retry_after: &HeaderValue,
    problem: &str,
    out: &mut Vec<u8>,
) {
    let mut digits = itoa::Buffer::new();
    response::write_status(status, out);
    let fields: [&[u8]; 4] = [
        b"\r\nretry-after: ",
        retry_after.as_bytes(),
        b"\r\ncontent-type: application/problem+json\r\ncontent-length: ",
        digits.format(problem.len()).as_bytes(),
    ];
    for part in fields {
        out.extend_from_slice(part);
    }
    date::write_last(out);
    out.extend_from_slice(problem.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asks_within_a_moment_asks_again_however_long_that_lay_unread() {
        let pressed = Pressed::default();
        let unread = |millis| move || Some(Duration::from_millis(millis));
        assert!(!pressed.again(unread(0)), "for the first time");
        for (millis, age, again) in [
            (19, None, true),
            (20, None, false),
            (20, Some(0), false),
            (500, Some(480), false),
            (500, Some(481), true),
            (500, Some(900), true),
            (1000, Some(1000), false),
        ] {
            tokio::time::advance(Duration::from_millis(millis)).await;
            let age = || age.map(Duration::from_millis);
            assert_eq!(pressed.again(age), again, "{millis} ms, {:?}", age());
        }
    }

    #[cfg(feature = "preset")]
    #[test]
    fn a_problem_document_is_written_as_the_response_would_be() {
        use http::Response;

        date::look();
        for (status, seconds) in [
            (StatusCode::SERVICE_UNAVAILABLE, "1"),
            (StatusCode::GATEWAY_TIMEOUT, "86400"),
        ] {
            let problem = r#"{"type":"about:blank"}"#;
            let response = Response::builder()
                .status(status)
                .header("retry-after", seconds)
                .header("content-type", "application/problem+json")
                .body(())
                .expect("a response");
            let (mut expected, mut written) = (Vec::new(), Vec::new());
            response::write_head(&response, problem.len() as u64, &mut expected);
            expected.extend_from_slice(problem.as_bytes());
            let seconds = HeaderValue::from_static(seconds);
            write_problem(status, &seconds, problem, &mut written);
            assert_eq!(written, expected);
        }
    }
}
