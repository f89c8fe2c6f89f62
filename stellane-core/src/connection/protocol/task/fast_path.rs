//! HTTP/1 without hyper, for as long as its requests are simple.

use std::{
    io,
    mem::{self, MaybeUninit},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Request, Response};
use http_body::Body;
use tokio::io::ReadBuf;

use crate::connection::{
    early::Early,
    http_service::HttpService,
    incoming::Incoming,
    protocol::{
        adapter::{Adapter, Answer, ResponseFuture, Waiting},
        http1::fast_path::{
            self, MAX_BODY, MAX_READ,
            body::write_body,
            date,
            header_cache::HeaderCache,
            refusal::{Judged, Pressed},
            request, response,
            write_batch::{self, DelayedWrite},
        },
        io::{Io, pipeline::MAX_HELD},
        open_body,
        task::{
            connection::{Connection, Served, Step},
            read_ahead::ReadAhead,
            waits::{wait_for_answer, wait_for_request},
        },
    },
    reason::CloseReason,
    state::ConnectionState,
    transport::socket::Socket,
};

/// An HTTP/1 connection that hyper knows nothing of, with simple requests so far.
pub(crate) struct FastPath<S: HttpService> {
    io: Io,
    adapter: Adapter<S>,
    under_way: Option<UnderWay<S>>,
    delayed: Option<DelayedWrite>,
    /// Where answers are written, and up to where they are whole.
    out: Vec<u8>,
    whole: usize,
    /// Where the body of an answer is read.
    body: Pin<Box<Option<S::ResBody>>>,
    /// A map of headers, used again for the next request.
    headers: HeaderMap,
    header_cache: HeaderCache,
    early: Early,
    judged: Judged,
    /// Whether its latest request was refused, or it was parked for that before it got in.
    is_refused: bool,
}

/// How many requests are answered before others on the thread have their turn.
const TURN: usize = 32;

/// A request that has no answer yet.
struct UnderWay<S: HttpService> {
    read: ReadAhead,
    answer: Waiting<S>,
}

/// An answer for hyper to send.
type AnswerForHyper<S> = Box<ResponseFuture<S>>;

/// What comes after the fast path.
pub(crate) enum Next<S: HttpService> {
    /// The connection is idle: to be parked, or to be closed for a reason.
    Idle(Option<CloseReason>),
    /// It is idle, and to be read in lots.
    ForLots,
    Hyper(ForHyper<S>),
}

/// What hyper is to go on with.
pub(crate) struct ForHyper<S: HttpService> {
    /// What was read and not used. The first request in it may have its answer.
    pub(crate) unread: Bytes,
    pub(crate) answer: Option<AnswerForHyper<S>>,
    pub(crate) open_bodies: i32,
}

/// What became of what was read.
enum Outcome<S: HttpService> {
    /// All requests are answered.
    Answered,
    /// They are, and the answers are to be sent in the next turn.
    Delayed,
    /// One has to wait for its answer.
    Waits,
    /// The first of these bytes begin a request that is hyper's; or there are none, and the socket does not take all
    /// of the answers.
    Left(Bytes),
    /// Others are to have their turn before these, and before more is read.
    Enough(Bytes),
    /// They begin with a request whose answer is hyper's to send.
    Begun(Bytes, AnswerForHyper<S>),
    Failed,
}

impl<S: HttpService> UnderWay<S> {
    fn for_hyper(self) -> Outcome<S> {
        let answer = ResponseFuture::Pending(self.answer);
        Outcome::Begun(self.read.whole(), Box::new(answer))
    }
}

impl<S: HttpService> FastPath<S> {
    pub(crate) fn new(io: Io, adapter: Adapter<S>, early: Early, judged: Judged) -> Self {
        Self {
            io,
            adapter,
            under_way: None,
            delayed: None,
            out: Vec::new(),
            whole: 0,
            body: Box::pin(None),
            headers: HeaderMap::new(),
            header_cache: HeaderCache::default(),
            early,
            judged,
            is_refused: false,
        }
    }

    /// For an end before the next turn, or by a panic: what is written goes out as far as the socket takes it.
    pub(crate) fn send_what_it_takes(&mut self) {
        if let Some(delayed) = self.delayed.take() {
            self.io.socket.try_write(&delayed.answer);
        }
        // A handler's panic is not the end of the answers before it.
        if self.whole > 0 {
            self.io.socket.try_write(&self.out[..self.whole]);
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if !self.io.rewind.is_empty() {
            return Poll::Ready(Ok(mem::take(&mut self.io.rewind)));
        }
        let mut space = [MaybeUninit::uninit(); MAX_READ];
        let mut read = ReadBuf::uninit(&mut space);
        let polled = match self.under_way {
            Some(_) => self.io.poll_ahead(cx, &mut read),
            None => self.io.poll_socket(cx, &mut read),
        };
        polled.map_ok(|()| fast_path::share(read.filled()))
    }

    /// Answers the request under way, and the simple ones at the beginning of `bytes`; not more than `left`.
    fn answer(
        &mut self,
        cx: &mut Context<'_>,
        bytes: Bytes,
        left: &mut usize,
        served: &Served<S>,
    ) -> Outcome<S> {
        self.out = write_batch::take_buffer();
        date::look();
        let outcome = self.write_answers(cx, bytes, left, served);
        self.whole = 0;
        let mut out = mem::take(&mut self.out);
        if let Outcome::Answered = outcome
            && !out.is_empty()
        {
            match write_batch::delay(out) {
                Ok(delayed) => {
                    self.delayed = Some(delayed);
                    return Outcome::Delayed;
                }
                Err(now) => out = now,
            }
        }
        self.send(cx, out, outcome)
    }

    /// Sends answers, all that there are so far.
    fn send(&mut self, cx: &mut Context<'_>, out: Vec<u8>, outcome: Outcome<S>) -> Outcome<S> {
        let sent = if out.is_empty() {
            Ok(true)
        } else {
            self.io.send(cx, &out)
        };
        write_batch::give_back(out);
        match (sent, outcome) {
            (Ok(false), Outcome::Answered) => Outcome::Left(Bytes::new()),
            (Ok(false), Outcome::Enough(bytes)) => Outcome::Left(bytes),
            (Ok(false), Outcome::Waits) => match self.under_way.take() {
                Some(under_way) => under_way.for_hyper(),
                None => Outcome::Left(Bytes::new()),
            },
            (Ok(_), outcome) => outcome,
            (Err(_), _) => Outcome::Failed,
        }
    }

    fn write_answers(
        &mut self,
        cx: &mut Context<'_>,
        mut bytes: Bytes,
        left: &mut usize,
        served: &Served<S>,
    ) -> Outcome<S> {
        if let Some(UnderWay { answer, .. }) = &mut self.under_way {
            let Poll::Ready(answer) = Pin::new(answer).poll(cx) else {
                return Outcome::Waits;
            };
            if let Some(UnderWay { read, .. }) = self.under_way.take() {
                if let Err(answer) = self.write(cx, answer) {
                    return Outcome::Begun(read.whole(), answer);
                }
                bytes = read.rest();
                *left = left.saturating_sub(1);
            }
        }
        let mut request = Request::new(Incoming::default());
        while !bytes.is_empty() {
            if *left == 0 {
                return Outcome::Enough(bytes);
            }
            if self.out.len() > MAX_HELD {
                let sent = self.io.send(cx, &self.out);
                self.out.clear();
                self.whole = 0;
                match sent {
                    Ok(true) => {}
                    Ok(false) => return Outcome::Left(bytes),
                    Err(_) => return Outcome::Failed,
                }
            }
            let max_head = served.shared.config.max_head_bytes;
            mem::swap(request.headers_mut(), &mut self.headers);
            let parsed = request::parse(&bytes, max_head, &mut self.header_cache, &mut request);
            let Some(head) = parsed else {
                return Outcome::Left(bytes);
            };
            let age = || self.io.socket.age_of_bytes();
            let again = || self.judged.pressed.again(age);
            if !mem::take(&mut self.judged.passed)
                && let Some(early) = self.early.who_may()
                && self.adapter.may_be_passed_by()
                && early.refuse(&mut request, &again, &mut self.out)
            {
                self.adapter.pass_by();
                served.lots.note_refused(served.shared.clock.elapsed());
                self.is_refused = true;
                self.whole = self.out.len();
                request.extensions_mut().clear();
                request.headers_mut().clear();
                mem::swap(request.headers_mut(), &mut self.headers);
                bytes.advance(head);
                *left -= 1;
                continue;
            }
            let mut waiting = None;
            let terms = self.adapter.terms_of_simple();
            match self.adapter.answer(&mut request, terms, cx, &mut waiting) {
                Poll::Ready(answer) => {
                    if let Err(answer) = self.write(cx, answer) {
                        return Outcome::Begun(bytes, answer);
                    }
                }
                Poll::Pending => {
                    let read = ReadAhead::new(bytes, head);
                    self.under_way = waiting.map(|answer| UnderWay { read, answer });
                    return Outcome::Waits;
                }
            }
            bytes.advance(head);
            *left -= 1;
        }
        Outcome::Answered
    }

    /// Writes an answer if it is simple, and otherwise gives it back.
    fn write(&mut self, cx: &mut Context<'_>, answer: Answer<S>) -> Result<(), AnswerForHyper<S>> {
        let response = match answer {
            Ok(response) => response,
            Err(error) => return Err(Box::new(self.adapter.give_to_hyper(Err(error)))),
        };
        let out = &mut self.out;
        let length = match response.body() {
            body if body.is_end_stream() => 0,
            body => body.size_hint().exact().unwrap_or(u64::MAX),
        };
        let is_simple = length <= MAX_BODY as u64 && response::write_head(&response, length, out);
        if !is_simple {
            out.truncate(self.whole);
            return Err(Box::new(self.adapter.give_to_hyper(Ok(response))));
        }
        let (mut head, body) = response.into_parts();
        if length > 0
            && let Err(body) = write_body(&mut self.body, cx, body, length, out)
        {
            out.truncate(self.whole);
            let response = Response::from_parts(head, body);
            return Err(Box::new(ResponseFuture::Done(Some(Ok(response)))));
        }
        self.whole = out.len();
        self.is_refused = self.judged.was_refused;
        mem::swap(&mut self.headers, &mut head.headers);
        self.headers.clear();
        Ok(())
    }
}

impl<S: HttpService> FastPath<S> {
    pub(crate) fn poll(
        &mut self,
        connection: &mut Connection<S>,
        cx: &mut Context<'_>,
    ) -> Step<Next<S>> {
        let mut bytes = Bytes::new();
        let mut left = TURN;
        loop {
            if self.delayed.is_some() || self.under_way.is_some() || !bytes.is_empty() {
                let bytes = mem::take(&mut bytes);
                let served = &connection.served;
                let (outcome, open_bodies) = open_body::observe(0, || match self.delayed.take() {
                    Some(delayed) => self.send(cx, delayed.over(), Outcome::Answered),
                    None => self.answer(cx, bytes, &mut left, served),
                });
                match outcome {
                    Outcome::Answered | Outcome::Waits => {}
                    Outcome::Delayed => {
                        connection.again = true;
                        return Step::Wait;
                    }
                    Outcome::Enough(bytes) => {
                        self.io.rewind = bytes;
                        cx.waker().wake_by_ref();
                        return Step::Wait;
                    }
                    Outcome::Left(bytes) => return to_hyper(bytes, None, open_bodies),
                    Outcome::Begun(bytes, answer) => {
                        return to_hyper(bytes, Some(answer), open_bodies);
                    }
                    Outcome::Failed => return Step::End(CloseReason::IoError),
                }
            }

            let waits = match &self.under_way {
                // No more is read than what belongs together: it is the client that waits.
                Some(under_way) if !under_way.read.is_last() || self.io.has_ended() => {
                    return wait_for_answer(connection).map(|never| match never {});
                }
                Some(_) => true,
                None => false,
            };
            match self.poll_bytes(cx) {
                Poll::Pending if waits => {
                    return wait_for_answer(connection).map(|never| match never {});
                }
                Poll::Pending => {
                    let served = &connection.served;
                    let is_for_lots = self.is_refused && served.reads_in_lots(&self.io.socket);
                    if !is_for_lots && self.io.socket.is_watched() {
                        if self.io.unwatch(&served.parked).is_err() {
                            return Step::End(CloseReason::IoError);
                        }
                        continue;
                    }
                    return match wait_for_request(connection) {
                        Step::Wait if is_for_lots => Step::Next(Next::ForLots),
                        waits => waits.map(Next::Idle),
                    };
                }
                Poll::Ready(Ok(read)) if !read.is_empty() => match &mut self.under_way {
                    Some(under_way) => under_way.read.add(read),
                    None => bytes = read,
                },
                Poll::Ready(Ok(_)) if waits => {
                    return wait_for_answer(connection).map(|never| match never {});
                }
                Poll::Ready(Ok(_)) => {
                    self.io.socket.say_goodbye(cx);
                    connection.enter(ConnectionState::Idle);
                    return Step::End(connection.finished(Ok(())));
                }
                // TLS without its goodbye.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Step::End(CloseReason::ClientClosed);
                }
                Poll::Ready(Err(_)) => return Step::End(CloseReason::IoError),
            }
        }
    }

    /// What is left of a connection that is idle.
    pub(crate) fn into_parts(self) -> (Socket, S, Pressed) {
        let pressed = self.judged.pressed;
        (self.io.socket, self.adapter.into_inner(), pressed)
    }

    /// Its socket, and who answers.
    pub(crate) fn into_io(self) -> (Io, Adapter<S>) {
        (self.io, self.adapter)
    }
}

#[cold]
fn to_hyper<S: HttpService>(
    unread: Bytes,
    answer: Option<AnswerForHyper<S>>,
    open_bodies: i32,
) -> Step<Next<S>> {
    Step::Next(Next::Hyper(ForHyper {
        unread,
        answer,
        open_bodies,
    }))
}
