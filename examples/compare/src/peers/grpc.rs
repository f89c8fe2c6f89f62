//! One gRPC service behind tonic's own server and behind the preset. It is what tonic's build script would have made.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures_util::{future::BoxFuture, stream};
use http::{Request, Response};
use stellane_core::Runtime;
use tonic::{
    Status,
    body::Body,
    server::{Grpc, NamedService, ServerStreamingService, UnaryService},
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::Service;

use super::{
    BoxError, Settings, preset, ready, shared_runtime, terminated,
    work::{HELLO, MESSAGES},
};

/// `stellane-tonic`.
pub(super) fn serve(settings: &Settings) -> Result<(), BoxError> {
    shared_runtime(settings.workers)?.block_on(async {
        let runtime = Runtime::builder()
            .config(preset::config(settings)?)
            .purge_hook(crate::purge)
            .service(Routes::new(Greeter))
            .build()?;
        preset::until_end!(runtime, settings)
    })
}

/// `tonic`.
pub(super) fn serve_tonic(settings: &Settings) -> Result<(), BoxError> {
    shared_runtime(settings.workers)?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(settings.listen()?)?;
        ready(listener.local_addr()?)?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        Ok(Server::builder()
            .add_service(Greeter)
            .serve_with_incoming_shutdown(incoming, terminated())
            .await?)
    })
}

#[derive(Clone, PartialEq, prost::Message)]
struct Hello {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Greeting {
    #[prost(string, tag = "1")]
    message: String,
}

impl Greeting {
    fn new() -> Self {
        Self {
            message: HELLO.to_owned(),
        }
    }
}

#[derive(Debug, Clone)]
struct Greeter;

impl NamedService for Greeter {
    const NAME: &'static str = "compare.Greeter";
}

impl<B> Service<Request<B>> for Greeter
where
    B: http_body::Body<Error: Into<BoxError> + Send> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match request.uri().path() {
            "/compare.Greeter/Say" => Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::<Greeting, Hello>::default());
                Ok(grpc.unary(Say, request).await)
            }),
            "/compare.Greeter/SayOften" => Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::<Greeting, Hello>::default());
                Ok(grpc.server_streaming(SayOften, request).await)
            }),
            _ => Box::pin(async { Ok(Status::unimplemented("").into_http()) }),
        }
    }
}

struct Say;

impl UnaryService<Hello> for Say {
    type Response = Greeting;
    type Future = BoxFuture<'static, Result<tonic::Response<Greeting>, Status>>;

    fn call(&mut self, _: tonic::Request<Hello>) -> Self::Future {
        Box::pin(async { Ok(tonic::Response::new(Greeting::new())) })
    }
}

struct SayOften;

impl ServerStreamingService<Hello> for SayOften {
    type Response = Greeting;
    type ResponseStream = stream::Iter<std::vec::IntoIter<Result<Greeting, Status>>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: tonic::Request<Hello>) -> Self::Future {
        let messages = vec![Ok(Greeting::new()); MESSAGES];
        Box::pin(async { Ok(tonic::Response::new(stream::iter(messages))) })
    }
}
