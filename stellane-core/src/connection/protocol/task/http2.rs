//! How HTTP/2 is told from HTTP/1, and HTTP/2 itself.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

use crate::connection::{
    http_service::HttpService,
    lifecycle::Shared,
    policy::stream_rates::{self, StreamRates},
    protocol::{
        http2::{
            blame,
            ledger::Ledger,
            service::StreamService,
            streams::{BegunStreams, StreamExecutor},
        },
        io::Io,
        task::connection::{Connection, Step},
    },
    reason::CloseReason,
    state::ConnectionState,
    table::command::Command,
    transport::socket::Socket,
};

/// What HTTP/2 begins with. A part of it may be a method of HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether the first bytes of a connection are those of HTTP/2.
pub(crate) fn is_preface(bytes: &[u8]) -> bool {
    bytes.starts_with(PREFACE)
}

/// Whether more bytes have to tell.
pub(crate) fn may_become_preface(bytes: &[u8]) -> bool {
    bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes)
}

/// A new connection, and so few bytes of it that they can be the beginning of either protocol.
pub(crate) struct Sniffing {
    socket: Socket,
    bytes: Vec<u8>,
}

impl Sniffing {
    pub(crate) fn new(socket: Socket, bytes: &[u8]) -> Self {
        Self {
            socket,
            bytes: bytes.to_vec(),
        }
    }

    /// Reads until there are enough bytes.
    pub(crate) fn poll<S>(&mut self, connection: &Connection<S>, cx: &mut Context<'_>) -> Step<()> {
        loop {
            let mut buffer = [0; PREFACE.len()];
            let mut unread = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.socket).poll_read(cx, &mut unread) {
                Poll::Pending => {
                    return match connection.record.commands().take() {
                        Command::Close(reason) => Step::End(reason),
                        Command::Park | Command::None => Step::Wait,
                    };
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Step::End(CloseReason::IoError),
            }
            let read = unread.filled();
            connection.record.add_read(read.len());
            self.bytes.extend_from_slice(read);
            // At the end of all bytes it is hyper's to say what is wrong with them.
            if read.is_empty() || !may_become_preface(&self.bytes) {
                return Step::Next(());
            }
        }
    }

    pub(crate) fn into_parts(self) -> (Socket, Bytes) {
        (self.socket, self.bytes.into())
    }
}

type Http2<S> = http2::Connection<TokioIo<Io>, StreamService<S>, StreamExecutor>;

/// An HTTP/2 connection.
pub(crate) struct ActiveHttp2<S: HttpService> {
    hyper: Http2<S>,
    /// When it was asked to go.
    goaway: Option<u64>,
    begun: BegunStreams,
    ledger: Arc<Ledger>,
    rates: StreamRates,
    /// When the streams were looked at that wait for their client.
    looked: u64,
    /// Bytes written when the client had ended its side, and somebody looked.
    written: u64,
    end: End,
}

/// What becomes of a client that has ended its side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is answered. h2, which drops with the end all that is not sent, does not hear of that yet.
    Kept,
    /// All is answered, and h2 sends what it has of that.
    Sent,
    /// h2 hears of it.
    Told,
}

impl<S: HttpService> ActiveHttp2<S> {
    pub(crate) fn new(hyper: Http2<S>, ledger: Arc<Ledger>, shared: &Shared) -> Self {
        shared.totals.count_http2();
        Self {
            hyper,
            goaway: None,
            begun: BegunStreams::new(Arc::clone(&ledger)),
            ledger,
            rates: StreamRates::new(&shared.config),
            looked: shared.clock.now(),
            written: 0,
            end: End::Kept,
        }
    }

    pub(crate) fn poll(
        &mut self,
        connection: &mut Connection<S>,
        cx: &mut Context<'_>,
    ) -> Step<Infallible> {
        loop {
            let before = Moment::of(connection);
            let hyper = &mut self.hyper;
            let polled = self.begun.poll(cx, |cx| Pin::new(&mut *hyper).poll(cx));
            if let Poll::Ready(result) = polled {
                return Step::End(before.finished(connection, result));
            }
            if connection.record.state() == ConnectionState::Closing {
                // It has had its last word.
                return match connection.record.commands().take() {
                    Command::Close(_) if connection.record.flags().is_abusive() => {
                        Step::End(CloseReason::Abuse)
                    }
                    Command::Close(reason) => Step::End(reason),
                    Command::Park | Command::None => Step::Wait,
                };
            }
            self.judge_streams(connection);
            // What h2 holds of an answer that the client takes slowly is not sent yet.
            let answers = connection.record.answers();
            let idle = answers.in_flight() == 0 && answers.write_stalled() == 0;
            let goes_on_to_end = idle && connection.record.flags().is_half_closed();
            if goes_on_to_end && self.end == End::Kept {
                self.end = End::Sent;
                continue;
            }
            match idle {
                true => connection.enter(ConnectionState::Idle),
                false => connection.enter_active(&mut self.written),
            }
            if goes_on_to_end && self.end == End::Sent {
                self.end = End::Told;
                continue;
            }
            let goaway = match connection.record.commands().take() {
                // The answer has gone on since.
                Command::Close(CloseReason::HalfClosed) if idle || connection.goes_on() => {
                    connection.record.commands().forget();
                    false
                }
                Command::Close(reason) if !reason.yields_to_a_request() => {
                    // Also of one that was asked to go before.
                    connection.reason = Some(reason);
                    return Step::End(reason);
                }
                Command::Close(_) if self.is_left_without_a_word(connection) => {
                    return Step::End(connection.finished(Ok(())));
                }
                Command::Close(reason) => {
                    if self.goaway.is_none() {
                        connection.reason.get_or_insert(reason);
                        connection.record.commands().forget();
                    }
                    true
                }
                // HTTP/2 has state that can't be rebuilt: it is not parked, and asked no more.
                Command::Park => {
                    connection.record.commands().ask(Command::Park);
                    is_to_go(connection)
                }
                Command::None => is_to_go(connection),
            };
            if !goaway || self.goaway.is_some() {
                return Step::Wait;
            }
            // Two-phase: streams already begun are served to their end. From now on the sweep asks for its close when no
            // request comes for a while.
            self.goaway = Some(connection.shared().clock.now());
            connection.record.flags().await_ping();
            connection.record.flags().close_after_response();
            Pin::new(&mut self.hyper).graceful_shutdown();
        }
    }

    /// Whether a connection without a stream does not answer the PING that goes with GOAWAY. One that does is ended by h2,
    /// unless it has to take the rest of an answer.
    fn is_left_without_a_word(&self, connection: &Connection<S>) -> bool {
        let record = &connection.record;
        let was_asked = |asked| connection.shared().clock.now() > asked;
        self.goaway.is_some_and(was_asked)
            && record.state() == ConnectionState::Idle
            && !record.flags().has_answered_ping()
    }

    /// Ends the streams whose client is too slow.
    fn judge_streams(&mut self, connection: &Connection<S>) {
        let (answers, shared) = (connection.record.answers(), connection.shared());
        let now = shared.clock.now();
        let elapsed = now.saturating_sub(self.looked);
        if elapsed == 0 || !answers.have_waited() {
            self.looked = now;
            return;
        }
        let grace = shared.patience().rate_grace;
        if elapsed < stream_rates::interval(grace) {
            return;
        }
        self.looked = now;
        // A socket that takes nothing is judged for itself: see `MinRates`.
        if !answers.are_unread() {
            self.ledger.judge(&self.rates, elapsed, grace);
        }
    }
}

/// Before h2 is polled.
struct Moment {
    serves: bool,
    requests: u64,
}

impl Moment {
    fn of<S>(connection: &Connection<S>) -> Self {
        use ConnectionState::{Active, HalfClosed};
        let record = &connection.record;
        Self {
            serves: matches!(record.state(), Active | HalfClosed),
            requests: record.requests(),
        }
    }

    /// Why the connection ended. What h2 still wants to say to a client that has left between two requests is no matter.
    fn finished<S>(self, connection: &Connection<S>, result: hyper::Result<()>) -> CloseReason {
        let record = &connection.record;
        let is_left =
            record.flags().is_half_closed() && !self.serves && self.requests == record.requests();
        if !is_left || result.as_ref().err().and_then(blame).is_some() {
            return connection.finished(result);
        }
        connection.enter(ConnectionState::Idle);
        connection.finished(Ok(()))
    }
}

/// Whether the connection is to take no more requests.
fn is_to_go<S>(connection: &Connection<S>) -> bool {
    let (shared, record) = (connection.shared(), &connection.record);
    let requests = record.requests();
    (requests > 0 && shared.is_last(requests))
        || record.flags().closes_after_response()
        || record.flags().is_abusive()
        || shared.drains(record)
}
