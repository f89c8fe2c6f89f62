//! One connection of the load generator.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    time::Instant,
};

use mio::{Interest, Poll, Token, event::Event, net::TcpStream};

use super::{
    Answer, Exchange, Failure, Load,
    answer::Reading,
    wire::{Codec, Stream},
};

/// Room for what is received; a head may grow beyond it.
const ROOM: usize = 16 << 10;
const MAX_HEAD: usize = 256 << 10;

/// What a look at a connection brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing more can be done now.
    Wait,
    /// A request is answered; when it was due.
    Answer(Answer, Instant),
    /// The connection is of no more use.
    Failed(Failure),
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: Option<Box<dyn Stream>>,
    /// The system has said that it is open, or that it will not be.
    pub(super) settled: bool,
    /// Requests that are not answered, oldest first: its number where there is a codec, and when it was due.
    asked: VecDeque<(u32, Instant)>,
    /// How many of them are not wholly sent, and bytes sent of the first of those.
    unsent: usize,
    written: usize,
    /// Where it is not HTTP/1; then what is to be sent is in `out`.
    codec: Option<Box<dyn Codec>>,
    out: Vec<u8>,
    input: Vec<u8>,
    /// The part of `input` that is not read yet.
    start: usize,
    end: usize,
    /// Whether there may be more to receive.
    readable: bool,
    /// The server has closed its side: all that it sent is there.
    ended: bool,
    reading: Reading,
    pub(super) answered: u64,
}

impl Connection {
    pub(super) fn new() -> Self {
        Self {
            stream: None,
            settled: false,
            asked: VecDeque::new(),
            unsent: 0,
            written: 0,
            codec: None,
            out: Vec::new(),
            input: Vec::new(),
            start: 0,
            end: 0,
            readable: false,
            ended: false,
            reading: Reading::new(),
            answered: 0,
        }
    }

    /// The system has news of it.
    pub(super) fn note(&mut self, event: &Event) {
        self.settled = true;
        self.readable |= event.is_readable();
        self.ended |= event.is_read_closed();
    }

    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// The server said that it will close the connection.
    pub(super) fn is_closing(&self) -> bool {
        self.reading.closing
    }

    /// Whether it was used before, and what was asked last has not one byte of an answer.
    pub(super) fn may_have_been_closed_before(&self) -> bool {
        self.answered > 0 && self.start == self.end && self.reading.is_between_answers()
    }

    /// Opens it anew. What was asked for and not answered is asked for again.
    pub(super) fn open(
        &mut self,
        address: SocketAddr,
        token: Token,
        poll: &Poll,
        load: &Load,
    ) -> io::Result<()> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let interests = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut socket, token, interests)?;
        let asked = std::mem::take(&mut self.asked);
        *self = Self {
            stream: Some(match &load.wire {
                Some(wire) => wire.stream(socket)?,
                None => Box::new(socket),
            }),
            codec: load.wire.as_ref().and_then(|wire| wire.codec()),
            input: std::mem::take(&mut self.input),
            ..Self::new()
        };
        for (_, due) in asked {
            self.ask(due, load.exchange(token.0));
        }
        Ok(())
    }

    /// Closes it and forgets what was asked for.
    pub(super) fn close(&mut self) {
        self.stream = None;
        self.codec = None;
        self.asked.clear();
    }

    pub(super) fn ask(&mut self, due: Instant, exchange: &Exchange) {
        let number = match &mut self.codec {
            Some(codec) => codec.ask(exchange, &mut self.out),
            None => {
                self.unsent += 1;
                0
            }
        };
        self.asked.push_back((number, due));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// When each request without an answer was due, the oldest first.
    pub(super) fn asked(&self) -> impl Iterator<Item = Instant> {
        self.asked.iter().map(|(_, due)| *due)
    }

    /// Sends and receives what it can.
    pub(super) fn step(&mut self, exchange: &Exchange) -> Outcome {
        match self.try_step(exchange) {
            Ok(None) => Outcome::Wait,
            Ok(Some((number, answer))) => {
                let place = self.asked.iter().position(|(asked, _)| *asked == number);
                let Some((_, due)) = place.and_then(|place| self.asked.remove(place)) else {
                    return Outcome::Failed(Failure::Unasked);
                };
                self.answered += 1;
                Outcome::Answer(answer, due)
            }
            Err(failure) => Outcome::Failed(failure),
        }
    }

    fn try_step(&mut self, exchange: &Exchange) -> Result<Option<(u32, Answer)>, Failure> {
        loop {
            if self.start < self.end
                && let Some(answer) = self.read(exchange)?
            {
                return Ok(Some(answer));
            }
            if self.stream.is_none() {
                return Ok(None);
            }
            self.send(exchange)?;
            if !self.readable {
                return Ok(None);
            }
            if self.receive()? {
                let answer = self.reading.closed(exchange)?;
                self.stream = None;
                return Ok(Some((0, answer)));
            }
        }
    }

    /// Reads what has come.
    fn read(&mut self, exchange: &Exchange) -> Result<Option<(u32, Answer)>, Failure> {
        let input = &self.input[self.start..self.end];
        let (taken, answer) = match &mut self.codec {
            Some(codec) => codec.advance(input, exchange, &mut self.out)?,
            None if self.asked.len() > self.unsent => {
                let (taken, answer) = self.reading.advance(input, exchange)?;
                (taken, answer.map(|answer| (0, answer)))
            }
            None if self.written == 0 => return Err(Failure::Unasked),
            // An answer to what is not wholly sent waits until it is.
            None => (0, None),
        };
        self.start += taken;
        Ok(answer)
    }

    fn send(&mut self, exchange: &Exchange) -> Result<(), Failure> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        let length = exchange.length();
        loop {
            // What was answered together is asked for together.
            let bytes = match self.codec {
                Some(_) => &self.out[..],
                None => &exchange.bytes[..exchange.bytes.len().min(self.unsent * length)],
            };
            let outcome = match &bytes[self.written..] {
                [] => stream.flush().map(|()| 0),
                rest => stream.write(rest),
            };
            match outcome {
                Ok(0) => break,
                Ok(sent) => self.written += sent,
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::NotConnected => break,
                    _ => return Err(error.into()),
                },
            }
            if self.codec.is_none() {
                self.unsent -= self.written / length;
                self.written %= length;
            }
        }
        if self.codec.is_some() && self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        Ok(())
    }

    /// Whether the server has closed its side.
    fn receive(&mut self) -> Result<bool, Failure> {
        let Some(stream) = &mut self.stream else {
            return Ok(false);
        };
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.input.len() {
            if self.end >= MAX_HEAD {
                return Err(Failure::NotHttp);
            }
            self.input.resize((2 * self.end).max(ROOM), 0);
        }
        match stream.read(&mut self.input[self.end..]) {
            Ok(0) => return Ok(true),
            Ok(received) => {
                self.end += received;
                // Edge-triggered: it says once that there is something.
                self.readable =
                    !stream.short_reads_are_last() || self.end == self.input.len() || self.ended;
            }
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock | ErrorKind::NotConnected => self.readable = false,
                _ => return Err(error.into()),
            },
        }
        Ok(false)
    }
}
