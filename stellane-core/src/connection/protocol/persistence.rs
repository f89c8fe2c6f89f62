//! Whether a connection of HTTP/1 goes on after a response, and what the response says of it.

use std::cell::RefCell;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version, header};
use http_body::Body;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

thread_local! {
    /// The value that was told last on this thread, and its seconds.
    static TOLD: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// Whether the client lets the connection go on after this request.
pub(crate) fn is_wanted<B>(request: &Request<B>) -> bool {
    match request.version() {
        Version::HTTP_10 => has(request.headers(), "keep-alive") && !closes(request.headers()),
        _ => !closes(request.headers()),
    }
}

/// Whether a message says that it is the last.
pub(crate) fn closes(headers: &HeaderMap) -> bool {
    has(headers, "close")
}

/// Whether the field `connection` names this option.
fn has(headers: &HeaderMap, option: &str) -> bool {
    let names = |value: &HeaderValue| {
        let mut options = value.as_bytes().split(|b| *b == b',');
        options.any(|given| given.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    };
    headers.get_all(header::CONNECTION).iter().any(names)
}

/// Says that the connection ends after this response: hyper sees it, and the client knows before it sends another.
pub(crate) fn say_close<B>(response: &mut Response<B>) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}

/// What the service, hyper and the manager have to say of the connection, as one. To be called for each response that
/// hyper writes.
pub(crate) fn settle<B: Body>(
    response: &mut Response<B>,
    http10: bool,
    is_wanted: bool,
    has_body: bool,
) {
    let headers = response.headers();
    let says = headers.contains_key(header::CONNECTION);
    // HTTP/1.0 has no other end for it.
    let ends_the_body = http10
        && has_body
        && !response.body().is_end_stream()
        && response.body().size_hint().exact().is_none()
        && !headers.contains_key(header::CONTENT_LENGTH);
    if ends_the_body || (says && (!is_wanted || closes(headers))) {
        say_close(response);
        if http10 {
            // To a response of HTTP/1.1 hyper would add `keep-alive`.
            *response.version_mut() = Version::HTTP_10;
        }
    }
}

/// Tells for how long it may be idle, by `Keep-Alive: timeout=60`, unless the service has said something of its own, or
/// there is no whole second to tell.
#[cold]
pub(crate) fn tell_idle(headers: &mut HeaderMap, idle_timeout: u64) {
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

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
    };

    use http_body::Frame;
    use http_body_util::{Empty, Full};

    use super::*;

    #[test]
    fn a_client_wants_it_by_default_or_by_asking_and_close_is_stronger() {
        for (version, options, wanted) in [
            (Version::HTTP_11, &[][..], true),
            (Version::HTTP_11, &["keep-alive"], true),
            (Version::HTTP_11, &["Upgrade, Close"], false),
            (Version::HTTP_11, &["keep-alive", "close"], false),
            (Version::HTTP_11, &["closed"], true),
            (Version::HTTP_10, &[], false),
            (Version::HTTP_10, &["Keep-Alive"], true),
            (Version::HTTP_10, &["keep-alive, close"], false),
        ] {
            let mut request = Request::builder().version(version);
            for option in options {
                request = request.header(header::CONNECTION, *option);
            }
            let request = request.body(()).expect("valid");
            assert_eq!(is_wanted(&request), wanted, "{version:?} {options:?}");
        }
    }

    #[test]
    fn a_response_says_one_thing() {
        for (said, http10, wanted, settled) in [
            (None, false, true, None),
            (None, true, false, None),
            (Some("keep-alive"), false, true, Some("keep-alive")),
            (Some("keep-alive"), false, false, Some("close")),
            (Some("close, keep-alive"), false, true, Some("close")),
            (Some("close"), true, true, Some("close")),
        ] {
            let mut response = Response::new(Full::<bytes::Bytes>::from("body"));
            if let Some(said) = said {
                let said = HeaderValue::from_static(said);
                response.headers_mut().insert(header::CONNECTION, said);
            }
            settle(&mut response, http10, wanted, true);
            let says = response.headers().get(header::CONNECTION);
            let says = says.map(|value| value.to_str().expect("text"));
            assert_eq!(says, settled, "{said:?} {http10} {wanted}");
            let old = http10 && settled == Some("close");
            assert_eq!(response.version() == Version::HTTP_10, old);
        }
    }

    #[test]
    fn http_1_0_ends_a_body_of_unknown_length_with_the_connection() {
        struct Unknown;
        impl Body for Unknown {
            type Data = bytes::Bytes;
            type Error = Infallible;

            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Self::Data>, Infallible>>> {
                Poll::Pending
            }
        }
        for (http10, ends) in [(true, true), (false, false)] {
            let mut unknown = Response::new(Unknown);
            settle(&mut unknown, http10, true, true);
            assert_eq!(closes(unknown.headers()), ends);
        }
        let mut empty = Response::new(Empty::<bytes::Bytes>::new());
        settle(&mut empty, true, true, true);
        assert!(!closes(empty.headers()));
    }
}
