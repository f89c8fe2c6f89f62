use http::{Response, StatusCode, Version, header};

use super::date;
use crate::connection::framing;

/// Writes the head of an answer with a body of this length, in hyper's way; false if the answer is not simple, and
/// then a part may have been written.
pub(in crate::connection) fn write_head<B>(
    response: &Response<B>,
    length: usize,
    out: &mut Vec<u8>,
) -> bool {
    let status = response.status();
    let may_have_body = !status.is_informational()
        && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    // Extensions may say how hyper is to write it.
    if !may_have_body || response.version() != Version::HTTP_11 || !response.extensions().is_empty()
    {
        return false;
    }

    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        let reason = status.canonical_reason().unwrap_or("<none>");
        write_all(out, ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"]);
    }
    let mut has_length = false;
    let mut has_date = false;
    for (name, value) in response.headers() {
        match *name {
            header::CONNECTION | header::TRANSFER_ENCODING | header::TRAILER => return false,
            header::CONTENT_LENGTH => {
                if has_length || framing::decimal(value.as_bytes()) != Some(length as u64) {
                    return false;
                }
                has_length = true;
            }
            header::DATE => has_date = true,
            _ => {}
        }
        write_all(out, [name.as_str(), ": "]);
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !has_length {
        let mut digits = itoa::Buffer::new();
        write_all(out, ["content-length: ", digits.format(length), "\r\n"]);
    }
    if !has_date {
        date::write(out);
    }
    out.extend_from_slice(b"\r\n");
    true
}

#[inline]
fn write_all<const N: usize>(out: &mut Vec<u8>, parts: [&str; N]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}
