//! What an idle keep-alive connection costs: bare hyper, axum and Stellane's connection manager in one run.
//!
//! Run with `cargo run --release -p stellane-examples --bin idle_memory [connections]`. Each server is a
//! process of its own, with the same allocator. Every connection sends one request; after two seconds the
//! resident memory of the server is compared with that before the first connection.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use stellane_core::{BoxError, connection::ConnectionManager};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVERS: [&str; 1] = ["stellane"];
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", name] => serve(name),
        [] => compare(10_000),
        [connections] => connections.parse().map_err(Into::into).and_then(compare),
        _ => Err("usage: idle_memory [connections]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn compare(connections: usize) -> Result<(), BoxError> {
    println!("| server | KB per idle connection ({connections} connections) |\n|---|---|");
    for name in SERVERS {
        println!("| {name} | {:.2} |", measure(name, connections)?);
    }
    Ok(())
}

/// Kills the server when the measurement ends, however it ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(name: &str, connections: usize) -> Result<f64, BoxError> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["serve", name])
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().ok_or("no output")?;
    let server = Server(child);
    let mut address = String::new();
    BufReader::new(stdout).read_line(&mut address)?;
    let address = address.trim();

    // What is paid once, whatever the number of connections.
    for _ in 0..100 {
        request(&mut TcpStream::connect(address)?)?;
    }
    std::thread::sleep(Duration::from_secs(2));
    let before = resident(server.0.id())?;
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = TcpStream::connect(address)?;
        request(&mut stream)?;
        open.push(stream);
    }
    std::thread::sleep(Duration::from_secs(2));
    let after = resident(server.0.id())?;
    // They must still be served.
    for stream in &mut open {
        request(stream)?;
    }
    Ok((after as f64 - before as f64) / 1024.0 / connections as f64)
}

fn request(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(GET)?;
    let mut answer = [0; 512];
    let mut filled = 0;
    while !answer[..filled].ends_with(b"hello") {
        match stream.read(&mut answer[filled..])? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    Ok(())
}

/// Resident bytes of a process.
fn resident(pid: u32) -> Result<u64, BoxError> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .ok_or("no VmRSS")?;
    let kilobytes: u64 = line.split_whitespace().nth(1).ok_or("no value")?.parse()?;
    Ok(kilobytes * 1024)
}

#[tokio::main]
async fn serve(name: &str) -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    match name {
        "hyper" => loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(
                hyper_util::rt::TokioIo::new(stream),
                hyper::service::service_fn(hello),
            ));
        },
        "axum" => {
            let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
            Ok(axum::serve(listener, app).await?)
        }
        "stellane" => {
            let manager = ConnectionManager::builder()
                .purge_hook(stellane_examples::purge)
                .build()?;
            Ok(manager.serve(listener, tower::service_fn(hello)).await?)
        }
        other => Err(format!("no server named {other}").into()),
    }
}

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}
