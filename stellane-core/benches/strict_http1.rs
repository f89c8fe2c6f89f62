//! What the checks of HTTP/1 requests cost: one keep-alive client against one server in one thread.
//!
//! `cargo bench -p stellane-core --bench strict_http1` prints nanoseconds for each request, in rounds that
//! alternate; instructions are exact:
//!
//! ```text
//! valgrind --tool=callgrind target/release/deps/strict_http1-… layer hello 20000
//! ```
//!
//! once with 20000 and once with 40000 requests; the difference is what 20000 requests take. The first
//! argument is `lax` (the manager, nothing checked), `bytes` (the manager's own check), `idle` (and the layer, told to check nothing) or `layer` (both),
//! the second `hello` or `browser`.

use std::{convert::Infallible, future::ready, net::SocketAddr, time::Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use stellane_core::connection::Incoming;
use stellane_core::{
    connection::{ConnectionConfig, ConnectionManager},
    strict_http1::{Http1Rules, StrictHttp1Config, StrictHttp1Layer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower_layer::Layer;

const HELLO: &str = "GET / HTTP/1.1\r\nHost: localhost:3000\r\n\r\n";
const BROWSER: &str = "GET /account/orders?page=2 HTTP/1.1\r\nHost: shop.example.com\r\n\
    Connection: keep-alive\r\nsec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\n\
    sec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\nUpgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n\
    Referer: https://shop.example.com/account\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\r\n";

fn answer(
    request: Request<Incoming>,
) -> std::future::Ready<Result<Response<Full<Bytes>>, Infallible>> {
    drop(request);
    ready(Ok(Response::new(Full::from("hello"))))
}

async fn serve(server: &str) -> SocketAddr {
    let mut config = ConnectionConfig::default();
    config.strict_http1 = server != "lax";
    let manager = ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let service = tower::service_fn(answer);
    if server == "layer" || server == "idle" {
        let mut rules = StrictHttp1Config::default();
        rules.enabled = server == "layer";
        let rules = Http1Rules::builder().config(rules).build().expect("valid");
        let service = StrictHttp1Layer::new(&rules).layer(service);
        tokio::spawn(manager.serve(listener, service));
    } else {
        tokio::spawn(manager.serve(listener, service));
    }
    address
}

async fn exchange(client: &mut TcpStream, request: &str, times: u32) {
    let mut buffer = [0; 1024];
    for _ in 0..times {
        client.write_all(request.as_bytes()).await.expect("writes");
        let n = client.read(&mut buffer).await.expect("reads");
        assert!(buffer[..n].ends_with(b"hello"));
    }
}

fn text(name: &str) -> &'static str {
    if name == "browser" { BROWSER } else { HELLO }
}

fn main() {
    let args: Vec<_> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        if let [server, request, times] = &args[..] {
            let mut client = TcpStream::connect(serve(server).await)
                .await
                .expect("connects");
            let times = times.parse().expect("a number of requests");
            return exchange(&mut client, text(request), times).await;
        }
        for request in ["hello", "browser"] {
            let servers = ["lax", "bytes", "layer"];
            let mut clients = Vec::new();
            for server in servers {
                clients.push(
                    TcpStream::connect(serve(server).await)
                        .await
                        .expect("connects"),
                );
            }
            let mut best = [f64::MAX; 3];
            for _ in 0..20 {
                for (client, best) in clients.iter_mut().zip(&mut best) {
                    let begin = Instant::now();
                    exchange(client, text(request), 2000).await;
                    *best = best.min(begin.elapsed().as_nanos() as f64 / 2000.0);
                }
            }
            for (server, best) in servers.iter().zip(best) {
                println!("{request}: {server} {best:.0} ns for an exchange, the best of 20 rounds");
            }
        }
    });
}
