//! What a request meets that no handler answers as it is.

use std::{borrow::Cow, sync::Arc};

use http::{
    Response, StatusCode, Uri,
    header::{HeaderValue, LOCATION},
    request::Parts,
    uri::PathAndQuery,
};

use crate::{
    compiled::Found,
    endpoint::{self, OwnReply},
    escape,
    future::RouteFuture,
    host,
    matcher::spans::Spans,
    methods, reply,
    stats::Counts,
    types::{Body, Compiled, Endpoint, Matched, RouteId, SlashPolicy},
};

/// An answer of the router's own to a path that exists.
pub(crate) struct Own {
    status: StatusCode,
    allow: HeaderValue,
    route: u32,
}

impl Own {
    pub(crate) fn of(found: Found<'_>) -> Option<Self> {
        let (status, allow, route) = match found {
            Found::Options { allow, route } => (StatusCode::NO_CONTENT, allow, route),
            Found::NotAllowed { allow, route } => (StatusCode::METHOD_NOT_ALLOWED, allow, route),
            Found::Endpoint { .. } | Found::Nothing => return None,
        };
        Some(Self {
            status,
            allow,
            route,
        })
    }
}

/// What a request meets that no handler answers as it is.
pub(crate) struct Seldom<'r> {
    pub(crate) table: Arc<Compiled>,
    pub(crate) counts: &'r Counts,
    pub(crate) bit: u32,
}

impl Seldom<'_> {
    #[cold]
    pub(crate) fn dispatch(self, own: Option<Own>, parts: Parts, body: Body) -> RouteFuture {
        let sent = parts.uri.path();
        let path = match escape::canonical(sent) {
            Some(Cow::Borrowed(_)) => None,
            Some(Cow::Owned(path)) => Some(path),
            None => {
                self.counts.bad_paths.add();
                return RouteFuture::ready(reply::status(StatusCode::BAD_REQUEST));
            }
        };
        // What was found for a path in another form says nothing.
        if let (Some(own), None) = (own, &path) {
            let path = sent.to_owned();
            return self.own(own, &path, parts, body);
        }
        if sent == "*" && self.bit == methods::OPTIONS {
            self.counts.options.add();
            let reply = OwnReply {
                status: StatusCode::NO_CONTENT,
                allow: self.table.allow_all.clone(),
            };
            return RouteFuture::ready(reply.into_response());
        }
        if let Some(path) = &path {
            let host = host::requested(&parts.uri, &parts.headers);
            match self.table.look_up(host, self.bit, path) {
                Found::Nothing => {}
                found => return self.answer(found, path.clone(), parts, body),
            }
        }
        let canonical = path.as_deref().unwrap_or(sent);
        if self.table.lenient && canonical.len() > 1 {
            let other = match canonical.strip_suffix('/') {
                Some(shorter) => shorter.to_owned(),
                None => format!("{canonical}/"),
            };
            let host = host::requested(&parts.uri, &parts.headers);
            let found = self.table.look_up(host, self.bit, &other);
            let route = match &found {
                Found::Endpoint { route, .. }
                | Found::Options { route, .. }
                | Found::NotAllowed { route, .. } => Some(RouteId(*route)),
                Found::Nothing => None,
            };
            match route.map(|id| (id, self.table.entry(id).slash)) {
                Some((id, SlashPolicy::Redirect)) => {
                    self.counts.redirects.add();
                    return RouteFuture::ready_at(redirect(&parts.uri), &self.table, id);
                }
                Some((_, SlashPolicy::Ignore)) => return self.answer(found, other, parts, body),
                _ => {}
            }
        }
        self.nothing(path, parts, body)
    }

    /// The answer found for a path in another form than the one that was sent, which the handler sees.
    fn answer(&self, found: Found<'_>, path: String, parts: Parts, body: Body) -> RouteFuture {
        match found {
            Found::Endpoint {
                endpoint,
                route,
                spans,
            } => self.call(endpoint, (RouteId(route), spans), Some(path), parts, body),
            found => match Own::of(found) {
                Some(own) => self.own(own, &path, parts, body),
                None => self.nothing(Some(path), parts, body),
            },
        }
    }

    fn own(&self, own: Own, path: &str, mut parts: Parts, body: Body) -> RouteFuture {
        let (counts, table) = (self.counts, &self.table);
        let Own {
            status,
            allow,
            route,
        } = own;
        let (status, count) = match status {
            StatusCode::NO_CONTENT => (status, &counts.options),
            _ if table.methods.is_known(self.bit) => (status, &counts.not_allowed),
            _ => (StatusCode::NOT_IMPLEMENTED, &counts.not_implemented),
        };
        count.add();
        let reply = OwnReply { status, allow };
        let host = host::requested(&parts.uri, &parts.headers);
        let Some((endpoint, spans)) = table.own(host, path, route) else {
            return RouteFuture::ready_at(reply.into_response(), table, RouteId(route));
        };
        parts.extensions.insert(reply);
        let path = (path != parts.uri.path()).then(|| path.to_owned());
        self.call(endpoint, (RouteId(route), spans), path, parts, body)
    }

    /// A fallback, or 404.
    fn nothing(&self, path: Option<String>, parts: Parts, body: Body) -> RouteFuture {
        let host = host::requested(&parts.uri, &parts.headers);
        let canonical = path.as_deref().unwrap_or(parts.uri.path());
        if let Some((endpoint, id, spans)) = self.table.fallback(host, canonical) {
            self.counts.fallbacks.add();
            return self.call(endpoint, (id, spans), path, parts, body);
        }
        let (status, count) = match self.table.methods.is_known(self.bit) {
            true => (StatusCode::NOT_FOUND, &self.counts.not_found),
            false => (StatusCode::NOT_IMPLEMENTED, &self.counts.not_implemented),
        };
        count.add();
        RouteFuture::ready(reply::status(status))
    }

    fn call(
        &self,
        endpoint: &dyn Endpoint,
        (id, spans): (RouteId, Spans),
        path: Option<String>,
        parts: Parts,
        body: Body,
    ) -> RouteFuture {
        let table = Arc::clone(&self.table);
        let future = match path.map(PathAndQuery::try_from) {
            Some(Ok(source)) => {
                endpoint::call_with_source(endpoint, (parts, body), &table, (id, spans), source)
            }
            Some(Err(_)) => return RouteFuture::ready(reply::status(StatusCode::URI_TOO_LONG)),
            None => {
                let matched = Matched {
                    table: &table,
                    id,
                    spans,
                    source: None,
                };
                endpoint.call(parts, body, matched)
            }
        };
        // SAFETY: what it borrows is in this `Arc`, where nothing moves; `Running` keeps that.
        let future = unsafe { future.forget_lifetime() };
        RouteFuture::running(future, table, id, self.bit == methods::HEAD)
    }
}

/// 308 to the other side of the last slash.
fn redirect(uri: &Uri) -> Response<Body> {
    let path = uri.path();
    let path = match path.strip_suffix('/') {
        Some(shorter) => shorter.to_owned(),
        None => format!("{path}/"),
    };
    // Never `//host`, which a browser reads as another site, nor `/\\host`, which it reads the same way.
    let below = path.trim_start_matches(['/', '\\']).replace('\\', "%5C");
    let target = match uri.query() {
        Some(query) => format!("/{below}?{query}"),
        None => format!("/{below}"),
    };
    match HeaderValue::try_from(target) {
        Ok(target) => {
            let mut response = reply::status(StatusCode::PERMANENT_REDIRECT);
            response.headers_mut().insert(LOCATION, target);
            response
        }
        Err(_) => reply::status(StatusCode::NOT_FOUND),
    }
}
