use bytes::Bytes;
use http::{HeaderMap, Response};

use crate::connection::protocol::http1::fast_path::response;

/// Writes a refusal, in which nothing is hyper's to write; gives its map of headers back.
pub(crate) fn write(refusal: Response<Bytes>, out: &mut Vec<u8>) -> HeaderMap {
    response::write_head(&refusal, refusal.body().len() as u64, out);
    let (mut head, body) = refusal.into_parts();
    out.extend_from_slice(&body);
    head.headers.clear();
    head.headers
}
