//! Clients and transports that do what they like, in simulated time: whatever happens, a connection ends once,
//! with one reason, leaves nothing behind, every whole answer that its client saw is the right one, and what was handed to
//! the service is answered, unless the transport failed, the client left, or the handler was cancelled.
//!
//! `STELLANE_SIMULATIONS=100000` runs more of them; `STELLANE_SEED=17` runs one.
#![cfg(feature = "connection")]

#[path = "support/faulty.rs"]
mod faulty;

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use faulty::{Faults, Faulty, Random, simulate_all};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use stellane_core::connection::{CloseReason, ConnectionConfig, ConnectionManager, Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::sleep,
};

const SIMULATIONS: u64 = 3000;

/// How a client ends its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It asked for `Connection: close` with its last request.
    Orderly,
    /// It sends no more after so many bytes, and says so.
    HalfClose(usize),
    /// It is gone after so many bytes.
    Vanish(usize),
    /// It says nothing after so many bytes, for a long time.
    Silence(usize),
}

/// What is done to the connection from the server's side meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meddling {
    None,
    Drain,
    Close,
    CloseIdle,
}

#[derive(Debug)]
struct Plan {
    bytes: Vec<u8>,
    /// The bodies of the answers.
    answers: Vec<Vec<u8>>,
    /// What is said behind an upgrade, and comes back.
    echo: Option<Vec<u8>>,
    /// How many of them an orderly client gets.
    certain: usize,
    /// Where requests end: a pause there is one that a connection is parked in.
    cuts: Vec<usize>,
    end: End,
    meddling: Meddling,
    /// The transport fails.
    reset: bool,
    max_requests: u64,
}

fn plan(random: &mut Random) -> Plan {
    let (mut bytes, mut answers) = (Vec::new(), Vec::new());
    let count = 1 + random.below(4);
    let upgrades = random.below(6) == 0;
    let mut cuts = Vec::new();
    for n in 0..count {
        let path = ["/now", "/later", "/big", "/unread"][random.below(4)];
        let close = if n + 1 == count && !upgrades {
            "connection: close\r\n"
        } else {
            ""
        };
        let text = "x".repeat(random.below(300));
        let (method, sent, body) = match random.below(3) {
            0 => ("GET", "\r\n".to_owned(), String::new()),
            1 => (
                "POST",
                format!("content-length: {}\r\n\r\n{text}", text.len()),
                text,
            ),
            _ => (
                "POST",
                format!(
                    "transfer-encoding: chunked\r\n\r\n2\r\nab\r\n{:x}\r\nc{text}\r\n0\r\n\r\n",
                    text.len() + 1
                ),
                format!("abc{text}"),
            ),
        };
        bytes.extend(format!("{method} {path}?{n} HTTP/1.1\r\nhost: x\r\n{close}{sent}").bytes());
        cuts.push(bytes.len());
        let body = if path == "/unread" { "" } else { &body };
        answers.push(answer_to(path, &format!("{path}?{n}"), body.as_bytes()));
    }
    let echo = upgrades.then(|| {
        bytes.extend(
            b"GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
        );
        let echo = vec![b'e'; random.below(2000)];
        bytes.extend(&echo);
        echo
    });
    let at = random.below(bytes.len() + 1);
    Plan {
        echo,
        end: match random.below(7) {
            0 => End::HalfClose(at),
            1 => End::Vanish(at),
            2 => End::Silence(at),
            _ => End::Orderly,
        },
        meddling: match random.below(12) {
            0 => Meddling::Drain,
            1 => Meddling::Close,
            2 => Meddling::CloseIdle,
            _ => Meddling::None,
        },
        reset: random.below(5) == 0,
        max_requests: [0, 0, 0, 2][random.below(4)],
        bytes,
        answers,
        certain: count,
        cuts,
    }
}

fn answer_to(path: &str, uri: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = [uri.as_bytes(), b" ", body].concat();
    if path == "/big" {
        answer.extend([b'b'; 20_000]);
    }
    answer
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/upgrade" {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            // It may fail before, and at any byte.
            let Ok(upgraded) = upgrade.await else { return };
            let (mut from, mut to) = tokio::io::split(hyper_util::rt::TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        let switching = Response::builder().status(101).header("upgrade", "echo");
        return Ok(switching.body(Full::default()).expect("valid"));
    }
    let uri = request.uri().to_string();
    let path = request.uri().path().to_owned();
    if path == "/later" {
        sleep(Duration::from_millis(30)).await;
    }
    let body = if path == "/unread" {
        Bytes::new()
    } else {
        match request.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => {
                let mut refused = Response::new(Full::default());
                *refused.status_mut() = http::StatusCode::BAD_REQUEST;
                return Ok(refused);
            }
        }
    };
    Ok(Response::new(Full::new(
        answer_to(&path, &uri, &body).into(),
    )))
}

/// Sends as planned and reads all there is.
async fn client(stream: DuplexStream, plan: &Plan, random: &mut Random) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut got = Vec::new();
    let vanished = Arc::new(tokio::sync::Notify::new());
    let send = async {
        let bytes = match plan.end {
            End::Orderly => &plan.bytes[..],
            End::HalfClose(at) | End::Vanish(at) | End::Silence(at) => &plan.bytes[..at],
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = [8, 80, 800][random.below(3)];
            let mut n = (1 + random.below(most)).min(rest.len());
            let sent = bytes.len() - rest.len();
            if let Some(cut) = plan.cuts.iter().find(|cut| **cut > sent)
                && random.below(2) == 0
            {
                n = n.min(cut - sent);
            }
            if writer.write_all(&rest[..n]).await.is_err() {
                break;
            }
            rest = &rest[n..];
            let sent = bytes.len() - rest.len();
            if plan.cuts.contains(&sent) && random.below(2) == 0 {
                sleep(Duration::from_millis(200) + random.millis(800)).await;
            } else if random.below(3) == 0 {
                sleep(random.millis(400)).await;
            }
        }
        match plan.end {
            End::Orderly if plan.echo.is_none() => {}
            End::Orderly | End::HalfClose(_) => {
                let _ = writer.shutdown().await;
            }
            End::Vanish(_) => vanished.notify_one(),
            End::Silence(_) => {
                sleep(Duration::from_secs(60)).await;
                vanished.notify_one();
            }
        }
    };
    let read = async {
        let reading = async { while let Ok(1..) = reader.read_buf(&mut got).await {} };
        tokio::select! {
            () = reading => {}
            () = vanished.notified() => {}
        }
    };
    tokio::join!(send, read);
    got
}

/// How many answers of the service came whole.
fn served_answers(mut got: &[u8]) -> u64 {
    let mut served = 0;
    while let Some(head) = got.windows(4).position(|w| w == b"\r\n\r\n") {
        let text = std::str::from_utf8(&got[..head]).expect("a head");
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().expect("a number"));
        let Some(rest) = got.get(head + 4 + length..) else {
            break;
        };
        let is_served = text.contains("x-served: yes");
        served += u64::from(is_served);
        if text.starts_with("HTTP/1.1 101") {
            break;
        }
        got = rest;
    }
    served
}

/// The bodies of the whole answers that say 200, and what came behind an upgrade.
fn whole_answers(mut got: &[u8]) -> (Vec<Vec<u8>>, Option<&[u8]>) {
    let mut answers = Vec::new();
    while let Some(head) = got.windows(4).position(|w| w == b"\r\n\r\n") {
        let text = std::str::from_utf8(&got[..head]).expect("a head");
        if text.starts_with("HTTP/1.1 101") {
            return (answers, Some(&got[head + 4..]));
        }
        if !text.starts_with("HTTP/1.1 200") {
            let status = text.split(' ').nth(1);
            assert!(matches!(status, Some("400" | "408")), "{text}");
            break;
        }
        let length: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .expect("a length")
            .parse()
            .expect("a number");
        let Some(body) = got[head + 4..].get(..length) else {
            break;
        };
        answers.push(body.to_vec());
        got = &got[head + 4 + length..];
    }
    (answers, None)
}

/// Why the connection ended, and how often it came back from being parked.
async fn simulate(seed: u64, faults: Arc<Mutex<Faults>>) -> (CloseReason, u64) {
    let random = &mut Random::new(seed);
    let plan = plan(random);
    let mut config = ConnectionConfig::default();
    config.park = random.below(4) > 0;
    config.park_after = Duration::from_millis([0, 1, 100][random.below(3)]);
    config.strict_http1 = random.below(4) > 0;
    config.max_requests = plan.max_requests;
    config.connect_info = random.below(2) == 0;
    config.first_byte_timeout = Duration::from_secs(5);
    config.head_timeout = Duration::from_secs(20);
    config.idle_timeout = Duration::from_secs(3);
    // Only what has been idle for as long makes room.
    config.drain_idle = Duration::from_millis(200);
    config.write_timeout = Duration::from_secs(2);
    // These clients may be slow, as long as they go on.
    config.min_response_rate_bytes = 0;
    config.min_body_rate_bytes = match plan.end {
        End::Silence(_) => 240,
        _ => 0,
    };
    let manager = ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid");

    let (near, far) = tokio::io::duplex([16, 300, 5000, 100_000][random.below(4)]);
    let left = if plan.reset {
        random.below(2 * plan.bytes.len())
    } else {
        usize::MAX
    };
    let faulty = Faulty::new(far, !seed, left, &faults);
    let alive = Arc::new(());
    let handed = Arc::new(AtomicU64::new(0));
    let service = {
        let (alive, handed) = (Arc::clone(&alive), Arc::clone(&handed));
        tower::service_fn(move |request| {
            let alive = Arc::clone(&alive);
            handed.fetch_add(1, Relaxed);
            async move {
                let mut answered = answer(request).await;
                if let Ok(answer) = &mut answered {
                    let yes = http::HeaderValue::from_static("yes");
                    answer.headers_mut().insert("x-served", yes);
                }
                drop(alive);
                answered
            }
        })
    };
    let serving = tokio::spawn(manager.serve_connection(faulty, None, service));
    let meddle = {
        let (manager, after) = (manager.clone(), random.millis(1500));
        async move {
            sleep(after).await;
            match plan.meddling {
                Meddling::None => {}
                Meddling::Drain => {
                    manager.drain(Duration::from_secs(1)).await;
                }
                Meddling::Close => {
                    manager.list().iter().for_each(|connection| {
                        manager.close(connection.id);
                    });
                }
                Meddling::CloseIdle => {
                    manager.close_idle(9);
                }
            }
        }
    };
    let (got, (), served) = tokio::join!(client(near, &plan, random), meddle, async {
        tokio::time::timeout(Duration::from_secs(300), serving).await
    });
    let reason = served.expect("an end").expect("no panic");

    if reason == CloseReason::Upgraded {
        // It lives on for as long as the other protocol wants it.
        while manager.stats().open > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    }

    let stats = manager.stats();
    assert_eq!((stats.accepted_total, stats.open), (1, 0), "{plan:?}");
    assert_eq!(stats.requests_in_flight, 0, "{plan:?}");
    assert_eq!(stats.closed_total(), 1, "{plan:?}");
    if reason != CloseReason::Upgraded || plan.meddling == Meddling::None {
        assert_eq!(stats.closed(reason), 1, "{plan:?}");
    }
    assert_eq!(Arc::strong_count(&alive), 1, "something is left: {plan:?}");

    use CloseReason::{Aborted, Killed, SlowRead};
    if !plan.reset
        && !matches!(plan.end, End::Vanish(_) | End::Silence(_))
        && !matches!(reason, Aborted | Killed | SlowRead)
    {
        assert_eq!(
            served_answers(&got) + stats.requests_cancelled_total,
            handed.load(Relaxed),
            "{reason} {:.400} {plan:?}",
            String::from_utf8_lossy(&got)
        );
    }

    let (answers, echo) = whole_answers(&got);
    assert!(
        plan.answers.starts_with(&answers),
        "{:.400} {plan:?}",
        String::from_utf8_lossy(&got)
    );
    if plan.end == End::Orderly && plan.meddling == Meddling::None && !plan.reset {
        let most = match plan.max_requests {
            0 => plan.certain,
            max => plan.certain.min(usize::try_from(max).expect("few")),
        };
        assert!(
            answers.len() >= most,
            "{reason} {:.400} {plan:?}",
            String::from_utf8_lossy(&got)
        );
        if plan.max_requests == 0 {
            assert_eq!(
                echo,
                plan.echo.as_deref(),
                "{reason} {:.400} {plan:?}",
                String::from_utf8_lossy(&got)
            );
        }
    }
    if let Some(echo) = echo {
        assert!(
            plan.echo.as_ref().is_some_and(|all| all.starts_with(echo)),
            "{plan:?}"
        );
    }
    (reason, stats.unparked_total)
}

#[test]
fn a_connection_ends_once_and_leaves_nothing_whatever_its_transport_and_client_do() {
    let faults = Arc::default();
    let mut ends = std::collections::BTreeMap::<_, u64>::new();
    let mut all_unparked = 0;
    for (reason, unparked) in simulate_all(SIMULATIONS, async |seed| {
        simulate(seed, Arc::clone(&faults)).await
    }) {
        *ends.entry(reason).or_default() += 1;
        all_unparked += unparked;
    }
    println!("{ends:?}\n{faults:?}, unparked: {all_unparked}");
    if ends.values().sum::<u64>() > 1000 {
        let faults = faults.lock().expect("no panic");
        assert!(
            faults.short > 1000 && faults.pending > 1000 && faults.resets > 100,
            "the faults did not happen: {faults:?}"
        );
        assert!(all_unparked > 100, "only {all_unparked} were unparked");
        use CloseReason::{
            ClientClosed, Drained, FirstByteTimeout, IdleTimeout, IoError, Killed, MaxRequests,
            Reclaimed, Upgraded,
        };
        for reason in [
            ClientClosed,
            CloseReason::Finished,
            Drained,
            FirstByteTimeout,
            IdleTimeout,
            IoError,
            Killed,
            MaxRequests,
            Reclaimed,
            Upgraded,
        ] {
            assert!(ends.contains_key(&reason), "no {reason} in {ends:?}");
        }
    }
}
