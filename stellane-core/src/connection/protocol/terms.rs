//! What a response of HTTP/1 may say, of its connection and of its length.

use http::{Response, StatusCode, Version, header};
use http_body::Body;

use crate::connection::protocol::{http1::guard::decimal, persistence};

/// What the response has to say about its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) connect: bool,
    pub(crate) head: bool,
    pub(crate) version: Version,
    /// Whether the client lets the connection go on.
    pub(crate) is_wanted: bool,
    pub(crate) last: bool,
    /// Whether it says how long the connection may be idle.
    pub(crate) tells_idle: bool,
}

impl Terms {
    /// Has a response say what is true. To be called for each of HTTP/1 that hyper writes.
    pub(crate) fn settle<B: Body>(self, response: &mut Response<B>) {
        self.settle_length(response);
        let http10 = self.version == Version::HTTP_10;
        let has_body = !self.head && self.may_have_body(response.status());
        persistence::settle(response, http10, self.is_wanted, has_body);
    }

    /// Leaves out a `Content-Length` that is not true: hyper would believe it, and the client take the next response for a
    /// part of this one.
    fn settle_length<B: Body>(self, response: &mut Response<B>) {
        let Some(said) = response.headers().get(header::CONTENT_LENGTH) else {
            return;
        };
        // What stands on 304 is of another response.
        let status = response.status();
        let has_none = status != StatusCode::NOT_MODIFIED && !self.may_have_body(status);
        let length = response.body().size_hint().exact();
        // To HEAD an empty body says nothing.
        let known = length.filter(|length| !self.head || *length > 0);
        if has_none || known.is_some_and(|known| decimal(said.as_bytes()) != Some(known)) {
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
    }

    fn may_have_body(self, status: StatusCode) -> bool {
        !(status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || (self.connect && status.is_success()))
    }
}
