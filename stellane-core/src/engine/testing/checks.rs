use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};
use tower_service::Service;

use super::{Client, Outcome};
use crate::{
    BoxError,
    connection::{Incoming, Listener},
    engine::Engine,
};

type Check<E> = (&'static str, fn(E) -> Outcome);

macro_rules! checks {
    ($($name:ident: $text:literal,)+) => {
        pub(super) fn all<E: Engine>() -> Vec<Check<E>> {
            vec![$(($text, |engine| Box::pin($name(Arc::new(engine)))),)+]
        }
    };
}

checks! {
    answers: "it answers many requests on one connection",
    many_connections: "it answers many connections at once",
    bodies: "bodies arrive whole in both directions",
    several_listeners: "it serves every listener it is given",
    panics: "a handler that panics costs its own connection at most",
    stop_loses_nothing: "stopping under load loses no request",
    stop_waits: "stopping waits for a request in progress",
    stop_aborts: "stopping aborts what is not done at the deadline, and counts it",
    stopped_stays: "once stopped, it stays so",
    dropped: "dropping the future of serve closes its listeners and connections",
    counts: "metrics count connections and requests",
}

const DEADLINE: Duration = Duration::from_secs(10);

macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(BoxError::from(format!($($what)+)));
        }
    };
}

/// `/hello`, `/echo` (the body), `/slow` (waits for the notice), `/never`, `/panic`.
#[derive(Clone, Default)]
struct App {
    notice: Arc<Notify>,
}

impl Service<Request<Incoming>> for App {
    type Response = Response<Full<Bytes>>;
    type Error = hyper::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), hyper::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let notice = Arc::clone(&self.notice);
        Box::pin(async move {
            let body = match request.uri().path() {
                "/echo" => request.into_body().collect().await?.to_bytes(),
                "/slow" => {
                    notice.notified().await;
                    Bytes::from_static(b"slow")
                }
                "/never" => std::future::pending().await,
                "/panic" => std::panic::resume_unwind(Box::new("as asked")),
                _ => Bytes::from_static(b"hello"),
            };
            Ok(Response::new(Full::new(body)))
        })
    }
}

struct Served {
    address: SocketAddr,
    notice: Arc<Notify>,
    serving: tokio::task::JoinHandle<Result<(), crate::engine::EngineError>>,
}

async fn listener() -> Result<(Listener, SocketAddr), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    Ok((listener.into(), address))
}

async fn serve<E: Engine>(engine: &Arc<E>) -> Result<Served, BoxError> {
    let (listener, address) = listener().await?;
    engine.start()?;
    engine.start()?;
    let app = App::default();
    let notice = Arc::clone(&app.notice);
    let serving = tokio::spawn(engine.serve(vec![listener], app));
    Ok(Served {
        address,
        notice,
        serving,
    })
}

async fn end<E: Engine>(engine: &Arc<E>, served: Served) -> Result<(), BoxError> {
    let report = engine.stop(DEADLINE).await;
    ensure!(report.aborted == 0, "{report:?}");
    Ok(served.serving.await??)
}

async fn answers<E: Engine>(engine: Arc<E>) -> Result<(), BoxError> {
    let served = serve(&engine).await?;
    let mut client = Client::connect(served.address).await?;
    for i in 0..1000 {
        let answer = client.request("GET", "/hello", b"").await?;
        ensure!(
            answer.status == 200 && answer.body == b"hello" && !answer.close,
            "request {i}: {answer:?}"
        );
    }
    end(&engine, served).await
}

async fn many_connections<E: Engine>(engine: Arc<E>) -> Result<(), BoxError> {
    let served = serve(&engine).await?;
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        let address = served.address;
        clients.spawn(async move {
            for _ in 0..5 {
                let mut client = Client::connect(address).await?;
                for _ in 0..5 {
                    client.request("GET", "/hello", b"").await?;
                }
            }
            Ok::<_, std::io::Error>(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    end(&engine, served).await
}

async fn bodies<E: Engine>(engine: Arc<E>) -> Result<(), BoxError> {
    let served = serve(&engine).await?;
    let mut client = Client::connect(served.address).await?;
    for size in [0, 1, 8191, 8192, 1 << 20] {
        let body: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let answer = client.request("POST", "/echo", &body).await?;
        ensure!(answer.body == body, "a body of {size} bytes changed");
    }
    end(&engine, served).await
}

async fn several_listeners<E: Engine>(engine: Arc<E>) -> Result<(), BoxError> {
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    for _ in 0..5 {
        let (listener, address) = listener().await?;
        listeners.push(listener);
        addresses.push(address);
    }
    // Without `start`: serving starts the engine.
    let serving = tokio::spawn(engine.serve(listeners, App::default()));
    for address in &addresses {
        let answer = Client::connect(*address)
            .await?
            .request("GET", "/hello", b"")
            .await?;
        ensure!(answer.status == 200, "{address}: {answer:?}");
    }
    engine.stop(DEADLINE).await;
    serving.await??;
    for address in addresses {
        ensure!(
            Client::connect(address).await.is_err(),
            "{address} is still listened on"
        );
    }
    Ok(())
}

async fn panics<E: Engine>(engine: Arc<E>) -> Result<(), BoxError> {
    let served = serve(&engine).await?;
    let mut bystander = Client::connect(served.address).await?;
    bystander.request("GET", "/hello", b"").await?;
    for _ in 0..10 {
        let mut client = Client::connect(served.address).await?;
        let _ = client.request("GET", "/panic", b"").await;
        bystander.request("GET", "/hello", b"").await?;
    }
    end(&engine, served).await
}

async fn stop_loses_nothing<E: Engine>(engine: Arc<E>) -> Result<(), BoxError> {
    let served = serve(&engine).await?;
    let (answered, closed) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut clients = JoinSet::new();
    for _ in 0..32 {
        let mut client = Client::connect(served.address).await?;
        client.request("GET", "/hello", b"").await?;
        let (answered, closed) = (Arc::clone(&answered), Arc::clone(&closed));
        clients.spawn(async move {
            loop {
                let answer = client.request("GET", "/hello", b"").await?;
                answered.fetch_add(1, Relaxed);
                if answer.close {
                    closed.store(true, Relaxed);
                    return Ok::<_, std::io::Error>(());
                }
            }
        });
    }
    while answered.load(Relaxed) < 1000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    end(&engine, served).await?;
    while let Some(done) = clients.join_next().await {
        done?.map_err(|error| format!("a request was lost: {error}"))?;
    }
    ensure!(closed.load(Relaxed), "no client was told to close");
    Ok(())
}

async fn stop_waits<E: Engine>(engine: Arc<E>) -> Result<(), BoxError> {
    let served = serve(&engine).await?;
    let mut client = Client::connect(served.address).await?;
    client.send("GET", "/slow", b"").await?;
    in_progress(served.address).await?;
    let (stopping, notice) = (Arc::clone(&engine), Arc::clone(&served.notice));
    let stopped = tokio::spawn(async move { stopping.stop(DEADLINE).await });
    // Nobody accepts any more: the stop has begun.
    while Client::connect(served.address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    notice.notify_one();
    let answer = client.answer().await?;
    ensure!(answer.body == b"slow", "{answer:?}");
    let report = stopped.await?;
    ensure!(report.aborted == 0, "{report:?}");
    Ok(served.serving.await??)
}

async fn stop_aborts<E: Engine>(engine: Arc<E>) -> Result<(), BoxError> {
    let served = serve(&engine).await?;
    let mut client = Client::connect(served.address).await?;
    client.send("GET", "/never", b"").await?;
    in_progress(served.address).await?;
    let report = engine.stop(Duration::from_millis(50)).await;
    ensure!(report.aborted + report.left == 1, "{report:?}");
    // Closed or reset.
    let _ = client.closed().await;
    Ok(served.serving.await??)
}

/// A request of another client, sent later, was answered: the earlier one of ours has surely been read.
async fn in_progress(address: SocketAddr) -> Result<(), BoxError> {
    for _ in 0..20 {
        Client::connect(address)
            .await?
            .request("GET", "/hello", b"")
            .await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn stopped_stays<E: Engine>(engine: Arc<E>) -> Result<(), BoxError> {
    let served = serve(&engine).await?;
    end(&engine, served).await?;
    let (listener, address) = listener().await?;
    let served = engine.serve(vec![listener], App::default()).await;
    ensure!(engine.start().is_err(), "it started again");
    // An error says it best; to end at once is fine too.
    drop(served);
    ensure!(
        Client::connect(address).await.is_err(),
        "it listens after its end"
    );
    Ok(())
}

async fn dropped<E: Engine>(engine: Arc<E>) -> Result<(), BoxError> {
    let served = serve(&engine).await?;
    let mut client = Client::connect(served.address).await?;
    client.request("GET", "/hello", b"").await?;
    served.serving.abort();
    let _ = served.serving.await;
    let _ = client.closed().await;
    while Client::connect(served.address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    engine.stop(DEADLINE).await;
    Ok(())
}

async fn counts<E: Engine>(engine: Arc<E>) -> Result<(), BoxError> {
    let served = serve(&engine).await?;
    let mut client = Client::connect(served.address).await?;
    for _ in 0..10 {
        client.request("GET", "/hello", b"").await?;
    }
    let metrics = engine.metrics();
    ensure!(
        metrics.requests_total == 10
            && metrics.connections_open == 1
            && metrics.connections_total == 1,
        "{metrics:?}"
    );
    end(&engine, served).await?;
    let metrics = engine.metrics();
    ensure!(
        metrics.requests_total == 10 && metrics.connections_open == 0,
        "after the end: {metrics:?}"
    );
    Ok(())
}
