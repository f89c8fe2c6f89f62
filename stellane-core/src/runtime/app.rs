use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tower::ServiceExt;
use tower_service::Service;

use super::{
    RequestBody,
    body::AsBytes,
    stack::{tell_early, tell_route},
};
use crate::BoxError;

/// A service that a [`Runtime`](super::Runtime) serves: short for the bounds below, and implemented for every service
/// that meets them. The data of its bodies may be any [`Buf`](bytes::Buf), and its errors anything that becomes a
/// [`BoxError`].
///
/// A function returns one as `impl App`:
///
/// ```
/// use stellane_core::App;
///
/// fn app() -> impl App {
///     axum::Router::new().route("/", axum::routing::get(async || "hello"))
/// }
/// # let _ = app();
/// ```
///
/// A router with state is none before it has got the state:
///
/// ```compile_fail,E0277
/// # use axum::{Router, extract::State, routing::get};
/// async fn count(State(count): State<u64>) -> String { count.to_string() }
/// let builder = stellane_core::Runtime::builder().service(Router::new().route("/", get(count)));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be served",
    label = "not a service of `Request<stellane_core::RequestBody>` that is `Clone + Send + 'static`",
    note = "an axum router whose state is missing needs `.with_state(…)`, a `RouterBuilder` of ours `.build()?`",
    note = "a function for `hyper::body::Incoming` takes `stellane_core::RequestBody`, or any body: `async fn f<B>(_: Request<B>)`",
    note = "its answers are a `Response` of an `http_body::Body`, such as `String` or `http_body_util::Full<Bytes>`, its future is `Send`: no `Rc`, and no guard of a lock held over an `.await`",
    note = "a service of hyper (`call(&self)`) goes through `stellane_core::HyperService`, one of axum's `Request` (a `middleware::from_fn` around a whole router) through `stellane_core::AxumService` (feature `axum-08`), a make-service to `serve_make`"
)]
pub trait App:
    Service<
        Request<RequestBody>,
        Response = Response<Self::ResBody>,
        Error = Self::ServiceError,
        Future = Self::ResFuture,
    > + Clone
    + Send
    + 'static
{
    /// The body of its responses.
    type ResBody: Body<Error: Into<BoxError>> + Send + 'static;
    /// Its error.
    type ServiceError: Into<BoxError> + Send;
    /// Its future.
    type ResFuture: Future<Output = Result<Response<Self::ResBody>, Self::ServiceError>> + Send;
}

#[diagnostic::do_not_recommend]
impl<S, B> App for S
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: Body<Error: Into<BoxError>> + Send + 'static,
{
    type ResBody = B;
    type ServiceError = S::Error;
    type ResFuture = S::Future;
}

/// Any [`App`], in a box: for a type that has a name, and for programs that serve many services. What serves a service is
/// compiled anew for each type of one, which takes some seconds, and for this one together with the library: of twenty
/// test programs, each with a service of its own, each compiles little more than its service, as by
/// [`serve`](super::serve()), which boxes what it gets.
/// A request costs two allocations more, for its future and for the body of its answer.
///
/// [`Runtime`]: super::Runtime
///
/// ```
/// use stellane_core::{BoxApp, Runtime};
///
/// fn server(app: BoxApp) -> Result<Runtime<BoxApp>, stellane_core::RuntimeError> {
///     Runtime::builder().service(app).build()
/// }
/// # let _ = server;
/// ```
pub type BoxApp = BoxService<RequestBody>;

/// A service of requests with the body `B`, in a box; see [`BoxApp`].
pub struct BoxService<B> {
    service: Box<dyn DynService<B>>,
}

pub(super) type BoxFuture =
    Pin<Box<dyn Future<Output = Result<Response<BoxBody>, BoxError>> + Send>>;
pub(super) type BoxBody = UnsyncBoxBody<Bytes, BoxError>;

trait DynService<B>: Send {
    fn clone_boxed(&self) -> Box<dyn DynService<B>>;
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>;
    fn call(&mut self, request: Request<B>) -> BoxFuture;
}

/// The service with the body of its answers, which its type alone does not say.
struct Unboxed<S, RB>(S, PhantomData<fn() -> RB>);

impl<B: 'static> BoxService<B> {
    /// Boxes a service.
    pub fn new<S, RB>(service: S) -> Self
    where
        S: Service<Request<B>, Response = Response<RB>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError> + Send,
        RB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        tell_early(&service);
        Self {
            service: Box::new(Unboxed(service, PhantomData)),
        }
    }
}

impl<S, B, RB> DynService<B> for Unboxed<S, RB>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + Send,
    RB: Body<Error: Into<BoxError>> + Send + 'static,
{
    fn clone_boxed(&self) -> Box<dyn DynService<B>> {
        Box::new(Self(self.0.clone(), PhantomData))
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> BoxFuture {
        let answer = self.0.call(request);
        Box::pin(async move {
            let response = answer.await.map_err(Into::into)?;
            // Once it is in a box nobody sees whose body it is.
            tell_route(response.body());
            Ok(response.map(|body| AsBytes::new(body).boxed_unsync()))
        })
    }
}

impl<B> Clone for BoxService<B> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone_boxed(),
        }
    }
}

impl<B> fmt::Debug for BoxService<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxService").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for BoxService<B> {
    type Response = Response<BoxBody>;
    type Error = BoxError;
    type Future = BoxFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> BoxFuture {
        self.service.call(request)
    }
}

/// The service under rates: nobody outside sees whose routes they are.
pub(super) fn told<S: App>(
    app: S,
) -> impl Service<
    Request<RequestBody>,
    Response = Response<AsBytes<S::ResBody>>,
    Error = S::ServiceError,
    Future: Send,
> + Clone
+ Send
+ 'static {
    tell_early(&app);
    ServiceExt::<Request<RequestBody>>::map_response(app, |response: Response<S::ResBody>| {
        tell_route(response.body());
        response.map(AsBytes::new)
    })
}

/// A service of hyper, whose `call` takes `&self`, as one of tower: the way back from hyper-util's
/// `TowerToHyperService`.
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use hyper::service::service_fn;
/// use stellane_core::{HyperService, RequestBody, Runtime};
///
/// let hello = service_fn(async |_: Request<RequestBody>| {
///     Ok::<_, Infallible>(Response::new("hello".to_owned()))
/// });
/// let builder = Runtime::builder().service(HyperService(hello));
/// # drop(builder);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct HyperService<S>(
    /// The service.
    pub S,
);

impl<S, R> Service<R> for HyperService<S>
where
    S: hyper::service::Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

/// A service of axum's own `Request`, which takes no other: a `middleware::from_fn` that stands around a whole router, so
/// that it runs before routing, or a function of one. A router itself takes all bodies, and needs none of this.
///
/// ```
/// use axum::{Router, extract::Request, middleware::{Next, from_fn}, response::Response};
/// use stellane_core::{AxumService, serve};
/// use tower::Layer;
///
/// async fn lower_case(mut request: Request, next: Next) -> Response {
///     if let Ok(lower) = request.uri().path().to_lowercase().parse() {
///         *request.uri_mut() = lower;
///     }
///     next.run(request).await
/// }
/// # let app: Router = Router::new();
/// let server = serve("127.0.0.1:3000", AxumService(from_fn(lower_case).layer(app)));
/// # drop(server);
/// ```
#[cfg(feature = "axum-08")]
#[derive(Debug, Clone, Copy)]
pub struct AxumService<S>(
    /// The service.
    pub S,
);

#[cfg(feature = "axum-08")]
impl<S, B> Service<Request<B>> for AxumService<S>
where
    S: Service<Request<axum::body::Body>>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        self.0.call(request.map(axum::body::Body::new))
    }
}
