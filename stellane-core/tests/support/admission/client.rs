use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::Instant;

use super::{
    BoxError, Server,
    tally::{Answer, Tally},
};

/// The body of a request: pieces that come when they do, and perhaps never.
pub(super) type Pieces = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

pub(super) fn empty() -> Pieces {
    StreamBody::new(Box::pin(futures_util::stream::empty()))
}

/// A client of its own: a connection of HTTP/1, or its share of one of HTTP/2.
pub(super) struct Client {
    sender: Sender,
    server: Arc<Server>,
}

enum Sender {
    One(http1::SendRequest<Pieces>),
    Two(http2::SendRequest<Pieces>),
}

/// Of an answer that an HTTP/2 client takes ahead: enough that it rarely has to ask for more.
pub(super) const WINDOW: u32 = 1 << 20;
/// How many clients share a connection of HTTP/2: as behind a proxy, and within what a server allows.
const SHARED_BY: usize = 20;

impl Client {
    pub(super) async fn http1(server: &Arc<Server>, room: Option<u32>) -> Result<Self, BoxError> {
        let stream = TokioIo::new(server.connect(false, room).await?);
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self {
            sender: Sender::One(sender),
            server: Arc::clone(server),
        })
    }

    /// With a window of such a size for each answer.
    pub(super) async fn http2(server: &Arc<Server>, window: u32) -> Result<Self, BoxError> {
        let stream = TokioIo::new(server.connect(true, None).await?);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(stream)
            .await?;
        tokio::spawn(connection);
        Ok(Self {
            sender: Sender::Two(sender),
            server: Arc::clone(server),
        })
    }

    /// So many clients, of the protocol that the server is tried with.
    pub(super) async fn many(
        server: &Arc<Server>,
        count: usize,
        room: Option<u32>,
    ) -> Result<Vec<Self>, BoxError> {
        let mut clients = Vec::<Self>::with_capacity(count);
        while clients.len() < count {
            let client = match clients.last() {
                Some(last) if server.kind.http2 && !clients.len().is_multiple_of(SHARED_BY) => {
                    last.share()
                }
                _ if server.kind.http2 => Self::http2(server, WINDOW).await?,
                _ => Self::http1(server, room).await?,
            };
            clients.push(client);
        }
        Ok(clients)
    }

    /// Another on the same connection of HTTP/2.
    pub(super) fn share(&self) -> Self {
        let Sender::Two(sender) = &self.sender else {
            unreachable!("HTTP/1 has one request at a time");
        };
        Self {
            sender: Sender::Two(sender.clone()),
            server: Arc::clone(&self.server),
        }
    }

    /// The head of the answer. A connection that has ended between two requests is made anew.
    pub(super) async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Pieces,
    ) -> Result<Response<Incoming>, BoxError> {
        let ended = match &mut self.sender {
            Sender::One(sender) => sender.ready().await.is_err(),
            Sender::Two(sender) => sender.ready().await.is_err(),
        };
        if ended {
            *self = match self.sender {
                Sender::One(_) => Self::http1(&self.server, None).await?,
                Sender::Two(_) => Self::http2(&self.server, WINDOW).await?,
            };
        }
        let request = Request::builder().method(method);
        Ok(match &mut self.sender {
            Sender::One(sender) => {
                let request = request.uri(path).header("host", "localhost").body(body)?;
                sender.send_request(request).await?
            }
            Sender::Two(sender) => {
                let uri = format!("{}://localhost{path}", self.server.scheme());
                sender.send_request(request.uri(uri).body(body)?).await?
            }
        })
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, BoxError> {
        let response = self.send("GET", path, empty()).await?;
        let status = response.status();
        response.into_body().collect().await?;
        Ok(Answer::of_status(status))
    }

    /// Asks again and again until then. Who is refused waits a moment.
    pub(super) fn keep_asking(
        mut self,
        path: &str,
        until: Instant,
        pause: Duration,
    ) -> impl Future<Output = Tally> + Send + use<> {
        let path = path.to_owned();
        async move {
            let mut tally = Tally::default();
            while Instant::now() < until {
                let answer = Answer::from(self.get(&path).await);
                let again = match answer {
                    Answer::Served => pause,
                    _ => pause.max(Duration::from_millis(20)),
                };
                tally.add(answer);
                tokio::time::sleep(again).await;
            }
            tally
        }
    }
}

impl From<Result<Self, BoxError>> for Answer {
    fn from(result: Result<Self, BoxError>) -> Self {
        result.unwrap_or_else(|error| {
            let text = format!("{error:?}");
            match text.contains("REFUSED_STREAM") {
                true => Self::Refused("REFUSED_STREAM".to_owned()),
                false => Self::Failed(text),
            }
        })
    }
}
