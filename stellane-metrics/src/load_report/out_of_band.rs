use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use super::LoadReports;

/// The load of this replica as a stream: `xds.service.orca.v3.OpenRcaService/StreamCoreMetrics`, as gRPC's `weighted_round_robin` asks
/// for it with `enableOobLoadReport`.
///
/// A service for requests of HTTP/2, under any router: at [`PATH`](Self::PATH), or with the feature `tonic-014` by tonic's
/// `add_service`. A stream begins with what is known, and goes on at the interval that the client asked for.
///
/// ```
/// # fn main() -> Result<(), stellane_metrics::BuildError> {
/// use stellane_metrics::{HttpMetrics, LoadReports, OpenRcaService};
///
/// let http = HttpMetrics::builder().build()?;
/// let service = OpenRcaService::new(&LoadReports::builder(&http).build()?);
/// // axum: Router::new().route_service(OpenRcaService::PATH, service)
/// # let _ = service;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct OpenRcaService {
    reports: LoadReports,
    least: Duration,
}

impl OpenRcaService {
    /// The path of its one method.
    pub const PATH: &'static str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

    /// A service that tells what `reports` says.
    #[must_use]
    pub fn new(reports: &LoadReports) -> Self {
        Self {
            reports: reports.clone(),
            least: Duration::from_millis(500),
        }
    }

    /// The shortest interval that a client may have, at least a tenth of a second: reports are made no more often. Too short and many
    /// clients cost much; too long and balancers hear late of a replica that became slow. Default: half a second.
    #[must_use]
    pub fn min_interval(mut self, interval: Duration) -> Self {
        self.least = interval.max(Duration::from_millis(100));
        self
    }
}

#[cfg(feature = "tonic-014")]
impl tonic::server::NamedService for OpenRcaService {
    const NAME: &'static str = "xds.service.orca.v3.OpenRcaService";
}

impl<B> Service<Request<B>> for OpenRcaService {
    type Response = Response<OpenRcaBody<B>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<OpenRcaBody<B>>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_known = request.uri().path() == Self::PATH;
        let Self { reports, least } = self.clone();
        let state = match is_known {
            true => State::Asked {
                request: request.into_body(),
                read: BytesMut::new(),
            },
            false => State::Ends {
                status: UNIMPLEMENTED,
            },
        };
        let mut response = Response::new(OpenRcaBody {
            state,
            reports,
            least,
        });
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, grpc);
        ready(Ok(response))
    }
}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const INVALID_ARGUMENT: HeaderValue = HeaderValue::from_static("3");
const UNIMPLEMENTED: HeaderValue = HeaderValue::from_static("12");
const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// So often at least a stream looks whether it is to end, or there is something to tell.
const LOOK: Duration = Duration::from_secs(1);

/// So long a question may be.
const LONGEST: usize = 16 * 1024;

pin_project! {
    /// The body of a stream of reports; made by [`OpenRcaService`].
    #[derive(Debug)]
    pub struct OpenRcaBody<B> {
        #[pin]
        state: State<B>,
        reports: LoadReports,
        least: Duration,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<B> {
        Asked { #[pin] request: B, read: BytesMut },
        Tells { wakes: Pin<Box<Sleep>>, interval: Duration, due: Instant },
        Ends { status: HeaderValue },
        Over,
    }
}

impl<B: Body> Body for OpenRcaBody<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProjection::Asked { request, read } => {
                    let asked = match ready!(request.poll_frame(cx)) {
                        None => Some(Err(INVALID_ARGUMENT)),
                        Some(Err(_)) => return Poll::Ready(None),
                        Some(Ok(frame)) => frame.into_data().ok().and_then(|data| {
                            let is_much = read.len() + data.remaining() > LONGEST;
                            match is_much {
                                true => Some(Err(INVALID_ARGUMENT)),
                                false => {
                                    read.put(data);
                                    interval(read)
                                }
                            }
                        }),
                    };
                    match asked {
                        None => continue,
                        Some(Err(status)) => State::Ends { status },
                        Some(Ok(interval)) => State::Tells {
                            wakes: Box::pin(tokio::time::sleep(Duration::ZERO)),
                            interval: interval.max(*this.least),
                            due: Instant::now(),
                        },
                    }
                }
                StateProjection::Tells {
                    wakes,
                    interval,
                    due,
                } => {
                    ready!(wakes.as_mut().poll(cx));
                    let now = Instant::now();
                    let report = match now >= *due {
                        true => this.reports.report(),
                        false => None,
                    };
                    if report.is_some() {
                        *due = now + *interval;
                    }
                    let look = now + LOOK.min(*interval);
                    wakes.as_mut().reset(match now < *due {
                        true => look.min(*due),
                        false => look,
                    });
                    if this.reports.has_ended() {
                        State::Ends {
                            status: UNAVAILABLE,
                        }
                    } else if let Some(report) = report {
                        let frame = Frame::data(message(&report.message()));
                        return Poll::Ready(Some(Ok(frame)));
                    } else {
                        continue;
                    }
                }
                StateProjection::Ends { status } => {
                    let trailers = HeaderMap::from_iter([(STATUS, status.clone())]);
                    this.state.set(State::Over);
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                StateProjection::Over => return Poll::Ready(None),
            };
            this.state.set(next);
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Over)
    }
}

/// As gRPC frames it.
fn message(of: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + of.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(of.len()).unwrap_or(u32::MAX));
    framed.put(of);
    framed.freeze()
}

/// The interval of the first message, once all of it is there: `OrcaLoadReportRequest`, of which it is the first field.
fn interval(read: &[u8]) -> Option<Result<Duration, HeaderValue>> {
    let (head, rest) = read.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *head;
    if compressed != 0 {
        return Some(Err(UNIMPLEMENTED));
    }
    let message = rest.get(..usize::try_from(u32::from_be_bytes(length)).ok()?)?;
    let interval = field(message, 1).unwrap_or(Some(&[])).and_then(|duration| {
        let part = |number| field(duration, number).unwrap_or(Some(&[]));
        let (seconds, nanos) = (varint(part(1)?), varint(part(2)?));
        // A negative one is of another kind, and asks for as often as may be.
        let seconds = u64::try_from(seconds.cast_signed()).unwrap_or(0);
        let nanos = u64::try_from(nanos.cast_signed()).unwrap_or(0);
        Some(
            Duration::from_secs(seconds.min(86_400)) + Duration::from_nanos(nanos.min(999_999_999)),
        )
    });
    Some(interval.ok_or(INVALID_ARGUMENT))
}

/// What stands in the last field of this number, without its length: `None` if it is not there, and `Some(None)` if the
/// message is none.
fn field(mut message: &[u8], number: u64) -> Option<Option<&[u8]>> {
    let mut found = None;
    while !message.is_empty() {
        let Some((tag, rest)) = split_varint(message) else {
            return Some(None);
        };
        let split = match tag & 7 {
            0 => split_varint(rest).map(|(_, after)| rest.split_at(rest.len() - after.len())),
            1 => rest.split_at_checked(8),
            2 => split_varint(rest)
                .and_then(|(length, rest)| rest.split_at_checked(usize::try_from(length).ok()?)),
            5 => rest.split_at_checked(4),
            _ => None,
        };
        let Some((value, rest)) = split else {
            return Some(None);
        };
        if tag >> 3 == number {
            found = Some(Some(value));
        }
        message = rest;
    }
    found
}

/// The number, or nothing.
fn varint(bytes: &[u8]) -> u64 {
    split_varint(bytes).map_or(0, |(number, _)| number)
}

fn split_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (place, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[place + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_read_or_what_is_none_is_refused() {
        let asked = |message: &[u8]| interval(&super::message(message));
        let seconds = |seconds| Some(Ok(Duration::from_secs_f64(seconds)));
        assert_eq!(asked(&[]), seconds(0.0));
        // As grpcio writes 1.5 s, before the names of costs.
        let message = [10, 8, 8, 1, 16, 128, 202, 181, 238, 1, 18, 1, b'a'];
        assert_eq!(asked(&message), seconds(1.5));
        assert_eq!(asked(&[10, 2, 8, 2]), seconds(2.0));
        let negative = [10, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(asked(&negative), seconds(0.0));
        assert_eq!(
            asked(&[10, 10, 8, 255, 255, 255, 255, 255, 255, 255, 127, 0]),
            Some(Err(INVALID_ARGUMENT))
        );
        for wrong in [&[10][..], &[10, 5, 8], &[11], &[255; 12], &[10, 1, 8]] {
            assert_eq!(asked(wrong), Some(Err(INVALID_ARGUMENT)), "{wrong:?}");
        }
        for part in [&[][..], &[0, 0, 0, 0], &[0, 0, 0, 0, 2, 10]] {
            assert_eq!(interval(part), None);
        }
        assert_eq!(interval(&[1, 0, 0, 0, 0]), Some(Err(UNIMPLEMENTED)));
    }
}
