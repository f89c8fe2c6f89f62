//! Writes a line for each event.

use tracing::{
    Event, Subscriber,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    layer::Context,
    registry::{LookupSpan, Scope},
};

use super::{
    LogWriter,
    lines::Lines,
    recorded::{Fields, Recorded},
};

/// What tells of a request in its span has so much room.
const VALUES: usize = 20;
const BYTES: usize = 256;

pub(super) struct LogLayer {
    pub(super) lines: Lines,
    pub(super) writer: LogWriter,
}

impl<S> Layer<S> for LogLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut recorded = match attributes.is_empty() {
            true => Recorded::default(),
            false => Recorded::with_room(VALUES.min(attributes.fields().len()), BYTES),
        };
        attributes.record(&mut recorded.by(&self.lines));
        span.extensions_mut().insert(Fields::new(recorded));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        // Before anything is locked: a value may log how it is shown.
        let mut recorded = Recorded::with_room(values.len(), BYTES / 4);
        values.record(&mut recorded.by(&self.lines));
        if let Some(fields) = span.extensions().get::<Fields>() {
            fields.add(recorded);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let scope = context.event_scope(event).into_iter();
        let spans = scope.flat_map(Scope::from_root).map(|span| {
            let extensions = span.extensions();
            let fields = extensions.get::<Fields>();
            let shown = fields.map(|fields| fields.show(span.name(), &self.lines));
            shown.unwrap_or_else(|| span.name().to_owned())
        });
        let spans: Vec<_> = spans.collect();
        let line = self.lines.event(event, &spans);
        self.writer.line(line.as_bytes());
    }
}
