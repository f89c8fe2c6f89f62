//! Requests that lay in their sockets while nobody had time to read them.

use std::{
    convert::Infallible,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use http::{Request, Response};
use http_body_util::BodyExt;
use stellane_core::{Components, RequestBody, Runtime, RuntimeConfig, autotune::AlgorithmKind};
use tokio::runtime::Handle;
use tower::service_fn;

/// Meets the client at the barrier, holds its thread until it is met again, and then for longer than anybody may wait.
fn hold(barrier: &Barrier) {
    barrier.wait();
    barrier.wait();
    thread::sleep(Duration::from_millis(600));
}

/// Serves on the thread of the test, which `/held` [holds](hold).
async fn serve(change: fn(&mut RuntimeConfig)) -> (SocketAddr, Components, Arc<Barrier>) {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    config.workers.min_workers = 1;
    // Never full.
    config.limit.algorithm = AlgorithmKind::Fixed;
    config.limit.initial = 1000;
    config.limit.exempt = vec!["/exempt".to_owned()];
    change(&mut config);
    let barrier = Arc::new(Barrier::new(2));
    let held = Arc::clone(&barrier);
    let service = service_fn(move |request: Request<RequestBody>| {
        if request.uri().path() == "/held" {
            hold(&held);
        }
        async move {
            let read = request.into_body().collect().await;
            let length = read.map_or(0, |body| body.to_bytes().len());
            Ok::<_, Infallible>(Response::new(length.to_string()))
        }
    });
    let runtime = Runtime::builder().config(config).service(service).build();
    let runtime = runtime.expect("builds");
    let components = runtime.components().clone();
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    (address, components, barrier)
}

const HELLO: &str = "GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n";
/// What hyper serves.
const UPLOAD: &str = "POST /upload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello";
const EXEMPT: &str = "GET /exempt HTTP/1.1\r\nhost: localhost\r\n\r\n";
const HELD: &str = "GET /held HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).expect("is set");
    stream
}

fn ask(mut stream: &TcpStream, request: &str) {
    stream.write_all(request.as_bytes()).expect("writes");
}

fn status(mut stream: &TcpStream) -> String {
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer).expect("reads");
    String::from_utf8_lossy(&answer[9.min(read)..12.min(read)]).into_owned()
}

/// A client of HTTP/2, which asks for `/hello` in one stream after the other.
struct Http2 {
    connection: TcpStream,
    stream: u32,
}

impl Http2 {
    fn connect(address: SocketAddr) -> Self {
        let mut connection = connect(address);
        // Settings that change nothing.
        let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        connection.write_all(begin).expect("writes");
        Self {
            connection,
            stream: 1,
        }
    }

    fn ask(&mut self) {
        // GET and http are of the static table, as are the names of the two others.
        let block = b"\x82\x86\x44\x06/hello\x41\x09localhost";
        let length = u8::try_from(block.len()).expect("short");
        // HEADERS, with the end of the stream and of the fields.
        let mut frame = vec![0, 0, length, 1, 0x05];
        frame.extend(self.stream.to_be_bytes());
        frame.extend(block);
        self.connection.write_all(&frame).expect("writes");
    }

    fn status(&mut self) -> String {
        loop {
            let mut head = [0; 9];
            self.connection.read_exact(&mut head).expect("reads");
            let [a, b, c, kind, _, stream @ ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]);
            let mut frame = vec![0; length as usize];
            self.connection.read_exact(&mut frame).expect("reads");
            if kind == 1 && u32::from_be_bytes(stream) == self.stream {
                self.stream += 2;
                // 200 is of the static table, and there is one other answer.
                let is_ok = frame[0] == 0x88;
                return if is_ok { "200" } else { "503" }.to_owned();
            }
        }
    }
}

/// Who holds the thread.
#[derive(Clone, Copy)]
enum By {
    Request,
    /// Of that the server knows nothing.
    Task,
}

/// The answers to two clients that are known, one of HTTP/2, two that are not, and one that is exempt.
fn asked_while_held(by: By, address: SocketAddr, barrier: &Arc<Barrier>) -> [String; 5] {
    let (known, holds) = (connect(address), connect(address));
    let mut http2 = Http2::connect(address);
    http2.ask();
    assert_eq!(http2.status(), "200");
    // Until the limit has looked at the machine, once a second.
    for _ in 0..60 {
        for client in [&known, &holds] {
            ask(client, HELLO);
            assert_eq!(status(client), "200");
        }
        thread::sleep(Duration::from_millis(20));
    }
    match by {
        By::Request => ask(&holds, HELD),
        By::Task => {
            let barrier = Arc::clone(barrier);
            Handle::current().spawn(async move { hold(&barrier) });
        }
    }
    barrier.wait();
    let others = [(); 3].map(|()| connect(address));
    ask(&known, HELLO);
    http2.ask();
    for (other, request) in others.iter().zip([HELLO, UPLOAD, EXEMPT]) {
        ask(other, request);
    }
    barrier.wait();
    if matches!(by, By::Request) {
        assert_eq!(status(&holds), "200");
    }
    let [hello, upload, exempt] = &others;
    let [known, hello, upload, exempt] = [&known, hello, upload, exempt].map(status);
    [known, http2.status(), hello, upload, exempt]
}

async fn check(by: By, change: fn(&mut RuntimeConfig)) {
    let (address, components, barrier) = serve(change).await;
    let loads = [(0.5, "200", 0), (5.0, "503", 4)];
    for (tasks_per_core, expected, refused) in loads {
        components.local_signal.report(tasks_per_core);
        let barrier = Arc::clone(&barrier);
        let asking = tokio::task::spawn_blocking(move || asked_while_held(by, address, &barrier));
        let [known, http2, hello, upload, exempt] = asking.await.expect("no panic");
        for status in [known, http2, hello, upload] {
            assert_eq!(status, expected, "{tasks_per_core} tasks for each core");
        }
        assert_eq!(exempt, "200", "{tasks_per_core} tasks for each core");
        let stats = components.limit.stats();
        assert_eq!(stats.shed_wait_timeout, refused);
        assert_eq!(stats.in_flight, 0);
    }
}

#[tokio::test]
async fn what_waited_to_be_read_for_as_long_as_anybody_may_is_refused_by_a_full_machine_only() {
    check(By::Request, |_| {}).await;
}

#[tokio::test]
async fn the_same_where_no_request_has_held_the_thread() {
    check(By::Task, |_| {}).await;
}

/// Where something stands outside of the limit.
#[tokio::test]
async fn the_same_with_an_access_log() {
    check(By::Request, |config| config.access_log.enabled = true).await;
}
