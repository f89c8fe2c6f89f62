//! What is told of a gRPC call: its method, if the service knows it, and its status however it ended.

use http::{HeaderMap, HeaderValue, Request, Response, header};

use super::{
    labels::{self, NO_GRPC, Outcome, RouteId},
    registry::Table,
};

/// The call that a request is.
#[derive(Debug)]
pub(super) enum Call {
    /// None of gRPC.
    Not,
    /// Of a method that has answered before.
    Known(RouteId),
    /// Of a path that nobody has answered yet, which anybody can ask for.
    New(Box<str>),
}

impl Call {
    #[inline]
    pub(super) fn of<B>(request: &Request<B>, method: u8, table: &Table) -> Self {
        if method != labels::POST || !is_grpc(request.headers()) {
            return Self::Not;
        }
        let path = request.uri().path();
        match table.known_route(path) {
            Some(id) => Self::Known(id),
            None => Self::New(path.into()),
        }
    }

    pub(super) fn is_some(&self) -> bool {
        !matches!(self, Self::Not)
    }

    /// Whether the head of an answer shows that the service knows the method: no layer before it answers so.
    pub(super) fn is_answered<B>(&self, response: &Response<B>, grpc: u8) -> bool {
        // What a deadline, an authorisation, a limit, a service that is not there and a draining server say.
        self.is_some()
            && is_grpc(response.headers())
            && !matches!(grpc, 1 | 4 | 7 | 8 | 12 | 14 | 16)
    }

    /// The route: the method, or `/package.Service/_OTHER` for what the service does not know. What an inner layer
    /// has named stays, unless it is all that is below the service.
    pub(super) fn route(&self, named: RouteId, answered: bool, table: &Table) -> RouteId {
        let id = match self {
            Self::Not => return named,
            Self::Known(id) => *id,
            Self::New(path) => {
                let Some((service, _)) = path.rsplit_once('/') else {
                    return named;
                };
                let other = format!("{service}/_OTHER");
                if answered {
                    table.route_id(&other);
                    table.route_id(path)
                } else if let Some(id) = table.known_route(&other) {
                    id
                } else {
                    return named;
                }
            }
        };
        let is_below = |template: &str| {
            let service = table
                .route(id)
                .rsplit_once('/')
                .map_or("", |(service, _)| service);
            let below = template.strip_prefix(service);
            below.is_some_and(|below| below.starts_with("/{*"))
        };
        match table.template(named) {
            Some(template) if !is_below(template) => named,
            _ => id,
        }
    }

    /// The status of a call that has ended without one, as a client makes it up.
    pub(super) fn status(&self, outcome: Outcome, status: u16) -> u8 {
        match outcome {
            _ if !self.is_some() => NO_GRPC,
            Outcome::Cancelled => 1,
            Outcome::BodyError | Outcome::ServiceError | Outcome::Panic => 13,
            // Of gRPC-Web the status is in the body.
            Outcome::Complete if status == 200 => NO_GRPC,
            Outcome::Complete => match status {
                400 => 13,
                401 => 16,
                403 => 7,
                404 => 12,
                429 | 502..=504 => 14,
                _ => 2,
            },
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}
