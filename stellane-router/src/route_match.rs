//! The match a request leaves behind.

use std::{
    cell::Cell,
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    ptr::NonNull,
    task::{Context, Poll},
};

use axum_core::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts, uri::PathAndQuery};
use pin_project_lite::pin_project;

use crate::{
    matcher::{pattern::Token, spans::Spans},
    params::Params,
    types::{Matched, RouteId, RouteInfo, RouteMatch, RouteTable},
};

impl RouteMatch {
    pub(crate) const fn new(
        table: RouteTable,
        id: RouteId,
        spans: Spans,
        source: PathAndQuery,
    ) -> Self {
        Self {
            route: RouteInfo { table, id },
            spans,
            source,
        }
    }

    /// The route.
    #[must_use]
    pub const fn route(&self) -> &RouteInfo {
        &self.route
    }

    /// The number of the route in its table.
    #[must_use]
    pub const fn id(&self) -> RouteId {
        self.route.id
    }

    /// The whole template.
    #[must_use]
    pub fn template(&self) -> &str {
        self.route.template()
    }

    /// The parameters: spans of the request's own path.
    #[must_use]
    pub fn params(&self) -> Params<'_> {
        let entry = self.route.table.0.entry(self.route.id);
        Params::new(&entry.pattern.params, &self.spans, self.source.path())
    }

    /// What stands before a parameter for the rest of the path.
    pub(crate) fn before_rest(&self) -> Option<&str> {
        let pattern = &self.route.table.0.entry(self.route.id).pattern;
        let Some(Token::Rest(_)) = pattern.tokens.last() else {
            return None;
        };
        let (start, _) = self.spans.as_slice().last()?;
        self.source.path().get(..usize::from(*start))
    }

    pub(crate) fn as_matched(&self) -> Matched<'_> {
        Matched {
            table: &self.route.table.0,
            id: self.route.id,
            spans: self.spans,
            source: Some(&self.source),
        }
    }
}

impl fmt::Debug for RouteMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteMatch")
            .field("template", &self.template())
            .field("params", &self.params())
            .finish()
    }
}

thread_local! {
    /// The match of the handler whose extractors are being polled on this thread.
    static CURRENT: Cell<Option<NonNull<Matched<'static>>>> = const { Cell::new(None) };
}

pin_project! {
    /// Polls an extractor with its match at hand: extractors see only `Parts`, and an extension
    /// would cost three allocations.
    pub(crate) struct WithMatch<'a, F> {
        #[pin]
        future: F,
        matched: &'a Matched<'a>,
    }
}

impl<'a, F> WithMatch<'a, F> {
    pub(crate) const fn new(matched: &'a Matched<'a>, future: F) -> Self {
        Self { future, matched }
    }
}

impl<F: Future> Future for WithMatch<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        struct Restore(Option<NonNull<Matched<'static>>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let this = self.project();
        // Set for this poll only; `this.matched` outlives it.
        let _restore = Restore(CURRENT.replace(Some(NonNull::from(*this.matched).cast())));
        this.future.poll(cx)
    }
}

/// The match at hand: of the handler being polled, or the extension a `RouteLayer` left.
pub(crate) fn with_match<R>(parts: &Parts, then: impl FnOnce(Option<Params<'_>>) -> R) -> R {
    let Some(current) = CURRENT.get() else {
        return then(parts.extensions.get::<RouteMatch>().map(RouteMatch::params));
    };
    // SAFETY: `WithMatch::poll`, which is below us on this very stack, keeps it borrowed and
    // restores the cell before it returns.
    let matched: &Matched<'_> = unsafe { current.as_ref() };
    let entry = matched.table.entry(matched.id);
    let path = matched.source.map_or(parts.uri.path(), PathAndQuery::path);
    then(Some(Params::new(
        &entry.pattern.params,
        &matched.spans,
        path,
    )))
}

/// The match of the handler or layer being polled, as a value of its own.
pub(crate) fn current_match(uri: &http::Uri) -> Option<RouteMatch> {
    let current = CURRENT.get()?;
    // SAFETY: as in `with_match`.
    let matched: &Matched<'_> = unsafe { current.as_ref() };
    matched.owned(uri)
}

impl<S: Sync> FromRequestParts<S> for RouteMatch {
    type Rejection = NoRoute;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NoRoute> {
        current_match(&parts.uri)
            .filter(|matched| matched.id().is_route())
            .or_else(|| parts.extensions.get::<Self>().cloned())
            .ok_or(NoRoute(()))
    }
}

/// `None` in a fallback, and where nothing was matched.
impl<S: Sync> OptionalFromRequestParts<S> for RouteMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Infallible> {
        Ok(
            <Self as FromRequestParts<S>>::from_request_parts(parts, state)
                .await
                .ok(),
        )
    }
}

/// The extractor ran in a fallback, or outside of a router and without a [`RouteLayer`](crate::RouteLayer): 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoute(pub(crate) ());

impl fmt::Display for NoRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "no route was matched: the handler is a fallback, or neither in a Router nor behind a \
             RouteLayer; take an `Option`",
        )
    }
}

impl std::error::Error for NoRoute {}

impl IntoResponse for NoRoute {
    fn into_response(self) -> Response {
        log(&self);
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

/// A fault of the program that a client can do nothing about: a line for who can.
pub(crate) fn log(error: &dyn std::error::Error) {
    #[cfg(feature = "tracing")]
    tracing::error!(%error, "extractor does not fit its route");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}
