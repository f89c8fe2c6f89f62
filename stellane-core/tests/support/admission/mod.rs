//! Traffic over real sockets, honest and hostile, against every way to serve, with a bystander beside it. What
//! `tests/admission` run in small form, `examples/src/bin/admission_sockets.rs` runs whole.

mod attack;
mod client;
mod honest;
mod server;
mod tally;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

pub(crate) use self::{
    server::{SERVERS, Server},
    tally::{Report, Tally},
};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the clients do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    /// Each asks again as soon as it has its answer, for which the handler sleeps.
    Sleep { millis: u64, clients: usize },
    /// The same for those who come when there has been but the bystander for a while.
    SleepAfterQuiet { millis: u64, clients: usize },
    /// Each reads lines that come at such a distance, to the end.
    Lines { every_millis: u64, clients: usize },
    /// tonic's health service, watched while the status changes, and checked now and then.
    Grpc { streams: usize },
    /// Each takes an answer of 4 MiB, at such a rate at first.
    Download { clients: usize, rate: u64 },
    /// Each sends a body at such a rate.
    Upload { clients: usize, rate: u64 },
    /// One HTTP/2 connection, and on it so many requests whose bodies never come.
    StalledPosts { streams: usize },
    /// One HTTP/2 connection that allows no byte of so many large answers.
    WindowZero { streams: usize },
    /// Each asks for a large answer and reads nothing of it.
    Unread { clients: usize },
    /// HTTP/2 connections with 100 requests each, whose last bytes are all sent in the same instant; beside them honest
    /// work for more than half of the CPU, if so wanted.
    Return { connections: usize, busy: bool },
    /// One HTTP/2 connection that asks 100 times at once, again and again, for what there are 200 of in a second; ten
    /// honest clients want a tenth of them.
    Greedy,
    /// So many streams of a class that has 8 seats.
    Seats { streams: usize },
    /// Ten times what the server can do, half of it computing for `work_micros`, half waiting 200 ms for another service.
    Overload { work_micros: u64 },
}

/// A name, and what is done under it.
pub(crate) type Row = (&'static str, Load);

/// Nobody asks for too much: no request may be refused.
pub(crate) const HONEST: &[Row] = &[
    ("sleep-50ms-60", sleep(50, 60)),
    ("sleep-50ms-300", sleep(50, 300)),
    ("sleep-1s-60", sleep(1000, 60)),
    ("sleep-1s-300", sleep(1000, 300)),
    ("sleep-5s-60", sleep(5000, 60)),
    ("sleep-5s-300", sleep(5000, 300)),
    ("sleep-20s-60", sleep(20_000, 60)),
    ("sleep-20s-300", sleep(20_000, 300)),
    (
        "quiet-sleep-5s-100",
        Load::SleepAfterQuiet {
            millis: 5000,
            clients: 100,
        },
    ),
    ("ndjson-100", lines(100, 100)),
    ("grpc-100", Load::Grpc { streams: 100 }),
    ("sse-2000", lines(1000, 2000)),
    (
        "download-50KBps-40",
        Load::Download {
            clients: 40,
            rate: 50_000,
        },
    ),
    (
        "upload-10KBps-40",
        Load::Upload {
            clients: 40,
            rate: 10_000,
        },
    ),
];

/// Somebody takes what he can: the bystander may not be refused.
pub(crate) const HOSTILE: &[Row] = &[
    ("stalled-posts", Load::StalledPosts { streams: 100 }),
    ("window-zero", Load::WindowZero { streams: 100 }),
    (
        "upload-250Bps-100",
        Load::Upload {
            clients: 100,
            rate: 250,
        },
    ),
    ("unread-100", Load::Unread { clients: 100 }),
    ("return-idle", thundering(false)),
    ("return-busy", thundering(true)),
    ("greedy", Load::Greedy),
    ("seats", Load::Seats { streams: 200 }),
];

/// More than the server can do: as much as it can is to be done.
pub(crate) const OVERLOAD: &[Row] = &[("overload", Load::Overload { work_micros: 700 })];

const fn sleep(millis: u64, clients: usize) -> Load {
    Load::Sleep { millis, clients }
}

const fn lines(every_millis: u64, clients: usize) -> Load {
    Load::Lines {
        every_millis,
        clients,
    }
}

const fn thundering(busy: bool) -> Load {
    Load::Return {
        connections: 100,
        busy,
    }
}

/// How much shorter than in [`HONEST`] and [`HOSTILE`] all times are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale(pub(crate) u32);

impl Scale {
    /// At least 50 ms, below which a sleep is no wait worth the name.
    fn of(self, full: Duration) -> Duration {
        (full / self.0).max(Duration::from_millis(50))
    }

    /// As [`of`](Self::of), in milliseconds.
    fn millis(self, full: u64) -> u64 {
        let scaled = self.of(Duration::from_millis(full)).as_millis();
        u64::try_from(scaled).unwrap_or(full)
    }
}

/// Starts a server and puts the load on it, with a bystander beside it.
pub(crate) async fn run(server: &str, load: Load, scale: Scale) -> Result<Report, BoxError> {
    let kind = SERVERS.iter().find(|kind| kind.name == server);
    let kind = *kind.ok_or("no such server")?;
    let threads = match load {
        // The other core is for the clients.
        Load::Overload { .. } => 1,
        _ => 2,
    };
    let seats = if matches!(load, Load::Seats { .. }) {
        8
    } else {
        0
    };
    let server = Arc::new(Server::start(kind, threads, seats).await?);
    let run: Pin<Box<dyn Future<Output = Result<Tally, BoxError>> + Send>> = match load {
        Load::Sleep { millis, clients } => {
            Box::pin(honest::sleep_for(&server, millis, clients, scale))
        }
        Load::SleepAfterQuiet { millis, clients } => {
            Box::pin(honest::sleep_after_quiet(&server, millis, clients, scale))
        }
        Load::Lines {
            every_millis,
            clients,
        } => Box::pin(honest::lines(&server, every_millis, clients, scale)),
        Load::Grpc { streams } => Box::pin(honest::grpc(&server, streams, scale)),
        Load::Download { clients, rate } => {
            Box::pin(honest::download(&server, clients, rate, scale))
        }
        Load::Upload { clients, rate } => Box::pin(honest::upload(&server, clients, rate, scale)),
        Load::StalledPosts { streams } => Box::pin(attack::stalled(&server, streams, scale)),
        Load::WindowZero { streams } => Box::pin(attack::window_zero(&server, streams, scale)),
        Load::Unread { clients } => Box::pin(attack::unread(&server, clients, scale)),
        Load::Return { connections, busy } => {
            Box::pin(attack::thundering(&server, connections, busy, scale))
        }
        Load::Greedy => Box::pin(attack::greedy(&server, scale)),
        Load::Seats { streams } => Box::pin(attack::seats(&server, streams, scale)),
        Load::Overload { work_micros } => Box::pin(attack::overload(&server, work_micros, scale)),
    };
    // None takes a minute: whatever hangs is told as what it is.
    let patience = Duration::from_secs(240);
    tally::beside_a_bystander(&server, tokio::time::timeout(patience, run)).await
}
