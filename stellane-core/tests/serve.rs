//! `stellane_core::serve` in the place of `axum::serve`.
#![cfg(feature = "full")]

#[path = "support/ask.rs"]
mod ask;
#[path = "support/log.rs"]
mod log;
#[path = "support/looks.rs"]
mod looks;
#[path = "support/self_signed.rs"]
mod self_signed;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, extract::State, routing::get};
use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use log::Log;
use looks::in_time;
use self_signed::SelfSigned;
use stellane_core::{
    App, BoxApp, HyperService, RequestBody, Runtime, RuntimeConfig, RuntimeError,
    autotune::AlgorithmKind,
    connection::{ConnectInfo, Listener},
    connections, serve, serve_make,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};
use tower::service_fn;
use tower_http::cors::CorsLayer;

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

fn hello() -> Router {
    Router::new()
        .route("/", get(async |State(hello): State<&'static str>| hello))
        .with_state("hello")
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("binds")
}

fn quiet() -> RuntimeConfig {
    RuntimeConfig::default().with(|config| config.server.admin_address = String::new())
}

#[tokio::test]
async fn a_router_is_served_in_two_lines_until_its_signal() {
    let (stop, stopped) = oneshot::channel::<()>();
    let server = serve(listener().await, hello()).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let address = server.local_addr().expect("known before");
    let serving = tokio::spawn(server.into_future());
    assert!(ask::get(address, "/").await.ends_with("hello"));
    let _ = stop.send(());
    let report = serving.await.expect("no panic").expect("no error");
    assert_eq!(report.drain.aborted, 0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn who_gives_no_purge_hook_is_told_what_to_expect_and_a_hook_is_called_when_connections_park()
{
    let log = Log::default();
    let _logged = tracing::subscriber::set_default(log.subscriber());
    let (stop, stopped) = oneshot::channel::<()>();
    let server = serve("127.0.0.1:0", hello()).config(quiet());
    let server = server.with_graceful_shutdown(async { drop(stopped.await) });
    drop(stop);
    server.await.expect("ends");
    assert!(log.text().contains("no purge hook"), "{}", log.text());

    let log = Log::default();
    let _logged = tracing::subscriber::set_default(log.subscriber());
    let (say_purged, mut purged) = mpsc::unbounded_channel();
    let config = quiet().with(|config| config.connection.park_after = Duration::ZERO);
    let server = serve("127.0.0.1:0", hello()).config(config);
    let server = server.purge_hook(move || {
        let _ = say_purged.send(());
    });
    let bound = server.bind().await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    let mut client = TcpStream::connect(address).await.expect("connects");
    let get = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    client.write_all(get).await.expect("writes");
    assert_eq!(in_time(purged.recv()).await, Some(Some(())));
    assert!(!log.text().contains("no purge hook"), "{}", log.text());
}

#[tokio::test]
async fn an_address_of_the_configuration_that_is_not_listened_on_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let own = listener.local_addr().expect("has one").to_string();
    let mut listener = Some(listener);
    for (configured, is_told) in [
        (own.as_str(), false),
        ("127.0.0.1:1", true),
        ("127.0.0.1:3000", false),
    ] {
        let log = Log::default();
        let _logged = tracing::subscriber::set_default(log.subscriber());
        let config = quiet().with(|config| config.server.address = configured.to_owned());
        let bound = match listener.take() {
            Some(listener) => serve(listener, hello()).config(config).bind().await,
            None => serve("127.0.0.1:0", hello()).config(config).bind().await,
        };
        drop(bound.expect("binds"));
        let told = log
            .text()
            .contains("`server.address` of the configuration is not used");
        assert_eq!(told, is_told, "{configured}: {}", log.text());
    }
}

#[tokio::test]
async fn many_serve_in_one_process_and_no_other_port_is_opened() {
    let mut servers = Vec::new();
    for _ in 0..3 {
        let bound = serve("127.0.0.1:0", hello()).bind().await.expect("binds");
        assert_eq!(bound.admin_addr(), None);
        servers.push(bound.local_addr());
        tokio::spawn(bound.serve());
    }
    for address in servers {
        assert!(ask::get(address, "/").await.ends_with("hello"));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn all_kinds_of_listeners_are_served_on_alone_and_together() {
    use tokio::net::{UnixListener, UnixStream};
    let folder = std::env::temp_dir().join(format!("stellane-serve-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = |name: &str| folder.join(name);

    let std = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = std.local_addr().expect("an address");
    tokio::spawn(serve(std, hello()).into_future());
    assert!(ask::get(address, "/").await.ends_with("hello"));

    let unix = UnixListener::bind(path("tokio")).expect("binds");
    let bound = serve(unix, hello()).bind().await.expect("binds");
    assert_eq!(bound.local_addr().port(), 0, "no TCP beside it");
    tokio::spawn(bound.serve());
    let unix = std::os::unix::net::UnixListener::bind(path("std")).expect("binds");
    tokio::spawn(serve(unix, hello()).into_future());
    let address = format!("unix:{}", path("address").display());
    let bound = serve(address, hello()).bind().await.expect("binds");
    tokio::spawn(bound.serve());
    for name in ["tokio", "std", "address"] {
        let client = UnixStream::connect(path(name)).await.expect("connects");
        assert!(ask::ask(client, GET).await.ends_with("hello"), "{name}");
    }

    let both = [listener().await, listener().await];
    let addresses = both.each_ref().map(|one| one.local_addr().expect("TCP"));
    tokio::spawn(serve(both, hello()).into_future());
    for address in addresses {
        assert!(ask::get(address, "/").await.ends_with("hello"));
    }
    let _ = std::fs::remove_dir_all(folder);
}

#[tokio::test]
async fn each_of_several_listeners_has_its_own_tls() {
    use stellane_core::connection::TlsAcceptor;
    let key = SelfSigned::new();
    // What tonic's own server says of a connection with TLS.
    #[cfg(feature = "tonic-014")]
    type Told = <tokio_rustls::server::TlsStream<TcpStream> as
        tonic::transport::server::Connected>::ConnectInfo;
    let hello = || {
        service_fn(async |request: Request<RequestBody>| {
            let _ = &request;
            #[cfg(feature = "tonic-014")]
            if let Some(told) = request.extensions().get::<Told>() {
                assert!(told.get_ref().remote_addr().is_some());
                assert!(told.peer_certs().is_none());
                return Ok(Response::new("hello, tonic".to_owned()));
            }
            Ok::<_, Infallible>(Response::new("hello".to_owned()))
        })
    };
    let (plain, secret) = (Listener::from(listener().await), listener().await);
    let secret = Listener::from(secret).tls(&TlsAcceptor::from_rustls(key.server()));
    let (at, at_tls) = (plain.local_addr(), secret.local_addr());
    tokio::spawn(serve([plain, secret], hello()).into_future());
    assert!(ask::ask_at(at.expect("TCP"), GET).await.ends_with("hello"));

    let socket = TcpStream::connect(at_tls.expect("TCP"))
        .await
        .expect("connects");
    let stream = key.connect(socket).await;
    let answer = ask::ask(stream, GET).await;
    let tonic = cfg!(feature = "tonic-014");
    assert_eq!(answer.contains("hello, tonic"), tonic, "{answer}");
}

#[tokio::test]
async fn connections_come_from_anywhere() {
    let (send, mut receive) = mpsc::channel(4);
    let incoming = connections(move |cx| receive.poll_recv(cx).map(|io| io.map(Ok)));
    let (stop, stopped) = oneshot::channel::<()>();
    let server = serve(incoming, hello()).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let serving = tokio::spawn(server.into_future());
    for _ in 0..2 {
        let (client, io) = tokio::io::duplex(4096);
        send.send(io).await.expect("served");
        assert!(ask::ask(client, GET).await.ends_with("hello"));
    }
    // One that stays is told by the drain.
    let (mut client, io) = tokio::io::duplex(4096);
    send.send(io).await.expect("served");
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("writes");
    let mut first = [0; 12];
    client.read_exact(&mut first).await.expect("an answer");
    let _ = stop.send(());
    let report = serving.await.expect("no panic").expect("no error");
    assert_eq!(report.drain.aborted, 0);
}

#[tokio::test]
async fn a_connection_is_served_by_a_runtime_without_a_listener() {
    let runtime = Runtime::builder()
        .config(quiet())
        .service(hello())
        .build()
        .expect("builds");
    let (client, io) = tokio::io::duplex(4096);
    let serving = tokio::spawn(runtime.serve_connection(io, None));
    assert!(ask::ask(client, GET).await.ends_with("hello"));
    serving.await.expect("no panic");
    assert_eq!(runtime.components().metrics.stats().requests_total, 1);
}

#[tokio::test]
async fn a_service_is_made_for_each_connection() {
    let made = Arc::new(AtomicUsize::new(0));
    let make = {
        let made = Arc::clone(&made);
        service_fn(move |connection: ConnectInfo| {
            let (number, peer) = (made.fetch_add(1, Relaxed), connection.peer());
            async move {
                // Not there at once.
                tokio::task::yield_now().await;
                assert!(peer.is_some());
                let count = Arc::new(AtomicUsize::new(0));
                let app = service_fn(move |_: Request<RequestBody>| {
                    let answer = format!("{number}:{}", count.fetch_add(1, Relaxed));
                    async { Ok::<_, Infallible>(Response::new(answer)) }
                });
                Ok::<_, Infallible>(app)
            }
        })
    };
    let server = serve_make(listener().await, make);
    let address = server.local_addr().expect("TCP");
    tokio::spawn(server.into_future());
    for number in 0..2 {
        let two = format!("GET / HTTP/1.1\r\nhost: x\r\n\r\n{GET}");
        let answers = ask::ask_at(address, &two).await;
        assert!(answers.contains(&format!("{number}:0")), "{answers}");
        assert!(answers.ends_with(&format!("{number}:1")), "{answers}");
    }
    assert_eq!(made.load(Relaxed), 2);

    let fails = service_fn(async |_: ConnectInfo| Err::<Router, _>("on purpose"));
    let server = serve_make(listener().await, fails);
    let address = server.local_addr().expect("TCP");
    tokio::spawn(server.into_future());
    assert!(ask::get(address, "/").await.starts_with("HTTP/1.1 500 "));
}

#[tokio::test]
async fn facts_of_ones_own_about_the_connection_are_in_the_requests() {
    #[derive(Clone)]
    struct Peer(Option<SocketAddr>);
    let peer = || {
        service_fn(async |request: Request<RequestBody>| {
            let peer = request.extensions().get::<Peer>();
            let known = peer.is_some_and(|peer| peer.0.is_some());
            Ok::<_, Infallible>(Response::new(known.to_string()))
        })
    };
    let describe = |connection: &ConnectInfo, extensions: &mut http::Extensions| {
        extensions.insert(Peer(connection.peer()));
    };
    let server = serve(listener().await, peer()).connect_info(describe);
    let address = server.local_addr().expect("TCP");
    tokio::spawn(server.into_future());
    assert!(ask::get(address, "/").await.ends_with("true"));

    let builder = Runtime::builder().config(quiet()).service(peer());
    let bound = builder.connect_info(describe).build().expect("builds");
    let bound = bound.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    assert!(ask::get(address, "/").await.ends_with("true"));
}

/// A layer outside of the preset sees what is refused by the limit, before there is a request for it.
#[tokio::test]
async fn layers_outside_of_the_preset_see_refusals_and_answer_preflights_under_overload() {
    let mut config = quiet();
    config.limit.algorithm = AlgorithmKind::Fixed;
    (config.limit.initial, config.limit.min) = (1, 1);
    config.limit.max_wait = Duration::ZERO;
    config.server.max_body_bytes = 10;
    let app = Router::new()
        .route("/", get(async || "hello"))
        .route("/panic", get(async || -> () { panic!("on purpose") }))
        .route("/hang", get(std::future::pending::<()>));
    let server = serve(listener().await, app)
        .config(config)
        .outer_layer(CorsLayer::permissive())
        .outer_layer(tower_http::set_header::SetResponseHeaderLayer::overriding(
            http::HeaderName::from_static("x-outermost"),
            http::HeaderValue::from_static("yes"),
        ));
    let bound = server.bind().await.expect("binds");
    let (address, components) = (bound.local_addr(), bound.components().clone());
    tokio::spawn(bound.serve());
    let check = async |line: &str, fields: &str, status: &str| {
        let request = format!(
            "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\norigin: https://example.org\r\n\
             access-control-request-method: GET\r\n{fields}\r\n"
        );
        let answer = ask::ask_at(address, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{line}: {answer}"
        );
        for field in ["access-control-allow-origin: *", "x-outermost: yes"] {
            assert!(
                answer.contains(&format!("\r\n{field}\r\n")),
                "{line}: {answer}"
            );
        }
    };
    check("GET /", "", "200").await;
    check("GET /panic", "", "500").await;
    check("GET /hang", "x-request-timeout-ms: 20\r\n", "504").await;
    check("POST /", "content-length: 11\r\n", "413").await;
    let _place = components.limit.try_acquire().expect("the only one");
    check("GET /", "", "503").await;
    check("OPTIONS /", "", "200").await;
}

#[tokio::test]
async fn bodies_of_any_data_and_services_of_hyper_are_served() {
    /// No `Bytes`, and an error that is none.
    struct Slow(Option<std::collections::VecDeque<u8>>);
    impl http_body::Body for Slow {
        type Data = std::collections::VecDeque<u8>;
        type Error = &'static str;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, &'static str>>> {
            std::task::Poll::Ready(self.0.take().map(|data| Ok(http_body::Frame::data(data))))
        }
    }
    let app = hyper::service::service_fn(async |request: Request<RequestBody>| {
        let body = request.into_body().collect().await?;
        let data = body.aggregate().chunk().iter().rev().copied().collect();
        Ok::<_, stellane_core::RequestBodyError>(Response::new(Slow(Some(data))))
    });
    let app = HyperService(app);
    let runtime = Runtime::builder()
        .config(quiet())
        .service(app)
        .build()
        .expect("builds");
    let bound = runtime.listen_on(listener().await).await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    let request =
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
    assert!(ask::ask_at(address, request).await.contains("olleh"));
}

/// A function that stands around a whole router, so that it runs before routing, knows no request but axum's.
#[cfg(feature = "axum-08")]
#[tokio::test]
async fn services_of_axums_own_request_are_served() {
    use axum::{extract::Request, middleware, response::Response};
    use stellane_core::AxumService;
    use tower::Layer;

    async fn lower_case(mut request: Request, next: middleware::Next) -> Response {
        let lower = request.uri().path().to_lowercase();
        *request.uri_mut() = lower.parse().expect("still a path");
        next.run(request).await
    }

    let echo = async |peer: axum::extract::ConnectInfo<SocketAddr>, body: String| {
        format!("{} {body}", peer.ip())
    };
    let app = Router::new().route("/echo", axum::routing::post(echo));
    let app = AxumService(middleware::from_fn(lower_case).layer(app));
    let listener = listener().await;
    let address = listener.local_addr().expect("bound");
    tokio::spawn(serve(listener, app).into_future());
    let request =
        "POST /ECHO HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
    let answer = ask::ask_at(address, request).await;
    assert!(answer.ends_with("127.0.0.1 hello"), "{answer}");
}

/// `axum::serve` gives an `io::Result`, and so do the functions that call it.
#[tokio::test]
async fn an_error_is_one_of_io_where_the_program_has_it_so() {
    async fn program(address: SocketAddr) -> std::io::Result<()> {
        serve(address, hello()).await?;
        Ok(())
    }

    let taken = listener().await;
    let error = program(taken.local_addr().expect("bound")).await;
    let error = error.expect_err("in use");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("is in use"), "{error}");
}

#[tokio::test]
async fn a_boxed_app_has_a_type_with_a_name_and_keeps_lengths_and_ends() {
    fn app() -> impl App {
        service_fn(async |request: Request<RequestBody>| {
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, stellane_core::RequestBodyError>(Response::new(Full::<Bytes>::from(body)))
        })
    }
    fn server(app: BoxApp) -> Result<Runtime<BoxApp>, RuntimeError> {
        Runtime::builder().config(quiet()).service(app).build()
    }
    let bound = server(BoxApp::new(app()))
        .expect("builds")
        .bind("127.0.0.1:0")
        .await;
    let bound = bound.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    let request =
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
    let answer = ask::ask_at(address, request).await;
    assert!(answer.contains("\r\ncontent-length: 5\r\n"), "{answer}");
}

#[test]
fn nothing_panics_outside_of_tokio() {
    let built = Runtime::builder().config(quiet()).service(hello()).build();
    let error = built.expect_err("there is no tokio");
    assert!(error.to_string().contains("#[tokio::main]"), "{error}");
    let error = stellane_core::Components::new(&quiet()).expect_err("there is no tokio");
    assert!(matches!(error, RuntimeError::NoTokio));
}

#[tokio::test]
async fn what_main_prints_of_an_error_is_a_sentence() {
    let taken = listener().await;
    let address = taken.local_addr().expect("TCP");
    for error in [
        serve(address, hello()).bind().await.expect_err("taken"),
        serve([""; 0], hello()).bind().await.expect_err("nothing"),
        serve("nonsense", hello())
            .bind()
            .await
            .expect_err("no address"),
    ] {
        assert_eq!(format!("{error:?}"), error.to_string());
        assert!(!error.to_string().contains('{'), "{error}");
    }
}

/// Run again by the test below, with variables that must not be set in this process.
#[tokio::test]
#[ignore = "run by the_environment_configures_by_documented_names_alone"]
async fn with_the_environment() {
    let bound = serve("127.0.0.1:0", hello()).bind().await.expect("binds");
    println!("admin: {:?}", bound.admin_addr().is_some());
    println!(
        "at most: {}",
        bound.components().connections.config().max_idle_connections
    );
}

#[test]
fn the_environment_configures_by_documented_names_alone() {
    let run = |variables: &[(&str, &str)]| {
        let this = std::env::current_exe().expect("this test");
        let mut command = std::process::Command::new(this);
        command.args([
            "--exact",
            "with_the_environment",
            "--ignored",
            "--nocapture",
        ]);
        let output = command.envs(variables.iter().copied()).output();
        String::from_utf8(output.expect("runs").stdout).expect("text")
    };
    let usual = run(&[]);
    assert!(usual.contains("admin: false"), "{usual}");
    // Those of a program that loads its configuration from the process say nothing here.
    let profile = run(&[("STELLANE_ENV", "production"), ("LISTEN_FDS", "1")]);
    let lines = |text: &str| {
        text.lines()
            .filter(|l| l.contains(": "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(&profile)[..2], lines(&usual)[..2]);
    let changed = run(&[
        ("STELLANE__SERVER__ADMIN_ADDRESS", "127.0.0.1:0"),
        ("STELLANE__CONNECTION__MAX_IDLE_CONNECTIONS", "77"),
    ]);
    assert!(changed.contains("admin: true"), "{changed}");
    assert!(changed.contains("at most: 77"), "{changed}");
}

#[cfg(feature = "axum-08")]
mod axum_08 {
    use axum::extract::ConnectInfo as Axum;
    use stellane_core::{IntoListener, axum_listener, runtime::Serve};

    use super::*;

    fn peer() -> Router {
        Router::new().route(
            "/",
            get(async |Axum(peer): Axum<SocketAddr>| peer.to_string()),
        )
    }

    async fn is_told<L: IntoListener + 'static>(server: Serve<L>, address: SocketAddr) {
        let serving = tokio::spawn(server.into_future());
        let client = TcpStream::connect(address).await.expect("connects");
        let local = client.local_addr().expect("an address").to_string();
        assert!(ask::ask(client, GET).await.ends_with(&local));
        serving.abort();
    }

    #[tokio::test]
    async fn connect_info_is_there_by_itself_and_as_axum_puts_it() {
        let listeners = [listener().await, listener().await, listener().await];
        let [one, two, three] = listeners;
        let address = one.local_addr().expect("TCP");
        let server = serve(one, peer());
        is_told(server, address).await;
        let address = two.local_addr().expect("TCP");
        let make = peer().into_make_service_with_connect_info::<SocketAddr>();
        let server = serve_make(two, make);
        is_told(server, address).await;
        let address = three.local_addr().expect("TCP");
        let tapped = axum::serve::ListenerExt::tap_io(three, |io| drop(io.set_nodelay(true)));
        let server = serve(axum_listener(tapped), peer());
        is_told(server, address).await;
    }

    #[tokio::test]
    async fn connect_info_is_off_by_a_key() {
        let server = serve(listener().await, peer()).config(quiet());
        let address = server.local_addr().expect("TCP");
        tokio::spawn(server.into_future());
        assert!(ask::get(address, "/").await.starts_with("HTTP/1.1 500 "));
    }
}

#[cfg(all(feature = "tonic-014", unix))]
#[tokio::test]
async fn tonic_finds_its_own_connect_info() {
    use tonic::transport::server::{TcpConnectInfo, UdsConnectInfo};
    let app = || {
        service_fn(async |request: Request<RequestBody>| {
            let extensions = request.extensions();
            let tcp = extensions.get::<TcpConnectInfo>();
            let uds = extensions.get::<UdsConnectInfo>();
            let answer = match (tcp, uds) {
                (Some(tcp), None) => format!("tcp {}", tcp.remote_addr.expect("a peer")),
                (None, Some(uds)) => {
                    let who = uds.peer_cred.expect("credentials");
                    format!("uds {} {}", who.uid(), who.pid().expect("a process"))
                }
                _ => "neither or both".to_owned(),
            };
            Ok::<_, Infallible>(Response::new(answer))
        })
    };
    let server = serve(listener().await, app());
    let address = server.local_addr().expect("TCP");
    tokio::spawn(server.into_future());
    let client = TcpStream::connect(address).await.expect("connects");
    let local = client.local_addr().expect("an address");
    assert!(
        ask::ask(client, GET)
            .await
            .ends_with(&format!("tcp {local}"))
    );

    let path = std::env::temp_dir().join(format!("stellane-uds-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let unix = tokio::net::UnixListener::bind(&path).expect("binds");
    tokio::spawn(serve(unix, app()).into_future());
    let client = tokio::net::UnixStream::connect(&path)
        .await
        .expect("connects");
    let uid = client.peer_cred().expect("credentials").uid();
    let answer = ask::ask(client, GET).await;
    assert!(
        answer.ends_with(&format!("uds {uid} {}", std::process::id())),
        "{answer}"
    );
    let _ = std::fs::remove_file(path);
}

/// A stream of connections that only fails is not asked again at once for ever, and one that fails now and then not kept
/// waiting.
#[tokio::test(start_paused = true)]
async fn a_source_that_only_fails_is_asked_again_after_a_pause() {
    let asked = Arc::new(AtomicUsize::new(0));
    let incoming = {
        let asked = Arc::clone(&asked);
        connections::<tokio::io::DuplexStream>(move |_| {
            // Or a server that spins would never come to its end.
            assert!(asked.fetch_add(1, Relaxed) < 2000, "it spins");
            std::task::Poll::Ready(Some(Err(std::io::ErrorKind::Other.into())))
        })
    };
    let minute = tokio::time::sleep(Duration::from_secs(60));
    let served = serve(incoming, hello()).with_graceful_shutdown(minute);
    served.await.expect("no error");
    assert!(asked.load(Relaxed) > 100, "{asked:?}");
}

#[tokio::test]
async fn a_server_without_listeners_ends_with_its_last_connection() {
    let (client, io) = tokio::io::duplex(4096);
    // A client's handshake fails, then there is one, then the end.
    let mut given = vec![Ok(io), Err(std::io::ErrorKind::InvalidData.into())];
    let incoming = connections(move |_| std::task::Poll::Ready(given.pop()));
    let server = serve(incoming, hello()).with_graceful_shutdown(std::future::pending());
    let serving = tokio::spawn(server.into_future());
    assert!(ask::ask(client, GET).await.ends_with("hello"));
    let ended = tokio::time::timeout(Duration::from_secs(60), serving).await;
    let report = ended.expect("ends").expect("no panic").expect("no error");
    assert!(report.is_clean(), "{report}");
}

/// Also on an engine of several threads, and for connections that no listener accepted.
#[tokio::test]
async fn services_are_made_on_every_engine_and_for_every_kind_of_connection() {
    use stellane_core::engine::EngineKind;
    let made = |name: &'static str| {
        service_fn(move |connection: ConnectInfo| {
            let facts = format!("{name} {}", connection.requests());
            let thread = std::thread::current().name().map(str::to_owned);
            async move {
                let app = service_fn(move |_: Request<RequestBody>| {
                    let answer = format!("{facts} {}", thread.as_deref().unwrap_or_default());
                    async { Ok::<_, Infallible>(Response::new(answer)) }
                });
                Ok::<_, Infallible>(app)
            }
        })
    };
    let server = serve_make(listener().await, made("core"));
    let address = server.local_addr().expect("TCP");
    let mut config = quiet();
    config.engine.kind = EngineKind::PerCore;
    tokio::spawn(server.config(config).into_future());
    let answer = ask::get(address, "/").await;
    assert!(answer.contains("core 0 stellane-core-"), "{answer}");

    let (client, io) = tokio::io::duplex(4096);
    let mut given = Some(Ok(io));
    let incoming = connections(move |_| std::task::Poll::Ready(given.take()));
    tokio::spawn(serve_make(incoming, made("elsewhere")).into_future());
    assert!(ask::ask(client, GET).await.contains("elsewhere 0"));
}
