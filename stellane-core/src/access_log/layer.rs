use std::{net::SocketAddr, sync::Arc};

use http::{Extensions, HeaderName};
use tower_layer::Layer;

use super::{log::Log, service::AccessLogService};
use crate::{
    config::{AccessLogConfig, Secrets},
    logging::LogWriter,
};

/// Writes a line for each request; see the [module docs](super). Put it outside of whatever may answer. A request costs an
/// allocation.
///
/// ```
/// use stellane_core::{access_log::AccessLogLayer, config::AccessLogConfig, logging::LogWriter};
///
/// let writer = LogWriter::new(std::io::stdout(), |lost| format!("{lost} lines lost"))?;
/// let app = axum::Router::<()>::new().layer(AccessLogLayer::new(&AccessLogConfig::default(), writer));
/// # let _ = app;
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct AccessLogLayer {
    log: Arc<Log>,
}

impl AccessLogLayer {
    /// Lines as `config` says, whether it is `enabled` or not, to this writer.
    #[must_use]
    pub fn new(config: &AccessLogConfig, writer: LogWriter) -> Self {
        let log = Log::new(config, writer);
        Self { log: Arc::new(log) }
    }

    /// Where requests, or their answers, have their ids. Default `x-request-id`.
    #[must_use]
    pub fn request_id(mut self, header: HeaderName) -> Self {
        Arc::make_mut(&mut self.log).id = header;
        self
    }

    /// Where requests say whom they are of: in the extension of the server around. Default: nobody is told.
    ///
    /// ```
    /// use std::net::SocketAddr;
    ///
    /// use axum::extract::ConnectInfo;
    /// # use stellane_core::{access_log::AccessLogLayer, config::AccessLogConfig, logging::LogWriter};
    ///
    /// # let writer = LogWriter::new(std::io::sink(), |lost| format!("{lost} lines lost"))?;
    /// let log = AccessLogLayer::new(&AccessLogConfig::default(), writer)
    ///     .peer(|extensions| Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0));
    /// # let _ = log;
    /// # Ok::<_, std::io::Error>(())
    /// ```
    #[must_use]
    pub fn peer(
        mut self,
        find: impl Fn(&Extensions) -> Option<SocketAddr> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.log).peer = Some(Arc::new(find));
        self
    }

    /// What is secret in a query. Default: what always looks like it.
    #[must_use]
    pub fn secrets(mut self, secrets: Secrets) -> Self {
        Arc::make_mut(&mut self.log).secrets = secrets;
        self
    }

    /// How many lines found no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.log.writer.lost()
    }
}

impl<S> Layer<S> for AccessLogLayer {
    type Service = AccessLogService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessLogService::new(inner, Arc::clone(&self.log))
    }
}
