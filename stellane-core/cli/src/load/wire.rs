//! What is not HTTP/1 over TCP.

use std::{
    fmt,
    io::{self, Read, Write},
};

use mio::net::TcpStream;

use super::{Answer, Exchange, Failure};

/// What is spoken on all connections of a load.
pub trait Wire: fmt::Debug + Send + Sync {
    /// What is put around a socket that is being opened, such as TLS.
    ///
    /// # Errors
    /// When it can't be made.
    fn stream(&self, socket: TcpStream) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(socket))
    }

    /// Another protocol than HTTP/1, for one connection.
    fn codec(&self) -> Option<Box<dyn Codec>> {
        None
    }
}

/// Bytes to and from a server; it never blocks.
pub trait Stream: Read + Write + fmt::Debug + Send {
    /// Whether a read that does not fill its buffer has taken all that there is.
    fn short_reads_are_last(&self) -> bool {
        false
    }
}

impl Stream for TcpStream {
    fn short_reads_are_last(&self) -> bool {
        cfg!(unix)
    }
}

/// Another protocol than HTTP/1, on one connection.
pub trait Codec: fmt::Debug + Send {
    /// Puts a request into `out` and gives it a number.
    fn ask(&mut self, exchange: &Exchange, out: &mut Vec<u8>) -> u32;

    /// Takes what it can of `input`: how much that is, and the first answer that is whole, with the number of its request.
    /// Whatever has to be sent besides goes into `out`.
    ///
    /// # Errors
    /// What has become of the connection.
    fn advance(
        &mut self,
        input: &[u8],
        exchange: &Exchange,
        out: &mut Vec<u8>,
    ) -> Result<(usize, Option<(u32, Answer)>), Failure>;
}
