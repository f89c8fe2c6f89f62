//! A service of its own for each connection.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::Request;
use tokio::sync::Mutex;
use tower_service::Service;

use super::{App, BoxApp, RequestBody};
use crate::{BoxError, connection::ConnectInfo, engine::cloner};

/// Makes the service of a connection.
#[derive(Clone)]
pub(super) struct Make(Arc<dyn Fn(ConnectInfo) -> Made + Send + Sync>);

type Making = Pin<Box<dyn Future<Output = Result<BoxApp, BoxError>> + Send>>;

impl Make {
    pub(super) fn new<M>(make: M) -> Self
    where
        M: Service<ConnectInfo, Response: App, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        let clone = cloner(make);
        Self(Arc::new(move |connection| {
            let mut make = clone();
            Made::of(Box::pin(async move {
                std::future::poll_fn(|cx| make.poll_ready(cx))
                    .await
                    .map_err(Into::into)?;
                let app = make.call(connection).await.map_err(Into::into)?;
                Ok(BoxApp::new(app))
            }))
        }))
    }

    pub(super) fn of(&self, connection: &ConnectInfo) -> Made {
        (self.0)(connection.clone())
    }
}

impl fmt::Debug for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Make").finish_non_exhaustive()
    }
}

/// The service of a connection, which may still be on its way: most are there at once.
#[derive(Clone)]
pub(super) enum Made {
    Ready(BoxApp),
    Later(Arc<Mutex<Stage>>),
}

pub(super) enum Stage {
    Making(Making),
    Ready(BoxApp),
    /// It can't be made, and its connection is of no use.
    Failed(String),
}

impl Made {
    fn of(mut making: Making) -> Self {
        let mut cx = Context::from_waker(Waker::noop());
        match making.as_mut().poll(&mut cx) {
            Poll::Ready(Ok(app)) => Self::Ready(app),
            Poll::Ready(Err(error)) => Self::later(Stage::Failed(error.to_string())),
            Poll::Pending => Self::later(Stage::Making(making)),
        }
    }

    fn later(stage: Stage) -> Self {
        Self::Later(Arc::new(Mutex::new(stage)))
    }
}

impl Stage {
    async fn app(&mut self) -> Result<BoxApp, BoxError> {
        if let Self::Making(making) = self {
            *self = match making.await {
                Ok(app) => Self::Ready(app),
                Err(error) => Self::Failed(error.to_string()),
            };
        }
        match self {
            Self::Ready(app) => Ok(app.clone()),
            Self::Failed(error) => Err(error.as_str().into()),
            Self::Making(_) => Err("the service is not made".into()),
        }
    }
}

impl Service<Request<RequestBody>> for Made {
    type Response = <BoxApp as Service<Request<RequestBody>>>::Response;
    type Error = BoxError;
    type Future = <BoxApp as Service<Request<RequestBody>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Ready(app) => app.poll_ready(cx),
            Self::Later(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        match self {
            Self::Ready(app) => app.call(request),
            Self::Later(stage) => {
                let stage = Arc::clone(stage);
                Box::pin(async move {
                    let mut app = stage.lock().await.app().await?;
                    std::future::poll_fn(|cx| app.poll_ready(cx)).await?;
                    app.call(request).await
                })
            }
        }
    }
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made").finish_non_exhaustive()
    }
}
