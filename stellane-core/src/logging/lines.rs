//! What a log line looks like.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime, SystemTime},
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
        self.line(&parts)
    }

    /// An event within these spans.
    pub(super) fn event(&self, event: &Event<'_>, spans: &[String]) -> String {
        let mut seen = Seen::new(self);
        event.record(&mut seen);
        let parts = Parts {
            level: *event.metadata().level(),
            target: event.metadata().target(),
            message: seen.message.as_deref().unwrap_or_default(),
            fields: &seen.fields,
            spans,
        };
        self.line(&parts)
    }

    fn line(&self, parts: &Parts<'_>) -> String {
        let mut line = String::new();
        // A `String` takes all.
        let _ = self.compose(&mut line, parts);
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
pub(super) struct Seen<'a> {
    lines: &'a Lines,
    message: Option<String>,
    fields: Vec<(&'static str, Value)>,
}

impl<'a> Seen<'a> {
    pub(super) fn new(lines: &'a Lines) -> Self {
        Self {
            lines,
            message: None,
            fields: Vec::new(),
        }
    }

    /// Adds the fields of a span to those before.
    pub(super) fn put(self, to: &mut String) {
        let message = self
            .message
            .map(|message| ("message", Value::text(message)));
        for (name, value) in message.iter().chain(&self.fields) {
            let space = if to.is_empty() { "" } else { " " };
            to.extend([space, name, "=", &*value.as_text()]);
        }
    }

    fn note(&mut self, name: &'static str, value: Value) {
        let secret = self.lines.secrets.is_secret(name);
        let hidden = || Value::text(Secrets::REDACTED.to_owned());
        // Of tokens, which is none of them.
        let is_count = || name.to_ascii_lowercase().contains("token");
        let value = match value {
            Value::Text { text, .. } if secret && !text.is_empty() => hidden(),
            Value::Bare(number) if secret && !is_count() && number.parse::<bool>().is_err() => {
                hidden()
            }
            value => value,
        };
        self.fields.push((name, value));
    }

    /// A number, `true` or `false`.
    pub(super) fn bare(&mut self, name: &'static str, value: &impl ToString) {
        self.note(name, Value::Bare(value.to_string()));
    }

    pub(super) fn float(&mut self, name: &'static str, value: f64) {
        // JSON has no word for the others.
        match value.is_finite() {
            true => self.bare(name, &value),
            false => self.note(name, Value::text(value.to_string())),
        }
    }

    /// A string.
    pub(super) fn string(&mut self, name: &'static str, value: &str) {
        let (text, is_quoted) = (self.lines.shown(value), true);
        self.note(name, Value::Text { text, is_quoted });
    }

    /// What has become text: of an event, its first `message` is what it says.
    pub(super) fn text(&mut self, name: &'static str, value: &str) {
        let text = self.lines.shown(value);
        if name == "message" && self.message.is_none() {
            self.message = Some(text);
        } else {
            self.note(name, Value::text(text));
        }
    }
}

impl Lines {
    /// What came from elsewhere can neither begin a line nor move the cursor of a terminal.
    pub(super) fn shown(&self, text: &str) -> String {
        // Most texts are one word, in which there can be no secret.
        let is_plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'=' | b':');
        if text.len() <= self.most_bytes && text.bytes().all(is_plain) {
            return text.to_owned();
        }
        let text = self.secrets.text(text);
        let mut shown = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                c if c.is_control() || is_bidirectional(c) => shown.extend(c.escape_default()),
                c => shown.push(c),
            }
            if shown.len() > self.most_bytes {
                shown.push_str(CUT);
                break;
            }
        }
        shown
    }
}

impl Visit for Seen<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.string(field.name(), value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let text = self.lines.shown(&value.to_string());
        self.note(field.name(), Value::text(text));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field.name(), &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field.name(), &value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.note(field.name(), Value::text(value.to_string()));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.note(field.name(), Value::text(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field.name(), &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.float(field.name(), value);
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
