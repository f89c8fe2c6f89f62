//! One message to a collector, by HTTP or gRPC.

use std::{fmt, io::Write, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::settings::Target;

/// A collector has nothing longer to say.
const MOST_ANSWER: usize = 64 << 10;
/// Longer than that nobody waits because a collector says so.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a message did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) why: String,
    /// Whether it may arrive another time.
    pub(super) is_passing: bool,
    /// What the collector asks for.
    pub(super) after: Option<Duration>,
}

impl Failure {
    fn passing(why: impl fmt::Display) -> Self {
        Self {
            why: why.to_string(),
            is_passing: true,
            after: None,
        }
    }

    fn for_good(why: impl fmt::Display) -> Self {
        Self {
            is_passing: false,
            ..Self::passing(why)
        }
    }
}

/// Sends it over a connection of its own: that is once a minute, and no collector that has begun anew, or gone elsewhere, is
/// missed.
pub(super) async fn send<A: Message + Default>(
    target: &Target,
    message: &impl Message,
) -> Result<A, Failure> {
    let sending = async {
        let request = request(target, message).map_err(Failure::for_good)?;
        let response = exchange(target, request).await?;
        match target.is_grpc {
            true => grpc_answer(response).await,
            false => http_answer(response).await,
        }
    };
    let sent = tokio::time::timeout(target.timeout, sending).await;
    sent.unwrap_or_else(|_| Err(Failure::passing("it did not answer in time")))
}

fn request(target: &Target, message: &impl Message) -> std::io::Result<Request<Full<Bytes>>> {
    let mut bytes = message.encode_to_vec();
    if target.is_gzip {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&bytes)?;
        bytes = gzip.finish()?;
    }
    let agent = concat!("stellane/", env!("CARGO_PKG_VERSION"));
    let mut request = Request::post(target.uri.clone()).header(header::USER_AGENT, agent);
    if target.is_grpc {
        let mut frame = BytesMut::with_capacity(bytes.len() + 5);
        frame.put_u8(u8::from(target.is_gzip));
        let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
        frame.put_u32(length);
        frame.extend_from_slice(&bytes);
        bytes = frame.into();
        request = request
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers");
        if target.is_gzip {
            request = request.header("grpc-encoding", "gzip");
        }
    } else {
        request = request.header(header::CONTENT_TYPE, "application/x-protobuf");
        if let Some(host) = target.uri.authority() {
            // Without what stands before an `@`.
            let host = host.as_str().rsplit('@').next().unwrap_or_default();
            request = request.header(header::HOST, host);
        }
        if target.is_gzip {
            request = request.header(header::CONTENT_ENCODING, "gzip");
        }
    }
    for (name, value) in &target.headers {
        request = request.header(name, value);
    }
    let body = Full::new(Bytes::from(bytes));
    request.body(body).map_err(std::io::Error::other)
}

async fn exchange(
    target: &Target,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Failure> {
    let host = target.uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, target.port())).await;
    let stream = stream.map_err(Failure::passing)?;
    #[cfg(feature = "tls")]
    if let Some(tls) = &target.tls {
        let config = tls.config(target.is_grpc).map_err(Failure::passing)?;
        let stream = super::tls::connect(config, host, stream).await;
        return speak(target, request, stream.map_err(Failure::passing)?).await;
    }
    speak(target, request, stream).await
}

async fn speak(
    target: &Target,
    mut request: Request<Full<Bytes>>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Response<Incoming>, Failure> {
    let io = TokioIo::new(stream);
    if target.is_grpc {
        let connected = conn::http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = connected.map_err(Failure::passing)?;
        // It ends with its sender.
        tokio::spawn(connection);
        return sender.send_request(request).await.map_err(Failure::passing);
    }
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map(Into::into).unwrap_or_default();
    let (mut sender, connection) = conn::http1::handshake(io).await.map_err(Failure::passing)?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(Failure::passing)
}

async fn http_answer<A: Message + Default>(response: Response<Incoming>) -> Result<A, Failure> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MOST_ANSWER).collect().await;
    if head.status.is_success() {
        // What can't be read of an answer that is well is of no interest.
        let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
        return Ok(A::decode(bytes).unwrap_or_default());
    }
    let is_passing = matches!(
        head.status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    Err(Failure {
        why: format!("it answered {}", head.status),
        is_passing,
        after: retry_after(&head.headers),
    })
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let after = Duration::from_secs(seconds.trim().parse().ok()?);
    Some(after.min(LONGEST_PAUSE))
}

async fn grpc_answer<A: Message + Default>(response: Response<Incoming>) -> Result<A, Failure> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        let is_passing = head.status.is_server_error() || head.status.as_u16() == 429;
        return Err(Failure {
            why: format!("it answered {}", head.status),
            is_passing,
            after: None,
        });
    }
    let status = |fields: &HeaderMap| -> Option<u16> {
        let status = fields.get("grpc-status").map(HeaderValue::to_str);
        status?.ok()?.parse().ok()
    };
    let mut code = status(&head.headers);
    let body = Limited::new(body, MOST_ANSWER).collect().await;
    let body = body.map_err(Failure::passing)?;
    if let Some(trailers) = body.trailers() {
        code = status(trailers).or(code);
    }
    match code {
        // Behind the head of the frame.
        Some(0) => {
            let bytes = body.to_bytes();
            let message = bytes.get(5..).unwrap_or_default();
            Ok(A::decode(message).unwrap_or_default())
        }
        // CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS
        Some(code @ (1 | 4 | 8 | 10 | 11 | 14 | 15)) => {
            Err(Failure::passing(format!("it answered the code {code}")))
        }
        Some(code) => Err(Failure::for_good(format!("it answered the code {code}"))),
        None => Err(Failure::passing("it answered without a code")),
    }
}
