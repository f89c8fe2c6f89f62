use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A client that sees every byte: HTTP/1.1 over one connection. It sends one thing at a time and says whether the server
/// closes, which clients that are made to be fast or lenient hide.
#[derive(Debug)]
pub struct Client {
    socket: TcpStream,
    unread: Vec<u8>,
}

/// What it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// Whether the server closes after it.
    pub close: bool,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            unread: Vec::new(),
        })
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// The connection ends before that.
    pub async fn request(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        self.send(method, path, body).await?;
        self.answer().await
    }

    /// Sends a request.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<()> {
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n");
        self.socket
            .write_all(&[head.as_bytes(), body].concat())
            .await
    }

    /// Reads an answer with a `content-length`.
    ///
    /// # Errors
    /// The connection ends before it does.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.read_more().await?;
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).to_ascii_lowercase();
        let header = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| wrong("no status"))?;
        let length: usize = match header("content-length") {
            Some(length) => length.parse().map_err(|_| wrong("no length"))?,
            None => 0,
        };
        let close = header("connection") == Some("close");
        while self.unread.len() < end + length {
            self.read_more().await?;
        }
        let body = self.unread[end..end + length].to_vec();
        self.unread.drain(..end + length);
        Ok(Answer {
            status,
            body,
            close,
        })
    }

    /// Reads until the server closes.
    ///
    /// # Errors
    /// It resets the connection.
    pub async fn closed(&mut self) -> io::Result<()> {
        let mut rest = Vec::new();
        self.socket.read_to_end(&mut rest).await.map(drop)
    }

    async fn read_more(&mut self) -> io::Result<()> {
        if self.socket.read_buf(&mut self.unread).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}
