use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header, uri::PathAndQuery};
use httparse::{ParserConfig, Status};

use crate::connection::{Incoming, framing};

/// A request with more fields than this is not simple.
const MAX_FIELDS: usize = 64;

/// Reads the request that these bytes begin with into a new one, and returns the length of its head; `None` if it is
/// not simple, and then a part may have been read.
pub(in crate::connection) fn parse(
    bytes: &Bytes,
    max_head: usize,
    request: &mut Request<Incoming>,
) -> Option<usize> {
    let mut fields = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut head = httparse::Request::new(&mut []);
    let parsed =
        ParserConfig::default().parse_request_with_uninit_headers(&mut head, bytes, &mut fields);
    let Ok(Status::Complete(length)) = parsed else {
        return None;
    };
    let is_simple =
        head.version == Some(1) && length <= max_head && framing::ends_its_lines(&bytes[..length]);
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

    let headers = request.headers_mut();
    headers.reserve(head.headers.len());
    for field in &*head.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        match name {
            // A body, or another protocol.
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::UPGRADE => return None,
            header::CONNECTION if !field.value.eq_ignore_ascii_case(b"keep-alive") => return None,
            _ => {}
        }
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).ok()?;
        headers.append(name, value);
    }

    Some(length)
}
