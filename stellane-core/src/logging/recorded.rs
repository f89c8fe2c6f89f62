//! What is recorded of a span, until a line is written within it: most spans see none, and a line takes long to make.

use std::{
    fmt::{self, Write},
    sync::{Mutex, PoisonError},
};

use tracing::field::{Field, Visit};

use super::lines::{Lines, Seen};

/// The fields of a span.
#[derive(Debug)]
pub(super) struct Fields(Mutex<Parts>);

#[derive(Debug)]
struct Parts {
    /// As lines show them.
    shown: String,
    /// Those that no line has shown yet.
    more: Recorded,
}

impl Fields {
    pub(super) fn new(recorded: Recorded) -> Self {
        Self(Mutex::new(Parts {
            shown: String::new(),
            more: recorded,
        }))
    }

    pub(super) fn add(&self, mut recorded: Recorded) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.more.text.push_str(&recorded.text);
        parts.more.values.append(&mut recorded.values);
    }

    /// A span of this name, with its fields.
    pub(super) fn show(&self, name: &str, lines: &Lines) -> String {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Parts { shown, more } = &mut *parts;
        if !more.values.is_empty() {
            let mut seen = Seen::new(lines);
            std::mem::take(more).tell(&mut seen);
            seen.put(shown);
        }
        match shown.is_empty() {
            true => name.to_owned(),
            false => [name, "{", shown, "}"].concat(),
        }
    }
}

/// Fields as they came.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    values: Vec<(&'static str, Value)>,
    /// What is text of them, one behind the other.
    text: String,
}

#[derive(Debug, Clone, Copy)]
enum Value {
    Int(i64),
    Unsigned(u64),
    Bool(bool),
    Float(f64),
    /// A string of so many bytes.
    Str(usize),
    /// What was made text.
    Text(usize),
}

impl Recorded {
    /// Room for what most have.
    pub(super) fn with_room(values: usize, bytes: usize) -> Self {
        Self {
            values: Vec::with_capacity(values),
            text: String::with_capacity(bytes),
        }
    }

    /// Hears what is recorded.
    pub(super) fn by<'a>(&'a mut self, lines: &'a Lines) -> impl Visit + 'a {
        Recording {
            recorded: self,
            lines,
        }
    }

    pub(super) fn tell(&self, seen: &mut Seen<'_>) {
        let mut rest = &*self.text;
        let mut take = |bytes| {
            let (text, behind) = rest.split_at_checked(bytes).unwrap_or((rest, ""));
            rest = behind;
            text
        };
        for &(name, value) in &self.values {
            match value {
                Value::Int(value) => seen.bare(name, &value),
                Value::Unsigned(value) => seen.bare(name, &value),
                Value::Bool(value) => seen.bare(name, &value),
                Value::Float(value) => seen.float(name, value),
                Value::Str(bytes) => seen.string(name, take(bytes)),
                Value::Text(bytes) => seen.text(name, take(bytes)),
            }
        }
    }
}

struct Recording<'a> {
    recorded: &'a mut Recorded,
    lines: &'a Lines,
}

impl Recording<'_> {
    fn value(&mut self, field: &Field, value: Value) {
        self.recorded.values.push((field.name(), value));
    }

    fn text(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let text = &mut self.recorded.text;
        let begin = text.len();
        // A `String` takes all; what can't be shown is shown as far as it can.
        let _ = text.write_fmt(value);
        self.cut(begin);
        let bytes = self.recorded.text.len() - begin;
        self.value(field, Value::Text(bytes));
    }

    /// No more of what begins there than a line shows of it. A secret is not cut in two: it would not be seen as one.
    fn cut(&mut self, begin: usize) {
        let text = &mut self.recorded.text;
        if text.len() - begin > self.lines.most_bytes {
            let shown = self.lines.shown(&text[begin..]);
            text.truncate(begin);
            text.push_str(&shown);
        }
    }
}

/// The ledger of a request: its span is told of it at its end, and only tasks that outlive it write lines after that.
fn is_left_out(field: &Field) -> bool {
    field.name().starts_with("stellane.")
}

impl Visit for Recording<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if is_left_out(field) {
            return;
        }
        let begin = self.recorded.text.len();
        self.recorded.text.push_str(value);
        self.cut(begin);
        let bytes = self.recorded.text.len() - begin;
        self.value(field, Value::Str(bytes));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.value(field, Value::Int(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.value(field, Value::Unsigned(value));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.text(field, format_args!("{value}"));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.text(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.value(field, Value::Bool(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if !is_left_out(field) {
            self.value(field, Value::Float(value));
        }
    }
}
