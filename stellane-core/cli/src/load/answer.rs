//! Reads answers of HTTP/1, whatever a server says.

use std::mem::MaybeUninit;

use super::{Answer, Exchange, Failure};

const MAX_HEADERS: usize = 100;
/// Where a head ends.
const END: &[u8] = b"\r\n\r\n";

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    /// So many bytes of the body.
    Body(u64),
    ChunkSize,
    /// So many bytes of a chunk.
    Chunk(u64),
    ChunkEnd,
    /// Lines up to an empty one.
    Trailers,
    UntilClose,
}

/// How far an answer has come.
#[derive(Debug)]
pub(super) struct Reading {
    part: Part,
    status: u16,
    /// Of this answer, so far.
    bytes: u64,
    /// How much of the expected body has come.
    matched: usize,
    /// The length of the head that came before: the next one probably has it too.
    head: usize,
    /// The server will close the connection.
    pub(super) closing: bool,
}

impl Reading {
    pub(super) fn new() -> Self {
        Self {
            part: Part::Head,
            status: 0,
            bytes: 0,
            matched: 0,
            head: 0,
            closing: false,
        }
    }

    /// Whether not one byte of an answer has been taken.
    pub(super) fn is_between_answers(&self) -> bool {
        self.part == Part::Head && self.bytes == 0
    }

    /// Takes what it can of `input`: how much that is, and the answer if it is whole.
    pub(super) fn advance(
        &mut self,
        input: &[u8],
        exchange: &Exchange,
    ) -> Result<(usize, Option<Answer>), Failure> {
        if let Some(whole) = self.as_before(input, exchange) {
            self.status = 200;
            return Ok((whole, Some(self.end(whole))));
        }
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            let (used, next) = match self.part {
                Part::Head => match self.parse_head(rest, exchange.is_head())? {
                    Some(head) => head,
                    None => break,
                },
                Part::Body(0) => {
                    self.check_end(exchange)?;
                    return Ok((taken, Some(self.end(taken))));
                }
                Part::Chunk(0) => (0, Part::ChunkEnd),
                Part::Body(_) | Part::Chunk(_) | Part::UntilClose if rest.is_empty() => break,
                Part::Body(length) => {
                    let used = self.take_body(rest, length, exchange)?;
                    (used, Part::Body(length - used as u64))
                }
                Part::Chunk(length) => {
                    let used = self.take_body(rest, length, exchange)?;
                    (used, Part::Chunk(length - used as u64))
                }
                Part::UntilClose => (self.take_body(rest, u64::MAX, exchange)?, Part::UntilClose),
                Part::ChunkSize => match httparse::parse_chunk_size(rest) {
                    Ok(httparse::Status::Complete((used, 0))) => (used, Part::Trailers),
                    Ok(httparse::Status::Complete((used, size))) => (used, Part::Chunk(size)),
                    Ok(httparse::Status::Partial) => break,
                    Err(_) => return Err(Failure::NotHttp),
                },
                Part::ChunkEnd if rest.len() < 2 => break,
                Part::ChunkEnd if rest.starts_with(b"\r\n") => (2, Part::ChunkSize),
                Part::ChunkEnd => return Err(Failure::NotHttp),
                Part::Trailers => match rest.windows(2).position(|pair| pair == b"\r\n") {
                    Some(0) => (2, Part::Body(0)),
                    Some(line) => (line + 2, Part::Trailers),
                    None => break,
                },
            };
            taken += used;
            self.part = next;
        }
        self.bytes += taken as u64;
        Ok((taken, None))
    }

    /// The answer that the end of the connection ends.
    pub(super) fn closed(&mut self, exchange: &Exchange) -> Result<Answer, Failure> {
        if self.part != Part::UntilClose {
            return Err(Failure::Closed);
        }
        self.check_end(exchange)?;
        Ok(self.end(0))
    }

    /// The length of the answer in the usual case: as long as the one before, and the right one.
    fn as_before(&self, input: &[u8], exchange: &Exchange) -> Option<usize> {
        let body = exchange.body.as_deref()?;
        let whole = self.head + body.len();
        let same = self.part == Part::Head
            && self.head > 0
            && input.len() >= whole
            && input.starts_with(b"HTTP/1.1 200 ")
            && input[..self.head].ends_with(END)
            && input[self.head..whole] == *body;
        same.then_some(whole)
    }

    /// The length of the head and what comes after it; none if it is not whole.
    fn parse_head(
        &mut self,
        input: &[u8],
        bodiless: bool,
    ) -> Result<Option<(usize, Part)>, Failure> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let length = match httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, input, &mut headers)
            .map_err(|_| Failure::NotHttp)?
        {
            httparse::Status::Partial => return Ok(None),
            httparse::Status::Complete(length) => length,
        };
        self.status = response.code.unwrap_or(0);
        // 100 Continue and 103 Early Hints come before the answer.
        if (100..200).contains(&self.status) {
            return Ok(Some((length, Part::Head)));
        }
        let mut body = Part::UntilClose;
        self.closing = response.version == Some(0);
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") && body != Part::ChunkSize {
                let length = str::from_utf8(header.value)
                    .ok()
                    .and_then(|text| text.trim().parse().ok());
                body = Part::Body(length.ok_or(Failure::NotHttp)?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                body = Part::ChunkSize;
            } else if header.name.eq_ignore_ascii_case("connection") {
                self.closing |= header.value.eq_ignore_ascii_case(b"close");
                self.closing &= !header.value.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        if bodiless || matches!(self.status, 204 | 304) {
            body = Part::Body(0);
        }
        self.closing |= body == Part::UntilClose;
        if self.status == 200 && matches!(body, Part::Body(_)) {
            self.head = length;
        }
        Ok(Some((length, body)))
    }

    /// Takes up to `length` bytes of a body and compares them with what is expected.
    fn take_body(
        &mut self,
        input: &[u8],
        length: u64,
        exchange: &Exchange,
    ) -> Result<usize, Failure> {
        let used = usize::try_from(length).map_or(input.len(), |length| length.min(input.len()));
        if let Some(body) = &exchange.body
            && self.status == 200
            && body.get(self.matched..self.matched + used) != Some(&input[..used])
        {
            return Err(Failure::WrongBody);
        }
        self.matched += used;
        Ok(used)
    }

    fn check_end(&self, exchange: &Exchange) -> Result<(), Failure> {
        match &exchange.body {
            Some(body) if self.status == 200 && body.len() != self.matched => {
                Err(Failure::WrongBody)
            }
            _ => Ok(()),
        }
    }

    /// The answer is whole with `taken` bytes more.
    fn end(&mut self, taken: usize) -> Answer {
        let answer = Answer {
            exchange: 0,
            status: self.status,
            bytes: self.bytes + taken as u64,
        };
        (self.part, self.bytes, self.matched) = (Part::Head, 0, 0);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcome of `input`, which comes in two pieces, `cut` bytes first, and then the end of the connection.
    fn read(input: &[u8], cut: usize, exchange: &Exchange) -> Result<(Answer, usize), Failure> {
        let mut reading = Reading::new();
        let mut taken = 0;
        for upto in [cut, input.len()] {
            let (more, answer) = reading.advance(&input[taken..upto], exchange)?;
            taken += more;
            if let Some(answer) = answer {
                return Ok((answer, input.len() - taken));
            }
        }
        reading.closed(exchange).map(|answer| (answer, 0))
    }

    #[test]
    fn an_answer_is_read_the_same_wherever_it_is_cut() {
        let get = || Exchange::new(b"GET / HTTP/1.1\r\n\r\n");
        let hello = || get().expecting(b"hello");
        let head = || Exchange::new(b"HEAD / HTTP/1.1\r\n\r\n");
        type Row = (&'static [u8], Exchange, Result<(u16, usize), Failure>);
        let rows: [Row; 17] = [
            (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", hello(), Ok((200, 0))),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloHTTP", hello(), Ok((200, 4))),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhellO", hello(), Err(Failure::WrongBody)),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhell", hello(), Err(Failure::WrongBody)),
            (b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno", hello(), Ok((503, 0))),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\n\r\n", hello(), Ok((200, 0))),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n\r\n", hello(), Err(Failure::WrongBody)),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\na: b\r\n\r\nmore", get(), Ok((200, 4))),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloxx", get(), Err(Failure::NotHttp)),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfive", get(), Err(Failure::NotHttp)),
            (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello", hello(), Ok((200, 0))),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", get(), Ok((204, 0))),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", head(), Ok((200, 0))),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell", get(), Err(Failure::Closed)),
            (b"HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\n", get(), Err(Failure::NotHttp)),
            (b"SSH-2.0-OpenSSH\r\n", get(), Err(Failure::NotHttp)),
            (b"", get(), Err(Failure::Closed)),
        ];
        for (input, exchange, expected) in rows {
            for cut in 0..=input.len() {
                let outcome = read(input, cut, &exchange);
                let text = String::from_utf8_lossy(input);
                // What is cut off is not there yet when the answer ends.
                let outcome = outcome.map(|(answer, left)| (answer.status, left));
                assert_eq!(outcome, expected, "{text} cut at {cut}");
            }
        }
    }

    #[test]
    fn the_second_answer_is_compared_as_the_first_is() {
        let exchange = Exchange::new(b"GET / HTTP/1.1\r\n\r\n").expecting(b"hello");
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let mut reading = Reading::new();
        for _ in 0..3 {
            let (taken, whole) = reading.advance(answer, &exchange).expect("right");
            assert_eq!(taken, answer.len());
            let whole = whole.expect("whole");
            assert_eq!((whole.status, whole.bytes), (200, answer.len() as u64));
        }
        let wrong = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhellO";
        assert_eq!(reading.advance(wrong, &exchange), Err(Failure::WrongBody));
    }
}
