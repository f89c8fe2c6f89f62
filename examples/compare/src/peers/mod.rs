//! The servers written in Rust. Each is what its own documentation recommends, at its best settings,
//! and answers the same routes with the same bodies; `go/` holds the same in Go.
//!
//! | route | answer |
//! |---|---|
//! | `GET /hello` | `Hello, world!` |
//! | `GET /hello/{name}` | `{"hello":"name"}` |
//! | `GET /cpu/{below}` | how many primes there are, as JSON; about 1 ms for 20 000 |
//! | `GET /sqlite/{id}`, `GET /postgres/{id}` | one user, as JSON |
//! | `POST /upload`, `POST /upload/disk` | how many bytes came, as JSON |
//! | `GET /slow` | `Hello, world!` after 50 ms; axum and the preset only, as all below |
//! | `GET /stream` | 10 pieces of 1 KiB, 5 ms apart |
//! | `GET /download` | 1 MiB |
//! | `compare.Greeter/Say`, `SayOften` | gRPC: a greeting, or a hundred of them |

mod actix;
mod axum;
mod bare;
mod floor;
mod grpc;
mod may;
mod ntex;
mod preset;
pub(crate) mod work;
mod xitca;

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::contestants::Scope;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A server, and what the report says of it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub name: &'static str,
    /// The package in `Cargo.lock` that gives it its version.
    pub package: &'static str,
    pub scope: Scope,
    pub environment: &'static [(&'static str, &'static str)],
    serve: fn(&Settings) -> Result<(), BoxError>,
}

const fn peer(
    name: &'static str,
    package: &'static str,
    serve: fn(&Settings) -> Result<(), BoxError>,
) -> Peer {
    Peer {
        name,
        package,
        scope: Scope::All,
        environment: &[],
        serve,
    }
}

/// No server that anybody would use: only who asks for it by its name has it.
pub(crate) const FLOOR: &str = "floor";

pub(crate) const PEERS: [Peer; 14] = [
    peer("stellane-preset", "stellane-core", preset::serve),
    Peer {
        environment: &[("STELLANE__ENGINE__KIND", "per_core")],
        ..peer("stellane-per-core", "stellane-core", preset::serve)
    },
    peer("stellane-axum", "stellane-core", preset::serve_axum),
    peer("stellane-manager", "stellane-core", bare::serve_managed),
    peer("hyper", "hyper", bare::serve),
    peer("hyper-shared", "hyper", bare::serve_shared),
    peer("axum", "axum", axum::serve),
    peer("actix-web", "actix-web", actix::serve),
    peer("ntex", "ntex", ntex::serve),
    Peer {
        scope: Scope::Hello,
        ..peer("xitca-web", "xitca-web", xitca::serve)
    },
    Peer {
        scope: Scope::Hello,
        ..peer("may_minihttp", "may_minihttp", may::serve)
    },
    Peer {
        scope: Scope::Upload,
        ..peer(FLOOR, "mio", floor::serve)
    },
    Peer {
        scope: Scope::Grpc,
        ..peer("stellane-tonic", "stellane-core", grpc::serve)
    },
    Peer {
        scope: Scope::Grpc,
        ..peer("tonic", "tonic", grpc::serve_tonic)
    },
];

/// What the harness tells every server, by its environment.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub workers: usize,
    pub address: SocketAddr,
    pub sqlite: Option<String>,
    pub postgres: Option<String>,
    pub uploads: String,
    /// The folder of the certificate and its key, for who is to speak TLS.
    pub tls: Option<PathBuf>,
    /// Whether each request is to be logged.
    pub logs: bool,
}

impl Settings {
    fn from_env() -> Result<Self, BoxError> {
        let get = |name: &str| std::env::var(name).ok();
        Ok(Self {
            workers: get("COMPARE_WORKERS").as_deref().unwrap_or("1").parse()?,
            address: get("COMPARE_ADDRESS")
                .as_deref()
                .unwrap_or("127.0.0.1:0")
                .parse()?,
            sqlite: get("COMPARE_SQLITE"),
            postgres: get("COMPARE_POSTGRES"),
            uploads: get("COMPARE_UPLOADS").unwrap_or_else(|| "/tmp".to_owned()),
            tls: get("COMPARE_TLS").map(PathBuf::from),
            logs: get("COMPARE_LOGS").is_some(),
        })
    }

    /// A listening socket; several may share one address, as a restart needs.
    fn listen(&self) -> io::Result<TcpListener> {
        listen(self.address)
    }

    fn databases(&self) -> Result<work::Databases, BoxError> {
        work::Databases::open(self)
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Tells the harness where to connect.
fn ready(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{address}")?;
    out.flush()
}

/// The shared runtime of tokio, as `#[tokio::main]` would make it.
fn shared_runtime(workers: usize) -> io::Result<tokio::runtime::Runtime> {
    // Whatever became ready is served before anybody asks what else is: by default, with more than some hundred
    // busy connections for each thread, those that are served come back first and the others wait for long.
    const FAIR: u32 = 256; // tasks fit into a worker's queue
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .event_interval(FAIR)
        .max_io_events_per_tick(FAIR as usize)
        .enable_all()
        .build()
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            terminate.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

pub(crate) fn serve(name: &str) -> Result<(), BoxError> {
    let peer = PEERS
        .iter()
        .find(|peer| peer.name == name)
        .ok_or_else(|| format!("no peer is named {name}"))?;
    (peer.serve)(&Settings::from_env()?)
}
