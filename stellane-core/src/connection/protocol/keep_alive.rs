//! `Keep-Alive: timeout=60`: tells the client how long the connection may be idle.

use std::cell::RefCell;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

thread_local! {
    /// The value that was told last on this thread, and its seconds.
    static TOLD: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// Whether the connection may be used again after this request.
#[cold]
pub(crate) fn is_for<B>(request: &Request<B>) -> bool {
    let closes = |value: &HeaderValue| {
        let mut words = value.as_bytes().split(|b| *b == b',');
        words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    let connection = request.headers().get_all(header::CONNECTION);
    request.version() == Version::HTTP_11 && !connection.iter().any(closes)
}

/// Tells it, unless the service has said something of its own, or there is no whole second to tell.
#[cold]
pub(crate) fn tell(headers: &mut HeaderMap, idle_timeout: u64) {
    let seconds = idle_timeout / 1000;
    if seconds == 0 || headers.contains_key(header::CONNECTION) {
        return;
    }
    let value = TOLD.with_borrow_mut(|told| {
        if told.0 != seconds
            && let Ok(value) = HeaderValue::try_from(format!("timeout={seconds}"))
        {
            *told = (seconds, value);
        }
        told.1.clone()
    });
    headers.entry(KEEP_ALIVE).or_insert(value);
}
