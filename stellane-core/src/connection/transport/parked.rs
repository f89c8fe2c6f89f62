//! Where parked connections wait: a poller of the manager's own, in which one costs no task, no timer and
//! no registration with tokio. It stands in tokio's poller as one file descriptor.

#[cfg(unix)]
pub(crate) use self::unix::{ParkedPoller, ParkedSocket};

#[cfg(not(unix))]
pub(crate) use self::none::{ParkedPoller, ParkedSocket};

#[cfg(unix)]
mod unix {
    use std::{
        io::{self, Read, Write},
        mem::MaybeUninit,
        os::{fd::AsRawFd, unix::net},
        time::Duration,
    };

    use mio::{Events, Interest, Poll, Registry, Token, unix::SourceFd};
    use socket2::SockRef;
    use tokio::{
        io::{
            Interest as TokioInterest,
            unix::{AsyncFd, AsyncFdRegisterError},
        },
        net::{TcpStream, UnixStream},
        time::{Instant, sleep_until},
    };

    use crate::connection::transport::{
        socket::{Socket, age_of_bytes},
        watched::WatchedSocket,
    };

    /// So many sockets are told of at once.
    const MOST: usize = 32;
    /// The same of those that are read in lots, since most of them need no task.
    const MOST_IN_LOT: usize = 1024;
    /// How long those wait at most that are read together, but for what a timer is late.
    const LOT: Duration = Duration::from_millis(1);

    /// Where sockets are put.
    #[derive(Debug)]
    pub(crate) struct ParkedPoller {
        /// `None`: nothing is taken in.
        registry: Option<Registry>,
    }

    /// Tells which parked sockets have something to read.
    #[derive(Debug)]
    pub(crate) struct ParkedEvents {
        /// `None` while it is changed.
        polling: Option<Polling>,
        events: Events,
    }

    /// How sockets are looked at.
    #[derive(Debug)]
    enum Polling {
        /// When tokio says so: each socket that has something to read wakes the thread.
        AtOnce(AsyncFd<Poll>),
        /// Once in a [`LOT`], next at that time.
        InLots(Poll, Instant),
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
            let polling = Some(Polling::at_once(poll).map_err(|(_, error)| error)?);
            let events = Events::with_capacity(MOST);
            let registry = Some(registry);
            Ok((Self { registry }, ParkedEvents { polling, events }))
        }

        /// One that takes nothing in.
        pub(crate) const fn closed() -> Self {
            Self { registry: None }
        }

        /// Whether it takes sockets of this kind in.
        pub(crate) fn takes(&self, socket: &Socket) -> bool {
            self.registry.is_some() && !socket.stays_with_task()
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
            let is_watched = socket.is_watched();
            let parked = match socket {
                Socket::Watched(socket) => ParkedSocket::Tcp(socket.0),
                Socket::Tcp(socket) => ParkedSocket::Tcp(socket.into_std()?),
                Socket::Unix(socket) => ParkedSocket::Unix(socket.into_std()?),
                // Its session can't leave tokio-rustls; without hyper's buffers it waits in its task.
                #[cfg(feature = "tls")]
                socket @ Socket::Tls(_) => return Ok(Err(socket)),
                socket @ Socket::Other(_) => return Ok(Err(socket)),
            };
            let raw = parked.raw();
            let (mut source, token) = (SourceFd(&raw), Token(number as usize));
            // What has arrived before is reported as well, also if it was.
            let registered = match is_watched {
                true => registry.reregister(&mut source, token, Interest::READABLE),
                false => registry.register(&mut source, token, Interest::READABLE),
            };
            Ok(match registered {
                Ok(()) => Ok(parked),
                Err(_) => Err(parked.into_tokio()?),
            })
        }

        /// Hands a parked socket to its task: back to tokio, or as it is, if it is soon parked again.
        pub(crate) fn unpark(&self, parked: ParkedSocket, soon: bool) -> io::Result<Socket> {
            match parked {
                ParkedSocket::Tcp(socket) if soon => Ok(Socket::Watched(WatchedSocket(socket))),
                parked => self.give_to_tokio(parked),
            }
        }

        /// Has tokio watch a socket that was handed over as it was.
        pub(crate) fn unwatch(&self, socket: Socket) -> io::Result<Socket> {
            match socket {
                Socket::Watched(socket) => self.give_to_tokio(ParkedSocket::Tcp(socket.0)),
                socket => Ok(socket),
            }
        }

        fn give_to_tokio(&self, parked: ParkedSocket) -> io::Result<Socket> {
            if let Some(registry) = &self.registry {
                registry.deregister(&mut SourceFd(&parked.raw()))?;
            }
            parked.into_tokio()
        }
    }

    impl Polling {
        /// The poller itself where the system refuses.
        fn at_once(poll: Poll) -> Result<Self, (Poll, io::Error)> {
            #[expect(
                deprecated,
                reason = "its safe form is only wrong for types that do not own their file descriptor"
            )]
            let poll = AsyncFd::try_with_interest(poll, TokioInterest::READABLE);
            poll.map(Self::AtOnce)
                .map_err(AsyncFdRegisterError::into_parts)
        }
    }

    impl ParkedEvents {
        /// The numbers of sockets that have something to read: bytes, the end, or an error. Of a lot there may be none.
        pub(crate) async fn readable(&mut self) -> io::Result<Vec<usize>> {
            loop {
                let polled = match &mut self.polling {
                    Some(Polling::AtOnce(poll)) => {
                        let mut guard = poll.readable_mut().await?;
                        let poll = guard.get_inner_mut();
                        let polled = poll.poll(&mut self.events, Some(Duration::ZERO));
                        if polled.is_ok() && self.events.is_empty() {
                            guard.clear_ready();
                            continue;
                        }
                        polled
                    }
                    Some(Polling::InLots(poll, next)) => {
                        // A timer of the past fires with the next millisecond only.
                        if Instant::now() < *next {
                            sleep_until(*next).await;
                        }
                        let polled = poll.poll(&mut self.events, Some(Duration::ZERO));
                        if polled.is_ok() && self.events.iter().count() < MOST_IN_LOT {
                            *next = Instant::now() + LOT;
                        }
                        polled
                    }
                    None => return Err(io::ErrorKind::NotConnected.into()),
                };
                match polled {
                    Ok(()) => return Ok(self.events.iter().map(|event| event.token().0).collect()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }

        /// Has sockets looked at together from now on, or each as soon as it has something.
        pub(crate) fn read_in_lots(&mut self, in_lots: bool) {
            if matches!(self.polling, Some(Polling::InLots(..))) == in_lots {
                return;
            }
            self.polling = self.polling.take().map(|polling| match polling {
                Polling::AtOnce(poll) => Polling::InLots(poll.into_inner(), Instant::now()),
                Polling::InLots(poll, next) => {
                    Polling::at_once(poll).unwrap_or_else(|(poll, _)| Polling::InLots(poll, next))
                }
            });
            let most = match self.polling {
                Some(Polling::InLots(..)) => MOST_IN_LOT,
                _ => MOST,
            };
            self.events = Events::with_capacity(most);
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

        /// Writes as much as it takes now.
        pub(crate) fn try_write(&self, buffer: &[u8]) -> io::Result<usize> {
            match self {
                Self::Tcp(socket) => (&mut &*socket).write(buffer),
                Self::Unix(socket) => (&mut &*socket).write(buffer),
            }
        }

        /// See [`Socket::age_of_bytes`].
        pub(crate) fn age_of_bytes(&self) -> Option<Duration> {
            match self {
                Self::Tcp(socket) => age_of_bytes(&SockRef::from(socket)),
                Self::Unix(_) => None,
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use std::io::Write;

        use tokio::io::AsyncReadExt;

        use super::*;

        #[tokio::test]
        async fn sockets_are_told_of_together_or_each_at_once() {
            let (poller, mut events) = ParkedPoller::new().expect("a poller");
            let mut clients = Vec::new();
            let mut parked = Vec::new();
            for number in 0..3 {
                let (client, server) = net::UnixStream::pair().expect("a pair");
                server.set_nonblocking(true).expect("a socket");
                let socket = Socket::Unix(UnixStream::from_std(server).expect("a socket"));
                let socket = poller.park(socket, number).expect("parks");
                parked.push(socket.expect("parks"));
                clients.push(client);
            }
            let read = |number: usize| parked[number].try_read(&mut [0; 8]).expect("bytes");
            for round in 1..4 {
                events.read_in_lots(true);
                for client in &mut clients {
                    client.write_all(b"hello").expect("writes");
                }
                let mut told = events.readable().await.expect("no error");
                told.sort_unstable();
                assert_eq!(told, [0, 1, 2], "{round}");
                assert!(told.into_iter().all(|number| read(number) == 5));
                assert!(events.readable().await.expect("no error").is_empty());

                // Not lost, although nobody looked in between.
                clients[1].write_all(b"hi").expect("writes");
                events.read_in_lots(false);
                assert_eq!(events.readable().await.expect("no error"), [1], "{round}");
                assert_eq!(read(1), 2);
                clients[2].write_all(b"hi").expect("writes");
                assert_eq!(events.readable().await.expect("no error"), [2], "{round}");
                assert_eq!(read(2), 2);
            }
        }

        #[tokio::test]
        async fn a_socket_is_told_of_while_its_task_has_it_as_it_was_and_again_when_it_is_parked() {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
            let address = listener.local_addr().expect("an address");
            let mut client = std::net::TcpStream::connect(address).expect("connects");
            let (server, _) = listener.accept().expect("a socket");
            server.set_nonblocking(true).expect("a socket");
            let (poller, mut events) = ParkedPoller::new().expect("a poller");
            let park = |socket| poller.park(socket, 7).expect("parks").expect("parks");

            let parked = park(Socket::Tcp(TcpStream::from_std(server).expect("a socket")));
            let watched = poller.unpark(parked, true).expect("a socket");
            assert!(watched.is_watched());
            client.write_all(b"hello").expect("writes");
            assert_eq!(events.readable().await.expect("no error"), [7]);
            let parked = park(watched);
            assert_eq!(events.readable().await.expect("no error"), [7]);

            let watched = poller.unpark(parked, true).expect("a socket");
            let mut socket = poller.unwatch(watched).expect("a socket");
            assert!(!socket.is_watched());
            let mut read = [0; 5];
            socket.read_exact(&mut read).await.expect("reads");
            assert_eq!(&read, b"hello");
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

        pub(crate) fn takes(&self, _: &Socket) -> bool {
            false
        }

        pub(crate) fn park(
            &self,
            socket: Socket,
            _: u32,
        ) -> io::Result<Result<ParkedSocket, Socket>> {
            Ok(Err(socket))
        }

        pub(crate) fn unpark(&self, parked: ParkedSocket, _: bool) -> io::Result<Socket> {
            match parked.0 {}
        }

        pub(crate) fn unwatch(&self, socket: Socket) -> io::Result<Socket> {
            Ok(socket)
        }
    }

    impl ParkedEvents {
        pub(crate) async fn readable(&mut self) -> io::Result<Vec<usize>> {
            std::future::pending().await
        }

        pub(crate) fn read_in_lots(&mut self, _: bool) {}
    }

    impl ParkedSocket {
        pub(crate) fn has_bytes(&self) -> bool {
            match self.0 {}
        }

        pub(crate) fn try_read(&self, _: &mut [u8]) -> io::Result<usize> {
            match self.0 {}
        }

        pub(crate) fn try_write(&self, _: &[u8]) -> io::Result<usize> {
            match self.0 {}
        }

        pub(crate) fn age_of_bytes(&self) -> Option<std::time::Duration> {
            match self.0 {}
        }
    }
}
