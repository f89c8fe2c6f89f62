//! HTTP/2 as a client speaks it that knows what comes back: requests are translated from HTTP/1, answers are compared byte for byte.

use stellane_cli::load::{Answer, Codec, Exchange, Failure};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u16 = 4;
/// As much as there can be: no answer waits for us.
const WINDOW: u32 = (1 << 31) - 1;
/// How much of the connection's window may be used before it is opened again.
const USED: u64 = 1 << 30;
/// Where a client's fields begin in the table of a connection.
const DYNAMIC: usize = 62;
/// `:status: 200` in the table that all connections have.
const STATUS_200: u8 = 0x80 | 8;

/// One connection.
#[derive(Debug, Default)]
pub(super) struct Http2 {
    /// How many requests were sent.
    requests: u32,
    streams: Vec<Stream>,
    /// The stream and flags of the DATA frame whose payload is coming, and how much of it is missing.
    data: Option<(u32, u8, usize)>,
    /// How much of the connection's window is used.
    used: u64,
    /// The header fields of the second request and later.
    again: Vec<u8>,
}

/// An answer that is coming.
#[derive(Debug)]
struct Stream {
    number: u32,
    status: Option<u16>,
    bytes: u64,
    /// How much of the expected body has come.
    matched: usize,
}

impl Codec for Http2 {
    fn ask(&mut self, exchange: &Exchange, out: &mut Vec<u8>) -> u32 {
        let (head, body) = parts(exchange.request());
        if self.requests == 0 {
            out.extend_from_slice(PREFACE);
            let [a, b] = INITIAL_WINDOW_SIZE.to_be_bytes();
            let [c, d, e, f] = WINDOW.to_be_bytes();
            frame(out, SETTINGS, 0, 0, &[a, b, c, d, e, f]);
            let more = WINDOW - 65_535;
            frame(out, WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
        let number = 2 * self.requests + 1;
        self.requests += 1;
        let ends = if body.is_empty() { END_STREAM } else { 0 };
        if number == 1 {
            let (first, again) = fields(head);
            self.again = again;
            frame(out, HEADERS, END_HEADERS | ends, number, &first);
        } else {
            frame(out, HEADERS, END_HEADERS | ends, number, &self.again);
        }
        if !body.is_empty() {
            frame(out, DATA, END_STREAM, number, body);
        }
        self.streams.push(Stream {
            number,
            status: None,
            bytes: 0,
            matched: 0,
        });
        number
    }

    fn advance(
        &mut self,
        input: &[u8],
        exchange: &Exchange,
        out: &mut Vec<u8>,
    ) -> Result<(usize, Option<(u32, Answer)>), Failure> {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            if let Some((number, flags, missing)) = self.data {
                let here = missing.min(rest.len());
                taken += here;
                self.take_body(number, &rest[..here], exchange)?;
                self.data = (here < missing).then_some((number, flags, missing - here));
                if self.data.is_some() {
                    return Ok((taken, None));
                }
                self.open_window(out);
                if flags & END_STREAM != 0 {
                    return Ok((taken, Some(self.end(number, exchange)?)));
                }
                continue;
            }
            let Some((head, payload)) = rest.split_at_checked(FRAME_HEAD) else {
                return Ok((taken, None));
            };
            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (head[3], head[4]);
            let number = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            if kind == DATA {
                taken += FRAME_HEAD;
                self.data = Some((number, flags, length));
                continue;
            }
            let Some(payload) = payload.get(..length) else {
                return Ok((taken, None));
            };
            taken += FRAME_HEAD + length;
            match kind {
                HEADERS => {
                    let stream = self.stream(number)?;
                    stream.bytes += (FRAME_HEAD + length) as u64;
                    if stream.status.is_none() {
                        // Another status would have to be decompressed: it is none that anybody here wants.
                        let is_200 = payload.first() == Some(&STATUS_200);
                        stream.status = Some(if is_200 { 200 } else { 0 });
                    }
                    if flags & END_STREAM != 0 {
                        return Ok((taken, Some(self.end(number, exchange)?)));
                    }
                }
                SETTINGS if flags & ACK == 0 => frame(out, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(out, PING, ACK, 0, payload),
                RST_STREAM => return Err(Failure::Reset),
                GO_AWAY => return Err(Failure::Closed),
                _ => {}
            }
        }
    }
}

impl Http2 {
    fn stream(&mut self, number: u32) -> Result<&mut Stream, Failure> {
        let mut streams = self.streams.iter_mut();
        streams
            .find(|stream| stream.number == number)
            .ok_or(Failure::Unasked)
    }

    fn take_body(&mut self, number: u32, piece: &[u8], exchange: &Exchange) -> Result<(), Failure> {
        self.used += piece.len() as u64;
        let stream = self.stream(number)?;
        let upto = stream.matched + piece.len();
        if let Some(body) = exchange.expected()
            && stream.status == Some(200)
            && body.get(stream.matched..upto) != Some(piece)
        {
            return Err(Failure::WrongBody);
        }
        stream.matched = upto;
        Ok(())
    }

    fn open_window(&mut self, out: &mut Vec<u8>) {
        if self.used >= USED {
            frame(out, WINDOW_UPDATE, 0, 0, &(self.used as u32).to_be_bytes());
            self.used = 0;
        }
    }

    fn end(&mut self, number: u32, exchange: &Exchange) -> Result<(u32, Answer), Failure> {
        let place = self
            .streams
            .iter()
            .position(|stream| stream.number == number);
        let stream = self.streams.swap_remove(place.ok_or(Failure::Unasked)?);
        let status = stream.status.ok_or(Failure::NotHttp)?;
        if let Some(body) = exchange.expected()
            && status == 200
            && body.len() != stream.matched
        {
            return Err(Failure::WrongBody);
        }
        let answer = Answer {
            exchange: 0,
            status,
            bytes: stream.bytes + stream.matched as u64,
        };
        Ok((number, answer))
    }
}

/// Head and body of a request of HTTP/1.
fn parts(request: &[u8]) -> (&str, &[u8]) {
    let end = request.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let end = end.unwrap_or(request.len());
    let body = request.get(end + 4..).unwrap_or_default();
    (str::from_utf8(&request[..end]).unwrap_or_default(), body)
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The header fields of a request as the first on a connection sends them, and as those that come later do: by their place in
/// the table that the first has filled, as real clients.
fn fields(head: &str) -> (Vec<u8>, Vec<u8>) {
    let mut lines = head.split("\r\n");
    let mut first_line = lines.next().unwrap_or_default().split(' ');
    let method = first_line.next().unwrap_or_default();
    let path = first_line.next().unwrap_or_default();
    let mut fields = vec![
        (":method".to_owned(), method),
        (":scheme".to_owned(), "http"),
        (":path".to_owned(), path),
    ];
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let name = match name.to_ascii_lowercase() {
            host if host == "host" => ":authority".to_owned(),
            connection if connection == "connection" => continue,
            name => name,
        };
        // Those that begin with a colon come before the others.
        let place = if name.starts_with(':') {
            3
        } else {
            fields.len()
        };
        fields.insert(place, (name, value.trim()));
    }
    let mut first = Vec::new();
    for (name, value) in &fields {
        first.push(0x40); // a new name and value, into the table
        for text in [name.as_str(), value] {
            integer(&mut first, 0, 7, text.len());
            first.extend_from_slice(text.as_bytes());
        }
    }
    let mut again = Vec::new();
    for place in (DYNAMIC..DYNAMIC + fields.len()).rev() {
        integer(&mut again, 0x80, 7, place);
    }
    (first, again)
}

/// RFC 7541, 5.1.
fn integer(out: &mut Vec<u8>, first: u8, bits: u8, mut value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        out.push(first | value as u8);
        return;
    }
    out.push(first | most as u8);
    value -= most;
    while value >= 128 {
        out.push(value as u8 | 0x80);
        value /= 128;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_of_the_rfc() {
        for (bits, value, bytes) in [
            (5, 10, &[10][..]),
            (5, 1337, &[31, 154, 10]),
            (8, 42, &[42]),
        ] {
            let mut out = Vec::new();
            integer(&mut out, 0, bits, value);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn answers_are_told_apart_by_stream_and_compared_wherever_they_are_cut() {
        let exchange =
            Exchange::new(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n").expecting(b"hello");
        let mut bytes = Vec::new();
        frame(&mut bytes, SETTINGS, 0, 0, &[]);
        for number in [3, 1] {
            frame(&mut bytes, HEADERS, END_HEADERS, number, &[STATUS_200]);
        }
        frame(&mut bytes, DATA, 0, 3, b"he");
        frame(&mut bytes, DATA, END_STREAM, 1, b"hello");
        frame(&mut bytes, DATA, END_STREAM, 3, b"llo");
        for cut in 0..=bytes.len() {
            let (mut codec, mut out) = (Http2::default(), Vec::new());
            assert_eq!(codec.ask(&exchange, &mut out), 1);
            assert_eq!(codec.ask(&exchange, &mut out), 3);
            let (mut taken, mut numbers) = (0, Vec::new());
            for upto in [cut, bytes.len()] {
                loop {
                    let input = &bytes[taken..upto];
                    let (more, answer) = codec.advance(input, &exchange, &mut out).expect("right");
                    taken += more;
                    let Some((number, answer)) = answer else {
                        break;
                    };
                    assert_eq!(answer.status, 200);
                    numbers.push(number);
                }
            }
            assert_eq!(numbers, [1, 3], "cut at {cut}");
            assert_eq!(codec.advance(&[], &exchange, &mut out), Ok((0, None)));
        }
        let mut wrong = Vec::new();
        frame(&mut wrong, HEADERS, END_HEADERS, 1, &[STATUS_200]);
        frame(&mut wrong, DATA, END_STREAM, 1, b"hellO");
        let (mut codec, mut out) = (Http2::default(), Vec::new());
        codec.ask(&exchange, &mut out);
        assert_eq!(
            codec.advance(&wrong, &exchange, &mut out),
            Err(Failure::WrongBody)
        );
    }
}
