use axum_core::{
    extract::{FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};

use super::{CollectError, PooledBody};
use crate::Pools;

/// The pools of the [`PoolLayer`](crate::PoolLayer) around the handler.
impl<S: Send + Sync> FromRequestParts<S> for Pools {
    type Rejection = PoolsRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, PoolsRejection> {
        Self::of(&parts.extensions).ok_or(PoolsRejection::Missing)
    }
}

/// The request's body, in the pooled memory of the [`PoolLayer`](crate::PoolLayer) around the handler.
impl<S: Send + Sync> FromRequest<S> for PooledBody {
    type Rejection = PoolsRejection;

    async fn from_request(request: Request, _: &S) -> Result<Self, PoolsRejection> {
        let pools = Pools::of(request.extensions()).ok_or(PoolsRejection::Missing)?;
        Self::collect(request.into_body(), &pools)
            .await
            .map_err(PoolsRejection::Body)
    }
}

impl IntoResponse for PooledBody {
    fn into_response(self) -> Response {
        // As `Bytes`, which axum sends without another look at the body.
        self.into_bytes().into_response()
    }
}

/// Why an extractor of this crate refused a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum PoolsRejection {
    /// There is no [`PoolLayer`](crate::PoolLayer) around the handler: a mistake in the program, 500.
    Missing,
    /// The body could not be collected: 413 or 400.
    Body(CollectError<axum_core::Error>),
}

impl IntoResponse for PoolsRejection {
    fn into_response(self) -> Response {
        match self {
            Self::Missing => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Self::Body(error) => (error.status(), error.to_string()).into_response(),
        }
    }
}
