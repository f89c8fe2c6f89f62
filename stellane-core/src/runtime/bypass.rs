//! The way out: the service by plain hyper-util, for who suspects one of our own paths.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
#[cfg(feature = "http2")]
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::{App, RequestBody, facts::Facts};
use crate::{
    connection::{
        ConnectInfo, ConnectionManager, HttpService, Incoming, Listener, Socket, Trust, Verdict,
        read_header,
    },
    engine::{Engine, EngineError, EngineMetrics, StopReport, cloner},
};

/// So often it looks whether all have ended.
const LOOK: Duration = Duration::from_millis(10);
/// After a failed accept, such as for lack of open files.
const REST: Duration = Duration::from_millis(50);
/// How long a TLS handshake or a PROXY header may take.
const OPENING: Duration = Duration::from_secs(10);

/// Without the feature `http2` neither is it spoken here, nor is h2 built.
#[cfg(feature = "http2")]
type Builder = hyper_util::server::conn::auto::Builder<TokioExecutor>;
#[cfg(not(feature = "http2"))]
type Builder = hyper::server::conn::http1::Builder;

/// Whether the environment asks for it.
pub(super) fn is_asked_for() -> bool {
    std::env::var_os("STELLANE_BYPASS").is_some_and(|value| value == "1" || value == "true")
}

/// An engine that knows of nothing but hyper-util: no limit of connections, no timeout but hyper's, nothing counted but
/// what is open. The manager is there for what a [`ConnectInfo`] says, and hears of the end.
#[derive(Debug, Clone)]
pub struct PlainEngine {
    connections: ConnectionManager,
    builder: Builder,
    open: Arc<AtomicU64>,
    total: Arc<AtomicU64>,
    stop: CancellationToken,
    abort: CancellationToken,
}

impl PlainEngine {
    pub(super) fn new(connections: &ConnectionManager) -> Self {
        Self {
            connections: connections.clone(),
            builder: builder(),
            open: Arc::default(),
            total: Arc::default(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    /// Until the engine stops.
    async fn accept<S: HttpService>(
        self,
        listener: Listener,
        make: impl Fn(&ConnectInfo) -> S + Clone + Send + 'static,
    ) {
        #[cfg(feature = "tls")]
        let tls = listener.acceptor();
        let trust = Arc::new(Trust::new(&self.connections.config().proxy_protocol));
        let mut all = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                Some(_) = all.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let Ok((mut socket, peer)) = accepted else {
                tokio::time::sleep(REST).await;
                continue;
            };
            let (engine, make, trust) = (self.clone(), make.clone(), Arc::clone(&trust));
            #[cfg(feature = "tls")]
            let tls = tls.clone();
            all.spawn(async move {
                let opening = async {
                    let peer = match trust.judge(peer) {
                        Verdict::Direct => peer,
                        Verdict::Header => read_header(&mut socket).await?.or(peer),
                        Verdict::Refused => return Err(io::ErrorKind::PermissionDenied.into()),
                    };
                    #[cfg(feature = "tls")]
                    let socket = match (tls, socket) {
                        (Some(tls), Socket::Tcp(stream)) => {
                            let acceptor = tokio_rustls::TlsAcceptor::from(tls.current());
                            Socket::Tls(Box::new(acceptor.accept(stream).await?))
                        }
                        (_, socket) => socket,
                    };
                    Ok::<_, io::Error>((socket, peer))
                };
                if let Ok(Ok((socket, peer))) = tokio::time::timeout(OPENING, opening).await {
                    engine.serve_socket(socket, peer, make).await;
                }
            });
        }
        // Nobody comes in any more.
        drop(listener);
        while all.join_next().await.is_some() {}
    }

    pub(super) async fn serve_io<S: HttpService>(
        self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Option<SocketAddr>,
        make: impl Fn(&ConnectInfo) -> S,
    ) {
        let socket = Socket::of(io);
        self.serve_socket(socket, peer, make).await;
    }

    async fn serve_socket<S: HttpService>(
        self,
        socket: Socket,
        peer: Option<SocketAddr>,
        make: impl Fn(&ConnectInfo) -> S,
    ) {
        let _open = Open::new(&self);
        socket.set_nodelay();
        let info = self.connections.describe(&socket, peer);
        let service = make(&info);
        let wants_info = self.connections.config().connect_info;
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let mut service = service.clone();
            let mut request = request.map(Incoming::from);
            if wants_info {
                request.extensions_mut().insert(info.clone());
            }
            async move {
                std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
                service.call(request).await
            }
        });
        let io = TokioIo::new(socket);
        #[cfg(feature = "http2")]
        let connection = self.builder.serve_connection_with_upgrades(io, service);
        #[cfg(not(feature = "http2"))]
        let connection = self.builder.serve_connection(io, service).with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = self.stop.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = connection => {}
            () = self.abort.cancelled() => {}
        }
    }

    async fn serve_listeners<S: HttpService>(
        self,
        listeners: Vec<Listener>,
        make: impl Fn(&ConnectInfo) -> S + Clone + Send + 'static,
    ) {
        let mut all = JoinSet::new();
        for listener in listeners {
            all.spawn(self.clone().accept(listener, make.clone()));
        }
        while all.join_next().await.is_some() {}
    }
}

impl Engine for PlainEngine {
    fn name(&self) -> &'static str {
        "bypass"
    }

    fn start(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn serve<S: HttpService>(
        &self,
        listeners: Vec<Listener>,
        service: S,
    ) -> impl Future<Output = Result<(), EngineError>> + Send + 'static {
        let clone = cloner(service);
        self.serve_make(listeners, move |_: &ConnectInfo| clone())
    }

    fn serve_make<S: HttpService>(
        &self,
        listeners: Vec<Listener>,
        make: impl Fn(&ConnectInfo) -> S + Clone + Send + Sync + 'static,
    ) -> impl Future<Output = Result<(), EngineError>> + Send + 'static {
        let serving = self.clone().serve_listeners(listeners, make);
        async move {
            serving.await;
            Ok(())
        }
    }

    async fn stop(&self, deadline: Duration) -> StopReport {
        let mut report = StopReport::from(self.connections.drain(Duration::ZERO).await);
        let before = self.open.load(SeqCst);
        self.stop.cancel();
        let end = Instant::now() + deadline;
        while self.open.load(SeqCst) > 0 && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
        report.closed = before;
        report.aborted = self.open.load(SeqCst);
        self.abort.cancel();
        report
    }

    fn metrics(&self) -> EngineMetrics {
        let mut metrics = EngineMetrics::of(&self.connections.stats(), Vec::new());
        metrics.connections_open = self.open.load(SeqCst);
        metrics.connections_total = self.total.load(SeqCst);
        metrics
    }
}

#[cfg(feature = "http2")]
fn builder() -> Builder {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .enable_connect_protocol();
    builder
}

#[cfg(not(feature = "http2"))]
fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new());
    builder
}

/// A connection that is counted while it lasts.
struct Open(Arc<AtomicU64>);

impl Open {
    fn new(engine: &PlainEngine) -> Self {
        engine.total.fetch_add(1, SeqCst);
        engine.open.fetch_add(1, SeqCst);
        Self(Arc::clone(&engine.open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// The service without anything of the preset around it.
#[derive(Clone)]
pub(super) struct Bare<S> {
    app: S,
    facts: Facts,
}

impl<S> Bare<S> {
    pub(super) fn new(app: S, facts: Facts) -> Self {
        Self { app, facts }
    }
}

impl<S: App> Service<Request<Incoming>> for Bare<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.app.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> S::Future {
        self.facts.tell(&mut request);
        self.app.call(request.map(RequestBody::new))
    }
}
