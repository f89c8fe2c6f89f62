//! The first line of a simple request.

use bytes::Bytes;
use http::{Method, Request, uri::PathAndQuery};

use crate::connection::protocol::http1::fast_path::once::Once;

/// Longer ones are not kept: each connection in use keeps its own.
const MAX_KEPT: usize = 512;

/// The line that a client sends again and again on its connection: it need not be checked anew.
#[derive(Default)]
pub(crate) struct KnownLine {
    known: Option<(Bytes, Method, PathAndQuery)>,
    once: Once<MAX_KEPT>,
}

impl KnownLine {
    /// Puts what the known line says into the request if these bytes begin with it, and returns its length.
    #[inline]
    pub(crate) fn take<B>(&self, bytes: &[u8], request: &mut Request<B>) -> Option<usize> {
        let (line, method, target) = self.known.as_ref()?;
        if !bytes.starts_with(line) {
            return None;
        }
        *request.method_mut() = method.clone();
        *request.uri_mut() = target.clone().into();
        Some(line.len())
    }

    /// Remembers the line of a simple request. It is known when it comes twice in a row.
    pub(crate) fn learn(&mut self, line: &[u8]) {
        if let Some(line) = self.once.again(line) {
            self.known = check(&line, &line).map(|(method, target)| (line, method, target));
        }
    }
}

/// Checks a usual line, which is a part of `bytes`, and returns its method and its target.
pub(crate) fn check(bytes: &Bytes, line: &[u8]) -> Option<(Method, PathAndQuery)> {
    let line = line.strip_suffix(b" HTTP/1.1\r\n")?;
    let space = line.iter().position(|byte| *byte == b' ')?;
    check_parts(bytes, &line[..space], &line[space + 1..])
}

/// Checks a method and a target, which are parts of `bytes`.
pub(crate) fn check_parts(
    bytes: &Bytes,
    method: &[u8],
    target: &[u8],
) -> Option<(Method, PathAndQuery)> {
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
    (path.as_str().len() == target.len()).then_some((method, path))
}
