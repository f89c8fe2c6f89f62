//! Where parked connections wait: a poller of the manager's own, in which one costs no task, no timer and
//! no registration with tokio. It stands in tokio's poller as one file descriptor.

#[cfg(unix)]
pub(crate) use self::unix::{ParkedPoller, ParkedSocket};

#[cfg(not(unix))]
pub(crate) use self::none::{ParkedPoller, ParkedSocket};

#[cfg(unix)]
mod unix {
    use std::{
        io::{self, Read},
        mem::MaybeUninit,
        os::{fd::AsRawFd, unix::net},
        time::Duration,
    };

    use mio::{Events, Interest, Poll, Registry, Token, unix::SourceFd};
    use socket2::SockRef;
    use tokio::{
        io::{Interest as TokioInterest, unix::AsyncFd},
        net::{TcpStream, UnixStream},
    };

    use crate::connection::transport::socket::Socket;

    /// So many sockets are told of at once.
    const MOST: usize = 32;

    /// Where sockets are put.
    #[derive(Debug)]
    pub(crate) struct ParkedPoller {
        /// `None`: nothing is taken in.
        registry: Option<Registry>,
    }

    /// Tells which parked sockets have something to read.
    #[derive(Debug)]
    pub(crate) struct ParkedEvents {
        poll: AsyncFd<Poll>,
        events: Events,
    }

    /// A socket that tokio does not know.
    #[derive(Debug)]
    pub(crate) enum ParkedSocket {
        Tcp(std::net::TcpStream),
        Unix(net::UnixStream),
    }

    impl ParkedPoller {
        pub(crate) fn new() -> io::Result<(Self, ParkedEvents)> {
            let poll = Poll::new()?;
            let registry = poll.registry().try_clone()?;
            #[expect(
                deprecated,
                reason = "its safe form is only wrong for types that do not own their file descriptor"
            )]
            let poll = AsyncFd::with_interest(poll, TokioInterest::READABLE)?;
            let events = Events::with_capacity(MOST);
            let registry = Some(registry);
            Ok((Self { registry }, ParkedEvents { poll, events }))
        }

        /// One that takes nothing in.
        pub(crate) const fn closed() -> Self {
            Self { registry: None }
        }

        pub(crate) const fn is_closed(&self) -> bool {
            self.registry.is_none()
        }

        /// Takes the socket in under a number, or gives it back if it is of a kind that can't be parked or
        /// the system refuses.
        ///
        /// # Errors
        /// The socket is lost.
        pub(crate) fn park(
            &self,
            socket: Socket,
            number: u32,
        ) -> io::Result<Result<ParkedSocket, Socket>> {
            let Some(registry) = &self.registry else {
                return Ok(Err(socket));
            };
            let parked = match socket {
                Socket::Tcp(socket) => ParkedSocket::Tcp(socket.into_std()?),
                Socket::Unix(socket) => ParkedSocket::Unix(socket.into_std()?),
                // Its session can't leave tokio-rustls; without hyper's buffers it waits in its task.
                #[cfg(feature = "tls")]
                socket @ Socket::Tls(_) => return Ok(Err(socket)),
                socket @ Socket::Other(_) => return Ok(Err(socket)),
            };
            // What has arrived before is reported as well.
            let registered = registry.register(
                &mut SourceFd(&parked.raw()),
                Token(number as usize),
                Interest::READABLE,
            );
            Ok(match registered {
                Ok(()) => Ok(parked),
                Err(_) => Err(parked.into_tokio()?),
            })
        }

        /// Hands a parked socket back to tokio.
        pub(crate) fn unpark(&self, parked: ParkedSocket) -> io::Result<Socket> {
            if let Some(registry) = &self.registry {
                registry.deregister(&mut SourceFd(&parked.raw()))?;
            }
            parked.into_tokio()
        }
    }

    impl ParkedEvents {
        /// The numbers of sockets that have something to read: bytes, the end, or an error.
        pub(crate) async fn readable(&mut self) -> io::Result<Vec<usize>> {
            loop {
                let mut guard = self.poll.readable_mut().await?;
                let polled = guard
                    .get_inner_mut()
                    .poll(&mut self.events, Some(Duration::ZERO));
                match polled {
                    Ok(()) if self.events.is_empty() => guard.clear_ready(),
                    Ok(()) => {
                        return Ok(self.events.iter().map(|event| event.token().0).collect());
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    impl ParkedSocket {
        fn raw(&self) -> i32 {
            match self {
                Self::Tcp(socket) => socket.as_raw_fd(),
                Self::Unix(socket) => socket.as_raw_fd(),
            }
        }

        /// Whether its client has sent something.
        pub(crate) fn has_bytes(&self) -> bool {
            let mut byte = [MaybeUninit::uninit()];
            let peeked = match self {
                Self::Tcp(socket) => SockRef::from(socket).peek(&mut byte),
                Self::Unix(socket) => SockRef::from(socket).peek(&mut byte),
            };
            peeked.is_ok_and(|n| n > 0)
        }

        fn into_tokio(self) -> io::Result<Socket> {
            Ok(match self {
                Self::Tcp(socket) => Socket::Tcp(TcpStream::from_std(socket)?),
                Self::Unix(socket) => Socket::Unix(UnixStream::from_std(socket)?),
            })
        }

        /// Reads what is there now.
        pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
            match self {
                Self::Tcp(socket) => (&mut &*socket).read(buffer),
                Self::Unix(socket) => (&mut &*socket).read(buffer),
            }
        }
    }
}

/// Elsewhere a parked connection keeps its task.
#[cfg(not(unix))]
mod none {
    use std::{convert::Infallible, io};

    use crate::connection::transport::socket::Socket;

    #[derive(Debug)]
    pub(crate) struct ParkedPoller;

    #[derive(Debug)]
    pub(crate) struct ParkedEvents;

    #[derive(Debug)]
    pub(crate) struct ParkedSocket(Infallible);

    impl ParkedPoller {
        pub(crate) fn new() -> io::Result<(Self, ParkedEvents)> {
            Ok((Self, ParkedEvents))
        }

        pub(crate) const fn closed() -> Self {
            Self
        }

        pub(crate) const fn is_closed(&self) -> bool {
            true
        }

        pub(crate) fn park(
            &self,
            socket: Socket,
            _: u32,
        ) -> io::Result<Result<ParkedSocket, Socket>> {
            Ok(Err(socket))
        }

        pub(crate) fn unpark(&self, parked: ParkedSocket) -> io::Result<Socket> {
            match parked.0 {}
        }
    }

    impl ParkedEvents {
        pub(crate) async fn readable(&mut self) -> io::Result<Vec<usize>> {
            std::future::pending().await
        }
    }

    impl ParkedSocket {
        pub(crate) fn has_bytes(&self) -> bool {
            match self.0 {}
        }

        pub(crate) fn try_read(&self, _: &mut [u8]) -> io::Result<usize> {
            match self.0 {}
        }
    }
}
