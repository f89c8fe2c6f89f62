//! Async functions as endpoints.

use std::{
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum_core::extract::{FromRequest, FromRequestParts};
use http::{HeaderMap, Request, request::Parts};
use pin_project_lite::pin_project;

#[cfg(feature = "axum-08")]
use crate::foreign::foreign;
use crate::{
    recycled_box::{RecycledBox, RecycledFuture},
    reply::{IntoReply, from_axum},
    route_match::WithMatch,
    types::{Answer, Body, Endpoint, Matched},
};

/// Marks handlers whose arguments are all [`FromRequestParts`].
#[derive(Debug)]
pub enum OnlyParts {}
/// Marks handlers whose last argument is [`FromRequest`] and may take the body.
#[derive(Debug)]
pub enum TakesBody {}

/// An async function that can answer requests: up to 12 arguments, each [`FromRequestParts`] and
/// the last perhaps [`FromRequest`], and a return type that is [`IntoReply`].
///
/// Implemented for functions and closures, not by hand. `S` is the state, see
/// [`RouterBuilder::with_state`](crate::RouterBuilder::with_state).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler for state `{S}`",
    note = "a handler is an `async fn` whose future is `Send`: no `Rc`, and no guard of a lock held over an `.await`",
    note = "its arguments are extractors (`FromRequestParts`; the last one, which may read the body, `FromRequest`), and it returns an `IntoResponse`, such as `Json` of what is `Serialize`"
)]
pub trait Handler<M, S>: Send + Sync + 'static {
    /// The types of the arguments, to tell those that cannot work.
    #[doc(hidden)]
    fn arguments() -> Vec<&'static str> {
        Vec::new()
    }

    /// Answers one request.
    #[doc(hidden)]
    fn call<'a>(
        &'a self,
        parts: Parts,
        body: Body,
        matched: Matched<'a>,
        state: &'a S,
    ) -> impl Future<Output = Answer> + Send + 'a;
}

/// Whether an argument of a handler may read what a router of axum leaves behind: one of [`foreign`], or an extractor
/// of someone's own, which may ask those.
#[cfg(feature = "axum-08")]
pub(crate) fn may_be_foreign(arguments: &[&'static str]) -> bool {
    let known = [
        "stellane_",
        "axum::",
        "axum_core::",
        "http::",
        "bytes::",
        "alloc::",
    ];
    let own = |argument: &&str| {
        let argument = argument.trim_start_matches("core::option::Option<");
        let argument = argument.trim_start_matches("core::result::Result<");
        !known.iter().any(|library| argument.starts_with(library))
    };
    !foreign(arguments).is_empty() || arguments.iter().any(own)
}

/// A handler and its state, behind one pointer for all types.
pub(crate) struct HandlerEndpoint<H, M, S> {
    handler: H,
    state: Arc<S>,
    marker: PhantomData<fn() -> M>,
}

impl<H: Handler<M, S>, M, S> HandlerEndpoint<H, M, S> {
    pub(crate) fn new(handler: H, state: Arc<S>) -> Self {
        Self {
            handler,
            state,
            marker: PhantomData,
        }
    }
}

impl<H: Handler<M, S>, M, S: Send + Sync> Endpoint for HandlerEndpoint<H, M, S> {
    fn call<'a>(
        &'a self,
        parts: Parts,
        body: Body,
        matched: Matched<'a>,
    ) -> RecycledFuture<'a, Answer> {
        RecycledBox::future(self.handler.call(parts, body, matched, &self.state))
    }
}

/// An endpoint to which is left what a router of axum leaves to its extractors. Apart from those that need it not: what
/// was lent is moved once more.
#[cfg(feature = "axum-08")]
pub(crate) struct WithAxums<E>(pub(crate) E);

#[cfg(feature = "axum-08")]
impl<E: Endpoint> Endpoint for WithAxums<E> {
    fn call<'a>(
        &'a self,
        mut parts: Parts,
        body: Body,
        matched: Matched<'a>,
    ) -> RecycledFuture<'a, Answer> {
        matched.leave_for_axum(&mut parts);
        self.0.call(parts, body, matched)
    }
}

/// The most room an emptied map may have to be used again: clearing costs by capacity.
const MAX_ROOM: usize = 64;

/// Empties the headers of a request, so that the response can use their memory; hyper takes it
/// back from there for the next request of the connection.
#[inline]
fn spent(mut headers: HeaderMap) -> HeaderMap {
    if headers.capacity() > MAX_ROOM {
        return HeaderMap::new();
    }
    headers.clear();
    headers
}

impl<F, Fut, R, MR, S> Handler<(OnlyParts, MR), S> for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = R> + Send + 'static,
    R: IntoReply<MR>,
    MR: 'static,
    S: Send + Sync + 'static,
{
    fn call<'a>(
        &'a self,
        parts: Parts,
        body: Body,
        _: Matched<'a>,
        _: &'a S,
    ) -> impl Future<Output = Answer> + Send + 'a {
        // Nothing is extracted, so nothing else need be moved to where the future lives.
        Bare {
            future: self(),
            headers: Some(spent(parts.headers)),
            _unread: body,
            reply: PhantomData,
        }
    }
}

pin_project! {
    /// The future of a handler without arguments. Not an `async` block, which would move the
    /// headers once more.
    struct Bare<Fut, M> {
        #[pin]
        future: Fut,
        headers: Option<HeaderMap>,
        _unread: Body,
        reply: PhantomData<fn() -> M>,
    }
}

impl<Fut: Future<Output: IntoReply<M>>, M> Future for Bare<Fut, M> {
    type Output = Answer;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let this = self.project();
        let value = ready!(this.future.poll(cx));
        let headers = this.headers.take().unwrap_or_default();
        Poll::Ready(Ok(value.into_reply(headers)))
    }
}

macro_rules! handlers {
    ($($arg:ident)*) => {
        #[allow(non_snake_case, reason = "one name is both the type and the value")]
        impl<F, Fut, R, MR, S, $($arg),*> Handler<(OnlyParts, MR, $($arg,)*), S> for F
        where
            F: Fn($($arg),*) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = R> + Send,
            R: IntoReply<MR>,
            S: Send + Sync + 'static,
            $($arg: FromRequestParts<S> + Send,)*
        {
            fn arguments() -> Vec<&'static str> {
                vec![$(std::any::type_name::<$arg>()),*]
            }

            fn call<'a>(
                &'a self,
                mut parts: Parts,
                body: Body,
                matched: Matched<'a>,
                state: &'a S,
            ) -> impl Future<Output = Answer> + Send + 'a {
                async move {
                    // By reference: it stays where it is until the future is dropped.
                    let _unread = &body;
                    $(
                        let extracted = $arg::from_request_parts(&mut parts, state);
                        let $arg = match WithMatch::new(&matched, extracted).await {
                            Ok(value) => value,
                            Err(rejection) => {
                                return Ok(from_axum(rejection, spent(parts.headers)));
                            }
                        };
                    )*
                    let headers = spent(parts.headers);
                    Ok(self($($arg),*).await.into_reply(headers))
                }
            }
        }
    };
}

macro_rules! handlers_with_body {
    ($($arg:ident)* ; $last:ident) => {
        #[allow(non_snake_case, unused_mut, reason = "one name is both the type and the value")]
        impl<F, Fut, R, MR, S, $($arg,)* $last> Handler<(TakesBody, MR, $($arg,)* $last), S> for F
        where
            F: Fn($($arg,)* $last) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = R> + Send,
            R: IntoReply<MR>,
            S: Send + Sync + 'static,
            $($arg: FromRequestParts<S> + Send,)*
            $last: FromRequest<S> + Send,
        {
            fn arguments() -> Vec<&'static str> {
                vec![$(std::any::type_name::<$arg>(),)* std::any::type_name::<$last>()]
            }

            fn call<'a>(
                &'a self,
                mut parts: Parts,
                body: Body,
                matched: Matched<'a>,
                state: &'a S,
            ) -> impl Future<Output = Answer> + Send + 'a {
                async move {
                    $(
                        let extracted = $arg::from_request_parts(&mut parts, state);
                        let $arg = match WithMatch::new(&matched, extracted).await {
                            Ok(value) => value,
                            Err(rejection) => {
                                return Ok(from_axum(rejection, spent(parts.headers)));
                            }
                        };
                    )*
                    // The extractor consumes the headers, and their memory with them.
                    let request = Request::from_parts(parts, body.into_axum());
                    let extracted = $last::from_request(request, state);
                    let $last = match WithMatch::new(&matched, extracted).await {
                        Ok(value) => value,
                        Err(rejection) => return Ok(from_axum(rejection, HeaderMap::new())),
                    };
                    Ok(self($($arg,)* $last).await.into_reply(HeaderMap::new()))
                }
            }
        }
    };
}

macro_rules! for_each_arity {
    ($($arg:ident)*) => { for_each_arity!(@ [] $($arg)*); };
    (@ [$($done:ident)*]) => {};
    (@ [$($done:ident)*] $next:ident $($rest:ident)*) => {
        handlers!($($done)* $next);
        handlers_with_body!($($done)* ; $next);
        for_each_arity!(@ [$($done)* $next] $($rest)*);
    };
}

for_each_arity!(T1 T2 T3 T4 T5 T6 T7 T8 T9 T10 T11 T12);
