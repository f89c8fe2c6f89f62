//! HTTP/2 over transports that do what they like, in simulated time, with streams that are cancelled at any moment:
//! a connection ends once, with one reason, leaves nothing behind, and every answer that came whole is the right one.
//!
//! `STELLANE_SIMULATIONS=100000` runs more of them; `STELLANE_SEED=17` runs one.
#![cfg(feature = "http2")]

#[path = "support/faulty.rs"]
mod faulty;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use faulty::{Faults, Faulty, Random, simulate_all};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::connection::{CloseReason, ConnectionConfig, ConnectionManager, Incoming};
use tokio::{
    io::DuplexStream,
    time::{sleep, timeout},
};

const SIMULATIONS: u64 = 600;
/// Some transports take an hour for all that.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What is done to the connection meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meddling {
    None,
    Drain,
    Close,
    CloseIdle,
    /// The client is gone.
    Vanish,
}

struct Stream {
    begins: Duration,
    path: &'static str,
    body: Bytes,
    /// The client gives it up after so long.
    cancelled: Option<Duration>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (begins, path, length) = (self.begins, self.path, self.body.len());
        write!(
            f,
            "{path} with {length} bytes at {begins:?}, given up after {:?}",
            self.cancelled
        )
    }
}

#[derive(Debug)]
struct Plan {
    streams: Vec<Stream>,
    meddling: Meddling,
    /// The transport fails after so many bytes.
    left: usize,
    max_requests: u64,
    /// How long the client keeps the connection when all is done.
    lingers: Duration,
}

fn plan(random: &mut Random) -> Plan {
    let streams = (0..1 + random.below(6)).map(|_| {
        let within = [1, 200, 2000][random.below(3)];
        let length = [1, 300, 100_000][random.below(3)];
        Stream {
            begins: random.millis(within),
            path: ["/now", "/later", "/big", "/unread"][random.below(4)],
            body: vec![b'x'; random.below(length)].into(),
            cancelled: (random.below(4) == 0).then(|| random.millis(300)),
        }
    });
    Plan {
        streams: streams.collect(),
        meddling: match random.below(12) {
            0 => Meddling::Drain,
            1 => Meddling::Close,
            2 => Meddling::CloseIdle,
            3 => Meddling::Vanish,
            _ => Meddling::None,
        },
        left: match random.below(5) {
            0 => random.below(5000),
            _ => usize::MAX,
        },
        max_requests: [0, 0, 0, 2][random.below(4)],
        lingers: Duration::from_secs([0, 0, 10][random.below(3)]),
    }
}

fn answer_to(path: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = [path.as_bytes(), b" "].concat();
    if path != "/unread" {
        answer.extend(body);
    }
    if path == "/big" {
        answer.extend([b'b'; 100_000]);
    }
    answer
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    if path == "/later" {
        sleep(Duration::from_millis(30)).await;
    }
    let body = match path.as_str() {
        "/unread" => Bytes::new(),
        _ => request.into_body().collect().await?.to_bytes(),
    };
    Ok(Response::new(Full::new(answer_to(&path, &body).into())))
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    /// The server has said that it did not begin with it: it can be sent again elsewhere.
    Unprocessed,
    Lost,
}

impl Stream {
    async fn run(&self, mut sender: http2::SendRequest<Full<Bytes>>) -> Fate {
        let request = Request::post(format!("http://x{}", self.path));
        let request = request.body(Full::new(self.body.clone()));
        if sender.ready().await.is_err() {
            return Fate::Unprocessed;
        }
        let response = match sender.try_send_request(request.expect("valid")).await {
            Ok(response) => response,
            Err(error) if error.message().is_some() => return Fate::Unprocessed,
            Err(error) => {
                let source = std::error::Error::source(error.error());
                let left = source
                    .and_then(|e| e.downcast_ref::<h2::Error>())
                    .is_some_and(|e| e.is_go_away() && e.reason() == Some(h2::Reason::NO_ERROR));
                return if left { Fate::Unprocessed } else { Fate::Lost };
            }
        };
        assert_eq!(response.status(), 200);
        let Ok(body) = response.into_body().collect().await else {
            return Fate::Lost;
        };
        assert_eq!(body.to_bytes(), answer_to(self.path, &self.body));
        Fate::Answered
    }
}

/// Runs every stream of the plan; what became of those that were not given up.
async fn client(near: DuplexStream, plan: &Plan) -> Vec<Fate> {
    let io = TokioIo::new(near);
    let Ok((sender, connection)) = http2::handshake(TokioExecutor::new(), io).await else {
        return Vec::new();
    };
    let connection = tokio::spawn(connection);
    let streams = plan.streams.iter().map(|stream| {
        let sender = sender.clone();
        async move {
            sleep(stream.begins).await;
            let patience = stream.cancelled.unwrap_or(PATIENCE);
            let fate = timeout(patience, stream.run(sender)).await;
            stream
                .cancelled
                .is_none()
                .then(|| fate.unwrap_or(Fate::Lost))
        }
    });
    let all = futures_util::future::join_all(streams);
    let patience = match plan.meddling {
        Meddling::Vanish => Duration::from_millis(100),
        _ => PATIENCE,
    };
    let fates = timeout(patience, all).await.unwrap_or_default();
    if plan.meddling == Meddling::Vanish {
        connection.abort();
    }
    sleep(plan.lingers).await;
    drop(sender);
    let _ = connection.await;
    fates.into_iter().flatten().collect()
}

/// Why the connection ended, and how many streams were answered.
async fn simulate(seed: u64, faults: Arc<Mutex<Faults>>) -> (CloseReason, usize) {
    let random = &mut Random::new(seed);
    let plan = plan(random);
    let mut config = ConnectionConfig::default();
    config.max_requests = plan.max_requests;
    config.first_byte_timeout = Duration::from_secs(5);
    config.head_timeout = Duration::from_secs(20);
    config.idle_timeout = Duration::from_secs(3);
    // Its transport may be slow, and hold up a ping for longer than usual, as long as it goes on.
    config.min_body_rate_bytes = 0;
    config.min_response_rate_bytes = 0;
    config.http2.ping_interval = Duration::ZERO;
    let manager = ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid");
    let (near, far) = tokio::io::duplex([300, 5000, 100_000][random.below(3)]);
    let faulty = Faulty::new(far, !seed, plan.left, &faults);
    let alive = Arc::new(());
    let service = {
        let alive = Arc::clone(&alive);
        tower::service_fn(move |request| {
            let alive = Arc::clone(&alive);
            async move {
                let answered = answer(request).await;
                drop(alive);
                answered
            }
        })
    };
    let serving = tokio::spawn(manager.serve_connection(faulty, None, service));
    let meddle = async {
        sleep(random.millis(1500)).await;
        match plan.meddling {
            Meddling::None | Meddling::Vanish => {}
            Meddling::Drain => {
                manager.drain(Duration::from_secs(1)).await;
            }
            Meddling::Close => manager.list().iter().for_each(|connection| {
                manager.close(connection.id);
            }),
            Meddling::CloseIdle => {
                manager.close_idle(9);
            }
        }
    };
    let (fates, (), served) = tokio::join!(client(near, &plan), meddle, async {
        timeout(2 * PATIENCE, serving).await
    });
    let reason = served.expect("an end").expect("no panic");

    // Streams have tasks of their own, which learn of the end a moment later.
    let none_left = async {
        while Arc::strong_count(&alive) > 1 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let none_left = timeout(Duration::from_secs(1), none_left).await;
    assert!(none_left.is_ok(), "something is left: {plan:?}");
    let stats = manager.stats();
    assert_eq!((stats.accepted_total, stats.open), (1, 0), "{plan:?}");
    assert_eq!(stats.requests_in_flight, 0, "{plan:?}");
    assert_eq!(
        (stats.closed_total(), stats.closed(reason)),
        (1, 1),
        "{plan:?}"
    );
    if plan.meddling == Meddling::None && plan.left == usize::MAX {
        assert!(!fates.contains(&Fate::Lost), "{fates:?} {reason} {plan:?}");
    }
    let answered = fates.iter().filter(|fate| **fate == Fate::Answered);
    (reason, answered.count())
}

#[test]
fn streams_of_all_fates_leave_nothing_behind() {
    let faults = Arc::default();
    let mut ends = BTreeMap::<_, u64>::new();
    let mut all_answered = 0;
    for (reason, answered) in simulate_all(SIMULATIONS, async |seed| {
        simulate(seed, Arc::clone(&faults)).await
    }) {
        *ends.entry(reason).or_default() += 1;
        all_answered += answered;
    }
    println!("{ends:?}\n{faults:?}, answered: {all_answered}");
    if ends.values().sum::<u64>() >= SIMULATIONS {
        let faults = faults.lock().expect("no panic");
        assert!(
            faults.short > 1000 && faults.pending > 1000 && faults.resets > 50,
            "the faults did not happen: {faults:?}"
        );
        assert!(all_answered > 800, "only {all_answered} were answered");
        use CloseReason::{ClientClosed, Drained, IdleTimeout, Killed, MaxRequests, Reclaimed};
        for reason in [
            ClientClosed,
            Drained,
            IdleTimeout,
            Killed,
            MaxRequests,
            Reclaimed,
        ] {
            assert!(ends.contains_key(&reason), "no {reason} in {ends:?}");
        }
    }
}
