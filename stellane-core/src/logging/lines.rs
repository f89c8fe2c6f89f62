//! What a log line looks like.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use crate::config::{LogFormat, Secrets};

/// Formats events and the fields of spans.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    pub(super) format: LogFormat,
    pub(super) colours: bool,
    pub(super) most_bytes: usize,
    pub(super) secrets: Secrets,
}

/// What a line says.
struct Parts<'a> {
    level: Level,
    target: &'a str,
    message: &'a str,
    fields: &'a [(&'static str, Value)],
    spans: &'a [String],
}

/// What stands in the place of what is left out.
const CUT: &str = "…";
const RESET: &str = "\x1b[0m";

impl Lines {
    /// A line about the log itself.
    pub(super) fn about_lost(&self, lost: u64) -> String {
        let message = format!("{lost} log lines were lost: what reads the log is too slow");
        let parts = Parts {
            level: Level::WARN,
            target: "stellane::log",
            message: &message,
            fields: &[],
            spans: &[],
        };
        let mut line = String::new();
        // A `String` takes all.
        let _ = self.compose(&mut line, &parts);
        line
    }

    fn compose(&self, line: &mut String, parts: &Parts<'_>) -> fmt::Result {
        if self.format == LogFormat::Json {
            return self.json(line, parts);
        }
        let level = parts.level;
        if self.colours {
            line.push_str("\x1b[2m");
        }
        SystemTime.format_time(&mut Writer::new(line))?;
        if self.colours {
            let colour = match level {
                Level::ERROR => 31,
                Level::WARN => 33,
                Level::INFO => 32,
                Level::DEBUG => 34,
                _ => 35,
            };
            write!(line, "{RESET} \x1b[{colour}m{level:>5}{RESET} ")?;
        } else {
            write!(line, " {level:>5} ")?;
        }
        for span in parts.spans {
            write!(line, "{span}: ")?;
        }
        if self.format == LogFormat::Text {
            write!(line, "{}: ", parts.target)?;
        }
        line.push_str(parts.message);
        for (name, value) in parts.fields {
            write!(line, " {name}={}", value.as_text())?;
        }
        cut(line, self.most_bytes);
        Ok(())
    }

    fn json(&self, line: &mut String, parts: &Parts<'_>) -> fmt::Result {
        let mut left = self.most_bytes;
        line.push_str("{\"timestamp\":\"");
        SystemTime.format_time(&mut Writer::new(line))?;
        write!(line, "\",\"level\":\"{}\",\"target\":", parts.level)?;
        json_text(line, parts.target, &mut left);
        line.push_str(",\"message\":");
        json_text(line, parts.message, &mut left);
        for (name, value) in parts.fields {
            if left == 0 {
                break;
            }
            // Names of one's own do not take the place of ours.
            let ours = matches!(
                *name,
                "timestamp" | "level" | "target" | "message" | "spans"
            );
            line.push(',');
            json_text(
                line,
                &format!("{}{name}", if ours { "field_" } else { "" }),
                &mut left,
            );
            line.push(':');
            match value {
                Value::Bare(value) => line.push_str(value),
                Value::Text { text, .. } => json_text(line, text, &mut left),
            }
        }
        if !parts.spans.is_empty() && left > 0 {
            line.push_str(",\"spans\":[");
            for (i, span) in parts.spans.iter().enumerate() {
                if i > 0 {
                    line.push(',');
                }
                json_text(line, span, &mut left);
            }
            line.push(']');
        }
        line.push('}');
        Ok(())
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut seen = Seen::new(self);
        event.record(&mut seen);
        let scope = context.event_scope().into_iter();
        let spans = scope.flat_map(tracing_subscriber::registry::Scope::from_root);
        let spans: Vec<_> = spans
            .map(|span| {
                let extensions = span.extensions();
                let fields = extensions.get::<FormattedFields<N>>();
                match fields.map(|fields| fields.as_str()).unwrap_or_default() {
                    "" => span.name().to_owned(),
                    fields => format!("{}{{{fields}}}", span.name()),
                }
            })
            .collect();
        let parts = Parts {
            level: *event.metadata().level(),
            target: event.metadata().target(),
            message: seen.message.as_deref().unwrap_or_default(),
            fields: &seen.fields,
            spans: &spans,
        };
        let mut line = String::new();
        self.compose(&mut line, &parts)?;
        line.push('\n');
        writer.write_str(&line)
    }
}

impl<'writer> FormatFields<'writer> for Lines {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut seen = Seen::new(self);
        seen.of_span = true;
        fields.record(&mut seen);
        let message = seen
            .message
            .map(|message| ("message", Value::text(message)));
        for (i, (name, value)) in message.iter().chain(&seen.fields).enumerate() {
            let space = if i > 0 { " " } else { "" };
            for part in [space, name, "=", &*value.as_text()] {
                writer.write_str(part)?;
            }
        }
        Ok(())
    }
}

/// A value as it may be shown: without secrets and control characters.
enum Value {
    /// A number, `true` or `false`.
    Bare(String),
    Text {
        text: String,
        /// It was a string, which is quoted where it stands beside others.
        is_quoted: bool,
    },
}

impl Value {
    fn text(text: String) -> Self {
        let is_quoted = false;
        Self::Text { text, is_quoted }
    }

    fn as_text(&self) -> Cow<'_, str> {
        match self {
            Self::Text {
                text,
                is_quoted: true,
            } => format!("\"{}\"", text.replace('"', "\\\"")).into(),
            Self::Bare(value) | Self::Text { text: value, .. } => value.into(),
        }
    }
}

/// The fields of an event or of a span.
struct Seen<'a> {
    lines: &'a Lines,
    of_span: bool,
    message: Option<String>,
    fields: Vec<(&'static str, Value)>,
}

impl<'a> Seen<'a> {
    fn new(lines: &'a Lines) -> Self {
        Self {
            lines,
            of_span: false,
            message: None,
            fields: Vec::new(),
        }
    }

    /// The ledger of a request: its span is told of it at its end, and only tasks that outlive it write lines after that.
    fn is_left_out(&self, field: &Field) -> bool {
        self.of_span && field.name().starts_with("stellane.")
    }

    fn note(&mut self, field: &Field, value: Value) {
        let secret = self.lines.secrets.is_secret(field.name());
        let hidden = || Value::text(Secrets::REDACTED.to_owned());
        // Of tokens, which is none of them.
        let is_count = || field.name().to_ascii_lowercase().contains("token");
        let value = match value {
            Value::Text { text, .. } if secret && !text.is_empty() => hidden(),
            Value::Bare(number) if secret && !is_count() && number.parse::<bool>().is_err() => {
                hidden()
            }
            value => value,
        };
        self.fields.push((field.name(), value));
    }

    /// What came from elsewhere can neither begin a line nor move the cursor of a terminal.
    fn shown(&self, text: &str) -> String {
        // Most texts are one word, in which there can be no secret.
        let is_plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'=' | b':');
        if text.len() <= self.lines.most_bytes && text.bytes().all(is_plain) {
            return text.to_owned();
        }
        let text = self.lines.secrets.text(text);
        let mut shown = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                c if c.is_control() || is_bidirectional(c) => shown.extend(c.escape_default()),
                c => shown.push(c),
            }
            if shown.len() > self.lines.most_bytes {
                shown.push_str(CUT);
                break;
            }
        }
        shown
    }
}

impl Visit for Seen<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = self.shown(&format!("{value:?}"));
        if field.name() == "message" && self.message.is_none() {
            self.message = Some(text);
        } else {
            self.note(field, Value::text(text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if self.is_left_out(field) {
            return;
        }
        let (text, is_quoted) = (self.shown(value), true);
        self.note(field, Value::Text { text, is_quoted });
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let text = self.shown(&value.to_string());
        self.note(field, Value::text(text));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.note(field, Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.note(field, Value::Bare(value.to_string()));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.note(field, Value::text(value.to_string()));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.note(field, Value::text(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.note(field, Value::Bare(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if self.is_left_out(field) {
            return;
        }
        // JSON has no word for the others.
        let value = match value.is_finite() {
            true => Value::Bare(value.to_string()),
            false => Value::text(value.to_string()),
        };
        self.note(field, value);
    }
}

/// Characters that change the order in which others are shown.
fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// Leaves so many bytes of a line, whole characters of them.
fn cut(line: &mut String, most: usize) {
    if line.len() > most {
        let whole = (0..=most).rev().find(|at| line.is_char_boundary(*at));
        line.truncate(whole.unwrap_or(0));
        line.push_str(CUT);
    }
}

/// A string of JSON, of no more characters than are left.
fn json_text(line: &mut String, text: &str, left: &mut usize) {
    line.push('"');
    for c in text.chars() {
        let Some(less) = left.checked_sub(c.len_utf8()) else {
            *left = 0;
            line.push_str(CUT);
            break;
        };
        *left = less;
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            c if c < ' ' => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line.push('"');
}
