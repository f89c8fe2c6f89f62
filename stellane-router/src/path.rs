//! `Path<T>`: typed path parameters.

use std::fmt;

use axum_core::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};
use serde::de::DeserializeOwned;

use crate::{
    de::ParamsDeserializer,
    params::Params,
    route_match::{NoRoute, log, with_match},
};

/// The parameters of the path, decoded and parsed: one value, a tuple in the order of the template,
/// or a struct by name.
///
/// What does not fit is answered with a 400 that names the parameter.
///
/// ```
/// use stellane_router::{Path, Router};
///
/// #[derive(serde::Deserialize)]
/// struct Order {
///     shop: String,
///     id: u64,
/// }
///
/// let router = Router::builder()
///     .get("/users/{id}", async |Path(id): Path<u64>| format!("user {id}"))
///     .get("/{from}/{to}", async |Path((from, to)): Path<(String, u32)>| format!("{from} to {to}"))
///     .get("/{shop}/orders/{id}", async |Path(order): Path<Order>| {
///         format!("{} of {}", order.id, order.shop)
///     })
///     .build()?;
/// # Ok::<(), stellane_router::BuildReport>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Sync> FromRequestParts<S> for Path<T> {
    type Rejection = PathRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, PathRejection> {
        with_match(parts, |params| {
            params.map_or(Err(PathRejection::NoRoute), Self::from_params)
        })
    }
}

/// `None` where there are no parameters, as in a fallback: so one handler can be a route and a fallback.
impl<T: DeserializeOwned + Send, S: Sync> OptionalFromRequestParts<S> for Path<T> {
    type Rejection = PathRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, PathRejection> {
        with_match(parts, |params| {
            let params = params.filter(|params| !params.is_empty());
            params.map(Self::from_params).transpose()
        })
    }
}

impl<T: DeserializeOwned> Path<T> {
    fn from_params(params: Params<'_>) -> Result<Self, PathRejection> {
        let value = T::deserialize(ParamsDeserializer(params));
        value.map(Self).map_err(|error| match error.server {
            true => PathRejection::Mismatch(error.message.into()),
            false => PathRejection::Invalid {
                parameter: error.parameter,
                reason: error.message.into(),
            },
        })
    }
}

/// Why a [`Path`] could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathRejection {
    /// The client sent a value that does not fit: 400.
    Invalid {
        /// The parameter, unless it is the whole that does not fit.
        parameter: Option<Box<str>>,
        /// What was expected.
        reason: Box<str>,
    },
    /// The type asks for other parameters than the template has, a fault of the program: 500.
    Mismatch(Box<str>),
    /// The handler is neither in a router nor behind a [`RouteLayer`](crate::RouteLayer): 500.
    NoRoute,
}

impl fmt::Display for PathRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid {
                parameter: Some(name),
                reason,
            } => {
                write!(f, "path parameter `{name}`: {reason}")
            }
            Self::Invalid {
                parameter: None,
                reason,
            } => write!(f, "path parameters: {reason}"),
            Self::Mismatch(reason) => write!(f, "path parameters: {reason}"),
            Self::NoRoute => NoRoute(()).fmt(f),
        }
    }
}

impl std::error::Error for PathRejection {}

impl IntoResponse for PathRejection {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Invalid { .. } => StatusCode::BAD_REQUEST,
            Self::Mismatch(_) | Self::NoRoute => {
                log(&self);
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        (status, self.to_string()).into_response()
    }
}
