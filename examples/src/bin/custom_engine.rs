//! An engine of your own: plain hyper, a task for each connection, and nothing of Stellane's connection manager. It passes
//! the same suite as Stellane's engines (`cargo test -p stellane-examples --bin custom_engine`).
//!
//! `cargo run -p stellane-examples --bin custom_engine`, then `curl 127.0.0.1:3000`. Ctrl-C ends it.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderValue, Request, header};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use stellane_core::{
    BoxError,
    connection::{HttpService, Incoming, Listener},
    engine::{Engine, EngineError, EngineMetrics, StopReport},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// How long an idle connection stays open in a stop, for a request that is on its way.
const IDLE: Duration = Duration::from_millis(500);

#[derive(Debug, Default, Clone)]
struct PlainEngine {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    phase: watch::Sender<Phase>,
    listening: AtomicU64,
    open: AtomicU64,
    connections: AtomicU64,
    requests: AtomicU64,
    in_flight: AtomicU64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, PartialOrd)]
enum Phase {
    #[default]
    Serving,
    /// No more connections.
    Closed,
    /// The next response of each connection is its last.
    LastResponses,
    /// Connections between two requests end.
    Idle,
    Abort,
}

/// Counts one up, and down again when dropped.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Engine for PlainEngine {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn start(&self) -> Result<(), EngineError> {
        match *self.shared.phase.borrow() {
            Phase::Serving => Ok(()),
            _ => Err(EngineError::Stopped),
        }
    }

    fn serve<S: HttpService>(
        &self,
        listeners: Vec<Listener>,
        service: S,
    ) -> impl Future<Output = Result<(), EngineError>> + Send + 'static {
        let (shared, started) = (Arc::clone(&self.shared), self.start());
        async move {
            started?;
            let mut loops = JoinSet::new();
            for listener in listeners {
                loops.spawn(accept(Arc::clone(&shared), listener, service.clone()));
            }
            while let Some(ended) = loops.join_next().await {
                let served = ended.map_err(|panicked| EngineError::Serve(panicked.into()))?;
                served.map_err(|error| EngineError::Serve(error.into()))?;
            }
            Ok(())
        }
    }

    async fn stop(&self, deadline: Duration) -> StopReport {
        let shared = &self.shared;
        let before = shared.open.load(Relaxed);
        // A client that is told to close comes back at once: by then nobody may be listening.
        shared.phase.send_replace(Phase::Closed);
        until_zero(&shared.listening).await;
        shared.phase.send_replace(Phase::LastResponses);
        let done = async {
            let _ = tokio::time::timeout(IDLE, until_zero(&shared.open)).await;
            shared.phase.send_replace(Phase::Idle);
            until_zero(&shared.open).await;
        };
        let _ = tokio::time::timeout(deadline, done).await;
        let mut report = StopReport::default();
        report.aborted = shared.open.load(Relaxed);
        report.closed = before;
        shared.phase.send_replace(Phase::Abort);
        until_zero(&shared.open).await;
        report
    }

    fn metrics(&self) -> EngineMetrics {
        let shared = &self.shared;
        let mut metrics = EngineMetrics::default();
        metrics.connections_open = shared.open.load(Relaxed);
        metrics.connections_total = shared.connections.load(Relaxed);
        metrics.requests_total = shared.requests.load(Relaxed);
        metrics.requests_in_flight = shared.in_flight.load(Relaxed);
        metrics
    }
}

async fn until_zero(count: &AtomicU64) {
    while count.load(Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn accept<S: HttpService>(
    shared: Arc<Shared>,
    listener: Listener,
    service: S,
) -> std::io::Result<()> {
    let mut phase = shared.phase.subscribe();
    // Dropped with this future: a connection does not outlive it.
    let mut connections = JoinSet::new();
    {
        let _listening = Counted::new(&shared.listening);
        let listener = into_tcp(listener)?;
        loop {
            tokio::select! {
                // Whoever the system has already connected is served before the end.
                biased;
                accepted = listener.accept() => {
                    let (socket, _) = accepted?;
                    shared.connections.fetch_add(1, Relaxed);
                    let (shared, service) = (Arc::clone(&shared), service.clone());
                    connections.spawn(connection(shared, socket, service));
                }
                Some(_) = connections.join_next() => {}
                _ = phase.wait_for(|phase| *phase > Phase::Serving) => break,
            }
        }
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// This engine speaks TCP only.
fn into_tcp(listener: Listener) -> std::io::Result<TcpListener> {
    use std::os::fd::AsFd;
    let socket = listener.detach()?.as_fd().try_clone_to_owned()?;
    TcpListener::from_std(socket.into())
}

async fn connection<S: HttpService>(shared: Arc<Shared>, socket: TcpStream, service: S) {
    let _open = Counted::new(&shared.open);
    let mut phase = shared.phase.subscribe();
    // Services are `Send`, not `Sync`: a lock that nobody else wants.
    let service = Mutex::new(service);
    let answer = service_fn(|request: Request<_>| {
        let mut service = service
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let shared = Arc::clone(&shared);
        async move {
            shared.requests.fetch_add(1, Relaxed);
            let _in_flight = Counted::new(&shared.in_flight);
            poll_fn(|cx| service.poll_ready(cx)).await?;
            let mut response = service.call(request.map(Incoming::from)).await?;
            if *shared.phase.borrow() >= Phase::LastResponses {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, S::ServiceError>(response)
        }
    });
    let http = http1::Builder::new().serve_connection(TokioIo::new(socket), answer);
    let mut http = std::pin::pin!(http);
    loop {
        tokio::select! {
            _ = &mut http => return,
            _ = phase.changed() => match *phase.borrow_and_update() {
                Phase::Idle => http.as_mut().graceful_shutdown(),
                Phase::Abort => return,
                _ => {}
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let engine = PlainEngine::default();
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}", listener.local_addr()?);
    let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
    // Any service over hyper's body; an axum router takes any body.
    let serving = engine.serve(vec![listener.into()], app);
    let stopping = async {
        let _ = tokio::signal::ctrl_c().await;
        engine.stop(Duration::from_secs(10)).await
    };
    let (served, report) = tokio::join!(serving, stopping);
    println!("{report:?}");
    Ok(served?)
}

#[cfg(test)]
mod tests {
    use stellane_core::engine::testing;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_passes_the_suite_of_every_engine() {
        let passed = testing::check_engine(PlainEngine::default).await;
        assert!(passed.expect("passes").len() >= 11);
    }
}
