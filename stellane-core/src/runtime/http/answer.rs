use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_http::{
    compression::{CompressionBody, predicate::Predicate},
    normalize_path::NormalizePath,
};
use tower_service::Service;

use super::{
    body::HttpBody,
    types::{Eligible, has_word},
};
use crate::{
    BoxError,
    runtime::{body::AsBytes, stack::tell_route},
};

/// The service, with what has to be seen before its answer is compressed: whose route it was, and whether it is encoded
/// already. Of other data and errors the compression would not be `Send`.
#[derive(Debug, Clone)]
pub struct Noted<S> {
    pub(super) service: NormalizePath<S>,
    pub(super) trim: bool,
}

impl<S, B, R> Service<Request<B>> for Noted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Error: Into<BoxError>> + 'static,
{
    type Response = Response<AsBytes<R>>;
    type Error = S::Error;
    type Future = NotedFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.get_mut().poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        NotedFuture {
            inner: match self.trim {
                true => self.service.call(request),
                false => self.service.get_mut().call(request),
            },
        }
    }
}

pin_project! {
    pub struct NotedFuture<F> {
        #[pin]
        inner: F,
    }
}

/// Of an answer that the service itself has encoded.
#[derive(Debug, Clone)]
struct Encoded;

impl<F, R, E> Future for NotedFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Error: Into<BoxError>> + 'static,
{
    type Output = Result<Response<AsBytes<R>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(self.project().inner.poll(cx))?;
        tell_route(response.body());
        if response.headers().contains_key(header::CONTENT_ENCODING) {
            response.extensions_mut().insert(Encoded);
        }
        Poll::Ready(Ok(response.map(AsBytes::new)))
    }
}

/// What an answer that may be compressed is told by.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) is_head: bool,
    /// `If-None-Match`.
    pub(super) etags: Option<HeaderValue>,
}

pin_project! {
    /// `P` goes past the compression, `C` through it.
    pub struct AnswerFuture<P, C> {
        #[pin]
        state: State<P, C>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<P, C> {
        Plain { #[pin] future: P, eligible: Option<Eligible> },
        Compressed { #[pin] future: C, asked: Asked },
    }
}

impl<P, C> AnswerFuture<P, C> {
    /// `eligible` says which answers would have been compressed for somebody else.
    #[inline]
    pub(super) fn plain(future: P, eligible: Option<Eligible>) -> Self {
        Self {
            state: State::Plain { future, eligible },
        }
    }

    #[inline]
    pub(super) fn compressed(future: C, asked: Asked) -> Self {
        Self {
            state: State::Compressed { future, asked },
        }
    }
}

impl<P, C, R, E> Future for AnswerFuture<P, C>
where
    P: Future<Output = Result<Response<R>, E>>,
    C: Future<Output = Result<Response<CompressionBody<R>>, E>>,
    R: Body,
{
    type Output = Result<Response<HttpBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match self.project().state.project() {
            StateProjection::Plain { future, eligible } => {
                let mut response = ready!(future.poll(cx))?;
                if let Some(eligible) = eligible
                    && eligible.should_compress(&response)
                {
                    vary(response.headers_mut());
                }
                response.map(HttpBody::plain)
            }
            StateProjection::Compressed { future, asked } => {
                let mut response = ready!(future.poll(cx))?;
                let was_encoded = response.extensions_mut().remove::<Encoded>().is_some();
                let is_compressed =
                    !was_encoded && response.headers().contains_key(header::CONTENT_ENCODING);
                if is_compressed || is_weakly_known(&response, asked.etags.as_ref()) {
                    weaken(response.headers_mut());
                }
                match is_compressed && asked.is_head {
                    // There is nothing to be compressed, and the end of nothing has bytes.
                    true => response.map(|_| HttpBody::default()),
                    false => response.map(HttpBody::compressed),
                }
            }
        }))
    }
}

/// For caches: others may get another answer. As `Compression` does it.
fn vary(headers: &mut HeaderMap) {
    let all = headers.get_all(header::VARY).iter();
    let name = header::ACCEPT_ENCODING.as_str().as_bytes();
    if !all
        .map(HeaderValue::as_bytes)
        .any(|list| has_word(list, name) || has_word(list, b"*"))
    {
        headers.append(header::VARY, header::ACCEPT_ENCODING.into());
    }
}

/// Whether a 304 is about an answer that was compressed: it has the tag of that one.
fn is_weakly_known<B>(response: &Response<B>, asked: Option<&HeaderValue>) -> bool {
    let tag = response
        .headers()
        .get(header::ETAG)
        .map(HeaderValue::as_bytes);
    let (StatusCode::NOT_MODIFIED, Some(tag), Some(asked)) = (response.status(), tag, asked) else {
        return false;
    };
    let weak = [b"W/", tag].concat();
    asked
        .as_bytes()
        .windows(weak.len())
        .any(|part| part == weak)
}

/// A strong tag stands for the same bytes, which the answer and its compressed form do not have.
fn weaken(headers: &mut HeaderMap) {
    if let Some(tag) = headers.get_mut(header::ETAG)
        && tag.as_bytes().starts_with(b"\"")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        *tag = weak;
    }
}
