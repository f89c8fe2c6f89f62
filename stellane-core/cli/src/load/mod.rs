//! The load generator: one thread, many connections.
//!
//! Closed loop: each connection sends its next request when the last one is answered. Open loop: requests
//! are due at a fixed rate whether or not the server keeps up, and latency counts from when a request was
//! due, so that a server that stalls can't hide it.
//!
//! It is neither hyper nor on a runtime: a generator that costs as much for each request as the server measures itself.

mod answer;
mod connection;
mod generator;
mod wire;

use std::{fmt, io, sync::Arc, time::Duration};

pub use generator::Generator;
pub use wire::{Codec, Stream, Wire};

/// A request as it is sent, and what must come back.
#[derive(Debug)]
pub struct Exchange {
    /// The request, as often as it may be sent at once.
    bytes: Vec<u8>,
    times: usize,
    /// The body of each answer with status 200, if it is known.
    body: Option<Vec<u8>>,
}

impl Exchange {
    /// `request` is head and body as they go over the wire. Every answer is taken.
    #[must_use]
    pub fn new(request: &[u8]) -> Self {
        Self {
            bytes: request.to_vec(),
            times: 1,
            body: None,
        }
    }

    /// An answer with status 200 and another body is a failure.
    #[must_use]
    pub fn expecting(self, body: &[u8]) -> Self {
        Self {
            body: Some(body.to_vec()),
            ..self
        }
    }

    /// For pipelining: so many requests in one write.
    #[must_use]
    pub fn repeated(self, times: usize) -> Self {
        Self {
            bytes: self.bytes.repeat(times),
            times,
            ..self
        }
    }

    fn length(&self) -> usize {
        self.bytes.len() / self.times
    }

    /// The body of each answer with status 200, if it is known.
    #[must_use]
    pub fn expected(&self) -> Option<&[u8]> {
        self.body.as_deref()
    }

    /// One request as it goes over the wire in HTTP/1.
    #[must_use]
    pub fn request(&self) -> &[u8] {
        &self.bytes[..self.length()]
    }

    /// Whether an answer has no body, whatever its head says.
    fn is_head(&self) -> bool {
        self.bytes.starts_with(b"HEAD ")
    }
}

/// When requests are sent.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// As fast as the server answers, with so many requests under way on each connection.
    Closed {
        /// At least 1.
        pipeline: usize,
    },
    /// So many a second, the first at once. Who spins looks again and again and is never late, for a core of its own;
    /// who does not is woken by a thread that sleeps until the next request is due.
    Open {
        /// Requests a second.
        rate: f64,
        /// Whether it looks again and again instead of sleeping.
        spin: bool,
    },
}

/// What is done to a server.
#[derive(Debug, Clone)]
pub struct Load {
    /// How many are kept open.
    pub connections: usize,
    /// Each connection keeps to one of them.
    pub exchanges: Arc<[Exchange]>,
    /// When requests are sent.
    pub pace: Pace,
    /// Requests after which the client closes the connection and opens another; 0 is never.
    pub reconnect_after: u64,
    /// When a client gives up on an answer, counted from when the request was due, and closes the connection.
    pub patience: Duration,
    /// What is spoken; none is HTTP/1 over TCP.
    pub wire: Option<Arc<dyn Wire>>,
    /// Whether a request on a connection that was used before is sent once more where the server closed it without a byte
    /// of an answer, as most clients do.
    pub retry: bool,
}

impl Load {
    /// A closed loop without pipelining, whose clients wait for 10 s and try nothing again.
    #[must_use]
    pub fn closed(connections: usize, exchanges: Arc<[Exchange]>) -> Self {
        Self {
            connections,
            exchanges,
            pace: Pace::Closed { pipeline: 1 },
            reconnect_after: 0,
            patience: Duration::from_secs(10),
            wire: None,
            retry: false,
        }
    }

    /// That of a connection.
    fn exchange(&self, connection: usize) -> &Exchange {
        &self.exchanges[connection % self.exchanges.len()]
    }
}

/// A whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The place of what was asked in [`Load::exchanges`].
    pub exchange: usize,
    /// Of HTTP.
    pub status: u16,
    /// Head and body as they came over the wire.
    pub bytes: u64,
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens.
    Refused,
    /// The server reset the connection.
    Reset,
    /// The server closed the connection before the answer was whole.
    Closed,
    /// Another error of the connection, or there could be none.
    Network,
    /// What came is no answer of HTTP/1.
    NotHttp,
    /// Status 200 with another body than expected.
    WrongBody,
    /// The server sent more than was asked for.
    Unasked,
    /// It was sent, and the client's patience has ended.
    TimedOut,
    /// It was never sent.
    NoConnection,
}

impl Failure {
    /// In a few words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Network => "the network failed",
            Self::NotHttp => "not HTTP",
            Self::WrongBody => "a wrong body",
            Self::Unasked => "an answer that nobody asked for",
            Self::TimedOut => "timed out",
            Self::NoConnection => "timed out: no connection was free",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Reset,
            _ => Self::Network,
        }
    }
}

/// Who counts.
pub trait Observer {
    /// A request goes to a connection, so long after it was due.
    fn sent(&mut self, _late: Duration) {}

    /// An answer is here, so long after its request was due.
    fn answered(&mut self, answer: Answer, after: Duration);

    /// A request has failed, so long after it was due.
    fn failed(&mut self, failure: Failure, after: Duration);
}
