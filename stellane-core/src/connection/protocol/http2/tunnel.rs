//! A WebSocket on a stream of HTTP/2 (RFC 8441): its frames pass through here, so that one of ours can come between two of
//! them.
//!
//! hyper makes the [`OnUpgrade`] that a handler takes, and nobody else can. So a small connection of HTTP/1.1 in memory
//! makes another one, which stands in its place: it carries the stream when it has been agreed upon, and is gone then.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{
    ext::Protocol,
    server::conn::http1,
    service::service_fn,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::{
    lifecycle::Shared,
    protocol::{
        http2::ledger::Ledger,
        io::websocket::{Frames, SERVICE_RESTART},
        scope,
    },
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// Has the WebSocket that a request asks for say goodbye in a drain, when its time is over.
#[inline]
pub(crate) fn say_goodbye<B>(request: &mut Request<B>, ledger: &Arc<Ledger>) {
    if request.method() == Method::CONNECT {
        stand_between(request, ledger);
    }
}

#[cold]
fn stand_between<B>(request: &mut Request<B>, ledger: &Arc<Ledger>) {
    let extensions = request.extensions();
    let protocol = extensions.get::<Protocol>().map(Protocol::as_str);
    let is_carried = extensions.get::<OnUpgrade>().is_some();
    if protocol != Some("websocket") || !is_carried {
        return;
    }
    let Some(shared) = scope::with(Arc::clone) else {
        return;
    };
    let theirs = Arc::new(Mutex::new(Some(hyper::upgrade::on(&mut *request))));
    let (arrived, ours) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
    let tunnel = Tunnel {
        request: REQUEST,
        arrived: Arc::clone(&arrived),
        stream: None,
        frames: Frames::BEGIN,
        said: 0,
        is_over: false,
        over: Box::pin(over(Arc::clone(&shared), Arc::clone(ledger))),
        shared,
    };
    let made = Arc::clone(&ours);
    let agree = service_fn(move |request: Request<hyper::body::Incoming>| {
        *lock(&made) = Some(hyper::upgrade::on(request));
        let (theirs, arrived) = (lock(&theirs).take(), Arc::clone(&arrived));
        async move {
            if let Some(theirs) = theirs {
                *lock(&arrived) = Some(theirs.await?);
            }
            let mut response = Response::new(String::new());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            Ok::<_, hyper::Error>(response)
        }
    });
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(tunnel), agree)
        .with_upgrades();
    // All of the request is there, so that the upgrade is made at once.
    let _ = Pin::new(&mut connection).poll(&mut Context::from_waker(Waker::noop()));
    if let Some(ours) = lock(&ours).take() {
        request.extensions_mut().insert(ours);
    }
    // Ends when the stream is agreed upon, or is not.
    tokio::spawn(connection);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resolves when the time of the connection is over.
async fn over(shared: Arc<Shared>, ledger: Arc<Ledger>) {
    let mut looks = shared.drain.looks();
    let is_over = |_: &u64| shared.drain.is_over(ledger.budget());
    // An error would mean that the drain is gone, which is held here.
    let _ = looks.wait_for(is_over).await;
}

/// What the upgrade carries.
struct Tunnel {
    /// What is left of the request, which hyper reads first.
    request: &'static [u8],
    /// Here the stream arrives, before the answer to that request.
    arrived: Arc<Mutex<Option<Upgraded>>>,
    /// It has come, and hyper's answer was dropped.
    stream: Option<TokioIo<Upgraded>>,
    frames: Frames,
    /// So many bytes of the goodbye were sent.
    said: usize,
    is_over: bool,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    shared: Arc<Shared>,
}

impl Tunnel {
    /// The stream, once it is there. Whoever waits for it is hyper, which is woken by its service.
    fn stream(&mut self) -> Poll<Pin<&mut TokioIo<Upgraded>>> {
        self.stream
            .as_mut()
            .map_or(Poll::Pending, |stream| Poll::Ready(Pin::new(stream)))
    }

    /// Says goodbye when the time is over, unless a frame is half sent.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.frames.is_closed() {
            return Poll::Ready(Ok(()));
        }
        self.is_over = self.is_over || self.over.as_mut().poll(cx).is_ready();
        if !self.is_over || !self.frames.may_close() {
            return Poll::Ready(Ok(()));
        }
        while self.said < SERVICE_RESTART.len() {
            let left = &SERVICE_RESTART[self.said..];
            let sent = ready!(ready!(self.stream()).poll_write(cx, left))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.said += sent;
        }
        self.frames.close();
        self.shared.drain.count_farewell();
        let _ = ready!(self.stream()).poll_flush(cx)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stream.is_none() {
            let n = self.request.len().min(buffer.remaining());
            if n == 0 {
                return Poll::Pending;
            }
            buffer.put_slice(&self.request[..n]);
            self.request = &self.request[n..];
            return Poll::Ready(Ok(()));
        }
        // What can't be sent is seen by who reads on.
        let _ = self.poll_goodbye(cx)?;
        ready!(self.stream()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.stream.is_none() {
            // hyper's answer to the request that it was given, in one piece.
            let stream = lock(&self.arrived).take();
            self.stream = stream.map(TokioIo::new);
            return Poll::Ready(Ok(buffer.len()));
        }
        // Nothing comes within a goodbye, and nothing behind it.
        if self.said > 0 {
            ready!(self.poll_goodbye(cx))?;
        }
        if self.frames.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = ready!(ready!(self.stream()).poll_write(cx, buffer))?;
        self.frames.sent(&buffer[..n]);
        let _ = self.poll_goodbye(cx)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream() {
            Poll::Ready(stream) => stream.poll_flush(cx),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream() {
            Poll::Ready(stream) => stream.poll_shutdown(cx),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }
}
