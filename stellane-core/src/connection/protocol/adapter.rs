//! A tower service as a connection calls it, and hyper.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    future::Future,
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use http::{Method, Request, Response, StatusCode, Version, header};
use http_body::Body;

use crate::{
    connection::{
        http_service::HttpService,
        incoming::{Incoming, UnreadBody},
        lifecycle::Shared,
        protocol::{
            abandoned,
            connect_info::ConnectInfo,
            farewell::Farewell,
            http1::fast_path::{
                date,
                refusal::{may_be_passed_by, pass_by},
            },
            in_flight::{InFlight, Owner},
            io::websocket,
            open_body::OpenBody,
            persistence,
            slot::{Returned, Slot, lock, poll_slot},
            terms::Terms,
        },
        state::ConnectionState,
        table::record::Record,
        woken::Woken,
    },
    on_disconnect::{After, Hosted},
};

/// A tower service as a connection calls it: one for each.
pub(crate) struct Adapter<S: HttpService> {
    service: RefCell<S>,
    spare: RefCell<Option<Slot<S::ResFuture>>>,
    returned: Returned<S::ResFuture>,
    owner: Owner,
    info: Option<ConnectInfo>,
    unread: Option<Arc<UnreadBody>>,
    /// The answer to the next request that hyper brings, which was called for before.
    begun: Cell<Option<Box<ResponseFuture<S>>>>,
}

impl<S: HttpService> Adapter<S> {
    pub(crate) fn new(
        service: S,
        record: Arc<Record>,
        shared: Arc<Shared>,
        info: Option<ConnectInfo>,
    ) -> Self {
        Self {
            info,
            service: RefCell::new(service),
            spare: RefCell::default(),
            returned: Arc::default(),
            owner: Owner { record, shared },
            unread: None,
            begun: Cell::new(None),
        }
    }

    /// From now on hyper calls it; the next request has this answer, if there is one.
    pub(crate) fn serve_hyper(
        &mut self,
        begun: Option<Box<ResponseFuture<S>>>,
        unread: Arc<UnreadBody>,
    ) {
        self.begun = Cell::new(begun);
        self.unread = Some(unread);
    }

    /// Gives an answer to a simple request to hyper.
    pub(crate) fn give_to_hyper(&self, answer: Answer<S>) -> ResponseFuture<S> {
        self.owner.give_to_hyper(self.terms_of_simple(), answer)
    }

    pub(crate) fn into_inner(self) -> S {
        self.service.into_inner()
    }

    fn slot(&self) -> Slot<S::ResFuture> {
        let spare = self.spare.take();
        spare
            .or_else(|| lock(&self.returned).take())
            .unwrap_or_else(|| Box::pin(None))
    }
}

impl<S: HttpService> hyper::service::Service<Request<hyper::body::Incoming>> for Adapter<S> {
    type Response = Response<OpenBody<S::ResBody>>;
    type Error = S::ServiceError;
    type Future = ResponseFuture<S>;

    fn call(&self, request: Request<hyper::body::Incoming>) -> ResponseFuture<S> {
        if let Some(answer) = self.begun.take() {
            return *answer;
        }
        // With a waker that wakes nobody: what is returned is polled by hyper at once, with the real one.
        let mut cx = Context::from_waker(Waker::noop());
        let mut waiting = None;
        let terms = self.terms(&request);
        let mut request = match &self.unread {
            Some(unread) if !request.body().is_end_stream() => {
                unread.begin(request.headers().contains_key(header::EXPECT));
                request.map(|body| Incoming::of_connection(body, Arc::clone(unread)))
            }
            _ => request.map(Incoming::from),
        };
        let answer = AssertUnwindSafe(|| self.answer(&mut request, terms, &mut cx, &mut waiting));
        match catch_unwind(answer) {
            Ok(Poll::Ready(answer)) => self.owner.give_to_hyper(terms, answer),
            Ok(Poll::Pending) => {
                waiting.map_or(ResponseFuture::Done(None), ResponseFuture::Pending)
            }
            // Goes on where hyper polls it.
            Err(panic) => ResponseFuture::Panicked(Some(panic)),
        }
    }
}

impl<S: HttpService> Adapter<S> {
    /// See [`may_be_passed_by`].
    pub(crate) fn may_be_passed_by(&self) -> bool {
        may_be_passed_by(&self.owner.record, &self.owner.shared)
    }

    /// See [`pass_by`].
    pub(crate) fn pass_by(&self) {
        pass_by(&self.owner.record, &self.owner.shared);
    }

    /// What there is to say on the response to the next request, which is a simple one.
    #[inline]
    pub(crate) fn terms_of_simple(&self) -> Terms {
        let Owner { record, shared } = &self.owner;
        Terms {
            connect: false,
            head: false,
            version: Version::HTTP_11,
            is_wanted: true,
            last: shared.is_last(record.requests() + 1),
            tells_idle: shared.config.keep_alive_header,
        }
    }

    /// The same for a request from hyper.
    pub(crate) fn terms<B>(&self, request: &Request<B>) -> Terms {
        let version = request.version();
        let is_wanted = version >= Version::HTTP_2 || persistence::is_wanted(request);
        let simple = self.terms_of_simple();
        Terms {
            connect: request.method() == Method::CONNECT,
            head: request.method() == Method::HEAD,
            version,
            is_wanted,
            tells_idle: simple.tells_idle && is_wanted && version == Version::HTTP_11,
            ..simple
        }
    }

    /// Calls the service, and polls its answer once. One that is not there is left in `waiting`: one that is, is large
    /// to move, and so is returned as it comes. So is the request, and is taken from where it lies.
    #[inline]
    pub(crate) fn answer(
        &self,
        request: &mut Request<Incoming>,
        terms: Terms,
        cx: &mut Context<'_>,
        waiting: &mut Option<Waiting<S>>,
    ) -> Poll<Answer<S>> {
        self.begin(request);
        let mut service = self.service.borrow_mut();
        match service.poll_ready(cx) {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                // A clone waits for it, so that the connection pins nothing.
                let later = (service.clone(), Some(mem::take(request)), Woken::here());
                let stage = Stage::NotReady(Box::new(later));
                return self.wait(stage, terms, waiting, cx);
            }
            Poll::Ready(Ok(())) => {}
        }
        let mut slot = self.slot();
        let hosted = Hosted::begin();
        slot.set(Some(service.call(mem::take(request))));
        // Many handlers are done at their first poll. Polled here, they drop the request before hyper reads on, and
        // hyper can use its read buffer again instead of taking a new one.
        let mut polled = poll_slot(&mut slot, cx);
        match &mut polled {
            Poll::Pending => {
                let waiting = waiting.insert(self.waiting(Stage::Running(Some(slot)), terms));
                waiting.after = hosted.asked();
            }
            Poll::Ready(answer) => {
                slot.set(None);
                self.spare.replace(Some(slot));
                if let Ok(response) = answer {
                    self.owner.finish(terms, self.unread.as_deref(), response);
                }
            }
        }
        polled
    }

    /// As [`answer`](Self::answer), but the service is not asked for anything before what is returned is polled.
    #[cfg(feature = "http2")]
    pub(crate) fn put_off(&self, mut request: Request<Incoming>, terms: Terms) -> Waiting<S> {
        self.begin(&mut request);
        let service = self.service.borrow().clone();
        let later = (service, Some(request), Woken::here());
        self.waiting(Stage::NotReady(Box::new(later)), terms)
    }

    #[inline]
    fn begin(&self, request: &mut Request<Incoming>) {
        if let Some(info) = &self.info {
            info.tell(request);
        }
        let Owner { record, shared } = &self.owner;
        record.begin_request(!request.body().is_end_stream(), shared.clock.now());
        if let Some(budget) = shared.budgets.of(request) {
            record.begin_budget(budget);
        }
        if record.flags().has_bytes_behind_upgrade() && request.method() == Method::CONNECT {
            record.flags().close_after_response();
        }
    }

    #[cold]
    fn wait(
        &self,
        stage: Stage<S>,
        terms: Terms,
        waiting: &mut Option<Waiting<S>>,
        cx: &mut Context<'_>,
    ) -> Poll<Answer<S>> {
        Pin::new(waiting.insert(self.waiting(stage, terms))).poll(cx)
    }

    fn waiting(&self, stage: Stage<S>, terms: Terms) -> Waiting<S> {
        Waiting {
            stage,
            terms,
            unread: self.unread.clone(),
            returned: Arc::clone(&self.returned),
            guard: InFlight::new(self.owner.clone()),
            after: None,
        }
    }
}

/// What a service makes of a request.
pub(crate) type Answer<S> =
    Result<Response<<S as HttpService>::ResBody>, <S as HttpService>::ServiceError>;

/// What hyper gets for a request.
type OpenAnswer<S> =
    Result<Response<OpenBody<<S as HttpService>::ResBody>>, <S as HttpService>::ServiceError>;

/// The response of a service behind a [`ConnectionManager`](crate::connection::ConnectionManager), for hyper.
pub(crate) enum ResponseFuture<S: HttpService> {
    Done(Option<OpenAnswer<S>>),
    Pending(Waiting<S>),
    /// Says that the connection goes over to another protocol: hyper may have it when it can give the socket away.
    Upgrade(Box<Upgrade<S>>),
    Panicked(Option<Box<dyn Any + Send>>),
}

pub(crate) struct Upgrade<S: HttpService> {
    answer: Option<OpenAnswer<S>>,
    owner: Owner,
}

/// An answer that was not there at once.
pub(crate) struct Waiting<S: HttpService> {
    stage: Stage<S>,
    terms: Terms,
    unread: Option<Arc<UnreadBody>>,
    returned: Returned<S::ResFuture>,
    guard: InFlight,
    /// What is to become of it when the client leaves, if it is not just dropped.
    after: Option<After>,
}

enum Stage<S: HttpService> {
    NotReady(Box<(S, Option<Request<Incoming>>, Woken)>),
    Running(Option<Slot<S::ResFuture>>),
}

// Every future inside is boxed or not polled in place.
impl<S: HttpService> Unpin for ResponseFuture<S> {}
impl<S: HttpService> Unpin for Waiting<S> {}

impl<S: HttpService> Future for ResponseFuture<S> {
    type Output = OpenAnswer<S>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Self::Pending(waiting) = this {
            let answer = ready!(Pin::new(&mut *waiting).poll(cx));
            *this = waiting.guard.owner.give_to_hyper(waiting.terms, answer);
        }
        match this {
            Self::Done(result) => match result.take() {
                Some(result) => Poll::Ready(result),
                None => Poll::Pending,
            },
            Self::Upgrade(upgrade) if upgrade.owner.record.state() == ConnectionState::Upgraded => {
                match upgrade.answer.take() {
                    Some(answer) => Poll::Ready(answer),
                    None => Poll::Pending,
                }
            }
            // The connection's task polls again.
            Self::Upgrade(_) | Self::Pending(_) => Poll::Pending,
            Self::Panicked(panic) => match panic.take() {
                Some(panic) => resume_unwind(panic),
                None => Poll::Pending,
            },
        }
    }
}

impl<S: HttpService> Future for Waiting<S> {
    type Output = Answer<S>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer<S>> {
        let Self {
            stage,
            terms,
            unread,
            returned,
            guard,
            after,
        } = self.get_mut();
        let hosted = Hosted::begin();
        if let Stage::NotReady(waiting) = stage {
            let (service, request, woken) = &mut **waiting;
            if let Err(error) = ready!(service.poll_ready(cx)) {
                return Poll::Ready(Err(error));
            }
            let _woken = woken.enter();
            let future = request.take().map(|request| service.call(request));
            *stage = Stage::Running(Some(Box::pin(future)));
        }
        let Stage::Running(Some(slot)) = stage else {
            return Poll::Pending;
        };
        // Not there while it is polled: one that panics does not go on.
        let before = after.take();
        let Poll::Ready(mut answer) = poll_slot(slot, cx) else {
            *after = hosted.asked().or(before);
            return Poll::Pending;
        };
        slot.set(None);
        if let Stage::Running(slot) = stage {
            *lock(returned) = slot.take();
        }
        guard.answered = true;
        if let Ok(response) = &mut answer {
            guard.owner.finish(*terms, unread.as_deref(), response);
        }
        Poll::Ready(answer)
    }
}

impl<S: HttpService> Drop for Waiting<S> {
    fn drop(&mut self) {
        if let (Some(after), Stage::Running(slot)) = (self.after.take(), &mut self.stage) {
            let Owner { record, shared } = &self.guard.owner;
            abandoned::go_on(slot.take(), &after, record.budget(), shared);
        }
    }
}

impl Owner {
    /// Says on a response what becomes of its connection. In place: the body is wrapped where the response is
    /// moved anyway.
    #[inline]
    fn finish<B>(&self, terms: Terms, unread: Option<&UnreadBody>, response: &mut Response<B>) {
        if self.shared.clock.was_set_back() {
            date::tell(response.headers_mut());
        }
        if terms.version >= Version::HTTP_2 {
            // What is upgraded is a stream, and how a connection ends is said by GOAWAY.
            return;
        }
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS || (terms.connect && status.is_success()) {
            self.record.flags().set_upgraded();
            if websocket::is_agreed(response) {
                self.record.flags().set_websocket();
            }
        } else if terms.last
            || self.record.flags().closes_after_response()
            || self.shared.drains(&self.record)
            || unread.is_some_and(UnreadBody::is_refused)
        {
            persistence::say_close(response);
        } else if terms.tells_idle {
            let idle_timeout = self.shared.settings.idle_timeout();
            persistence::tell_idle(response.headers_mut(), idle_timeout);
        }
        if let Some(unread) = unread
            && (!terms.is_wanted || persistence::closes(response.headers()))
        {
            unread.give_up();
        }
    }

    /// An answer for hyper to send.
    fn give_to_hyper<S: HttpService>(&self, terms: Terms, answer: Answer<S>) -> ResponseFuture<S> {
        let http1 = terms.version < Version::HTTP_2;
        let answer = answer.map(|mut response| {
            if http1 {
                terms.settle(&mut response);
            }
            let farewell = Farewell::of(&response, self.record.budget());
            response.map(|body| OpenBody::new(body, farewell))
        });
        if http1 && self.record.flags().is_upgraded() {
            return ResponseFuture::Upgrade(Box::new(Upgrade {
                answer: Some(answer),
                owner: self.clone(),
            }));
        }
        ResponseFuture::Done(Some(answer))
    }
}
