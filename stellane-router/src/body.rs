//! The body of requests and responses.

use std::{
    any::Any,
    borrow::Cow,
    pin::Pin,
    task::{Context, Poll},
};

use axum_core::BoxError;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::{
    recycled_box::RecycledBox,
    types::{Body, Carried, Content, RouteInfo, RouteMatch},
};

impl Body {
    /// A body without content.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            content: Content::Empty,
            carried: Carried::Nothing,
        }
    }

    /// Takes any body. One that has ended already, and one of this type, cost nothing.
    #[must_use]
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() && !is::<B, Self>() {
            return Self::empty();
        }
        match cast::<B, Self>(body) {
            Ok(body) => body,
            Err(body) => Content::Stream(axum_core::body::Body::new(body)).into(),
        }
    }

    /// The route that answered, if the router found one and this is the body it returned.
    ///
    /// A layer around the router reads this instead of an extension, which would cost three
    /// allocations.
    #[must_use]
    pub const fn route(&self) -> Option<&RouteInfo> {
        match &self.carried {
            Carried::Out(route) => Some(route),
            _ => None,
        }
    }

    /// The match of a request on its way to a service or through a layer inside the router.
    #[must_use]
    pub fn route_match(&self) -> Option<&RouteMatch> {
        match &self.carried {
            Carried::In(matched) if matched.id().is_route() => Some(matched),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn set_route(&mut self, route: RouteInfo) {
        self.carried = Carried::Out(route);
    }

    pub(crate) fn carry(&mut self, matched: RouteMatch) {
        self.carried = Carried::In(RecycledBox::new(matched));
    }

    pub(crate) fn take_carried(&mut self) -> Option<RouteMatch> {
        match std::mem::take(&mut self.carried) {
            Carried::In(matched) => Some(matched.into_inner()),
            _ => None,
        }
    }

    /// The body as axum's extractors take it; an empty one costs nothing.
    pub(crate) fn into_axum(self) -> axum_core::body::Body {
        match self.content {
            Content::Empty => axum_core::body::Body::empty(),
            Content::Once(bytes) => bytes.into(),
            Content::Stream(body) => body,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = axum_core::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.content {
            Content::Empty => Poll::Ready(None),
            Content::Once(bytes) => {
                let bytes = std::mem::take(bytes);
                self.content = Content::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Content::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Once(_) => false,
            Content::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Once(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(body) => body.size_hint(),
        }
    }
}

impl From<Content> for Body {
    fn from(content: Content) -> Self {
        Self {
            content,
            carried: Carried::Nothing,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::empty()
        } else {
            Content::Once(bytes).into()
        }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<Cow<'static, str>> for Body {
    fn from(text: Cow<'static, str>) -> Self {
        match text {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.into(),
        }
    }
}

fn is<A: 'static, B: 'static>() -> bool {
    std::any::TypeId::of::<A>() == std::any::TypeId::of::<B>()
}

/// The value as the type it has; settled when compiled.
pub(crate) fn cast<A: 'static, B: 'static>(value: A) -> Result<B, A> {
    let mut value = Some(value);
    let slot: &mut dyn Any = &mut value;
    match slot.downcast_mut::<Option<B>>().and_then(Option::take) {
        Some(value) => Ok(value),
        None => Err(value.expect("only taken if the types are equal")),
    }
}

/// How large a body the extractors of a request take, ours and those of axum, where no `DefaultBodyLimit` of the route
/// says otherwise; 2 MiB if nobody sets it. For a layer outside of the router that knows which requests may be larger.
pub fn set_default_body_limit<B>(request: &mut http::Request<B>, max_bytes: usize) {
    axum_core::extract::DefaultBodyLimit::max(max_bytes).apply(request);
}
