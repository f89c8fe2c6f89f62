use std::sync::Arc;

use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body::Body;
use tower_http::compression::predicate::Predicate;

use crate::{
    config::CompressionConfig,
    prepared::{Encoding, accepted, is_named},
};

/// Which answers are worth compressing, and which may not be touched.
#[derive(Debug, Clone)]
pub struct Eligible {
    min_bytes: u64,
    types: Arc<[String]>,
}

impl Eligible {
    pub(super) fn new(config: &CompressionConfig) -> Self {
        Self {
            min_bytes: config.min_bytes,
            types: config.content_types.iter().cloned().collect(),
        }
    }

    fn is_of_type(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(header::CONTENT_TYPE);
        let Some(text) = value.and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let essence = text.split(';').next().unwrap_or_default().trim();
        // gRPC compresses by message, and an event must not wait for the next one.
        if is_below(essence, "application/grpc")
            || essence.eq_ignore_ascii_case("text/event-stream")
        {
            return false;
        }
        self.types.iter().any(|pattern| {
            if let Some(suffix) = pattern.strip_prefix('*') {
                let at = essence.len().checked_sub(suffix.len());
                let end = at.and_then(|at| essence.get(at..));
                return end.is_some_and(|end| end.eq_ignore_ascii_case(suffix));
            }
            match pattern.strip_suffix('*') {
                Some(kind) => is_below(essence, kind),
                None => essence.eq_ignore_ascii_case(pattern),
            }
        })
    }
}

/// Whether it begins so.
fn is_below(essence: &str, kind: &str) -> bool {
    let start = essence.get(..kind.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(kind))
}

impl Predicate for Eligible {
    fn should_compress<B: Body>(&self, response: &Response<B>) -> bool {
        let (status, headers) = (response.status(), response.headers());
        // A part of several ranges says so in its type alone; the others have no body.
        let has_whole_body = !status.is_informational()
            && !matches!(
                status,
                StatusCode::NO_CONTENT
                    | StatusCode::RESET_CONTENT
                    | StatusCode::PARTIAL_CONTENT
                    | StatusCode::NOT_MODIFIED
            );
        let is_fixed = || {
            headers.contains_key(header::CONTENT_ENCODING)
                || headers.contains_key(header::CONTENT_RANGE)
                || headers.contains_key("content-digest")
                || headers
                    .get_all(header::CACHE_CONTROL)
                    .iter()
                    .any(|value| has_word(value.as_bytes(), b"no-transform"))
        };
        has_whole_body
            && self.is_of_type(headers)
            && !is_fixed()
            && size(response).is_none_or(|size| size >= self.min_bytes)
    }
}

/// Of the answer to a `HEAD` it is what its header says.
fn size<B: Body>(response: &Response<B>) -> Option<u64> {
    let declared = response.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse().ok());
    declared.or_else(|| response.body().size_hint().exact())
}

/// Whether a list separated by commas has this word.
pub(super) fn has_word(list: &[u8], word: &[u8]) -> bool {
    list.split(|&byte| byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(word))
}

/// Which encodings there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encodings {
    pub(super) br: bool,
    pub(super) gzip: bool,
    pub(super) zstd: bool,
}

impl Encodings {
    pub(super) fn new(config: &CompressionConfig) -> Self {
        let has = |name: &str| config.encodings.iter().any(|encoding| encoding == name);
        Self {
            br: has("br"),
            gzip: has("gzip"),
            zstd: has("zstd"),
        }
    }

    /// Whether a client wants one of them. tower-http would answer 406 to who wants none and not `identity` either, after
    /// the handler has run; such a client gets the answer as it is.
    pub(super) fn are_wanted(self, method: &Method, headers: &HeaderMap) -> bool {
        if method == Method::CONNECT {
            return false;
        }
        accepted(headers).any(|(name, weight)| {
            let is = |coding| is_named(name, Some(coding));
            let is_ours = (self.gzip && is(Encoding::Gzip))
                || (self.br && is(Encoding::Brotli))
                || (self.zstd && is(Encoding::Zstd))
                || name == "*";
            is_ours && weight > 0
        })
    }
}
