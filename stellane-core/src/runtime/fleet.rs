//! What a replica does for the others and for who chooses between them: the section `[fleet]`.

use std::task::{Context, Poll};

use http::{Request, Version};
use stellane_autotune::overload::DeadlineScopeLayer;
use stellane_metrics::{LoadReportLayer, LoadReports, LoadReportsBuilder, Machine, OpenRcaService};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    App, BoxApp, BoxService, Components, RuntimeError,
    app::{BoxFuture, told},
};
use crate::{
    BoxError,
    config::{FleetConfig, LoadReporting},
    connection::Incoming,
};

pub(super) type ChangeReports =
    Box<dyn FnOnce(LoadReportsBuilder, &Components) -> LoadReportsBuilder + Send>;

/// What the section asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct Fleet {
    reports: Option<LoadReports>,
    on_answers: Option<LoadReportLayer>,
    streams: Option<OpenRcaService>,
    hand_on_deadlines: bool,
}

impl Fleet {
    pub(super) fn new(
        config: &FleetConfig,
        components: &Components,
        change: Option<ChangeReports>,
    ) -> Result<Self, RuntimeError> {
        let hand_on_deadlines = config.hand_on_deadlines;
        if config.load_reports == LoadReporting::Off {
            return Ok(Self {
                hand_on_deadlines,
                ..Self::default()
            });
        }
        let mut reports = builder(components);
        if let Some(change) = change {
            reports = change(reports, components);
        }
        let reports = reports.build().map_err(|error| RuntimeError::Component {
            name: "fleet",
            source: error.into(),
        })?;
        let is =
            |one| matches!(config.load_reports, LoadReporting::Both) || config.load_reports == one;
        Ok(Self {
            on_answers: is(LoadReporting::Answers).then(|| LoadReportLayer::new(&reports)),
            streams: is(LoadReporting::Streams)
                .then(|| OpenRcaService::new(&reports).min_interval(config.min_report_interval)),
            reports: Some(reports),
            hand_on_deadlines,
        })
    }

    /// Whether it has to see each request.
    pub(super) fn sees_all(&self) -> bool {
        self.reports.is_some()
    }

    /// Whether it stands around the service.
    pub(super) fn hands_on_deadlines(&self) -> bool {
        self.hand_on_deadlines
    }

    /// Around the service.
    pub(super) fn inner<S: App>(&self, app: S) -> BoxApp {
        BoxApp::new(DeadlineScopeLayer::new().layer(told(app)))
    }

    /// Around all: refusals tell the load too.
    pub(super) fn outer(&self, service: BoxService<Incoming>) -> BoxService<Incoming> {
        let service = match &self.on_answers {
            Some(layer) => BoxService::new(layer.layer(service)),
            None => service,
        };
        match &self.streams {
            Some(streams) => BoxService::new(BesideStreams {
                service,
                streams: BoxService::new(streams.clone()),
            }),
            None => service,
        }
    }

    /// No drain waits for a stream of reports.
    pub(super) fn end(&self) {
        if let Some(reports) = &self.reports {
            reports.end_streams();
        }
    }
}

/// Reports of what the components know.
fn builder(components: &Components) -> LoadReportsBuilder {
    let (saturation, metrics) = (
        components.saturation.clone(),
        components.runtime_metrics.clone(),
    );
    let cpus = Machine::read().cpus;
    let reports = LoadReports::builder(&components.metrics)
        .application_utilization(move || Some(saturation.now()))
        .cpu_utilization(move || Some(metrics.snapshot().cpu_usage / cpus));
    let Some(limit) = Machine::memory_limit() else {
        return reports;
    };
    let metrics = components.runtime_metrics.clone();
    reports.mem_utilization(move || Some(metrics.snapshot().rss as f64 / limit as f64))
}

/// Streams of reports are no work: neither limited nor counted.
#[derive(Debug, Clone)]
struct BesideStreams {
    service: BoxService<Incoming>,
    streams: BoxService<Incoming>,
}

impl Service<Request<Incoming>> for BesideStreams {
    type Response = <BoxService<Incoming> as Service<Request<Incoming>>>::Response;
    type Error = BoxError;
    type Future = BoxFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> BoxFuture {
        let is_stream =
            request.version() == Version::HTTP_2 && request.uri().path() == OpenRcaService::PATH;
        match is_stream {
            true => self.streams.call(request),
            false => self.service.call(request),
        }
    }
}
