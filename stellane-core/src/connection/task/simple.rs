use std::{
    io,
    mem::{self, MaybeUninit},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use hyper_util::rt::TokioIo;
use tokio::io::ReadBuf;

use super::{Stage, Step, Task, http1::Active};
use crate::connection::{
    CloseReason, ConnectionState, Incoming,
    body::{self, OpenBody},
    entry::Command,
    io::{Io, MAX_HELD},
    service::{Adapter, Answer, HttpService, ResponseFuture, Waiting},
    shared::Shared,
    simple::{
        self, MAX_BODY, MAX_READ,
        known::Known,
        refusal::{self, Early},
        request,
        round::{self, Deferred},
    },
};

/// An HTTP/1 connection that hyper knows nothing of, with [simple](simple) requests so far.
pub(super) struct Simple<S: HttpService> {
    io: Io,
    adapter: Adapter<S>,
    under_way: Option<UnderWay<S>>,
    deferred: Option<Deferred>,
    /// Where the body of an answer is read.
    body: Pin<Box<Option<S::ResBody>>>,
    /// A map of headers, used again for the next request.
    headers: HeaderMap,
    known: Known,
    early: Early,
}

/// How many requests are answered before others on the thread have their turn.
const TURN: usize = 32;

/// A request that has no answer yet.
struct UnderWay<S: HttpService> {
    read: Read,
    answer: Waiting<S>,
}

/// What was read around a request.
struct Read {
    /// Its head, and what was read with it.
    bytes: Bytes,
    head: usize,
    /// What was read while its handler waited.
    ahead: Bytes,
}

/// An answer for hyper to send.
type ForHyper<S> = Box<ResponseFuture<S>>;

/// What became of what was read.
enum Outcome<S: HttpService> {
    /// All requests are answered.
    Answered,
    /// They are, and the answers are to be sent in the next turn.
    Deferred,
    /// One has to wait for its answer.
    Waits,
    /// The first of these bytes begin a request that is hyper's; or there are none, and the socket does not take all
    /// of the answers.
    Left(Bytes),
    /// Others are to have their turn before these, and before more is read.
    Enough(Bytes),
    /// They begin with a request whose answer is hyper's to send.
    Begun(Bytes, ForHyper<S>),
    Failed,
}

impl Read {
    /// Whether nothing was read behind the request.
    fn is_last(&self) -> bool {
        self.ahead.is_empty() && self.bytes.len() == self.head
    }

    /// What was read behind the request.
    fn rest(mut self) -> Bytes {
        self.bytes.advance(self.head);
        match self.bytes.is_empty() {
            true => self.ahead,
            false => self.bytes,
        }
    }

    /// The request, and all that was read behind it.
    fn whole(self) -> Bytes {
        match self.ahead.is_empty() {
            true => self.bytes,
            false => [&self.bytes[..], &self.ahead[..]].concat().into(),
        }
    }
}

impl<S: HttpService> UnderWay<S> {
    fn for_hyper(self) -> Outcome<S> {
        let answer = ResponseFuture::Pending(self.answer);
        Outcome::Begun(self.read.whole(), Box::new(answer))
    }
}

impl<S: HttpService> Simple<S> {
    pub(super) fn new(io: Io, adapter: Adapter<S>, early: Early) -> Self {
        Self {
            io,
            adapter,
            under_way: None,
            deferred: None,
            body: Box::pin(None),
            headers: HeaderMap::new(),
            known: Known::default(),
            early,
        }
    }

    /// For an end before the next turn.
    pub(super) fn send_deferred(&mut self) {
        if let Some(deferred) = self.deferred.take() {
            self.io.socket.try_write(&deferred.answer);
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if !self.io.rewind.is_empty() {
            return Poll::Ready(Ok(mem::take(&mut self.io.rewind)));
        }
        let mut space = [MaybeUninit::uninit(); MAX_READ];
        let mut read = ReadBuf::uninit(&mut space);
        self.io
            .poll_socket(cx, &mut read)
            .map_ok(|()| simple::share(read.filled()))
    }

    /// Answers the request under way, and the simple ones at the beginning of `bytes`; not more than `left`.
    fn answer(
        &mut self,
        cx: &mut Context<'_>,
        bytes: Bytes,
        left: &mut usize,
        shared: &Shared,
    ) -> Outcome<S> {
        let mut out = round::take_buffer();
        let outcome = self.answer_into(cx, bytes, left, shared, &mut out);
        if let Outcome::Answered = outcome
            && !out.is_empty()
        {
            match round::defer(out) {
                Ok(deferred) => {
                    self.deferred = Some(deferred);
                    return Outcome::Deferred;
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
        round::give_back(out);
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

    fn answer_into(
        &mut self,
        cx: &mut Context<'_>,
        mut bytes: Bytes,
        left: &mut usize,
        shared: &Shared,
        out: &mut Vec<u8>,
    ) -> Outcome<S> {
        if let Some(UnderWay { answer, .. }) = &mut self.under_way {
            let Poll::Ready(answer) = Pin::new(answer).poll(cx) else {
                return Outcome::Waits;
            };
            if let Some(UnderWay { read, .. }) = self.under_way.take() {
                if let Err(answer) = self.write(cx, answer, out) {
                    return Outcome::Begun(read.whole(), answer);
                }
                bytes = read.rest();
                *left = left.saturating_sub(1);
            }
        }
        while !bytes.is_empty() {
            if *left == 0 {
                return Outcome::Enough(bytes);
            }
            if out.len() > MAX_HELD {
                let sent = self.io.send(cx, out);
                out.clear();
                match sent {
                    Ok(true) => {}
                    Ok(false) => return Outcome::Left(bytes),
                    Err(_) => return Outcome::Failed,
                }
            }
            let max_head = shared.config.max_head_bytes;
            let mut request = Request::new(Incoming::default());
            mem::swap(request.headers_mut(), &mut self.headers);
            let parsed = request::parse(&bytes, max_head, &mut self.known, &mut request);
            let Some(head) = parsed else {
                return Outcome::Left(bytes);
            };
            if let Some(early) = self.early.who_may()
                && self.adapter.may_be_passed_by()
                && let Some(refusal) = early.refuse(&mut request)
            {
                self.adapter.pass_by();
                self.headers = refusal::write(refusal, out);
                bytes.advance(head);
                *left -= 1;
                continue;
            }
            let mut waiting = None;
            match self.adapter.answer(request, cx, &mut waiting) {
                Poll::Ready(answer) => {
                    if let Err(answer) = self.write(cx, answer, out) {
                        return Outcome::Begun(bytes, answer);
                    }
                }
                Poll::Pending => {
                    let ahead = Bytes::new();
                    let read = Read { bytes, head, ahead };
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
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        answer: Answer<S>,
        out: &mut Vec<u8>,
    ) -> Result<(), ForHyper<S>> {
        let for_hyper = |answer| Err(Box::new(ResponseFuture::Done(Some(answer))));
        let response = match answer {
            Ok(response) => response,
            Err(error) => return for_hyper(Err(error)),
        };
        let begun = out.len();
        let length = match response.body() {
            body if body.is_end_stream() => 0,
            body => body.size_hint().exact().unwrap_or(u64::MAX),
        };
        let is_simple =
            length <= MAX_BODY as u64 && simple::response::write_head(&response, length, out);
        if !is_simple {
            out.truncate(begun);
            return for_hyper(Ok(response.map(OpenBody::new)));
        }
        let (mut head, body) = response.into_parts();
        if length > 0
            && let Err(body) = self.write_body(cx, body, length, out)
        {
            out.truncate(begun);
            return for_hyper(Ok(Response::from_parts(head, body)));
        }
        mem::swap(&mut self.headers, &mut head.headers);
        self.headers.clear();
        Ok(())
    }

    /// Writes a body that is ready and whole.
    fn write_body(
        &mut self,
        cx: &mut Context<'_>,
        body: S::ResBody,
        length: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), OpenBody<S::ResBody>> {
        self.body.set(Some(body));
        let Some(body) = self.body.as_mut().as_pin_mut() else {
            return Ok(());
        };
        let begun = match body.poll_frame(cx).map(|frame| frame.map(into_data)) {
            Poll::Ready(Some(Ok(data))) if data.remaining() as u64 == length => {
                out.put(data);
                self.body.set(None);
                return Ok(());
            }
            Poll::Ready(Some(Ok(data))) => Some(Ok(Frame::data(data))),
            Poll::Ready(Some(Err(frame))) => Some(frame.map_err(Into::into)),
            // It is asked again.
            Poll::Ready(None) | Poll::Pending => None,
        };
        let rest = mem::replace(&mut self.body, Box::pin(None));
        Err(OpenBody::begun(length, begun, rest))
    }
}

/// The data of a frame, or what it is otherwise.
fn into_data<D, E>(frame: Result<Frame<D>, E>) -> Result<D, Result<Frame<D>, E>> {
    match frame {
        Ok(frame) => frame.into_data().map_err(Ok),
        Err(error) => Err(Err(error)),
    }
}

impl<S: HttpService> Task<S> {
    pub(super) fn poll_simple(&mut self, cx: &mut Context<'_>) -> Step {
        let mut bytes = Bytes::new();
        let mut left = TURN;
        loop {
            let Stage::Simple(simple) = &mut self.stage else {
                return Step::Again;
            };
            if simple.deferred.is_some() || simple.under_way.is_some() || !bytes.is_empty() {
                let bytes = mem::take(&mut bytes);
                let shared = &self.served.shared;
                let (outcome, open_bodies) = body::observe(0, || match simple.deferred.take() {
                    Some(deferred) => simple.send(cx, deferred.over(), Outcome::Answered),
                    None => simple.answer(cx, bytes, &mut left, shared),
                });
                match outcome {
                    Outcome::Answered | Outcome::Waits => {}
                    Outcome::Deferred => {
                        cx.waker().wake_by_ref();
                        return Step::Wait;
                    }
                    Outcome::Enough(bytes) => {
                        simple.io.rewind = bytes;
                        cx.waker().wake_by_ref();
                        return Step::Wait;
                    }
                    Outcome::Left(bytes) => return self.go_over(bytes, None, open_bodies),
                    Outcome::Begun(bytes, answer) => {
                        return self.go_over(bytes, Some(answer), open_bodies);
                    }
                    Outcome::Failed => return Step::End(CloseReason::IoError),
                }
            }

            let waits = match &simple.under_way {
                // No more is read than what belongs together: it is the client that waits.
                Some(under_way) if !under_way.read.is_last() => return self.wait_for_answer(),
                Some(_) => true,
                None => false,
            };
            match simple.poll_bytes(cx) {
                Poll::Pending if waits => return self.wait_for_answer(),
                Poll::Pending => return self.wait_for_request(),
                Poll::Ready(Ok(read)) if !read.is_empty() => match &mut simple.under_way {
                    Some(under_way) => under_way.read.ahead = read,
                    None => bytes = read,
                },
                // The client is gone, and nobody waits for the answer.
                Poll::Ready(_) if waits => return Step::End(CloseReason::IoError),
                Poll::Ready(Ok(_)) => {
                    let now = self.served.shared.clock.now();
                    self.entry.enter(ConnectionState::Idle, now);
                    return Step::End(self.finished(Ok(())));
                }
                // TLS without its goodbye.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Step::End(CloseReason::ClientClosed);
                }
                Poll::Ready(Err(_)) => return Step::End(CloseReason::IoError),
            }
        }
    }

    /// Every request is answered, and no byte of another is there.
    fn wait_for_request(&mut self) -> Step {
        let now = self.served.shared.clock.now();
        self.entry.enter(ConnectionState::Idle, now);
        match self.entry.take_command() {
            Command::None => Step::Wait,
            Command::Park => self.put_away_simple(None),
            // Parked first, it is closed only if no byte is there.
            Command::Close(reason) if reason.spares_use() => self.put_away_simple(Some(reason)),
            Command::Close(reason) => self.close_simple(reason),
        }
    }

    /// A handler is at work.
    fn wait_for_answer(&mut self) -> Step {
        match self.entry.take_command() {
            Command::None | Command::Park => Step::Wait,
            Command::Close(reason) if reason.spares_use() => {
                self.spare(reason);
                Step::Wait
            }
            Command::Close(reason) => self.close_simple(reason),
        }
    }

    fn close_simple(&mut self, reason: CloseReason) -> Step {
        match reason {
            // The whole request came in that moment.
            CloseReason::HeadTimeout | CloseReason::SlowBody => {
                self.entry.forget_command();
                Step::Wait
            }
            reason => Step::End(reason),
        }
    }

    fn put_away_simple(&mut self, close: Option<CloseReason>) -> Step {
        let Stage::Simple(simple) = mem::replace(&mut self.stage, Stage::Ended) else {
            return Step::Again;
        };
        let Simple { io, adapter, .. } = *simple;
        self.put_away(io.socket, adapter.into_inner(), close)
    }

    /// Gives the connection to hyper: these bytes were read, and the first request in them may have its answer.
    #[cold]
    fn go_over(&mut self, unread: Bytes, answer: Option<ForHyper<S>>, open_bodies: i32) -> Step {
        let Stage::Simple(simple) = mem::replace(&mut self.stage, Stage::Ended) else {
            return Step::Again;
        };
        let Simple {
            mut io,
            mut adapter,
            ..
        } = *simple;
        // hyper comes to ask for the answer that is there as for another.
        let requests = self.entry.requests() - u64::from(answer.is_some());
        let begins_a_head = answer.is_none() && !unread.is_empty();
        io.begin_anew(unread, requests);
        adapter.answer_with(answer);
        let http1 = &self.served.shared.http1;
        let connection = http1
            .serve_connection(TokioIo::new(io), adapter)
            .with_upgrades();
        let head_after = begins_a_head.then_some(requests);
        self.stage = Stage::Http1(Box::new(Active::new(connection, head_after, open_bodies)));
        Step::Again
    }
}
