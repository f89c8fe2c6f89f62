use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::stream;
use http_body_util::StreamBody;
use stellane_core::autotune::LimitMode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Barrier,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    BoxError, Scale, Server,
    client::{Client, WINDOW},
    tally::{Answer, Tally},
};

/// How long an attack lasts.
const LONG: Duration = Duration::from_secs(20);
/// A refusal takes no more than this part of what it spares. It is a sixtieth where nobody stands in between.
const REFUSED_BY: f64 = 20.0;

/// Requests that are to stay open: what has an answer by `end` was refused.
async fn answered_until(mut asking: JoinSet<Answer>, end: Instant) -> Result<Tally, BoxError> {
    let requests = asking.len() as u64;
    let mut tally = Tally::default();
    while let Ok(Some(answer)) = tokio::time::timeout_at(end, asking.join_next()).await {
        tally.add(answer?);
    }
    sleep_until(end).await;
    tally.requests = requests;
    Ok(tally)
}

pub(super) async fn stalled(
    server: &Arc<Server>,
    streams: usize,
    scale: Scale,
) -> Result<Tally, BoxError> {
    let client = Client::http2(server, WINDOW).await?;
    let mut asking = JoinSet::new();
    for _ in 0..streams {
        let mut client = client.share();
        asking.spawn(async move {
            let body = StreamBody::new(Box::pin(stream::pending()) as _);
            let response = client.send("POST", "/upload", body).await;
            Answer::from(response.map(|response| Answer::of_status(response.status())))
        });
    }
    answered_until(asking, Instant::now() + scale.of(LONG)).await
}

pub(super) async fn window_zero(
    server: &Arc<Server>,
    streams: usize,
    scale: Scale,
) -> Result<Tally, BoxError> {
    let client = Client::http2(server, 0).await?;
    let mut asking = JoinSet::new();
    for _ in 0..streams {
        let mut client = client.share();
        asking.spawn(async move {
            // The head comes; the body needs a window.
            let asked = client.get("/bytes/4194304").await;
            Answer::from(asked)
        });
    }
    answered_until(asking, Instant::now() + scale.of(LONG)).await
}

pub(super) async fn unread(
    server: &Arc<Server>,
    clients: usize,
    scale: Scale,
) -> Result<Tally, BoxError> {
    let mut sockets = Vec::new();
    for _ in 0..clients {
        let mut socket = server.connect(false, Some(16 << 10)).await?;
        let request = b"GET /bytes/16777216 HTTP/1.1\r\nhost: localhost\r\n\r\n";
        socket.write_all(request).await?;
        sockets.push(socket);
    }
    sleep(scale.of(LONG)).await;
    let mut tally = Tally::default();
    for socket in &mut sockets {
        let mut head = [0; 12];
        let read = timeout(Duration::from_secs(1), socket.read_exact(&mut head)).await;
        tally.add(match (read, &head) {
            (_, b"HTTP/1.1 200") => Answer::Served,
            (_, b"HTTP/1.1 503") => Answer::Refused("503".to_owned()),
            (read, _) => Answer::Failed(format!("{read:?}")),
        });
    }
    Ok(tally)
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:method POST`, `:scheme http`, `:path /upload`, `:authority x`, by HPACK's static table.
const POST: &[u8] = b"\x83\x86\x04\x07/upload\x41\x01x";
/// `:status 200`, the same way.
const OK: u8 = 0x88;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Frame by frame, since a client that keeps its books can't send ten thousand last bytes in one instant.
pub(super) async fn thundering(
    server: &Arc<Server>,
    connections: usize,
    busy: bool,
    scale: Scale,
) -> Result<Tally, BoxError> {
    let streams = || (0..100).map(|index| 2 * index + 1);
    let posts: Vec<u8> = streams()
        .flat_map(|id| frame(HEADERS, END_HEADERS, id, POST))
        .collect();
    let last: Arc<[u8]> = streams()
        .flat_map(|id| frame(DATA, END_STREAM, id, b"x"))
        .collect();
    let instant = Arc::new(Barrier::new(connections));
    let held = scale.of(LONG / 4);
    let returning = Tally::of((0..connections).map(|_| {
        let (server, instant) = (Arc::clone(server), Arc::clone(&instant));
        let (posts, last) = (posts.clone(), Arc::clone(&last));
        async move {
            let beginning = async {
                let mut socket = server.connect(true, None).await?;
                socket.write_all(&[PREFACE, &posts].concat()).await?;
                Ok::<_, BoxError>(socket)
            };
            let socket = beginning.await;
            sleep(held).await;
            instant.wait().await;
            let mut tally = Tally {
                requests: 100,
                ..Tally::default()
            };
            let returning = async {
                let mut socket = socket?;
                socket.write_all(&last).await?;
                heads(&mut socket, &mut tally).await
            };
            match timeout(Duration::from_secs(30), returning).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tally.example = Some(error.to_string()),
                Err(_) => tally.example = Some("no answer for 30 s".to_owned()),
            }
            tally.failed = 100 - tally.served - tally.refused;
            tally
        }
    }));
    let over = Instant::now() + held + Duration::from_secs(2);
    let workers = if busy {
        Client::many(server, 4, None).await?
    } else {
        Vec::new()
    };
    // Two threads serve: four clients that work for 2 of 6 ms are two thirds of their time.
    let pause = Duration::from_millis(4);
    let work = Tally::of(
        workers
            .into_iter()
            .map(|client| client.keep_asking("/work/2000", over, pause)),
    );
    let mut tally = returning.await?;
    let work = work.await?;
    if busy {
        tally.note = format!(
            "of the honest work {} of {} served",
            work.served, work.requests
        );
    }
    Ok(tally)
}

/// Counts the heads of a hundred answers.
async fn heads(
    socket: &mut (impl AsyncReadExt + Unpin),
    tally: &mut Tally,
) -> Result<(), BoxError> {
    while tally.served + tally.refused < 100 {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await?;
        let [a, b, c, kind, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        socket.read_exact(&mut payload).await?;
        match kind {
            HEADERS if payload.first() == Some(&OK) => tally.served += 1,
            HEADERS | RST_STREAM => tally.refused += 1,
            GOAWAY => return Err(format!("GOAWAY {payload:?}").into()),
            _ => {}
        }
    }
    Ok(())
}

pub(super) async fn greedy(server: &Arc<Server>, scale: Scale) -> Result<Tally, BoxError> {
    let mut others = Vec::new();
    for _ in 0..10 {
        others.push(Client::http1(server, None).await?);
    }
    let client = Client::http2(server, WINDOW).await?;
    // Long enough to be found out.
    let end = Instant::now() + scale.of(LONG).max(Duration::from_secs(3));
    let asking =
        |client: Client, pause| client.keep_asking("/scarce", end, Duration::from_millis(pause));
    let taking = Tally::of((0..100).map(|_| asking(client.share(), 0)));
    // Two requests a second of each are a tenth of what there is.
    let others = Tally::of(others.into_iter().map(|client| asking(client, 450)));
    let (mut tally, others) = (taking.await?, others.await?);
    tally.note = format!(
        "of the others {} of {} served",
        others.served, others.requests
    );
    if others.served * 10 < others.requests * 9 {
        tally
            .missed
            .push("less than 90 % of the others served".to_owned());
    }
    Ok(tally)
}

/// Each waits for its seat, or is told that there is none; never are more than eight taken.
pub(super) async fn seats(
    server: &Arc<Server>,
    streams: usize,
    scale: Scale,
) -> Result<Tally, BoxError> {
    let path = format!("/seats/{}/5", scale.millis(500));
    let clients = Client::many(server, streams, None).await?;
    let mut tally = Tally::of(clients.into_iter().map(|mut client| {
        let path = path.clone();
        async move {
            let mut tally = Tally::default();
            tally.add(Answer::from(client.get(&path).await));
            tally
        }
    }))
    .await?;
    let most = server.seats.most();
    tally.note = format!("{most} at once");
    if most > 8 {
        tally.missed.push(format!("{most} had one of 8 seats"));
    }
    if tally.served < 8 || tally.failed > 0 {
        tally
            .missed
            .push(format!("{} seated, {} failed", tally.served, tally.failed));
    }
    Ok(tally)
}

/// Before one thread, which at its peak answers as many that compute as that wait.
///
/// It is judged by the server's CPU time, since neighbours change answers a second: what is not spent on what is served, at the
/// price that has at the peak, is spent on refusals, or wasted.
pub(super) async fn overload(
    server: &Arc<Server>,
    work_micros: u64,
    scale: Scale,
) -> Result<Tally, BoxError> {
    // The first CPU is the server's, until both have all of them again.
    let last = std::thread::available_parallelism()?.get() - 1;
    let (clients, of_server) = threads()?;
    run_on(clients, &format!("{}-{last}", last.min(1)))?;
    run_on(of_server, "0")?;
    let length = scale.of(LONG / 2).max(Duration::from_secs(2));
    let most = 2.0 / Duration::from_micros(work_micros).as_secs_f64();
    // By Little's law: half of the clients of `most` wait for 200 ms.
    let clients = (most * 0.2) as usize;
    let paths = [format!("/work/{work_micros}"), "/sleep/200".to_owned()];
    server.limit.set_mode(LimitMode::Shadow);
    let asking = Client::many(server, clients, None).await?;
    let before = cpu_of_server()?;
    let peak = open_loop(asking, &paths, most * 1.1, length).await?;
    let at_peak = cpu_since(&before)?;
    server.limit.set_mode(LimitMode::Enforce);
    let asking = Client::many(server, 10 * clients, None).await?;
    let before = cpu_of_server()?;
    let [work, wait] = open_loop(asking, &paths, most * 10.0, length).await?;
    let used = cpu_since(&before)?;
    let (clients, of_server) = threads()?;
    run_on([clients, of_server].concat(), &format!("0-{last}"))?;
    let part = |served: u64, of: u64| 100.0 * served as f64 / of.max(1) as f64;
    let best = peak[0].served + peak[1].served;
    let all = part(work.served + wait.served, best);
    let served = (work.served + wait.served) as f64 * at_peak / best.max(1) as f64;
    let refusal = 1e6 * (used - served) / (work.refused + wait.refused).max(1) as f64;
    let note = format!(
        "{:.0} % of its CPU for what is served, {refusal:.1} us for a refusal; by the clock {all:.0} % of the peak of {:.0}/s, \
         {:.0} % of the work and {:.0} % of the waits; {:.1} x asked",
        100.0 * served / used,
        best as f64 / length.as_secs_f64(),
        part(work.served, peak[0].served),
        part(wait.served, peak[1].served),
        (work.requests + wait.requests) as f64 / best.max(1) as f64,
    );
    let mut tally = work;
    tally.merge(wait);
    if refusal > work_micros as f64 / REFUSED_BY {
        tally.missed.push(format!("{refusal:.0} us for a refusal"));
    }
    if tally.failed * 1000 > tally.requests {
        tally.missed.push(format!("{} failed", tally.failed));
    }
    tally.note = note;
    Ok(tally)
}

/// What the server's threads have had of the CPU so far, in hundredths of a second.
fn cpu_of_server() -> Result<HashMap<String, u64>, BoxError> {
    let mut ticks = HashMap::new();
    for thread in threads()?.1 {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")) else {
            continue; // It has ended.
        };
        let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
        let times = fields.split_whitespace().skip(11).take(2);
        ticks.insert(thread, times.map(str::parse::<u64>).sum::<Result<_, _>>()?);
    }
    Ok(ticks)
}

/// Seconds of CPU since then. A thread of the last row's server may have ended.
fn cpu_since(before: &HashMap<String, u64>) -> Result<f64, BoxError> {
    let now = cpu_of_server()?;
    let had = now
        .iter()
        .map(|(id, now)| now - before.get(id).unwrap_or(&0));
    Ok(had.sum::<u64>() as f64 / 100.0)
}

/// The clients', which are the first and those of the runtime that asks, and the server's, which are all others.
fn threads() -> Result<(Vec<String>, Vec<String>), BoxError> {
    let mut threads = Vec::new();
    for thread in std::fs::read_dir("/proc/self/task")? {
        threads.extend(thread?.file_name().into_string());
    }
    let first = std::process::id().to_string();
    Ok(threads.into_iter().partition(|thread| {
        let name = std::fs::read_to_string(format!("/proc/self/task/{thread}/comm"));
        *thread == first || name.is_ok_and(|name| name.starts_with("tokio-rt"))
    }))
}

/// By `taskset`.
fn run_on(threads: Vec<String>, cpus: &str) -> Result<(), BoxError> {
    for thread in threads {
        let mut taskset = std::process::Command::new("taskset");
        taskset.args(["-cp", cpus, &thread]).output()?;
    }
    Ok(())
}

/// `rate` requests per second, every other client's of the other kind; who has no answer yet asks later.
async fn open_loop(
    clients: Vec<Client>,
    paths: &[String; 2],
    rate: f64,
    length: Duration,
) -> Result<[Tally; 2], BoxError> {
    let pause = Duration::from_secs_f64(clients.len() as f64 / rate);
    let start = Instant::now() + Duration::from_millis(100);
    let count = clients.len() as f64;
    let asking: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(index, mut client)| {
            let path = paths[index % 2].clone();
            let mut next = start + pause.mul_f64(index as f64 / count);
            tokio::spawn(async move {
                let mut tally = Tally::default();
                while next < start + length {
                    sleep_until(next).await;
                    let answer = timeout(Duration::from_secs(1), client.get(&path)).await;
                    let late = || Answer::Failed("no answer within a second".to_owned());
                    tally.add(answer.map_or_else(|_| late(), Answer::from));
                    next = (next + pause).max(Instant::now());
                }
                tally
            })
        })
        .collect();
    let mut sums = <[Tally; 2]>::default();
    for (index, task) in asking.into_iter().enumerate() {
        sums[index % 2].merge(task.await?);
    }
    Ok(sums)
}
