//! What carries the bytes of a connection.

use std::{
    any::Any,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

#[cfg(unix)]
use socket2::SockRef;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

#[cfg(unix)]
use crate::connection::transport::watched::WatchedSocket;

/// What the system holds of answers that it can't send yet, where memory is scarce.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 64 << 10;

/// A socket that connections are accepted on.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    /// It was parked, and soon is again.
    #[cfg(unix)]
    Watched(WatchedSocket),
    /// Its handshake is done.
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// In memory, through a tunnel, or whatever else its owner brought.
    Other(Box<dyn Transport>),
}

/// Anything that carries a connection.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

impl fmt::Debug for dyn Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

impl Socket {
    /// What somebody brought, as what it is: a socket of the system keeps its addresses and what else is known of it.
    pub(crate) fn of<Io>(io: Io) -> Self
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        fn take<T: 'static>(io: &mut dyn Any) -> Option<T> {
            io.downcast_mut::<Option<T>>()?.take()
        }
        let mut io = Some(io);
        if let Some(socket) = take(&mut io) {
            return socket;
        }
        if let Some(socket) = take(&mut io) {
            return Self::Tcp(socket);
        }
        #[cfg(unix)]
        if let Some(socket) = take(&mut io) {
            return Self::Unix(socket);
        }
        #[cfg(feature = "tls")]
        if let Some(stream) = take(&mut io) {
            return Self::Tls(Box::new(stream));
        }
        match io {
            Some(io) => Self::Other(Box::new(io)),
            // Nobody has taken it.
            None => Self::none(),
        }
    }

    /// In the place of one.
    pub(crate) fn none() -> Self {
        Self::Other(Box::new(tokio::io::empty()))
    }

    /// Whether tokio does not know it.
    pub(crate) fn is_watched(&self) -> bool {
        #[cfg(unix)]
        return matches!(self, Self::Watched(_));
        #[cfg(not(unix))]
        false
    }

    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.peer_addr().ok(),
            #[cfg(unix)]
            Self::Unix(_) => None,
            #[cfg(unix)]
            Self::Watched(socket) => socket.0.peer_addr().ok(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref().0.peer_addr().ok(),
            Self::Other(_) => None,
        }
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            #[cfg(unix)]
            Self::Unix(_) => None,
            #[cfg(unix)]
            Self::Watched(socket) => socket.0.local_addr().ok(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref().0.local_addr().ok(),
            Self::Other(_) => None,
        }
    }

    /// Has small writes sent at once; a socket that has broken says so later.
    pub(crate) fn set_nodelay(&self) {
        if let Self::Tcp(socket) = self {
            let _ = socket.set_nodelay(true);
        }
    }

    /// Whether it waits in its task and is never parked: the system does not know it, or only what lies
    /// beneath it.
    pub(crate) fn stays_with_task(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            #[cfg(unix)]
            Self::Unix(_) | Self::Watched(_) => false,
            #[cfg(feature = "tls")]
            Self::Tls(_) => true,
            Self::Other(_) => true,
        }
    }

    #[cfg(unix)]
    pub(crate) fn unix(&self) -> Option<&UnixStream> {
        match self {
            Self::Unix(socket) => Some(socket),
            _ => None,
        }
    }

    #[cfg(all(feature = "tls", feature = "tonic-014"))]
    pub(crate) fn tls_stream(&self) -> Option<&tokio_rustls::server::TlsStream<TcpStream>> {
        match self {
            Self::Tls(stream) => Some(stream),
            _ => None,
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<&tokio_rustls::rustls::ServerConnection> {
        match self {
            Self::Tls(stream) => Some(stream.get_ref().1),
            _ => None,
        }
    }

    /// Writes without asking tokio whether the socket takes anything.
    #[cfg(unix)]
    pub(crate) fn write_now(&self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => SockRef::from(socket).send_vectored(buffers),
            Self::Unix(socket) => SockRef::from(socket).send_vectored(buffers),
            Self::Watched(socket) => SockRef::from(&socket.0).send_vectored(buffers),
            #[cfg(feature = "tls")]
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
            Self::Other(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    #[cfg(not(unix))]
    pub(crate) fn write_now(&self, _: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Ends this side if that takes words: `close_notify`. A plain socket says it by being closed.
    pub(crate) fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        if self.stays_with_task() {
            let _: Poll<io::Result<()>> = Pin::new(self).poll_shutdown(cx);
        }
    }

    /// What the system has of it; that of TLS below its records.
    #[cfg(unix)]
    fn system_socket(&self) -> Option<SockRef<'_>> {
        match self {
            Self::Tcp(socket) => Some(SockRef::from(socket)),
            Self::Unix(socket) => Some(SockRef::from(socket)),
            Self::Watched(socket) => Some(SockRef::from(&socket.0)),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Some(SockRef::from(stream.get_ref().0)),
            Self::Other(_) => None,
        }
    }

    /// Whether its client has sent something, also if tokio has not heard of it yet: for an end that gives way to a
    /// request.
    pub(crate) fn has_bytes(&self) -> bool {
        #[cfg(unix)]
        {
            let mut byte = [std::mem::MaybeUninit::uninit()];
            let peeked = self.system_socket().map(|socket| socket.peek(&mut byte));
            peeked.is_some_and(|peeked| peeked.is_ok_and(|n| n > 0))
        }
        #[cfg(not(unix))]
        false
    }

    /// Bytes that were written and that the client has not acknowledged, where the system tells.
    #[cfg(all(
        target_os = "linux",
        any(
            target_arch = "x86_64",
            target_arch = "aarch64",
            target_arch = "riscv64"
        )
    ))]
    pub(crate) fn unacknowledged(&self) -> Option<u32> {
        use std::ffi::c_int;

        use rustix::ioctl::{Getter, ioctl, opcode::none};

        /// `SIOCOUTQ`, which is another number on some architectures.
        const QUEUED: rustix::ioctl::Opcode = none(b'T', 0x11);
        let socket = self.system_socket()?;
        // SAFETY: on a socket this request writes one `int`, whatever the socket's protocol, and nothing else; the
        // descriptor is open for as long as it is borrowed.
        let queued = unsafe { ioctl(&*socket, Getter::<QUEUED, c_int>::new()) };
        queued.ok()?.try_into().ok()
    }

    #[cfg(not(all(
        target_os = "linux",
        any(
            target_arch = "x86_64",
            target_arch = "aarch64",
            target_arch = "riscv64"
        )
    )))]
    pub(crate) fn unacknowledged(&self) -> Option<u32> {
        None
    }

    /// How long ago the last bytes of its client came, where the system tells: to some milliseconds.
    pub(crate) fn age_of_bytes(&self) -> Option<Duration> {
        #[cfg(unix)]
        return age_of_bytes(&self.system_socket()?);
        #[cfg(not(unix))]
        None
    }

    /// From now on the system takes little that it can't send yet, however much the client's own buffers hold. It costs a
    /// wake-up for each of these, and no speed.
    pub(crate) fn bound_unsent(&self) {
        #[cfg(target_os = "linux")]
        if let Some(socket) = self.system_socket() {
            // Of another kind of socket it is refused.
            let _ = socket.set_tcp_notsent_lowat(UNSENT);
        }
    }

    /// Has the client see a reset when the socket is closed, and what it has not read thrown away.
    #[cfg(unix)]
    pub(crate) fn reset_when_closed(&self) {
        if let Some(socket) = self.system_socket() {
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }

    #[cfg(not(unix))]
    pub(crate) fn reset_when_closed(&self) {}

    /// Writes what the socket takes now.
    pub(crate) fn try_write(&mut self, buffer: &[u8]) {
        // Nobody waits for the rest.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let _ = Pin::new(&mut *self).poll_write(&mut cx, buffer);
        let _ = Pin::new(self).poll_flush(&mut cx);
    }
}

/// See [`Socket::age_of_bytes`].
#[cfg(target_os = "linux")]
pub(crate) fn age_of_bytes(socket: &SockRef<'_>) -> Option<Duration> {
    use std::{mem::MaybeUninit, os::fd::AsRawFd};

    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the system writes no more than `length` says, which is what is there, and any bytes are a `tcp_info`; the
    // descriptor is open for as long as it is borrowed.
    let (told, info) = unsafe {
        let told = libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        );
        (told, info.assume_init())
    };
    // Of a socket of another kind it tells nothing.
    (told == 0).then(|| Duration::from_millis(info.tcpi_last_data_recv.into()))
}

#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) fn age_of_bytes(_: &SockRef<'_>) -> Option<Duration> {
    None
}

macro_rules! delegate {
    ($self:ident, $socket:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Tcp($socket) => $call,
            #[cfg(unix)]
            Socket::Unix($socket) => $call,
            #[cfg(unix)]
            Socket::Watched($socket) => $call,
            #[cfg(feature = "tls")]
            Socket::Tls($socket) => $call,
            Socket::Other($socket) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, socket => Pin::new(socket).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, socket => Pin::new(socket).poll_write(cx, buffer))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, socket => Pin::new(socket).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, socket => Pin::new(socket).poll_write_vectored(cx, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
