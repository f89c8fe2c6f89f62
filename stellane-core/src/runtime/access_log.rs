//! The access log of the configuration.

use std::io;

use stellane_metrics::Metric;

use super::{Components, RuntimeError};
use crate::{
    access_log::AccessLogLayer,
    config::{AccessLogOutput, RuntimeConfig, Secrets},
    connection::ConnectInfo,
    logging::{self, LogWriter},
};

/// What the section asks for, with its lost lines among the metrics.
pub(super) fn layer(
    config: &RuntimeConfig,
    components: &Components,
    own: Option<LogWriter>,
) -> Result<Option<AccessLogLayer>, RuntimeError> {
    if !config.access_log.enabled {
        return Ok(None);
    }
    let writer = own.map_or_else(|| writer(config.access_log.output), Ok);
    let writer = writer.map_err(|error| RuntimeError::Component {
        name: "access_log",
        source: error.into(),
    })?;
    let layer = AccessLogLayer::new(&config.access_log, writer)
        .peer(|extensions| extensions.get::<ConnectInfo>()?.peer())
        .secrets(Secrets::default().and(&config.log.redact));
    // One that is none is told where the ids are set.
    let layer = match config.http.request_id.header.parse() {
        Ok(header) => layer.request_id(header),
        Err(_) => layer,
    };
    let lost = Metric::counter(
        "stellane_access_log_lines_lost_total",
        "Lines of the access log that nobody has read in time.",
    );
    let counted = layer.clone();
    // Of two runtimes with the same components the first is told.
    let _ = components
        .runtime_metrics
        .add(lost, move |values| values.set(counted.lost() as f64));
    Ok(Some(layer))
}

/// With what else is logged there, where that is ours.
fn writer(output: AccessLogOutput) -> io::Result<LogWriter> {
    let tell =
        |lost| format!("{lost} lines of the access log were lost: what reads it is too slow");
    match (output, logging::writer()) {
        (AccessLogOutput::Stdout, _) => LogWriter::new(io::stdout(), tell),
        (AccessLogOutput::Stderr, Some(writer)) => Ok(writer),
        (AccessLogOutput::Stderr, None) => LogWriter::new(io::stderr(), tell),
    }
}
