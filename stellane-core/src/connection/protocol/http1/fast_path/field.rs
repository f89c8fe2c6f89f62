//! One header field of a simple request.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

/// A request with more fields than this is not simple.
pub(crate) const MAX_FIELDS: usize = 64;

/// A field that was read from these bytes.
pub(crate) fn read_field(
    bytes: &Bytes,
    read: &httparse::Header<'_>,
) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(read.name.as_bytes()).ok()?;
    let value = HeaderValue::from_maybe_shared(bytes.slice_ref(read.value)).ok()?;
    Some((name, value))
}
