//! One HTTP/1.1 connection that sends the same bytes again and again.
//!
//! Not hyper: a load generator that costs as much per request as the server measures itself. Not that of `examples/compare`
//! either, which knows what it is answered; this one has to read whatever a server says.

use std::{
    io,
    mem::MaybeUninit,
    net::{SocketAddr, ToSocketAddrs},
    str::FromStr,
};

use http::{HeaderName, HeaderValue, Method, Uri, header};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const MAX_HEADERS: usize = 100;
const MAX_HEAD: usize = 256 << 10;

/// What is requested, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) method: Method,
    address: SocketAddr,
    request: Vec<u8>,
}

impl Target {
    pub(super) fn new(
        url: &str,
        method: &str,
        headers: &[String],
        body: Option<&str>,
    ) -> Result<Self, String> {
        let uri = Uri::from_str(url).map_err(|error| format!("`{url}` is not a URL: {error}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(format!(
                    "`{url}`: https is not supported, measure in front of TLS"
                ));
            }
            _ => {
                return Err(format!(
                    "`{url}` is not a URL: expected http://HOST:PORT/PATH"
                ));
            }
        }
        let authority = uri
            .authority()
            .ok_or_else(|| format!("`{url}` names no host"))?;
        let host = authority.host();
        let address = (
            host.trim_matches(['[', ']']),
            authority.port_u16().unwrap_or(80),
        )
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .ok_or_else(|| format!("`{host}` has no address"))?;
        let method = Method::from_str(method).map_err(|_| format!("`{method}` is not a method"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        let mut has_host = false;
        for text in headers {
            let (name, value) = parse_header(text)?;
            has_host |= name == header::HOST;
            if [
                header::CONTENT_LENGTH,
                header::TRANSFER_ENCODING,
                header::CONNECTION,
            ]
            .contains(&name)
            {
                return Err(format!(
                    "header `{name}` is set by the load generator itself"
                ));
            }
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !has_host {
            head.push_str(&format!("host: {authority}\r\n"));
        }
        if let Some(body) = body {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        head.push_str(body.unwrap_or_default());
        Ok(Self {
            url: url.to_owned(),
            method,
            address,
            request: head.into_bytes(),
        })
    }
}

fn parse_header(text: &str) -> Result<(HeaderName, &str), String> {
    let wrong = || format!("`{text}` is not a header: expected `NAME: VALUE`");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let value = value.trim();
    HeaderValue::from_str(value).map_err(|_| wrong())?;
    Ok((
        HeaderName::from_str(name.trim()).map_err(|_| wrong())?,
        value,
    ))
}

/// What is kept of a response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Head and body as they came over the wire.
    pub(super) bytes: u64,
}

/// A connection that is opened when it is needed.
#[derive(Debug, Default)]
pub(super) struct Connection {
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(&mut self, target: &Target) -> io::Result<()> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// The connection is in an unknown state, for example after a timeout.
    pub(super) fn close(&mut self) {
        self.stream = None;
    }

    /// Sends one request and reads its response. A kept connection that the server closed before it
    /// answered anything is opened again once, as every client does.
    pub(super) async fn exchange(&mut self, target: &Target) -> io::Result<Answer> {
        if self.stream.is_some() {
            match self.try_exchange(target).await {
                Err(_) if self.buffer.is_empty() => {}
                outcome => return outcome,
            }
        }
        self.open(target).await?;
        self.try_exchange(target).await
    }

    async fn try_exchange(&mut self, target: &Target) -> io::Result<Answer> {
        self.buffer.clear();
        let Some(mut stream) = self.stream.take() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        stream.write_all(&target.request).await?;
        let mut reader = Reader {
            stream: &mut stream,
            buffer: &mut self.buffer,
            bytes: 0,
        };
        let (answer, reusable) = reader.response(target.method == Method::HEAD).await?;
        if reusable {
            self.stream = Some(stream);
        }
        Ok(answer)
    }
}

struct Reader<'a> {
    stream: &'a mut TcpStream,
    /// What has come and is not consumed yet.
    buffer: &'a mut Vec<u8>,
    bytes: u64,
}

impl Reader<'_> {
    async fn response(&mut self, to_head: bool) -> io::Result<(Answer, bool)> {
        let head = loop {
            let head = self.head().await?;
            // 100 Continue and 103 Early Hints come before the response.
            if !(100..200).contains(&head.status) {
                break head;
            }
        };
        let bodiless = to_head || matches!(head.status, 204 | 304);
        let reusable = match head.body {
            _ if bodiless => !head.close,
            Body::Length(length) => {
                self.skip(length).await?;
                !head.close
            }
            Body::Chunked => {
                self.chunks().await?;
                !head.close
            }
            Body::UntilClose => {
                while self.fill().await? > 0 {
                    self.buffer.clear();
                }
                false
            }
        };
        let reusable = reusable && self.buffer.is_empty();
        Ok((
            Answer {
                status: head.status,
                bytes: self.bytes,
            },
            reusable,
        ))
    }

    async fn head(&mut self) -> io::Result<Head> {
        loop {
            if !self.buffer.is_empty()
                && let Some((head, length)) = parse_head(self.buffer)?
            {
                self.buffer.drain(..length);
                return Ok(head);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(invalid("the response head is too long"));
            }
            self.fill_some().await?;
        }
    }

    async fn chunks(&mut self) -> io::Result<()> {
        loop {
            match httparse::parse_chunk_size(self.buffer).map_err(|_| invalid("bad chunk size"))? {
                httparse::Status::Partial => self.fill_some().await?,
                httparse::Status::Complete((head, 0)) => {
                    self.buffer.drain(..head);
                    return self.trailers().await;
                }
                httparse::Status::Complete((head, size)) => {
                    self.buffer.drain(..head);
                    self.skip(size.saturating_add(2)).await?;
                }
            }
        }
    }

    /// Lines up to an empty one.
    async fn trailers(&mut self) -> io::Result<()> {
        loop {
            match self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                Some(end) => {
                    self.buffer.drain(..end + 2);
                    if end == 0 {
                        return Ok(());
                    }
                }
                None => self.fill_some().await?,
            }
        }
    }

    async fn skip(&mut self, mut length: u64) -> io::Result<()> {
        loop {
            let here =
                usize::try_from(length).map_or(self.buffer.len(), |n| n.min(self.buffer.len()));
            self.buffer.drain(..here);
            length -= here as u64;
            if length == 0 {
                return Ok(());
            }
            self.fill_some().await?;
        }
    }

    async fn fill_some(&mut self) -> io::Result<()> {
        match self.fill().await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(16 << 10);
        let read = self.stream.read_buf(self.buffer).await?;
        self.bytes += read as u64;
        Ok(read)
    }
}

struct Head {
    status: u16,
    body: Body,
    close: bool,
}

enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

/// The head and its length; `None` if it is not complete.
fn parse_head(buffer: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let length = match httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, buffer, &mut headers)
        .map_err(|_| invalid("not an HTTP/1 response"))?
    {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(length) => length,
    };
    let mut body = Body::UntilClose;
    let mut close = response.version == Some(0);
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") && !matches!(body, Body::Chunked) {
            let length = str::from_utf8(header.value)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            body = Body::Length(length.ok_or_else(|| invalid("bad content-length"))?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            body = Body::Chunked;
        } else if header.name.eq_ignore_ascii_case("connection") {
            close |= header.value.eq_ignore_ascii_case(b"close");
            close &= !header.value.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    Ok(Some((
        Head {
            status: response.code.unwrap_or(0),
            body,
            close,
        },
        length,
    )))
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
