//! How gRPC is told that a call has failed: in headers before there is an answer, in trailers after that.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use http_body::Frame;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// When a client that retries may do so: proposal A6 of gRPC.
pub(super) const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The form in which an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Trailers of HTTP.
    Grpc,
    /// Trailers as the last frame of the body.
    Web,
    /// The same in base64.
    WebText,
}

impl Dialect {
    /// `application/grpc`, `application/grpc-web` and `application/grpc-web-text`, with what may follow them.
    pub(crate) fn of(content_type: &HeaderValue) -> Option<Self> {
        const GRPC: &[u8] = b"application/grpc";
        let (start, rest) = content_type.as_bytes().split_at_checked(GRPC.len())?;
        if !start.eq_ignore_ascii_case(GRPC) {
            return None;
        }
        let begins = |with: &[u8]| {
            let start = rest.get(..with.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(with))
        };
        match rest {
            [] | [b'+' | b';' | b' ', ..] => Some(Self::Grpc),
            [b'-', ..] if begins(b"-web-text") => Some(Self::WebText),
            [b'-', ..] => Some(Self::Web),
            _ => None,
        }
    }

    /// Of a request, or an answer.
    pub(crate) fn of_headers(headers: &HeaderMap) -> Option<Self> {
        headers.get(CONTENT_TYPE).and_then(Self::of)
    }

    /// The end of an answer whose head has been sent.
    pub(crate) fn end<D: From<Bytes>>(
        self,
        status: &'static str,
        message: &'static str,
    ) -> Frame<D> {
        if self == Self::Grpc {
            let mut trailers = HeaderMap::with_capacity(2);
            trailers.insert(GRPC_STATUS, HeaderValue::from_static(status));
            trailers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
            return Frame::trailers(trailers);
        }
        let fields = format!("{GRPC_STATUS}:{status}\r\n{GRPC_MESSAGE}:{message}\r\n");
        let length = u32::try_from(fields.len()).unwrap_or(u32::MAX);
        let frame = [&[0x80], &length.to_be_bytes()[..], fields.as_bytes()].concat();
        Frame::data(D::from(match self {
            Self::WebText => base64(&frame).into(),
            _ => frame.into(),
        }))
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            text.push(if i <= chunk.len() {
                char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_known_by_its_content_type() {
        let of = |text| Dialect::of(&HeaderValue::from_static(text));
        for (text, dialect) in [
            ("application/grpc", Some(Dialect::Grpc)),
            ("Application/gRPC+proto", Some(Dialect::Grpc)),
            ("application/grpc;charset=x", Some(Dialect::Grpc)),
            ("application/grpc-web", Some(Dialect::Web)),
            ("application/grpc-web+proto", Some(Dialect::Web)),
            ("application/grpc-web-text", Some(Dialect::WebText)),
            ("application/gRPC-Web-Text+proto", Some(Dialect::WebText)),
            ("", None),
            ("application/grp", None),
            ("application/grpcs", None),
            ("application/json", None),
            ("text/grpc", None),
        ] {
            assert_eq!(of(text), dialect, "{text}");
        }
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
