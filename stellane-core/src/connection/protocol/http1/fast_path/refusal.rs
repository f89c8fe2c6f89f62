use std::cell::Cell;

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::time::Instant;

use crate::connection::{early::MOMENT, protocol::http1::fast_path::response};

/// When a client last asked for something while all places were taken.
#[derive(Default)]
pub(crate) struct Pressed(Cell<Option<Instant>>);

impl Pressed {
    /// Whether it asks again already.
    #[cold]
    pub(crate) fn again(&self) -> bool {
        let now = Instant::now();
        let before = self.0.replace(Some(now));
        before.is_some_and(|before| now.duration_since(before) < MOMENT)
    }
}

/// Writes a refusal, in which nothing is hyper's to write; gives its map of headers back.
pub(crate) fn write(refusal: Response<Bytes>, out: &mut Vec<u8>) -> HeaderMap {
    response::write_head(&refusal, refusal.body().len() as u64, out);
    let (mut head, body) = refusal.into_parts();
    out.extend_from_slice(&body);
    head.headers.clear();
    head.headers
}
