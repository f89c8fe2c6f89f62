//! Rates that replicas share: what is asked of the store, what is answered without it, and that no request fails when it is away.
//!
//! The store is a server in this test that says what it is told to, and writes down what it was asked.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    convert::Infallible,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, Key, LimitState, ManualClock,
    rate_limit::shared::{
        RateStore, RateStoreConfig, SharedRateLimit, SharedRateLimitLayer, SharedRateLimited,
        WithoutStore,
    },
};
use tower::{Layer, Service, ServiceExt};

/// What the store answers to a question.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answers {
    /// All are let in, and owe nothing afterwards.
    Yes,
    /// None is, for so many microseconds.
    No(u64),
    Says(&'static str),
    /// As `Yes`, after 5 ms.
    Slowly,
    /// None, ever.
    Nothing,
    HangsUp,
}

/// A question: how many requests, of what cost, and what was let in without one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Question {
    count: u64,
    cost: u64,
    debt: u64,
}

#[derive(Clone)]
struct Server {
    address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
    questions: Arc<Mutex<Vec<Question>>>,
    /// How many connections there are.
    connections: Arc<()>,
}

impl Server {
    fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            answers: Arc::new(Mutex::new(answers)),
            questions: Arc::default(),
            connections: Arc::default(),
        };
        let accepting = server.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (server, socket) = (accepting.clone(), socket.unwrap());
                std::thread::spawn(move || server.serve(socket));
            }
        });
        server
    }

    /// Until the connection ends, in whatever way.
    fn serve(self, socket: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(socket.try_clone().ok()?);
        socket.set_nodelay(true).ok()?;
        let mut writer = socket;
        loop {
            let words = read(&mut reader)?;
            let words: Vec<&str> = words.iter().map(|word| &**word).collect();
            let answer = match *words {
                ["SCRIPT", "LOAD", script] if script.contains("tolerance") => {
                    "$4\r\ntake\r\n".into()
                }
                ["SCRIPT", ..] => "$8\r\nreplicas\r\n".into(),
                ["EVALSHA", "replicas", ..] => ":1\r\n".into(),
                ["EVALSHA", "take", _, _, count, cost, debt, _, _, _, _] => {
                    let number = |word: &str| word.parse().unwrap();
                    let (count, cost, debt) = (number(count), number(cost), number(debt));
                    let question = Question { count, cost, debt };
                    self.questions.lock().unwrap().push(question);
                    let answers = *self.answers.lock().unwrap();
                    match answers {
                        Answers::Slowly => {
                            std::thread::sleep(Duration::from_millis(5));
                            format!("*2\r\n:{count}\r\n:0\r\n")
                        }
                        Answers::Yes => format!("*2\r\n:{count}\r\n:0\r\n"),
                        Answers::No(micros) => format!("*2\r\n:0\r\n:{micros}\r\n"),
                        Answers::Says(text) => text.into(),
                        Answers::Nothing => continue,
                        Answers::HangsUp => return None,
                    }
                }
                _ => "+OK\r\n".into(),
            };
            writer.write_all(answer.as_bytes()).ok()?;
        }
    }

    fn answer(&self, answers: Answers) {
        *self.answers.lock().unwrap() = answers;
    }

    fn questions(&self) -> Vec<Question> {
        self.questions.lock().unwrap().clone()
    }

    fn store(&self) -> RateStore {
        let store = RateStore::builder(format!("redis://{}", self.address));
        // Long enough for a machine that does something else for a while.
        store.timeout(Duration::from_millis(500)).build().unwrap()
    }

    fn is_left(&self) -> bool {
        // This one, and the one of the thread that accepts.
        Arc::strong_count(&self.connections) == 2
    }
}

/// A command: an array of strings.
fn read(from: &mut impl BufRead) -> Option<Vec<String>> {
    let number = |from: &mut dyn BufRead| {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        line.trim().get(1..)?.parse::<usize>().ok()
    };
    let words = number(from)?;
    let mut word = || {
        let mut bytes = vec![0; number(from)? + 2];
        from.read_exact(&mut bytes).ok()?;
        bytes.truncate(bytes.len() - 2);
        String::from_utf8(bytes).ok()
    };
    (0..words).map(|_| word()).collect()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    assert!(waited.is_ok(), "never: {what}");
}

async fn is_there(store: &RateStore) {
    until("the store is there", || store.stats().is_there).await;
}

fn limit(store: &RateStore, rule: &str, time: &ManualClock) -> SharedRateLimit {
    let limit = SharedRateLimit::builder(store, "test").rule(rule.parse().unwrap());
    limit.clock(time.clock()).build().unwrap()
}

#[tokio::test]
async fn a_busy_key_asks_once_in_26_and_pays_for_all() {
    let (server, time) = (Server::start(Answers::Yes), ManualClock::default());
    let store = server.store();
    let limit = limit(&store, "1000/s", &time);
    is_there(&store).await;
    for _ in 0..1000 {
        assert!(limit.check(Key::of("ada"), 1).await.is_ok());
        time.advance(Duration::from_millis(1));
    }
    let questions = server.questions();
    assert!(questions.len() <= 39, "{questions:?}");
    let paid: u64 = questions.iter().map(|asked| asked.count + asked.debt).sum();
    assert!((975..=1000).contains(&paid), "{paid}");
    assert_eq!(limit.stats().asked, questions.len() as u64);
    assert_eq!(limit.stats().local.allowed, 1000);
}

#[tokio::test]
async fn a_key_of_a_low_rate_asks_each_time() {
    let (server, time) = (Server::start(Answers::Yes), ManualClock::default());
    let store = server.store();
    let limit = limit(&store, "39/s", &time);
    is_there(&store).await;
    for _ in 0..39 {
        assert!(limit.check(Key::of("ada"), 1).await.is_ok());
    }
    assert_eq!(server.questions().len(), 39);
}

#[tokio::test]
async fn a_lease_that_is_old_is_not_used() {
    let (server, time) = (Server::start(Answers::Yes), ManualClock::default());
    let store = server.store();
    let limit = limit(&store, "1000/s", &time);
    is_there(&store).await;
    for _ in 0..3 {
        assert!(limit.check(Key::of("ada"), 1).await.is_ok());
        assert!(limit.check(Key::of("ada"), 1).await.is_ok());
        time.advance(Duration::from_secs(2));
    }
    let debts: Vec<_> = server.questions().iter().map(|asked| asked.debt).collect();
    assert_eq!(debts, [0, 1, 1]);
}

#[tokio::test]
async fn what_the_store_refuses_is_refused_without_it_until_the_time_that_it_said() {
    let (server, time) = (
        Server::start(Answers::No(1_000_000)),
        ManualClock::default(),
    );
    let store = server.store();
    let limit = limit(&store, "10/s burst 1", &time);
    is_there(&store).await;
    let retry_after = async || match limit.check(Key::of("eve"), 1).await.unwrap_err() {
        SharedRateLimited::Rate(limited) => limited.retry_after,
        other => panic!("{other}"),
    };
    assert_eq!(retry_after().await, Duration::from_secs(1));
    for _ in 0..99 {
        time.advance(Duration::from_millis(10));
        assert!(retry_after().await < Duration::from_secs(1));
    }
    assert_eq!(server.questions().len(), 1);
    server.answer(Answers::Yes);
    time.advance(Duration::from_millis(10));
    assert!(limit.check(Key::of("eve"), 1).await.is_ok());
    assert_eq!(server.questions().len(), 2);
    assert_eq!(limit.stats().local.rules[0].refused, 100);
}

#[tokio::test]
async fn requests_of_the_same_moment_go_together() {
    let (server, time) = (Server::start(Answers::Yes), ManualClock::default());
    let store = server.store();
    let limit = limit(&store, "1000/m", &time);
    is_there(&store).await;
    let checks: Vec<_> = (0..500).map(|_| limit.check(Key::of("ada"), 1)).collect();
    for check in checks {
        assert!(check.await.is_ok());
    }
    let questions = server.questions();
    assert_eq!(questions.iter().map(|asked| asked.count).sum::<u64>(), 500);
    assert!(questions.len() < 250, "{}", questions.len());
}

/// A store that takes 5 ms for each question, and twenty times as many as it can answer in time.
#[tokio::test]
async fn nobody_waits_behind_all_others() {
    let (server, time) = (Server::start(Answers::Slowly), ManualClock::default());
    let store = RateStore::builder(format!("redis://{}", server.address));
    let store = store.timeout(Duration::from_secs(1)).build().unwrap();
    let limit = limit(&store, "10/h", &time);
    is_there(&store).await;
    let checks: Vec<_> = (0..4000).map(|key| limit.check(Key::of(key), 1)).collect();
    for check in checks {
        assert!(check.await.is_ok());
    }
    let (asked, stats) = (server.questions().len(), limit.stats());
    assert!(asked < 1000, "{asked}");
    assert!(stats.without_store > 3000, "{stats:?}");
}

#[tokio::test]
async fn a_cost_is_asked_for_and_leased_as_what_it_is() {
    let (server, time) = (Server::start(Answers::Yes), ManualClock::default());
    let store = server.store();
    let limit = limit(&store, "1000/s", &time);
    is_there(&store).await;
    for cost in [1, 10, 10, 10, 80] {
        assert!(limit.check(Key::of("ada"), cost).await.is_ok());
        time.advance(Duration::from_millis(100));
    }
    let asked = |(cost, debt)| Question {
        count: 1,
        cost,
        debt,
    };
    let wanted = [(1, 0), (10, 20), (80, 0)].map(asked);
    assert_eq!(server.questions(), wanted);
}

#[tokio::test]
async fn whatever_a_store_does_no_request_fails_and_it_is_asked_again() {
    let errors = [
        Answers::Nothing,
        Answers::HangsUp,
        Answers::Says("-READONLY You can't write against a read only replica.\r\n"),
        Answers::Says("-OOM command not allowed when used memory > 'maxmemory'.\r\n"),
        Answers::Says("-LOADING Redis is loading the dataset in memory\r\n"),
        Answers::Says("-NOAUTH Authentication required.\r\n"),
        Answers::Says("-NOSCRIPT No matching script.\r\n"),
        Answers::Says("+OK\r\n"),
        Answers::Says("*0\r\n"),
        Answers::Says("*2\r\n:-1\r\n:-1\r\n"),
        Answers::Says("*2\r\n:1\r\n$3\r\nabc\r\n"),
        Answers::Says("$-1\r\n"),
        Answers::Says("what?\r\n"),
        Answers::Says("*1000000000\r\n"),
    ];
    for error in errors {
        let (server, time) = (Server::start(Answers::Yes), ManualClock::default());
        let store = server.store();
        let limit = limit(&store, "10/s", &time);
        is_there(&store).await;
        let ask = async || {
            assert!(limit.check(Key::of("ada"), 1).await.is_ok());
            time.advance(Duration::from_millis(110));
        };
        ask().await;
        server.answer(error);
        ask().await;
        until("it is known", || store.stats().failures >= 1).await;
        assert!(limit.stats().without_store >= 1, "{error:?}");
        for _ in 0..10 {
            ask().await;
        }
        server.answer(Answers::Yes);
        let asked = server.questions().len();
        until("it is asked again", || store.stats().is_there).await;
        ask().await;
        assert!(server.questions().len() > asked);
        assert_eq!(limit.stats().local.rules[0].refused, 0);
    }
}

#[tokio::test]
async fn without_a_store_each_replica_keeps_to_the_rule_or_a_share_or_refuses() {
    // Nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let store = RateStore::builder(format!("redis://{address}"))
        .build()
        .unwrap();
    let cases = [
        (WithoutStore::Whole, 5),
        (WithoutStore::Share, 5),
        (WithoutStore::Refuse, 0),
    ];
    for (without_store, wanted) in cases {
        let limit = SharedRateLimit::builder(&store, "test")
            .rule("5/h".parse().unwrap())
            .without_store(without_store)
            .build()
            .unwrap();
        let mut let_in = 0;
        for _ in 0..10 {
            let_in += u32::from(limit.check(Key::of("ada"), 1).await.is_ok());
        }
        assert_eq!(let_in, wanted, "{without_store:?}");
        assert_eq!(limit.stats().without_store, 10);
    }
}

#[tokio::test]
async fn the_layer_asks_and_answers_in_the_clients_language() {
    let server = Server::start(Answers::No(1_500_000));
    let store = server.store();
    is_there(&store).await;
    let limit = |without_store| {
        SharedRateLimit::builder(&store, "test")
            .rule("10/s".parse().unwrap())
            .without_store(without_store)
            .build()
            .unwrap()
    };
    let (whole, refuse) = (limit(WithoutStore::Whole), limit(WithoutStore::Refuse));
    let service = |limit: &SharedRateLimit| {
        SharedRateLimitLayer::new(limit, |head| head.headers.get("x-key").map(Key::of)).layer(
            tower::service_fn(async |_: Request<Full<Bytes>>| {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
            }),
        )
    };
    let request = |key: Option<&str>, content: &str| {
        let request = Request::builder().header("content-type", content);
        let request = match key {
            Some(key) => request.header("x-key", key),
            None => request,
        };
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let mut service_of_whole = service(&whole);
    let mut ask = async |key, content| {
        let service = service_of_whole.ready().await.unwrap();
        service.call(request(key, content)).await.unwrap()
    };
    assert_eq!(ask(None, "text/plain").await.status(), StatusCode::OK);
    let refused = ask(Some("ada"), "text/plain").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["ratelimit"], "\"10/s\";r=0;t=2");
    let refused = ask(Some("ada"), "application/grpc").await;
    assert_eq!(refused.headers()["grpc-status"], "8");
    assert!(refused.headers().contains_key("grpc-retry-pushback-ms"));
    server.answer(Answers::Yes);
    assert_eq!(
        ask(Some("bob"), "text/plain").await.status(),
        StatusCode::OK
    );
    // The store is away.
    server.answer(Answers::HangsUp);
    assert_eq!(
        ask(Some("carl"), "text/plain").await.status(),
        StatusCode::OK
    );
    let mut service = service(&refuse);
    let mut ask = async |content| {
        let service = service.ready().await.unwrap();
        service.call(request(Some("dora"), content)).await.unwrap()
    };
    let refused = ask("text/plain").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(ask("application/grpc").await.headers()["grpc-status"], "14");
}

#[tokio::test]
async fn several_rates_are_asked_one_after_the_other() {
    let server = Server::start(Answers::Yes);
    let store = server.store();
    is_there(&store).await;
    let limit = |name| {
        let limit = SharedRateLimit::builder(&store, name).rule("10/s".parse().unwrap());
        limit.build().unwrap()
    };
    let (first, second) = (limit("first"), limit("second"));
    let layer = SharedRateLimitLayer::new(&first, |_| Some(Key::of(1)))
        .and(&second, |_| Some(Key::of(2)))
        .cost(|_| 3);
    let service = tower::service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
    });
    let answer = layer
        .layer(service)
        .oneshot(Request::new(Full::<Bytes>::default()));
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    let costs: Vec<_> = server.questions().iter().map(|asked| asked.cost).collect();
    assert_eq!(costs, [1, 3]);
}

#[tokio::test]
async fn a_store_that_is_slow_within_an_adaptive_limit_closes_nothing() {
    let server = Server::start(Answers::Nothing);
    let store = RateStore::builder(format!("redis://{}", server.address))
        .build()
        .unwrap();
    is_there(&store).await;
    let rate = SharedRateLimit::builder(&store, "test")
        .rule("1/h".parse().unwrap())
        .build();
    let adaptive = AdaptiveLimit::builder().build().unwrap();
    let rates = SharedRateLimitLayer::new(&rate.unwrap(), |_| Some(Key::of("eve")));
    let served = tower::service_fn(async |_: Request<_>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
    });
    let service = AdaptiveLimitLayer::new(&adaptive).layer(rates.layer(served));
    let mut refused = 0;
    for _ in 0..2000 {
        let request = Request::new(Full::<Bytes>::default());
        let answer = service.clone().oneshot(request).await;
        match answer.unwrap().status() {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(refused, 1999);
    assert_eq!(adaptive.stats().state, LimitState::Open);
    assert_eq!(adaptive.stats().shed, 0);
}

#[tokio::test]
async fn the_connection_ends_with_the_last_handle() {
    let (server, time) = (Server::start(Answers::Yes), ManualClock::default());
    let store = server.store();
    let limit = limit(&store, "10/s", &time);
    is_there(&store).await;
    drop(store);
    assert!(limit.check(Key::of("ada"), 1).await.is_ok());
    assert_eq!(server.questions().len(), 1);
    assert!(!server.is_left());
    drop(limit);
    until("the connection is gone", || server.is_left()).await;
}

#[test]
fn a_password_is_shown_nowhere_and_what_is_no_store_is_told() {
    let build = |url: &str| RateStore::builder(url).build();
    for url in [
        "",
        "http://:hunter2@localhost",
        "redis://:hunter2@",
        "rediss://:hunter2@localhost",
        "redis://:hunter2@localhost:port",
    ] {
        let error = build(url).unwrap_err().to_string();
        assert!(error.contains("redis://"), "{url}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let config = RateStoreConfig::default().with(|config| {
        config.url = "redis://:hunter2@localhost".to_owned();
        config.timeout = Duration::ZERO;
    });
    assert!(!format!("{config:?}").contains("hunter2"));
    let builder = RateStore::builder("").config(config);
    assert!(!format!("{builder:?}").contains("hunter2"));
    let error = builder.build().unwrap_err().to_string();
    assert!(error.contains("1ms to 1s"), "{error}");
    let store = build("redis://:hunter2@localhost:1").unwrap();
    let limit = SharedRateLimit::builder(&store, "a").rule("1/s".parse().unwrap());
    let shown = format!("{store:?} {limit:?}");
    let limit = limit.build().unwrap();
    assert!(!format!("{shown} {limit:?}").contains("hunter2"));
}
