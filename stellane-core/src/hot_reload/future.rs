use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use pin_project_lite::pin_project;

use super::{LiveReloadBody, SCRIPT};

pin_project! {
    /// The response of [`LiveReloadService`](super::LiveReloadService).
    #[derive(Debug)]
    pub struct LiveReloadFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProj]
    enum Kind<F> {
        Inner { #[pin] future: F, inject: bool },
        Id { id: Arc<str> },
    }
}

impl<F> LiveReloadFuture<F> {
    pub(super) fn inner(future: F, inject: bool) -> Self {
        Self {
            kind: Kind::Inner { future, inject },
        }
    }

    pub(super) fn id(id: Arc<str>) -> Self {
        Self {
            kind: Kind::Id { id },
        }
    }
}

impl<F, B, E> Future for LiveReloadFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<LiveReloadBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().kind.project() {
            KindProj::Id { id } => {
                let mut response =
                    Response::new(LiveReloadBody::text(Bytes::copy_from_slice(id.as_bytes())));
                let headers = response.headers_mut();
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                Ok(response)
            }
            KindProj::Inner { future, inject } => ready!(future.poll(cx)).map(|mut response| {
                if !*inject || !is_page(&response) {
                    return response.map(LiveReloadBody::unchanged);
                }
                response.headers_mut().remove(header::CONTENT_LENGTH);
                // A validator of the page without the script would be one of another page.
                response.headers_mut().remove(header::ETAG);
                response.map(|body| {
                    LiveReloadBody::with_tail(body, Bytes::from_static(SCRIPT.as_bytes()))
                })
            }),
        })
    }
}

fn is_page<B>(response: &Response<B>) -> bool {
    let status = response.status();
    let has_body = !matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT
    ) && !status.is_informational();
    let html = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| {
            value
                .as_bytes()
                .to_ascii_lowercase()
                .starts_with(b"text/html")
        });
    has_body && html && !response.headers().contains_key(header::CONTENT_ENCODING)
}
