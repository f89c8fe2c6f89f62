//! The future of a router.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Response, header::CONTENT_LENGTH};
use http_body::Body as _;

use crate::{
    recycled_box::{RecycledBox, RecycledFuture},
    types::{Answer, Body, Compiled, RouteId, RouteInfo, RouteTable},
};

/// The future of a [`Router`](crate::Router).
#[derive(Debug)]
pub struct RouteFuture(State);

enum State {
    /// No handler was called. In a slot, so that the other state is small.
    Ready(RecycledBox<Response<Body>>),
    Running(Running),
    Done,
}

struct Running {
    /// Borrows from the table, so it comes first: it is dropped first.
    future: RecycledFuture<'static, Answer>,
    table: RouteTable,
    route: RouteId,
    head: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Ready",
            Self::Running(_) => "Running",
            Self::Done => "Done",
        })
    }
}

impl RouteFuture {
    pub(crate) fn ready(response: Response<Body>) -> Self {
        Self(State::Ready(RecycledBox::new(response)))
    }

    pub(crate) fn ready_at(
        mut response: Response<Body>,
        table: &Arc<Compiled>,
        id: RouteId,
    ) -> Self {
        let table = RouteTable(Arc::clone(table));
        response.body_mut().set_route(RouteInfo { table, id });
        Self::ready(response)
    }

    pub(crate) const fn running(
        future: RecycledFuture<'static, Answer>,
        table: Arc<Compiled>,
        route: RouteId,
        head: bool,
    ) -> Self {
        Self(State::Running(Running {
            future,
            table: RouteTable(table),
            route,
            head,
        }))
    }
}

impl Future for RouteFuture {
    type Output = Result<Response<Body>, Infallible>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Running(_) => self.0.poll_running(cx),
            _ => self.0.take_ready(),
        }
    }
}

impl State {
    #[inline]
    fn poll_running(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        // One variable, returned at the end: it stands where the caller wants it, and is never moved.
        let mut answer = match self {
            Self::Running(running) => Pin::new(&mut running.future).poll(cx),
            _ => Poll::Pending,
        };
        if let Poll::Ready(Ok(response)) = &mut answer
            && let Self::Running(running) = mem::replace(self, Self::Done)
        {
            running.finish(response);
        }
        answer
    }

    #[cold]
    fn take_ready(&mut self) -> Poll<Answer> {
        match mem::replace(self, Self::Done) {
            Self::Ready(response) => Poll::Ready(Ok(response.into_inner())),
            _ => panic!("polled after completion"),
        }
    }
}

impl Running {
    #[inline]
    fn finish(self, response: &mut Response<Body>) {
        let Self {
            future,
            table,
            route,
            head,
        } = self;
        drop(future);
        if head {
            without_body(response);
        }
        if route.is_route() {
            // Moved here: all cores share the count.
            response
                .body_mut()
                .set_route(RouteInfo { table, id: route });
        }
    }
}

/// What `HEAD` gets: the headers of the response, its length among them.
fn without_body(response: &mut Response<Body>) {
    let body = mem::take(response.body_mut());
    if let (Some(len), false) = (
        body.size_hint().exact(),
        response.headers().contains_key(CONTENT_LENGTH),
    ) {
        response.headers_mut().insert(CONTENT_LENGTH, len.into());
    }
}
