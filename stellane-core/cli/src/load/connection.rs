//! One connection of the load generator.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    time::Instant,
};

use mio::{Interest, Poll, Token, event::Event, net::TcpStream};

use super::{Answer, Exchange, Failure, answer::Reading};

/// Room for what is received; a head may grow beyond it.
const ROOM: usize = 16 << 10;
const MAX_HEAD: usize = 256 << 10;

/// What a look at a connection brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing more can be done now.
    Wait,
    /// The oldest request is answered.
    Answer(Answer),
    /// The connection is of no more use.
    Failed(Failure),
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: Option<TcpStream>,
    /// The system has said that it is open, or that it will not be.
    pub(super) settled: bool,
    /// Requests that are not answered, oldest first: when each was due.
    pub(super) asked: VecDeque<Instant>,
    /// How many of them are not wholly sent.
    unsent: usize,
    /// Bytes sent of the first of those.
    written: usize,
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
    ) -> io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let interests = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, token, interests)?;
        *self = Self {
            stream: Some(stream),
            unsent: self.asked.len(),
            asked: std::mem::take(&mut self.asked),
            input: std::mem::take(&mut self.input),
            ..Self::new()
        };
        Ok(())
    }

    /// Closes it and forgets what was asked for.
    pub(super) fn close(&mut self) {
        self.stream = None;
        self.asked.clear();
    }

    pub(super) fn ask(&mut self, due: Instant) {
        self.asked.push_back(due);
        self.unsent += 1;
    }

    /// Sends and receives what it can.
    pub(super) fn step(&mut self, exchange: &Exchange) -> Outcome {
        match self.try_step(exchange) {
            Ok(Some(answer)) => Outcome::Answer(answer),
            Ok(None) => Outcome::Wait,
            Err(failure) => Outcome::Failed(failure),
        }
    }

    fn try_step(&mut self, exchange: &Exchange) -> Result<Option<Answer>, Failure> {
        loop {
            if self.start < self.end && self.written == 0 && self.asked.len() == self.unsent {
                return Err(Failure::Unasked);
            }
            // An answer to what is not wholly sent waits until it is.
            if self.start < self.end && self.asked.len() > self.unsent {
                let input = &self.input[self.start..self.end];
                let (taken, answer) = self.reading.advance(input, exchange)?;
                self.start += taken;
                if answer.is_some() {
                    self.answered += 1;
                    return Ok(answer);
                }
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
                self.answered += 1;
                self.stream = None;
                return Ok(Some(answer));
            }
        }
    }

    /// What was answered together is asked for together.
    fn send(&mut self, exchange: &Exchange) -> Result<(), Failure> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        let length = exchange.length();
        while self.unsent > 0 {
            let upto = exchange.bytes.len().min(self.unsent * length);
            match stream.write(&exchange.bytes[self.written..upto]) {
                Ok(sent) => {
                    self.written += sent;
                    self.unsent -= self.written / length;
                    self.written %= length;
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::NotConnected => break,
                    _ => return Err(error.into()),
                },
            }
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
                // Edge-triggered: on Unix there is more only if the buffer is full, but for the end.
                self.readable = !cfg!(unix) || self.end == self.input.len() || self.ended;
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
