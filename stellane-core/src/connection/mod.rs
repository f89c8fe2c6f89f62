//! [`ConnectionManager`]: serves any tower service over HTTP/1 and HTTP/2, and owns every connection
//! from its accept to its typed end.
//!
//! - **Idle connections cost a socket and a small task.** hyper holds 16 KiB for an HTTP/1 connection
//!   for its whole life. The manager takes an idle one apart and puts it together again when bytes
//!   arrive; one that has not sent a byte yet is held the same way. See [`ConnectionConfig::park_after`].
//! - **Every wait has an end**: first byte, head, idle, body and response progress, age. The deadlines
//!   come from one sweep for all connections: no timer for a connection, none for a request.
//! - **Every connection ends with one [`CloseReason`]**, counted in [`ConnectionStats`].
//! - **A drain loses nothing**: accepting stops, responses say `Connection: close`, idle connections get
//!   a moment to be used once more, and what is left at the deadline is aborted and counted.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//!
//! use http::{Request, Response};
//! use stellane_core::connection::{Incoming, ConnectionConfig, ConnectionManager};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let mut config = ConnectionConfig::default();
//! config.idle_timeout = Duration::from_secs(15);
//! let manager = ConnectionManager::builder().config(config).build()?;
//! let hello = tower::service_fn(|_: Request<Incoming>| async {
//!     Ok::<_, Infallible>(Response::new("hello".to_owned()))
//! });
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let serving = tokio::spawn(manager.serve(listener, hello));
//! // … and on a signal:
//! let report = manager.drain(Duration::from_secs(10)).await;
//! assert_eq!(report.aborted, 0);
//! serving.await??;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # Sockets
//!
//! A [`Listener`] is made from one of tokio's, or by [`Listener::bind`] with the options of a
//! [`ListenConfig`]: `HOST:PORT` or `unix:PATH`, one socket or several on one address. Sockets of
//! systemd are taken over, with the feature `tls` rustls speaks on them, and a trusted proxy may say whose a connection
//! is. Handshakes and PROXY headers are waited for off the accept loop.
//!
//! Or somebody else accepts: [`ConnectionManager::service`] is a tower service of connections, around which tower's own
//! layers go, such as a limit, a timeout or a balancer.
//!
//! # What a client may not do
//!
//! | attack | what ends it | reason |
//! |---|---|---|
//! | connect and say nothing | [`first_byte_timeout`](ConnectionConfig::first_byte_timeout) | [`FirstByteTimeout`](CloseReason::FirstByteTimeout) |
//! | a head, byte by byte | [`head_timeout`](ConnectionConfig::head_timeout) | [`HeadTimeout`](CloseReason::HeadTimeout) |
//! | a body, byte by byte | [`min_body_rate_bytes`](ConnectionConfig::min_body_rate_bytes) | [`SlowBody`](CloseReason::SlowBody) |
//! | a response, taken byte by byte | [`write_timeout`](ConnectionConfig::write_timeout), [`min_response_rate_bytes`](ConnectionConfig::min_response_rate_bytes) | [`SlowRead`](CloseReason::SlowRead) |
//! | a head without end | [`max_head_bytes`](ConnectionConfig::max_head_bytes) | [`ProtocolError`](CloseReason::ProtocolError) |
//! | requests that a proxy reads differently | [`strict_http1`](ConnectionConfig::strict_http1), `StrictHttp1Layer` | [`ProtocolError`](CloseReason::ProtocolError), or [`Finished`](CloseReason::Finished) after the layer's answer |
//! | a TLS handshake that stands still | `tls.handshake_timeout` | [`HandshakeTimeout`](CloseReason::HandshakeTimeout) |
//! | HTTP/2: resets, pings, settings, empty frames | `http2.abuse_burst` and h2's own limits | [`Abuse`](CloseReason::Abuse) |
//! | more connections than one should have | [`max_connections_per_peer`](ConnectionConfig::max_connections_per_peer), [`max_accepts_per_second`](ConnectionConfig::max_accepts_per_second) | [`Refused`](CloseReason::Refused) |
//!
//! # How long the slow may take
//!
//! While there is room nobody is hurt by a client that is slow, and honest ones are: a video is paused, a laptop wakes up
//! in another network, a browser connects ahead. So what they may take is counted in minutes at rest, and shrinks as
//! places or memory run out: whoever has kept the server waiting longest goes first.
//!
//! | what | setting | at rest | 3/4 of the places held | none left |
//! |---|---|--:|--:|--:|
//! | nothing is sent after the connect | [`first_byte_timeout`](ConnectionConfig::first_byte_timeout) | 10 min | 24 s | 1 s |
//! | a head is not complete | [`head_timeout`](ConnectionConfig::head_timeout) | 60 s | 7.7 s | 1 s |
//! | nothing of an answer is taken | [`write_timeout`](ConnectionConfig::write_timeout) | 10 min | 24 s | 1 s |
//! | a body comes, or an answer is taken, slower than the least rate | [`rate_grace`](ConnectionConfig::rate_grace) | 10 min | 24 s | 1 s |
//! | a TLS handshake is not complete, most of which is the server's work | `tls.handshake_timeout` | 60 s | 60 s | 60 s |
//! | an idle connection | [`idle_timeout`](ConnectionConfig::idle_timeout) | 75 min | 75 min | makes room when needed |
//!
//! - A setting means what it says while there is room, whether it was set or is the default. Under pressure it shrinks
//!   down to [`min_timeout`](ConnectionConfig::min_timeout), and not at all where that is `0s`. Off stays off.
//! - **Pressure** is 0 as long as half of the places are free and 1 when none is: of
//!   [`max_connections`](ConnectionConfig::max_connections), or of what the limit of open files leaves beside
//!   [`reserve_files`](ConnectionConfig::reserve_files). Idle connections hold no place, since they give it up at once.
//!   What is scarce besides, [`set_pressure`](ConnectionManager::set_pressure) says: in the preset, memory from 85 to
//!   95 % of its limit, open files from 80 to 95 %, and, up to a half, stalls for memory. The greatest counts.
//! - With each tenth of the pressure a timeout is divided by the same number, so that the level at which as many go as
//!   have to is found within moments, and no more go than that.
//! - While the process does not run, for more than a second, no time of a client passes: its bytes lie in the socket. That is so
//!   when it is stopped, its machine pauses or has no CPU for it, or handlers hold all threads.
//! - Who reads slower than the socket's buffer lets see (it holds megabytes) is looked at again before it goes: on Linux
//!   the system says how much of it the client has acknowledged.
//! - What ends because nothing was taken ends by a reset, over TLS without its goodbye: a client must not take half of
//!   an answer for all of it.
//!
//! # How a drain goes
//!
//! 1. [`drain_token`] is cancelled, for handlers whose response has no end; the listeners take
//!    in what the system has accepted already, and close.
//! 2. Each connection has its moment within [`drain_spread`](ConnectionConfig::drain_spread). From then on its
//!    responses say `Connection: close`; one of HTTP/2 gets GOAWAY.
//! 3. It is closed when nothing of a request has come for [`drain_idle`](ConnectionConfig::drain_idle) after that moment,
//!    whatever it waits for: a handshake, a preface, the answer to a PING, the rest of a head. A request that was on its
//!    way has been answered by then.
//! 4. Each request has its time: the drain's deadline, or a [budget](ConnectionManagerBuilder::drain_budget) of its own. A
//!    stream that goes on to its end is ended in the words of its protocol: server-sent events between two events, with
//!    [`retry:`](ConnectionConfig::sse_retry) if that is set; a call of gRPC with the status `UNAVAILABLE`; a WebSocket
//!    with the code 1012, between two frames. Other streams, such as lines of JSON, have no such words: an end of ours
//!    would pass for the whole, so they are cut, and their clients see that. A long poll has not been answered at all, and
//!    only its handler knows what "nothing new" is. Handlers of both end in time by themselves with [`drain_token`].
//! 5. What is left of a connection a second later is aborted.
//!
//! The `Runtime` says on its admin address that it is not ready before all this, and waits for
//! `server.drain_delay`.
//!
//! # Streams and upgrades
//!
//! What has no end of its own ends with the drain if its handler wants it to: see [`drain_token`].
//! An upgraded connection stays in the table, counted and subject to [`close`](ConnectionManager::close), until
//! its socket is dropped.
//!
//! # Simple requests
//!
//! Most requests come whole, are for a path, have no body and ask for nothing of their connection, and most answers
//! are short and whole when they come. Such a request is parsed by `httparse` and its answer written at once, without
//! hyper's state machine, which is most of what an HTTP/1 connection costs. Everything else is hyper's: the bytes of
//! what is not simple go to it as they came, and an answer that turns out long, in pieces or the last goes to it to be
//! sent. From then on the connection is hyper's until it is idle and taken apart.
//!
//! On a runtime with one worker thread, such as each of `PerCoreEngine`'s, answers to many connections that are ready
//! together are sent together, after all of their handlers have run: it costs less CPU time. Where handlers take long,
//! each is sent at once.
//!
//! A client can't tell (`tests/connection/simple.rs`, `tests/connection_differential.rs`).
//!
//! # How a connection ends
//!
//! Everything that was handed to the service is answered, whatever comes behind it, unless the client's reset, its end
//! after a grace, a deadline, a failing service, or a close by hand came first. hyper never closes a socket: what is
//! written is sent, then the side is ended, and then what the client still sends is read and dropped, so that no reset
//! takes the answer from it: up to 64 MiB in 30 s. Who may still be sending, behind a body, 400 or 408, may be silent for
//! a second meanwhile, or five behind a body. A client that writes all of an upload before it reads gets its 413.
//!
//! | what happens | what comes of it |
//! |---|---|
//! | the client ends its side (FIN, or `close_notify`) behind whole requests | they are answered if each begins to be within [`half_close_grace`](ConnectionConfig::half_close_grace); then its handler is dropped, and [`HalfClosed`](CloseReason::HalfClosed) |
//! | an upgrade or CONNECT is declined | the connection goes on, with the requests that stand behind an upgrade: a client may not speak the other protocol before it is told 101 (RFC 9110, 7.8; RFC 9931) |
//! | bytes stand behind a CONNECT already when it is refused | the answer says `close`, since they may be those of a proxy's own client (RFC 9931); [`BytesBehindUpgrade`](CloseReason::BytesBehindUpgrade) |
//! | a handler does not read the body | it is read and dropped; beyond [`unread_body_bytes`](ConnectionConfig::unread_body_bytes) the answer says `close` |
//! | the client waits with its body (`Expect: 100-continue`), and nobody asks for it | the answer says `close` |
//! | a response has a `Content-Length` that is not its body's, or stands on 204 | the field is left out |
//!
//! # Streams of HTTP/2
//!
//! On a runtime of one or two worker threads, such as each of `PerCoreEngine`'s, a connection polls the streams that it
//! begins once itself, in their order, and writes the answers of those that are ready at once together. Only a stream that
//! has to wait gets a task of its own. So it is on `HandoffEngine`, but for a minute after a handler was seen to hold its
//! thread each has one from the beginning. So has each on larger runtimes, so that threads can take work over from each
//! other. Either way the panic of a handler ends its own stream and no other.
//!
//! # Early refusals
//!
//! In the `Runtime`, a simple request that the limit refuses at once is answered where it was read, in the buffer of the
//! answers: the service is not asked whether it is ready, and no future, body or box is made for the request. It is
//! counted, and answered to the byte, as by the limit's layer. So is one that would only wait in vain, unless its client
//! asks again within 20 ms: clients that ask again at once would take all the CPU there is, and wait.
//!
//! While many are refused, on a runtime of one or two worker threads, a connection that was is parked at once, and parked
//! ones are looked at once a millisecond: then what has come is refused one after the other, without a task, in the place
//! of a wake for each. One of them that gets in has its task for that, while tokio does not learn of its socket, and is
//! parked again. Who asks on a parked connection waits for up to two milliseconds more then. Where a thread does not get to
//! that in time, since it has many others beside it, each connection has its task for the next ten seconds, or for a part
//! of them if all went well before: a tenth of a second after two good ones.
//!
//! What stands outside of the limit has to see each request, and so these take the longer way: with pages that reload
//! while developing, and while `RuntimeBuilder::on_refusal` is set. So do requests with a body or a deadline, of gRPC or a
//! class with seats of its own, and HTTP/2. At ten times the load of a core, with requests of 0.7 ms, 88 % of the peak are
//! served by the short way and 76 % by the longer one, where a loop that does nothing but read and refuse has 91: over
//! loopback a refusal takes 10, 20 and 7 microseconds of CPU in the median (the example `overload_refusals`).
//!
//! By protocol, 1000 connections that ask every 100 ms on a machine shared with others (the example `refusal_cost`),
//! microseconds of CPU for each:
//!
//! | | HTTP/1 | HTTP/2 | gRPC over it |
//! |---|--:|--:|--:|
//! | a refusal as it is | 10.6 to 10.9 | 26.1 to 27.6 | 26.3 to 26.7 |
//! | with `RuntimeBuilder::on_refusal` | 14.7 to 15.6 | 27.0 to 27.5 | 28.8 to 29.4 |
//! | with a layer outside of the limit, such as an access log, without what it does | 15.2 to 15.9 | 27.3 to 27.7 | 28.7 to 29.4 |
//! | for comparison, `hello` | 11.0 | 16.0 to 16.5 | 17.8 to 19.0 |
//!
//! Over HTTP/2 it costs more than an answer, as it is waited first for a place that may become free.
//!
//! # What parking relies on
//!
//! A connection is idle when no handler runs, no response body is open, nobody holds the body of a request, and the
//! socket has taken all that hyper wrote: the manager counts all of that. hyper then waits for a head, and gives back the
//! socket with what was read and not used, such as a part of that head. `tests/connection/parking.rs` fails loudly should
//! hyper ever change that.

mod accept;
mod client;
mod config;
mod early;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod http_service;
mod incoming;
mod lifecycle;
mod manager;
mod policy;
mod protocol;
mod reason;
mod service;
pub(crate) mod spawn;
mod state;
mod stats;
mod table;
mod transport;
mod woken;

#[cfg(feature = "http2")]
pub use self::config::http2::Http2Config;
pub use self::config::proxy_protocol::{ProxyProtocol, ProxyProtocolConfig};
#[cfg(unix)]
pub use self::protocol::connect_info::UnixPeer;
#[cfg(feature = "preset")]
pub(crate) use self::{
    client::client,
    early::{Early, EarlyRefusals},
    protocol::http1::fast_path::refusal::write_problem,
    transport::{
        proxy_protocol::{Trust, Verdict, read_header},
        socket::Socket,
    },
    woken::{Readings, WakeClock, look_back_from, thread_was_held, woken},
};
#[cfg(feature = "tls")]
pub use self::{
    config::tls::{ClientAuth, TlsCertificate, TlsConfig, TlsVersion},
    protocol::connect_info::TlsInfo,
    transport::tls::{TlsAcceptor, client::TlsClient, error::TlsError},
};
pub use self::{
    config::{
        ConnectionConfig,
        forwarded::{ForwardedConfig, ForwardedHeader},
        listen::{ListenConfig, WhenFull},
    },
    error::{BuildError, ServeError},
    http_service::HttpService,
    incoming::Incoming,
    lifecycle::memory::malloc_trim,
    manager::{ConnectionManager, ConnectionManagerBuilder},
    policy::forwarded::Forwarded,
    protocol::{connect_info::ConnectInfo, scope::drain_token},
    reason::CloseReason,
    service::{ConnectionFuture, ConnectionIo, ConnectionService, SameService},
    state::{ConnectionInfo, ConnectionState},
    stats::{ConnectionStats, DrainReport},
    transport::listener::{Listener, detached::DetachedListener},
};
pub use crate::config_error::ConfigError;
