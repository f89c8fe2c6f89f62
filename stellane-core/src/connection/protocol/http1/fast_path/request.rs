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
        lines::ends_its_lines,
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
    let line = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    let taken = cache.take(&bytes[line..], request.headers_mut());
    let unread = match taken {
        Some(_) => &bytes[..line],
        None => bytes,
    };
    let mut fields = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut head = httparse::Request::new(&mut []);
    let parsed =
        ParserConfig::default().parse_request_with_uninit_headers(&mut head, unread, &mut fields);
    let length = match (parsed, taken) {
        (Ok(Status::Complete(length)), None) => length,
        // A line without its fields.
        (Ok(Status::Partial), Some(fields)) => line + fields,
        _ => return None,
    };
    let is_simple = head.version == Some(1)
        && length <= max_head
        && ends_its_lines(&unread[..length.min(unread.len())]);
    if !is_simple {
        return None;
    }

    let method = Method::from_bytes(head.method?.as_bytes()).ok()?;
    if matches!(method, Method::CONNECT | Method::HEAD) {
        return None;
    }
    // Other targets are for proxies.
    let target = head.path.filter(|target| target.starts_with('/'))?;
    let target = PathAndQuery::from_maybe_shared(bytes.slice_ref(target.as_bytes())).ok()?;
    *request.method_mut() = method;
    *request.uri_mut() = target.into();

    if taken.is_some() {
        return Some(length);
    }
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
