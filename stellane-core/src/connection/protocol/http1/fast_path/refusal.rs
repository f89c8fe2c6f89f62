use std::cell::Cell;

#[cfg(feature = "preset")]
use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::connection::early::MOMENT;
#[cfg(feature = "preset")]
use crate::connection::protocol::http1::fast_path::{date, response};

/// When a client last asked for something while all places were taken.
#[derive(Default)]
pub(crate) struct Pressed(Cell<Option<Instant>>);

impl Pressed {
    /// Whether it asks again already.
    #[cold]
    pub(crate) fn again(&self) -> bool {
        let now = Instant::now();
        let before = self.0.replace(Some(now));
        before.is_some_and(|before| now.duration_since(before) < MOMENT)
    }
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

#[cfg(all(test, feature = "preset"))]
mod tests {
    use http::Response;

    use super::*;

    #[test]
    fn a_problem_document_is_written_as_the_response_would_be() {
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
