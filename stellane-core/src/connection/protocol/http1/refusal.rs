//! What a connection is told that ends before a service is asked.

use http::StatusCode;

use crate::connection::protocol::http1::fast_path::{date, response};

/// Writes an answer without a body after which the connection ends.
pub(crate) fn write(status: StatusCode, out: &mut Vec<u8>) {
    response::write_status(status, out);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        out.extend_from_slice(b"\r\nretry-after: 1");
    }
    out.extend_from_slice(b"\r\nconnection: close\r\ncontent-length: 0");
    date::look();
    date::write_last(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_that_it_closes_and_when() {
        for (status, begin) in [
            (
                StatusCode::REQUEST_TIMEOUT,
                "HTTP/1.1 408 Request Timeout\r\n",
            ),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n",
            ),
        ] {
            let mut out = Vec::new();
            write(status, &mut out);
            let text = String::from_utf8(out).expect("text");
            let rest = text.strip_prefix(begin).expect("its status");
            assert!(rest.starts_with("connection: close\r\ncontent-length: 0\r\ndate: "));
            assert!(rest.ends_with(" GMT\r\n\r\n"), "{text}");
        }
    }
}
