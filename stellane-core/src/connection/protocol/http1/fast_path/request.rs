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
    let line = first(bytes, b'\n')? + 1;
    if let Some(fields) = cache.take(&bytes[line..], request.headers_mut()) {
        let (method, target) = split_line(&bytes[..line])?;
        read_line(bytes, method, target, request)?;
        let length = line + fields;
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
    read_line(
        bytes,
        head.method?.as_bytes(),
        head.path?.as_bytes(),
        request,
    )?;

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
    cache.learn(&bytes[line..length]);
    Some(length)
}

/// The method and the target of a usual line.
fn split_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(b" HTTP/1.1\r\n")?;
    let space = line.iter().position(|byte| *byte == b' ')?;
    Some((&line[..space], &line[space + 1..]))
}

/// Checks both, and puts them into the request.
fn read_line(
    bytes: &Bytes,
    method: &[u8],
    target: &[u8],
    request: &mut Request<Incoming>,
) -> Option<()> {
    let method = Method::from_bytes(method).ok()?;
    if matches!(method, Method::CONNECT | Method::HEAD) {
        return None;
    }
    // Other targets are for proxies.
    if !target.starts_with(b"/") {
        return None;
    }
    let path = PathAndQuery::from_maybe_shared(bytes.slice_ref(target)).ok()?;
    // It looks at nothing that follows a `#`.
    if path.as_str().len() < target.len() {
        return None;
    }
    *request.method_mut() = method;
    *request.uri_mut() = path.into();
    Some(())
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
            assert_eq!(read(&mut known, line).as_deref(), target, "{line:?}, known");
            let new = &mut HeaderCache::default();
            assert_eq!(read(new, line).as_deref(), target, "{line:?}, new");
        }
    }
}
