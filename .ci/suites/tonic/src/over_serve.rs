use std::{convert::Infallible, future::Future, io, net::SocketAddr, pin::Pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use stellane_core::{
    BoxApp, BoxError, RequestBody, RuntimeConfig, RuntimeError, connection::ConnectInfo, connections,
    runtime::Listeners, serve_make,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_stream::Stream;
use ::tonic::{
    body::Body,
    server::NamedService,
    service::{RecoverErrorLayer, Routes},
};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt,
    layer::util::{Identity, Stack},
    limit::ConcurrencyLimitLayer,
    load_shed::LoadShedLayer,
};

pub struct TcpIncoming(TcpListener);

impl From<TcpListener> for TcpIncoming {
    fn from(listener: TcpListener) -> Self {
        Self(listener)
    }
}

impl TcpIncoming {
    pub fn with_nodelay(self, _: Option<bool>) -> Self {
        self
    }

    pub fn with_keepalive(self, _: Option<Duration>) -> Self {
        self
    }
}

/// What tonic takes as a stream of connections.
pub trait Incoming {
    fn listeners(self) -> Listeners;
}

impl Incoming for TcpIncoming {
    fn listeners(self) -> Listeners {
        stellane_core::connection::Listener::from(self.0).into()
    }
}

impl<S, Io> Incoming for S
where
    S: Stream<Item = io::Result<Io>> + Send + Unpin + 'static,
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn listeners(mut self) -> Listeners {
        connections(move |cx| Pin::new(&mut self).poll_next(cx))
    }
}

pub struct Server<L = Identity> {
    layers: ServiceBuilder<L>,
    config: RuntimeConfig,
    concurrency: Option<usize>,
    shed: bool,
}

impl Server {
    pub fn builder() -> Self {
        let config = RuntimeConfig::default().with(|config| {
            config.server.admin_address = String::new();
            config.connection.connect_info = true;
        });
        Self { layers: ServiceBuilder::new(), config, concurrency: None, shed: false }
    }
}

impl<L> Server<L> {
    pub fn layer<N>(self, layer: N) -> Server<Stack<N, L>> {
        let Self { layers, config, concurrency, shed } = self;
        Server { layers: layers.layer(layer), config, concurrency, shed }
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.overload.default_timeout = timeout;
        self.config.overload.max_timeout = timeout;
        self
    }

    pub fn accept_http1(mut self, accept: bool) -> Self {
        self.config.connection.http1 = accept;
        self
    }

    pub fn max_frame_size(mut self, bytes: u32) -> Self {
        self.config.connection.http2.max_frame_bytes = bytes;
        self
    }

    pub fn http2_keepalive_interval(mut self, interval: Option<Duration>) -> Self {
        self.config.connection.http2.ping_interval = interval.unwrap_or_default();
        self
    }

    pub fn http2_max_pending_accept_reset_streams(mut self, most: Option<usize>) -> Self {
        self.config.connection.http2.max_pending_accept_reset_streams = most.unwrap_or(20);
        self
    }

    pub fn concurrency_limit_per_connection(mut self, limit: usize) -> Self {
        self.concurrency = Some(limit);
        self
    }

    pub fn load_shed(mut self, shed: bool) -> Self {
        self.shed = shed;
        self
    }

    pub fn add_service<S>(self, service: S) -> Router<L>
    where
        S: Service<Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.add_routes(Routes::new(service))
    }

    pub fn add_routes(self, routes: Routes) -> Router<L> {
        Router { server: self, routes }
    }
}

pub struct Router<L> {
    server: Server<L>,
    routes: Routes,
}

/// The service of a connection.
type OfConnection = tower::util::BoxCloneSyncService<Request<RequestBody>, Response<Body>, BoxError>;

impl<L> Router<L> {
    pub async fn serve<R>(self, address: SocketAddr) -> Result<(), RuntimeError>
    where
        L: Layer<Routes>,
        L::Service: Service<Request<Body>, Response = Response<R>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send + Sync,
        R: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        self.serve_with_shutdown(address, std::future::pending()).await
    }

    pub async fn serve_with_shutdown<R>(
        self,
        address: SocketAddr,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), RuntimeError>
    where
        L: Layer<Routes>,
        L::Service: Service<Request<Body>, Response = Response<R>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send + Sync,
        R: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.expect("binds");
        self.serve_with_incoming_shutdown(TcpIncoming(listener), signal).await
    }

    pub async fn serve_with_incoming<R>(self, incoming: impl Incoming) -> Result<(), RuntimeError>
    where
        L: Layer<Routes>,
        L::Service: Service<Request<Body>, Response = Response<R>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send + Sync,
        R: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        self.serve_with_incoming_shutdown(incoming, std::future::pending()).await
    }

    pub async fn serve_with_incoming_shutdown<R>(
        self,
        incoming: impl Incoming,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), RuntimeError>
    where
        L: Layer<Routes>,
        L::Service: Service<Request<Body>, Response = Response<R>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send + Sync,
        R: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let Server { layers, config, concurrency, shed } = self.server;
        // Until here it is what anybody would give to `serve`.
        let service = layers
            .service(self.routes.prepare())
            .map_request(|request: Request<RequestBody>| request.map(Body::new))
            .map_response(|response: Response<_>| response.map(Body::new))
            .map_err(Into::<BoxError>::into);
        let service = OfConnection::new(service);
        let limited = move |service: OfConnection| {
            ServiceBuilder::new()
                .layer(RecoverErrorLayer::new())
                .option_layer(shed.then(LoadShedLayer::new))
                .option_layer(concurrency.map(ConcurrencyLimitLayer::new))
                .service(service)
        };
        run(incoming.listeners(), config, Box::pin(signal), move || BoxApp::new(limited(service.clone()))).await
    }
}

/// Not generic over the service: it is compiled once.
async fn run(
    listeners: Listeners,
    config: RuntimeConfig,
    signal: Pin<Box<dyn Future<Output = ()> + Send>>,
    app: impl Fn() -> BoxApp + Clone + Send + 'static,
) -> Result<(), RuntimeError> {
    // As tonic has it: a limit of each connection.
    let make = tower::service_fn(move |_: ConnectInfo| std::future::ready(Ok::<_, Infallible>(app())));
    serve_make(listeners, make).config(config).with_graceful_shutdown(signal).await.map(drop)
}
