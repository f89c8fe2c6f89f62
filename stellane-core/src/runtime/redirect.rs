//! Plain HTTP on an address that only sends browsers to https.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{HOST, LOCATION},
    uri::Authority,
};
use http_body_util::{BodyExt, Full};
use stellane_autotune::RequestHead;
use tower_service::Service;

use super::{
    App, BoxApp, RefusalKind, RequestBody,
    app::{BoxBody, BoxFuture},
    refusal::OnRefusal,
};
use crate::BoxError;

/// Who issues certificates asks here, by plain HTTP, whether the name is ours.
const ACME: &str = "/.well-known/acme-challenge/";
const HTTPS: u16 = 443;
const WHY: &[u8] = b"this address sends you to https, if your request names a host\n";

/// Answers with 308, but for [`ACME`]'s questions, which are the service's.
#[derive(Debug, Clone)]
pub(super) struct Redirect {
    app: BoxApp,
    /// Where https is for a request that names the port it came to.
    port: u16,
    /// Where it is for all, if that is known.
    known: Option<u16>,
    on_refusal: OnRefusal,
}

impl Redirect {
    pub(super) fn new(
        app: impl App,
        port: u16,
        known: Option<u16>,
        on_refusal: &OnRefusal,
    ) -> Self {
        Self {
            app: BoxApp::new(app),
            port,
            known,
            on_refusal: on_refusal.clone(),
        }
    }

    fn location<B>(&self, request: &Request<B>) -> Option<HeaderValue> {
        let of_head = || request.headers().get(HOST)?.to_str().ok()?.parse().ok();
        let authority: Authority = request.uri().authority().cloned().or_else(of_head)?;
        if request.method() == Method::CONNECT || authority.as_str().contains('@') {
            return None;
        }
        let names_port = authority.port_u16().is_some_and(|port| port != 80);
        let port = match self.known {
            Some(port) => port,
            None if names_port => self.port,
            None => HTTPS,
        };
        let path = request.uri().path_and_query();
        let path = path.map_or("/", |path| path.as_str());
        let path = if path == "*" { "/" } else { path };
        let host = authority.host();
        let location = match port {
            HTTPS => format!("https://{host}{path}"),
            port => format!("https://{host}:{port}{path}"),
        };
        HeaderValue::from_maybe_shared(Bytes::from(location)).ok()
    }
}

impl Service<Request<RequestBody>> for Redirect {
    type Response = Response<BoxBody>;
    type Error = BoxError;
    type Future = BoxFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.app.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> BoxFuture {
        if request.uri().path().starts_with(ACME) {
            return self.app.call(request);
        }
        let answer = match self.location(&request) {
            Some(location) => {
                let mut answer = Response::new(Bytes::new());
                *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
                answer.headers_mut().insert(LOCATION, location);
                answer
            }
            None => {
                let kind = RefusalKind::NoRedirect;
                let own = self.on_refusal.ask(kind, RequestHead::from(&request));
                own.unwrap_or_else(|| {
                    let mut answer = Response::new(Bytes::from_static(WHY));
                    *answer.status_mut() = kind.status();
                    answer
                })
            }
        };
        let answer = answer.map(|text| {
            Full::from(text)
                .map_err(|never| match never {})
                .boxed_unsync()
        });
        Box::pin(std::future::ready(Ok(answer)))
    }
}
