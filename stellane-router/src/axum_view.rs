//! What a router of axum leaves behind for the extractors of axum.
//!
//! axum keeps the type of the parameters to itself, so that only a router of its own can write it. Each route whose
//! handler may ask for them has one, with a single route of as many segments as it has parameters: it is asked for a
//! path made of their values, and what it leaves behind is handed on. Where a router of axum is around ours, that is
//! added to what the outer one left. `MatchedPath` is made the same way, of the template itself.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use axum::{
    body::Body,
    extract::{MatchedPath, OriginalUri, Request},
};
use http::Extensions;
use tower_service::Service;

use crate::{matcher::pattern::Pattern, params::Params};

/// What follows the parameters: the last one in a path is never empty, as the others may be.
const END: &str = "/-";

/// What the extractors of axum find of one route.
#[derive(Debug)]
pub(crate) struct AxumView {
    parameters: axum::Router,
    /// Of the template, and a path that it matches.
    whole: Option<(axum::Router, String)>,
    /// Where no router of axum is around ours.
    matched_path: Option<MatchedPath>,
}

impl AxumView {
    /// `template` is none of a fallback's.
    pub(crate) fn new(template: Option<&str>, pattern: &Pattern) -> Self {
        let names = pattern
            .params
            .iter()
            .map(|param| format!("/{{{}}}", param.name));
        let path = names.collect::<String>() + END;
        let template = template.filter(|template| is_of_axum(template));
        let whole = template.map(|template| (mirror(template), sample(template)));
        Self {
            parameters: mirror(&path),
            matched_path: matched_path(&whole, Extensions::new()),
            whole,
        }
    }

    /// Leaves behind what axum's router would have.
    pub(crate) fn leave_in(&self, params: Params<'_>, extensions: &mut Extensions) {
        let mut path = String::new();
        for (_, value) in params.iter() {
            path.push('/');
            path.push_str(&value.replace('/', "%2F"));
        }
        path.push_str(END);
        let inside = extensions.get::<OriginalUri>().is_some();
        let matched_path = match inside {
            true => matched_path(&self.whole, extensions.clone()),
            false => self.matched_path.clone(),
        };
        let matched_path = matched_path.or_else(|| extensions.get().cloned());
        *extensions = ask(&self.parameters, &path, std::mem::take(extensions));
        // Those of the path made here.
        if !inside {
            extensions.remove::<OriginalUri>();
        }
        extensions.remove::<MatchedPath>();
        if let Some(matched_path) = matched_path {
            extensions.insert(matched_path);
        }
    }
}

fn matched_path(
    whole: &Option<(axum::Router, String)>,
    extensions: Extensions,
) -> Option<MatchedPath> {
    let (router, path) = whole.as_ref()?;
    ask(router, path, extensions).remove()
}

/// Whether a router of axum can have the template: each parameter is a segment, a `*` is in the last, and the literals
/// stand in a path as they are.
pub(crate) fn is_of_axum(template: &str) -> bool {
    let mut segments = template.split('/').peekable();
    while let Some(segment) = segments.next() {
        let inside = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
        let inside = inside.unwrap_or(segment);
        let ends_early = segment.starts_with("{*") && segments.peek().is_some();
        if inside.contains(['{', '}']) || ends_early {
            return false;
        }
    }
    sample(template).parse::<http::Uri>().is_ok()
}

/// A router of axum with one route that answers with what was left in its request.
fn mirror(path: &str) -> axum::Router {
    let answer = async |request: Request| {
        let mut response = http::Response::new(Body::empty());
        *response.extensions_mut() = request.into_parts().0.extensions;
        response
    };
    axum::Router::new()
        .without_v07_checks()
        .route(path, axum::routing::any(answer))
}

/// A path that the template matches.
fn sample(template: &str) -> String {
    let segment = |segment: &str| match segment.starts_with('{') {
        true => "x".to_owned(),
        false => segment.to_owned(),
    };
    template
        .split('/')
        .map(segment)
        .collect::<Vec<_>>()
        .join("/")
}

/// What is left in a request that had the extensions.
fn ask(router: &axum::Router, path: &str, extensions: Extensions) -> Extensions {
    let Ok(uri) = path.parse() else {
        return extensions;
    };
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri;
    *request.extensions_mut() = extensions;
    // It waits for nothing.
    match pin!(router.clone().call(request)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(response)) => response.into_parts().0.extensions,
        Poll::Pending => Extensions::new(),
    }
}
