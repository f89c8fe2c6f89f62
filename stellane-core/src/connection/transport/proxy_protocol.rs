//! The PROXY protocol: a proxy that passes connections on says first whose they are.

use std::{future::poll_fn, io, net::SocketAddr, pin::Pin};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, ReadBuf};

use crate::connection::{
    config::{
        network::Networks,
        proxy_protocol::{ProxyProtocol, ProxyProtocolConfig},
    },
    transport::socket::Socket,
};

/// What is to happen with a connection before it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Direct,
    Header,
    Refused,
}

/// The configuration, parsed.
#[derive(Debug)]
pub(crate) struct Trust {
    mode: ProxyProtocol,
    networks: Networks,
}

impl Trust {
    pub(crate) fn new(config: &ProxyProtocolConfig) -> Self {
        Self {
            mode: config.mode,
            networks: Networks::parse(&config.trusted),
        }
    }

    /// `None` is the peer of a Unix socket.
    pub(crate) fn judge(&self, peer: Option<SocketAddr>) -> Verdict {
        match self.mode {
            ProxyProtocol::Off => Verdict::Direct,
            _ if self.networks.trust(peer) => Verdict::Header,
            ProxyProtocol::Trusted => Verdict::Direct,
            ProxyProtocol::Required => Verdict::Refused,
        }
    }
}

/// The longest header taken; version 2 allows 64 KiB of extensions, which nobody sends.
const LONGEST: usize = 4096;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads the header, and not a byte more. `None` for a connection of the proxy's own, such as a health check.
pub(crate) async fn read_header(socket: &mut Socket) -> io::Result<Option<SocketAddr>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut header = vec![0; 12];
    read_exact(socket, &mut header).await?;
    if header == V2_SIGNATURE {
        header.resize(16, 0);
        read_exact(socket, &mut header[12..]).await?;
        let length = 16 + usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > LONGEST {
            return Err(invalid());
        }
        header.resize(length, 0);
        read_exact(socket, &mut header[16..]).await?;
        let header = v2::Header::try_from(&header[..]).map_err(|_| invalid())?;
        let proxied = header.command == v2::Command::Proxy;
        return Ok(match header.addresses {
            v2::Addresses::IPv4(a) if proxied => Some((a.source_address, a.source_port).into()),
            v2::Addresses::IPv6(a) if proxied => Some((a.source_address, a.source_port).into()),
            _ => None,
        });
    }
    if !header.starts_with(b"PROXY ") {
        return Err(invalid());
    }
    // A line of at most 107 bytes, its end unknown: one after the other.
    while !header.ends_with(b"\r\n") {
        if header.len() >= 107 {
            return Err(invalid());
        }
        let at = header.len();
        header.push(0);
        read_exact(socket, &mut header[at..]).await?;
    }
    let header = v1::Header::try_from(&header[..]).map_err(|_| invalid())?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(a) => Some((a.source_address, a.source_port).into()),
        v1::Addresses::Tcp6(a) => Some((a.source_address, a.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

async fn read_exact(socket: &mut Socket, into: &mut [u8]) -> io::Result<()> {
    let mut buffer = ReadBuf::new(into);
    poll_fn(|cx| {
        while buffer.remaining() > 0 {
            let before = buffer.filled().len();
            std::task::ready!(Pin::new(&mut *socket).poll_read(cx, &mut buffer))?;
            if buffer.filled().len() == before {
                return std::task::Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        std::task::Poll::Ready(Ok(()))
    })
    .await
}
