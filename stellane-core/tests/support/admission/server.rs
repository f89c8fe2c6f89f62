use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::Path,
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use stellane_core::{
    Runtime, RuntimeConfig,
    autotune::{
        AdaptiveLimit, AdaptiveLimitLayer, Class, ClassConfig, Hold, LimitConfig, LocalSignal,
    },
    engine::EngineKind,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpSocket,
    sync::Semaphore,
    time::sleep,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use tonic_health::server::HealthReporter;

use super::BoxError;

/// A way to serve, all with their defaults.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerKind {
    pub(crate) name: &'static str,
    base: Base,
    tls: bool,
    /// What its clients speak, unless what they do belongs to one protocol.
    pub(super) http2: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Base {
    Preset,
    PerCore,
    Production,
    Axum,
    /// With the machine's signal, which the user starts.
    AxumSignal,
}

pub(crate) const SERVERS: &[ServerKind] = &[
    kind("preset", Base::Preset, false, false),
    kind("preset-http2", Base::Preset, false, true),
    kind("tls", Base::Preset, true, false),
    kind("tls-http2", Base::Preset, true, true),
    kind("per-core", Base::PerCore, false, false),
    kind("production", Base::Production, false, false),
    kind("axum", Base::Axum, false, false),
    kind("axum-http2", Base::Axum, false, true),
    kind("axum-signal", Base::AxumSignal, false, false),
    kind("axum-signal-http2", Base::AxumSignal, false, true),
];

const fn kind(name: &'static str, base: Base, tls: bool, http2: bool) -> ServerKind {
    ServerKind {
        name,
        base,
        tls,
        http2,
    }
}

impl ServerKind {
    /// Whether the limit in it tells connections apart; alone in axum it does not know them.
    pub(crate) fn knows_connections(self) -> bool {
        !self.is_axum()
    }

    /// Whether the limit in it hears that its machine is full; else it knows of no request that has not been read.
    pub(crate) fn hears_the_machine(self) -> bool {
        self.base != Base::Axum
    }

    fn is_axum(self) -> bool {
        matches!(self.base, Base::Axum | Base::AxumSignal)
    }
}

/// A server on threads of its own, so that clients delay it no more than others on the machine do; it ends when dropped.
pub(crate) struct Server {
    pub(super) kind: ServerKind,
    pub(crate) limit: AdaptiveLimit,
    pub(super) health: HealthReporter,
    pub(super) seats: Arc<Seats>,
    address: SocketAddr,
    tls: Option<Certificate>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A connection, with TLS or without.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

impl Server {
    /// With so many seats for the class of `/seats`, if there are to be any.
    pub(super) async fn start(
        kind: ServerKind,
        threads: usize,
        seats: u32,
    ) -> Result<Self, BoxError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("server")
            .enable_all()
            .build()?;
        let tls = kind.tls.then(Certificate::new).transpose()?;
        let mut config = match kind.base {
            Base::Production => RuntimeConfig::production(),
            _ => RuntimeConfig::default(),
        };
        config.server.admin_address = String::new();
        if kind.base == Base::PerCore {
            config.engine.kind = EngineKind::PerCore;
            config.engine.cores = threads;
        }
        if seats > 0 {
            let mut class = ClassConfig::default();
            (class.limit, class.hold) = (seats, Hold::Body);
            class.paths = vec!["/seats/{every}/{count}".to_owned()];
            config.limit.classes.insert(SEATED.to_owned(), class);
        }
        if let Some(files) = &tls {
            config.connection.tls.certificate = files.certificate.display().to_string();
            config.connection.tls.key = files.key.display().to_string();
        }
        let taken = Arc::<Seats>::default();
        let (health, app) = app(Arc::clone(&taken));
        let started = async move {
            if kind.is_axum() {
                let mut alone = LimitConfig::default();
                alone.classes = config.limit.classes;
                let mut limit = AdaptiveLimit::builder().config(alone);
                if kind.base == Base::AxumSignal {
                    let (signal, watching) = LocalSignal::tokio();
                    tokio::spawn(watching);
                    limit = limit.local_signal(&signal);
                }
                let limit = limit.build()?;
                let seated = limit.class(SEATED).unwrap_or_default();
                let layer =
                    AdaptiveLimitLayer::new(&limit).classify_request(move |head| {
                        match head.uri.path().starts_with("/seats/") {
                            true => seated,
                            false => Class::DEFAULT,
                        }
                    });
                let app = app.layer(layer);
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
                let address = listener.local_addr()?;
                tokio::spawn(async move { axum::serve(listener, app).await });
                return Ok::<_, BoxError>((limit, address));
            }
            let never = std::future::pending();
            let builder = Runtime::builder().config(config).service(app);
            let bound = builder
                .shutdown_signal(never)
                .build()?
                .bind("127.0.0.1:0")
                .await?;
            let limit = bound.components().limit.clone();
            let address = bound.local_addr();
            tokio::spawn(bound.serve());
            Ok((limit, address))
        };
        let (limit, address) = runtime.spawn(started).await??;
        Ok(Self {
            kind,
            limit,
            health,
            seats: taken,
            address,
            tls,
            runtime: Some(runtime),
        })
    }

    /// A connection whose system takes about `room` bytes that nobody reads, if it is given.
    pub(super) async fn connect(
        &self,
        http2: bool,
        room: Option<u32>,
    ) -> io::Result<Box<dyn Socket>> {
        let socket = TcpSocket::new_v4()?;
        if let Some(room) = room {
            socket.set_recv_buffer_size(room)?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        let Some(certificate) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let tls = certificate.client(http2).map_err(io::Error::other)?;
        Ok(Box::new(tls.connect(name, stream).await?))
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// What is served everywhere.
fn app(seats: Arc<Seats>) -> (HealthReporter, Router) {
    let (reporter, health) = tonic_health::server::health_reporter();
    // 200 answers a second, whatever the machine.
    static PLACES: Semaphore = Semaphore::const_new(8);
    let app = Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route(
            "/sleep/{millis}",
            get(|Path(millis): Path<u64>| async move {
                sleep(Duration::from_millis(millis)).await;
                "slept"
            }),
        )
        .route(
            "/work/{micros}",
            get(|Path(micros): Path<u64>| async move {
                // By the clock: what the server can do is then the same on every machine, busy or not.
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(micros) {
                    std::hint::spin_loop();
                }
                "worked"
            }),
        )
        .route(
            "/scarce",
            get(|| async {
                let _place = PLACES.acquire().await;
                sleep(Duration::from_millis(40)).await;
                "yours"
            }),
        )
        .route("/lines/{every}/{count}", get(|path| lines(path, || {})))
        .route(
            "/seats/{every}/{count}",
            get(move |path| {
                seats.take();
                // It is left before the end of the body, which is what ends it for the limit.
                lines(path, move || seats.leave())
            }),
        )
        .route(
            "/bytes/{count}",
            get(|Path(count): Path<usize>| async move {
                let piece = Bytes::from(vec![b'x'; PIECE]);
                let pieces = (0..count / PIECE).map(move |_| Ok::<_, io::Error>(piece.clone()));
                Body::from_stream(stream::iter(pieces))
            }),
        )
        .route(
            "/upload",
            post(|body: Body| async move {
                let mut body = body.into_data_stream();
                let mut count = 0;
                while let Some(piece) = body.next().await {
                    count += piece.map_err(|_| StatusCode::BAD_REQUEST)?.len();
                }
                Ok::<_, StatusCode>(count.to_string())
            }),
        )
        .merge(tonic::service::Routes::new(health).into_axum_router());
    (reporter, app)
}

const SEATED: &str = "seated";
const PIECE: usize = 16 << 10;
pub(super) const LINE: &str = "data: {\"a\":\"line\"}\n\n";

/// So many lines, each after a pause of `every` milliseconds: NDJSON, server-sent events, tokens of a model.
async fn lines(
    Path((every, count)): Path<(u64, usize)>,
    before_last: impl Fn() + Clone + Send + 'static,
) -> Body {
    Body::from_stream(stream::iter(1..=count).then(move |number| {
        let before_last = before_last.clone();
        async move {
            sleep(Duration::from_millis(every)).await;
            if number == count {
                before_last();
            }
            Ok::<_, io::Error>(LINE)
        }
    }))
}

/// What streams of a class take one of.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: AtomicUsize,
    most: AtomicUsize,
}

impl Seats {
    fn take(&self) {
        let taken = 1 + self.taken.fetch_add(1, Relaxed);
        self.most.fetch_max(taken, Relaxed);
    }

    fn leave(&self) {
        self.taken.fetch_sub(1, Relaxed);
    }

    /// At once.
    pub(super) fn most(&self) -> usize {
        self.most.load(Relaxed)
    }
}

/// One of its own in two files, which end with it.
struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn new() -> Result<Self, BoxError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "stellane-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Relaxed)
        );
        let path = |kind| std::env::temp_dir().join(format!("{name}.{kind}"));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let files = Self {
            certificate: path("pem"),
            key: path("key"),
        };
        std::fs::write(&files.certificate, made.cert.pem())?;
        std::fs::write(&files.key, made.signing_key.serialize_pem())?;
        Ok(files)
    }

    fn client(&self, http2: bool) -> Result<TlsConnector, BoxError> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.certificate)?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let protocol: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config).into())
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.certificate);
        let _ = std::fs::remove_file(&self.key);
    }
}
