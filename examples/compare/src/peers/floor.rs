//! No server, but what its system calls cost: one thread that asks epoll who is ready, reads, and writes an answer that is
//! always the same. It looks at nothing that it reads: requests of a connection are taken to be as long as its first, an upload
//! if that has a body.

use std::{
    io::{self, Read, Write},
    net, thread,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

use super::{BoxError, Settings, ready};

/// As long as that of the others, which tell the right date.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 13\r\n\
                        date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nHello, world!";
const UPLOADED: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\
                        date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n{\"received\":1048576}";
/// How much is read at once, and of an upload: about as much as hyper reads then.
const READ: usize = 8 << 10;
const READ_BODY: usize = 512 << 10;
/// So many answers are written at once: no request is shorter than 16 bytes.
const MOST: usize = READ / 16 + 1;
const LISTENER: Token = Token(usize::MAX);

pub(super) fn serve(settings: &Settings) -> Result<(), BoxError> {
    let first = settings.listen()?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..settings.workers {
        listeners.push(super::listen(address)?);
    }
    let threads: Vec<_> = listeners
        .into_iter()
        .map(|listener| thread::spawn(move || answer_all(listener)))
        .collect();
    ready(address)?;
    for thread in threads {
        thread.join().map_err(|_| "a worker panicked")??;
    }
    Ok(())
}

struct Connection {
    stream: TcpStream,
    /// Of its first request.
    length: usize,
    uploads: bool,
    /// Bytes without an answer.
    unanswered: usize,
}

fn answer_all(listener: net::TcpListener) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::from_std(listener);
    let registry = poll.registry();
    registry.register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut events = Events::with_capacity(1024);
    let mut bytes = vec![0; READ_BODY];
    let answers = ANSWER.repeat(MOST);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            let Token(number) = event.token();
            if let Some(place) = connections.get_mut(number) {
                place.take_if(|one| one.read(&mut bytes).is_err());
            }
        }
        // All are read first: with a client on another core that costs least, and so do ours.
        for event in &events {
            let Token(number) = event.token();
            if let Some(place) = connections.get_mut(number) {
                place.take_if(|one| one.write(&answers).is_err());
            }
        }
        if events.iter().any(|event| event.token() == LISTENER) {
            while let Ok((mut stream, _)) = listener.accept() {
                stream.set_nodelay(true)?;
                let free = connections.iter().position(Option::is_none);
                let number = free.unwrap_or(connections.len());
                let registry = poll.registry();
                registry.register(&mut stream, Token(number), Interest::READABLE)?;
                let connection = Some(Connection {
                    stream,
                    length: 0,
                    uploads: false,
                    unanswered: 0,
                });
                match connections.get_mut(number) {
                    Some(place) => *place = connection,
                    None => connections.push(connection),
                }
            }
        }
    }
}

impl Connection {
    /// Reads once, and of an upload all that is there, since epoll does not tell of it again.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        loop {
            let most = if self.uploads { READ_BODY } else { READ };
            let n = match self.stream.read(&mut bytes[..most]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                read => read?,
            };
            self.unanswered += n;
            if self.length == 0 {
                self.begin(&bytes[..n]);
            }
            if n < most || !self.uploads {
                return Ok(());
            }
        }
    }

    /// With the first of its bytes.
    fn begin(&mut self, read: &[u8]) {
        const LENGTH: &[u8] = b"Content-Length: ";
        let Some(end) = read.windows(4).position(|end| end == b"\r\n\r\n") else {
            return;
        };
        let head = &read[..end];
        let body = head.windows(LENGTH.len()).position(|name| name == LENGTH);
        let digits = body.map_or(&[][..], |at| &head[at + LENGTH.len()..]);
        let digits = digits.iter().take_while(|digit| digit.is_ascii_digit());
        let body = digits.fold(0, |sum, digit| 10 * sum + usize::from(digit - b'0'));
        self.uploads = body > 0;
        self.length = end + 4 + body;
    }

    fn write(&mut self, answers: &[u8]) -> io::Result<()> {
        let requests = self.unanswered.checked_div(self.length).unwrap_or(0);
        if requests > 0 {
            self.unanswered %= self.length;
            match self.uploads {
                true => self.stream.write_all(UPLOADED)?,
                false => self.stream.write_all(&answers[..requests * ANSWER.len()])?,
            }
        }
        Ok(())
    }
}
