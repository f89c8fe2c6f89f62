//! The load generator against servers that do what servers should not.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use stellane_cli::load::{Answer, Exchange, Failure, Generator, Load, Observer, Pace};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[derive(Debug, Default)]
struct Seen {
    statuses: BTreeMap<u16, u64>,
    failures: BTreeMap<&'static str, u64>,
    sent: u64,
}

impl Observer for Seen {
    fn sent(&mut self, _late: Duration) {
        self.sent += 1;
    }

    fn answered(&mut self, answer: Answer, _after: Duration) {
        *self.statuses.entry(answer.status).or_default() += 1;
    }

    fn failed(&mut self, failure: Failure, _after: Duration) {
        *self.failures.entry(failure.as_str()).or_default() += 1;
    }
}

/// A server that hands each connection to `serve`, with its number; the second is how many there were.
fn server(serve: impl Fn(u64, TcpStream) + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound");
    let (serve, count) = (Arc::new(serve), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(number, stream));
        }
    });
    (address, count)
}

/// Reads so many requests; whether the client is still there.
fn requests(stream: &mut TcpStream, count: usize) -> bool {
    let mut request = vec![0; count * REQUEST.len()];
    stream.read_exact(&mut request).is_ok() && request == REQUEST.repeat(count)
}

fn load(connections: usize) -> Load {
    Load::closed(
        connections,
        [Exchange::new(REQUEST).expecting(b"hello")].into(),
    )
}

/// Runs until so much time is over; the answers are what counts, not how many.
fn run(address: SocketAddr, load: Load, millis: u64) -> Seen {
    let mut seen = Seen::default();
    let mut generator = Generator::connect(address, load).expect("connects");
    generator.until_open().expect("opens");
    let time = Duration::from_millis(millis);
    generator.run(time, &mut seen).expect("runs");
    seen
}

#[test]
fn sixteen_requests_are_sent_in_one_piece_and_answered_in_order() {
    let (address, _) = server(|_, mut stream| {
        while requests(&mut stream, 16) {
            let _ = stream.write_all(&HELLO.repeat(16));
        }
    });
    let mut load = load(2);
    load.exchanges = [Exchange::new(REQUEST).expecting(b"hello").repeated(16)].into();
    load.pace = Pace::Closed { pipeline: 16 };
    let seen = run(address, load, 500);
    assert!(seen.statuses[&200] >= 32, "{seen:?}");
    assert!(seen.failures.is_empty(), "{seen:?}");
}

#[test]
fn a_wrong_body_and_an_answer_that_nobody_asked_for_are_failures() {
    let answers: [(&[u8], &str); 3] = [
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nHELLO",
            "a wrong body",
        ),
        (b"SSH-2.0\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhel", "closed"),
    ];
    for (answer, failure) in answers {
        let (address, _) = server(move |_, mut stream| {
            requests(&mut stream, 1);
            let _ = stream.write_all(answer);
        });
        let seen = run(address, load(1), 50);
        assert!(seen.failures.contains_key(failure), "{failure}: {seen:?}");
        assert!(seen.statuses.is_empty(), "{failure}: {seen:?}");
    }
    let (address, _) = server(|_, mut stream| {
        while requests(&mut stream, 1) {
            let _ = stream.write_all(&HELLO.repeat(2));
        }
    });
    let seen = run(address, load(1), 50);
    let unasked = Failure::Unasked.as_str();
    assert!(seen.failures.contains_key(unasked), "{seen:?}");
}

#[test]
fn a_kept_connection_that_the_server_closed_is_tried_again_once_if_wished() {
    for retry in [true, false] {
        // Each connection is closed when the second request on it is there.
        let (address, _) = server(|_, mut stream| {
            requests(&mut stream, 1);
            let _ = stream.write_all(HELLO);
            requests(&mut stream, 1);
        });
        let mut load = load(1);
        load.retry = retry;
        let seen = run(address, load, 500);
        assert!(seen.statuses[&200] >= 2, "{seen:?}");
        assert_eq!(seen.failures.is_empty(), retry, "{seen:?}");
    }
    // Never again where it is a new one.
    let (address, count) = server(|_, mut stream| {
        requests(&mut stream, 1);
    });
    let mut load = load(1);
    load.retry = true;
    let seen = run(address, load, 500);
    assert!(seen.statuses.is_empty(), "{seen:?}");
    let opened = count.load(Ordering::Relaxed);
    assert_eq!(seen.failures["closed"], opened, "{seen:?}");
}

#[test]
fn a_client_that_reconnects_sends_so_many_requests_on_each_connection() {
    let (address, count) = server(|_, mut stream| {
        for _ in 0..3 {
            if requests(&mut stream, 1) {
                let _ = stream.write_all(HELLO);
            }
        }
        // A fourth would stay unanswered.
        let _ = stream.read(&mut [0]);
    });
    let mut load = load(1);
    load.reconnect_after = 3;
    let seen = run(address, load, 500);
    assert!(seen.failures.is_empty(), "{seen:?}");
    // The last one may have been used for one or two, or not at all.
    let opened = count.load(Ordering::Relaxed);
    assert!((seen.statuses[&200] / 3..=seen.statuses[&200] / 3 + 1).contains(&opened));
}

#[test]
fn all_that_is_due_is_sent_whether_the_generator_spins_or_sleeps() {
    for spin in [true, false] {
        let (address, _) = server(|_, mut stream| {
            while requests(&mut stream, 1) {
                let _ = stream.write_all(HELLO);
            }
        });
        let mut load = load(4);
        load.pace = Pace::Open { rate: 300.0, spin };
        let seen = run(address, load, 500);
        assert_eq!(seen.statuses, BTreeMap::from([(200, 150)]), "{seen:?}");
        assert_eq!(seen.sent, 150, "{seen:?}");
        assert!(seen.failures.is_empty(), "{seen:?}");
    }
}

#[test]
fn who_has_no_connection_in_time_is_told_apart_from_who_has_no_answer() {
    // Nobody is ever answered, and there is one connection for all.
    let (address, _) = server(|_, mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut load = load(1);
    load.pace = Pace::Open {
        rate: 1000.0,
        spin: false,
    };
    load.patience = Duration::from_millis(100);
    let seen = run(address, load, 300);
    assert_eq!(seen.failures.values().sum::<u64>(), 300, "{seen:?}");
    let never = Failure::NoConnection.as_str();
    assert!(seen.failures.contains_key(never), "{seen:?}");
    assert!(seen.failures.contains_key("timed out"), "{seen:?}");
}
