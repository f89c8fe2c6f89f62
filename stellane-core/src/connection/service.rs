use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker, ready},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body;
use hyper::body::Incoming;
use tower_service::Service;

use super::{entry::Entry, manager::Shared};
use crate::BoxError;

/// A tower service that a [`ConnectionManager`](super::ConnectionManager) serves: short for the bounds
/// below, and implemented for every service that meets them.
pub trait HttpService:
    Service<
        Request<Incoming>,
        Response = Response<Self::ResBody>,
        Error = Self::ServiceError,
        Future = Self::ResFuture,
    > + Clone
    + Send
    + 'static
{
    /// The body of its responses.
    type ResBody: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
    /// Its error.
    type ServiceError: Into<BoxError> + Send;
    /// Its future.
    type ResFuture: Future<Output = Result<Response<Self::ResBody>, Self::ServiceError>> + Send;
}

impl<S, B> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type ResBody = B;
    type ServiceError = S::Error;
    type ResFuture = S::Future;
}

/// The future of one request, kept in a box that the connection uses again for its next request.
type Slot<F> = Pin<Box<Option<F>>>;

/// A tower service as hyper calls it: one for each connection.
pub(super) struct Adapter<S: HttpService> {
    service: RefCell<S>,
    spare: Arc<Mutex<Option<Slot<S::ResFuture>>>>,
    entry: Arc<Entry>,
    shared: Arc<Shared>,
}

impl<S: HttpService> Adapter<S> {
    pub(super) fn new(service: S, entry: Arc<Entry>, shared: Arc<Shared>) -> Self {
        Self {
            service: RefCell::new(service),
            spare: Arc::default(),
            entry,
            shared,
        }
    }
}

impl<S: HttpService> hyper::service::Service<Request<Incoming>> for Adapter<S> {
    type Response = Response<S::ResBody>;
    type Error = S::ServiceError;
    type Future = ResponseFuture<S>;

    fn call(&self, request: Request<Incoming>) -> ResponseFuture<S> {
        let number = self.entry.begin_request();
        self.entry
            .had_body
            .store(!request.body().is_end_stream(), Relaxed);
        let guard = Guard {
            entry: Arc::clone(&self.entry),
            shared: Arc::clone(&self.shared),
            connect: request.method() == Method::CONNECT,
            http1: request.version() < Version::HTTP_2,
            last: self.shared.is_last(number),
            done: false,
        };
        let mut service = self.service.borrow_mut();
        // With a waker that wakes nobody: hyper polls the returned future at once, with the real one.
        let mut cx = Context::from_waker(Waker::noop());
        let stage = match service.poll_ready(&mut cx) {
            Poll::Ready(Err(error)) => Stage::Done(Some(Err(error))),
            Poll::Pending => Stage::NotReady {
                service: service.clone(),
                request: Some(request),
            },
            Poll::Ready(Ok(())) => {
                let mut slot = self
                    .spare
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take()
                    .unwrap_or_else(|| Box::pin(None));
                slot.set(Some(service.call(request)));
                // Many handlers are done at their first poll. Polled here, they drop the request before
                // hyper reads on, and hyper can use its read buffer again instead of taking a new one.
                match poll_slot(&mut slot, &mut cx) {
                    Poll::Ready(result) => {
                        give_back(&self.spare, slot);
                        Stage::Done(Some(result))
                    }
                    Poll::Pending => Stage::Running {
                        slot: Some(slot),
                        spare: self.spare.clone(),
                    },
                }
            }
        };
        ResponseFuture { stage, guard }
    }
}

fn poll_slot<F: Future>(slot: &mut Slot<F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    match slot.as_mut().as_pin_mut() {
        Some(future) => {
            let output = ready!(future.poll(cx));
            slot.set(None);
            Poll::Ready(output)
        }
        None => Poll::Pending,
    }
}

fn give_back<F>(spare: &Mutex<Option<Slot<F>>>, slot: Slot<F>) {
    *spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(slot);
}

/// The response of a service behind a [`ConnectionManager`](super::ConnectionManager).
pub(super) struct ResponseFuture<S: HttpService> {
    stage: Stage<S>,
    guard: Guard,
}

// Every future inside is boxed or not polled in place.
impl<S: HttpService> Unpin for ResponseFuture<S> {}

enum Stage<S: HttpService> {
    /// The service has no room yet. A clone waits for it, so that the connection pins nothing.
    NotReady {
        service: S,
        request: Option<Request<Incoming>>,
    },
    Running {
        slot: Option<Slot<S::ResFuture>>,
        spare: Arc<Mutex<Option<Slot<S::ResFuture>>>>,
    },
    Done(Option<Result<Response<S::ResBody>, S::ServiceError>>),
}

impl<S: HttpService> Future for ResponseFuture<S> {
    type Output = Result<Response<S::ResBody>, S::ServiceError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            let result = match &mut this.stage {
                Stage::NotReady { service, request } => match ready!(service.poll_ready(cx)) {
                    Ok(()) => {
                        let Some(request) = request.take() else {
                            return Poll::Pending;
                        };
                        let slot = Some(Box::pin(Some(service.call(request))));
                        this.stage = Stage::Running {
                            slot,
                            spare: Arc::default(),
                        };
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Stage::Running {
                    slot: current,
                    spare,
                } => {
                    let Some(slot) = current else {
                        return Poll::Pending;
                    };
                    let result = ready!(poll_slot(slot, cx));
                    if let Some(slot) = current.take() {
                        give_back(spare, slot);
                    }
                    result
                }
                Stage::Done(result) => match result.take() {
                    Some(result) => result,
                    None => return Poll::Pending,
                },
            };
            return Poll::Ready(result.map(|response| this.guard.finish(response)));
        }
    }
}

/// Counts the request as ended, and as cancelled if it was dropped before its response.
#[derive(Debug)]
struct Guard {
    entry: Arc<Entry>,
    shared: Arc<Shared>,
    connect: bool,
    http1: bool,
    last: bool,
    done: bool,
}

impl Guard {
    fn finish<B>(&mut self, mut response: Response<B>) -> Response<B> {
        self.done = true;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS || (self.connect && status.is_success()) {
            self.entry.upgraded.store(true, Relaxed);
        } else if self.http1
            && (self.last || self.shared.draining() || self.entry.retire.load(Relaxed))
        {
            // hyper sees it and closes after this response; the client knows before it sends another.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.entry.end_request();
        if !self.done {
            self.shared.count_cancelled();
        }
    }
}
