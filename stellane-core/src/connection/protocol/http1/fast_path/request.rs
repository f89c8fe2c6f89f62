//! Reading simple requests.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{Method, Request, header, uri::PathAndQuery};
use httparse::{ParserConfig, Status};

use crate::connection::{
    incoming::Incoming,
    protocol::http1::{
        fast_path::{
            field::{MAX_FIELDS, read_field},
            header_cache::HeaderCache,
            line,
        },
        lines::{ends_its_lines, first},
    },
};

/// Reads the request that these bytes begin with into a new one, and returns the length of its head; `None` if it is
/// not simple, and then a part may have been read.
pub(crate) fn parse(
    bytes: &Bytes,
    max_head: usize,
    cache: &mut HeaderCache,
    request: &mut Request<Incoming>,
) -> Option<usize> {
    let known = cache.line.take(bytes, request);
    let end = known.or_else(|| Some(first(bytes, b'\n')? + 1))?;
    if let Some(fields) = cache.take(&bytes[end..], request.headers_mut()) {
        if known.is_none() {
            put(line::check(bytes, &bytes[..end])?, request);
            cache.line.learn(&bytes[..end]);
        }
        let length = end + fields;
        return (length <= max_head).then_some(length);
    }
    let mut fields = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut head = httparse::Request::new(&mut []);
    let parsed =
        ParserConfig::default().parse_request_with_uninit_headers(&mut head, bytes, &mut fields);
    let Ok(Status::Complete(length)) = parsed else {
        return None;
    };
    if head.version != Some(1) || length > max_head || !ends_its_lines(&bytes[..length]) {
        return None;
    }
    let (method, target) = (head.method?.as_bytes(), head.path?.as_bytes());
    put(line::check_parts(bytes, method, target)?, request);

    let headers = request.headers_mut();
    headers.reserve(head.headers.len());
    for read in &*head.headers {
        let (name, value) = read_field(bytes, read)?;
        match name {
            // A body, or another protocol.
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::UPGRADE => return None,
            header::CONNECTION if !read.value.eq_ignore_ascii_case(b"keep-alive") => return None,
            _ => {}
        }
        headers.append(name, value);
    }
    cache.learn(&bytes[end..length]);
    Some(length)
}

fn put((method, target): (Method, PathAndQuery), request: &mut Request<Incoming>) {
    *request.method_mut() = method;
    *request.uri_mut() = target.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_checked_alike_with_fields_that_are_known_and_that_are_not() {
        let read = |cache: &mut HeaderCache, line: &str| {
            let bytes = Bytes::from(format!("{line}\r\nhost: x\r\n\r\n"));
            let mut request = Request::new(Incoming::default());
            let length = parse(&bytes, 1000, cache, &mut request);
            assert!(length.is_none_or(|length| length == bytes.len()));
            length.map(|_| request.uri().to_string())
        };
        let mut known = HeaderCache::default();
        for _ in 0..2 {
            read(&mut known, "GET / HTTP/1.1").expect("simple");
        }
        for (line, target) in [
            ("GET /a?b HTTP/1.1", Some("/a?b")),
            ("get /%20 HTTP/1.1", Some("/%20")),
            ("GET /\u{e9} HTTP/1.1", Some("/\u{e9}")),
            ("GET /a#b HTTP/1.1", None),
            ("GET /a#\u{1} HTTP/1.1", None),
            ("GET /a# b HTTP/1.1", None),
            ("GET /\u{7f} HTTP/1.1", None),
            ("GET /a b HTTP/1.1", None),
            ("GET  /a HTTP/1.1", None),
            ("GET a HTTP/1.1", None),
            ("G(T /a HTTP/1.1", None),
            ("HEAD /a HTTP/1.1", None),
            ("GET /a HTTP/1.0", None),
            ("GET /a HTTP/1.1 ", None),
            ("/a HTTP/1.1", None),
        ] {
            // The line itself is known at the third time.
            for time in 0..4 {
                let read = read(&mut known, line);
                assert_eq!(read.as_deref(), target, "{line:?}, known, {time}");
            }
            let new = &mut HeaderCache::default();
            assert_eq!(read(new, line).as_deref(), target, "{line:?}, new");
        }
    }
}
