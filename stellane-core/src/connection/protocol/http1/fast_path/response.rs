//! Writing the heads of simple answers.

use http::{Response, StatusCode, Version, header};

use crate::connection::protocol::http1::{fast_path::date, guard};

/// Writes the head of an answer with a body of this length, in hyper's way; false if the answer is not simple, and
/// then a part may have been written.
pub(crate) fn write_head<B>(response: &Response<B>, length: u64, out: &mut Vec<u8>) -> bool {
    let status = response.status();
    let may_have_body = !status.is_informational()
        && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    // Extensions may say how hyper is to write it.
    if !may_have_body || response.version() != Version::HTTP_11 || !response.extensions().is_empty()
    {
        return false;
    }

    // Each line is ended by the next one.
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK");
    } else {
        write_status(status, out);
    }
    let mut has_length = false;
    let mut has_date = false;
    for (name, value) in response.headers() {
        match *name {
            header::CONNECTION | header::TRANSFER_ENCODING | header::TRAILER => return false,
            header::CONTENT_LENGTH => {
                if has_length || guard::decimal(value.as_bytes()) != Some(length) {
                    return false;
                }
                has_length = true;
            }
            header::DATE => has_date = true,
            _ => {}
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
    }
    if !has_length {
        out.extend_from_slice(b"\r\ncontent-length: ");
        let mut digits = itoa::Buffer::new();
        out.extend_from_slice(digits.format(length).as_bytes());
    }
    if has_date {
        out.extend_from_slice(b"\r\n\r\n");
    } else {
        date::write_last(out);
    }
    true
}

/// Writes the line of a status, without its end.
pub(crate) fn write_status(status: StatusCode, out: &mut Vec<u8>) {
    let reason = status.canonical_reason().unwrap_or("<none>");
    for part in ["HTTP/1.1 ", status.as_str(), " ", reason] {
        out.extend_from_slice(part.as_bytes());
    }
}
