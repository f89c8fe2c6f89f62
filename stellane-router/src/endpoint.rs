//! What answers a matched request.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum_core::BoxError;
use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response};
use tower_service::Service;

use crate::block::{Slot, SlotFuture};
use crate::body::Body;
use crate::compiled::Compiled;
use crate::matcher::tree::Spans;
use crate::params::{RouteMatch, WithMatch, current_match};
use crate::table::{RouteId, RouteTable};

/// A match, borrowed from the table that found it.
#[derive(Clone, Copy)]
pub struct Matched<'a> {
    pub(crate) table: &'a Compiled,
    pub(crate) id: RouteId,
    pub(crate) spans: Spans,
    /// What the spans refer to, if not to the request's own URI.
    pub(crate) source: Option<&'a PathAndQuery>,
}

impl Matched<'_> {
    /// The match as a value of its own.
    pub(crate) fn owned(self, uri: &http::Uri) -> Option<RouteMatch> {
        // Borrowed from an `Arc` that is alive, so this cannot fail.
        let table = RouteTable(self.table.me.upgrade()?);
        let source = self.source.or_else(|| uri.path_and_query())?;
        Some(RouteMatch::new(table, self.id, self.spans, source.clone()))
    }
}

impl fmt::Debug for Matched<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matched")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// What an endpoint's future yields: as the service does, so that it is written where it belongs.
pub(crate) type Answer = Result<Response<Body>, Infallible>;

/// Calls an endpoint with a match whose spans refer to a text that lives as long as the future.
pub(crate) fn call_with_source<'a>(
    endpoint: &'a dyn Endpoint,
    (parts, body): (Parts, Body),
    table: &'a Compiled,
    (id, spans): (RouteId, Spans),
    source: PathAndQuery,
) -> SlotFuture<'a, Answer> {
    Slot::future(async move {
        let matched = Matched {
            table,
            id,
            spans,
            source: Some(&source),
        };
        endpoint.call(parts, body, matched).await
    })
}

/// Answers a request; called by reference, so that nothing is cloned for a request.
pub(crate) trait Endpoint: Send + Sync {
    fn call<'a>(&'a self, parts: Parts, body: Body, matched: Matched<'a>)
    -> SlotFuture<'a, Answer>;
}

/// A tower service as endpoint: cloned for every request, as tower demands.
pub(crate) struct ServiceEndpoint<S>(pub(crate) S);

impl<S, B> Endpoint for ServiceEndpoint<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<Infallible>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn call<'a>(
        &'a self,
        parts: Parts,
        mut body: Body,
        matched: Matched<'a>,
    ) -> SlotFuture<'a, Answer> {
        let mut service = self.0.clone();
        let owned = matched.owned(&parts.uri);
        if let Some(matched) = &owned {
            body.carry(matched.clone());
        }
        let request = Request::from_parts(parts, body);
        Slot::future(async move {
            let matched = owned.as_ref().map_or(matched, RouteMatch::as_matched);
            let answer = async {
                std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
                service.call(request).await
            };
            // For layers that wrap the body, and so hide what it carries.
            match WithMatch::new(&matched, answer).await {
                Ok(response) => Ok(response.map(Body::new)),
                Err(error) => match error.into() {},
            }
        })
    }
}

/// A route as a service: what a layer given to [`RouterBuilder::layer`](crate::RouterBuilder::layer)
/// wraps.
#[derive(Clone)]
pub struct Route(pub(crate) Arc<dyn Endpoint>);

impl<B> Service<Request<B>> for Route
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = EndpointFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> EndpointFuture {
        let (parts, body) = request.into_parts();
        let mut body = Body::new(body);
        // A layer that wraps the body hides what it carries.
        let carried = body.take_carried().or_else(|| current_match(&parts.uri));
        let endpoint = Arc::clone(&self.0);
        EndpointFuture(Slot::future(async move {
            match &carried {
                Some(carried) => endpoint.call(parts, body, carried.as_matched()).await,
                // The layer called the route outside of its own request.
                None => Ok(crate::reply::status(
                    http::StatusCode::INTERNAL_SERVER_ERROR,
                )),
            }
        }))
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}

/// The future of a [`Route`].
#[derive(Debug)]
pub struct EndpointFuture(SlotFuture<'static, Answer>);

impl Future for EndpointFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}
