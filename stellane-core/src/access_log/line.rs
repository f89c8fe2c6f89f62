//! What a line looks like. What a client has sent is escaped and cut, and can begin no line of its own.

use std::{
    cell::{Cell, RefCell},
    fmt::Write,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Version};
use humantime_serde::re::humantime::{format_rfc3339_millis, format_rfc3339_seconds};

use super::{
    entry::{End, Entry},
    log::Named,
};
use crate::config::AccessLogField as Field;

/// What is kept of the memory of a long line.
const KEPT: usize = 16 << 10;

thread_local! {
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
    /// A second since 1970, and how it is written.
    static SECOND: Cell<(u64, [u8; 19])> = const { Cell::new((u64::MAX, [0; 19])) };
}

pub(super) fn write(entry: &Entry, end: End, took: Duration) {
    // On a thread that is ending there is none to use again.
    let used = LINE.try_with(|line| {
        let mut line = line.try_borrow_mut().ok()?;
        line.clear();
        compose(&mut line, entry, end, took);
        entry.log.writer.line(line.as_bytes());
        line.shrink_to(KEPT);
        Some(())
    });
    if !matches!(used, Ok(Some(()))) {
        let mut line = String::new();
        compose(&mut line, entry, end, took);
        entry.log.writer.line(line.as_bytes());
    }
}

fn compose(line: &mut String, entry: &Entry, end: End, took: Duration) {
    let log = &*entry.log;
    let is_json = log.is_json;
    if is_json {
        line.push('{');
    }
    let mut fields = Fields {
        line,
        is_json,
        most: log.most,
        is_first: true,
    };
    for Named { field, begin } in &log.fields {
        let name = &**begin;
        let notes = entry.notes.as_ref();
        match field {
            Field::Time => fields.time(name, entry.at),
            Field::Peer => {
                if let Some(peer) = entry.peer {
                    fields.peer(name, peer);
                }
            }
            Field::Method => fields.text(name, entry.method.as_str()),
            Field::Route => {
                if let Some(route) = notes.and_then(|notes| notes.route.as_deref()) {
                    fields.text(name, route);
                }
            }
            Field::Path => fields.text(name, entry.uri.path()),
            Field::Query => {
                if let Some(query) = entry.uri.query() {
                    fields.text(name, &log.secrets.text(query));
                }
            }
            Field::Version => fields.own(name, version(entry.version)),
            Field::Host => match (&entry.host, entry.uri.authority()) {
                (Some(host), _) => fields.bytes(name, host),
                (None, Some(authority)) => fields.text(name, authority.as_str()),
                (None, None) => {}
            },
            Field::Status if entry.status > 0 => fields.number(name, entry.status),
            Field::Status => {}
            Field::GrpcStatus => match (notes.and_then(|notes| notes.grpc), &entry.grpc) {
                (Some(code), _) => fields.text(name, code),
                (None, Some(code)) => fields.bytes(name, code),
                (None, None) => {}
            },
            Field::RequestBytes => {
                if let Some(bytes) = entry.request_bytes {
                    fields.number(name, bytes);
                }
            }
            Field::ResponseBytes => fields.number(name, entry.response_bytes),
            Field::HeadSeconds => {
                if let Some(head) = entry.head {
                    fields.seconds(name, head);
                }
            }
            Field::DurationSeconds => fields.seconds(name, took),
            Field::End => fields.own(name, end.as_str()),
            Field::Timing => {
                for (account, nanos) in notes.iter().flat_map(|notes| notes.accounts()) {
                    fields.account(name, account, Duration::from_nanos(nanos));
                }
            }
            Field::RequestId => fields.some_bytes(name, entry.id.as_ref()),
            Field::TraceId => {
                // Its own, or what its client has sent.
                if let Some(id) = notes.and_then(|notes| notes.trace_id) {
                    fields.plain(name, &format_args!("{id:032x}"));
                } else if let Some(id) = entry.traceparent.as_ref().and_then(trace_id) {
                    fields.text(name, id);
                }
            }
            Field::UserAgent => fields.some_bytes(name, entry.user_agent.as_ref()),
            Field::Referer => fields.some_bytes(name, entry.referer.as_ref()),
        }
    }
    if is_json {
        line.push('}');
    }
}

struct Fields<'a> {
    line: &'a mut String,
    is_json: bool,
    most: usize,
    is_first: bool,
}

impl Fields<'_> {
    /// How a field begins.
    fn name(&mut self, begin: &str) {
        let is_first = std::mem::take(&mut self.is_first);
        self.line.push_str(&begin[usize::from(is_first)..]);
    }

    fn time(&mut self, name: &str, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Most lines are of the second of the line before.
        let shown = SECOND.try_with(|second| {
            if second.get().0 != since.as_secs() {
                let text = format_rfc3339_seconds(at).to_string();
                let (text, _) = text.as_bytes().split_first_chunk()?;
                second.set((since.as_secs(), *text));
            }
            Some(second.get().1)
        });
        let Ok(Some(shown)) = shown else {
            return self.plain(name, &format_rfc3339_millis(at));
        };
        let (mut millis, rest) = (*b".000Z", since.subsec_millis());
        put_digits(&mut millis[1..4], rest);
        self.name(name);
        let quote = if self.is_json { "\"" } else { "" };
        let [shown, millis] = [&shown[..], &millis].map(|text| str::from_utf8(text).unwrap_or(""));
        self.line.extend([quote, shown, millis, quote]);
    }

    fn peer(&mut self, name: &str, peer: SocketAddr) {
        let SocketAddr::V4(peer) = peer else {
            return self.plain(name, &peer);
        };
        self.name(name);
        let quote = if self.is_json { "\"" } else { "" };
        self.line.push_str(quote);
        let mut number = itoa::Buffer::new();
        for (byte, dot) in peer.ip().octets().into_iter().zip([".", ".", ".", ":"]) {
            self.line.extend([number.format(byte), dot]);
        }
        self.line.extend([number.format(peer.port()), quote]);
    }

    /// Of ours: there is nothing to escape.
    fn plain(&mut self, name: &str, value: &dyn std::fmt::Display) {
        self.name(name);
        let quote = if self.is_json { "\"" } else { "" };
        // A `String` takes all.
        let _ = write!(self.line, "{quote}{value}{quote}");
    }

    /// A word of ours.
    fn own(&mut self, name: &str, word: &str) {
        self.name(name);
        let quote = if self.is_json { "\"" } else { "" };
        self.line.extend([quote, word, quote]);
    }

    fn number(&mut self, name: &str, number: impl itoa::Integer) {
        self.name(name);
        self.line.push_str(itoa::Buffer::new().format(number));
    }

    fn seconds(&mut self, name: &str, duration: Duration) {
        self.name(name);
        self.amount(duration);
    }

    fn amount(&mut self, duration: Duration) {
        self.line
            .push_str(itoa::Buffer::new().format(duration.as_secs()));
        // Six digits behind the point.
        let mut digits = *b".000000";
        put_digits(&mut digits[1..], duration.subsec_micros());
        self.line
            .push_str(str::from_utf8(&digits).unwrap_or_default());
    }

    /// The name of an account is the program's: no other characters than those of a word.
    fn account(&mut self, name: &str, account: &str, took: Duration) {
        self.name(name);
        let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        self.line.extend(account.chars().map(word));
        self.line.push_str(if self.is_json { "\":" } else { "=" });
        self.amount(took);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        let is_word = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'=');
        let is_bare = !value.is_empty() && value.len() <= self.most && value.bytes().all(is_word);
        if is_bare && !self.is_json {
            self.line.push_str(value);
        } else {
            self.quoted(value);
        }
    }

    fn bytes(&mut self, name: &str, value: &HeaderValue) {
        self.text(name, &String::from_utf8_lossy(value.as_bytes()));
    }

    fn some_bytes(&mut self, name: &str, value: Option<&HeaderValue>) {
        if let Some(value) = value {
            self.bytes(name, value);
        }
    }

    fn quoted(&mut self, value: &str) {
        let line = &mut *self.line;
        line.push('"');
        let begin = line.len();
        let is_plain = |b: u8| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\');
        if value.len() <= self.most && value.bytes().all(is_plain) {
            line.extend([value, "\""]);
            return;
        }
        for c in value.chars() {
            if line.len() - begin + c.len_utf8() > self.most {
                line.push('…');
                break;
            }
            match c {
                '"' => line.push_str("\\\""),
                '\\' => line.push_str("\\\\"),
                // What terminals obey, what ends lines, and what turns them around.
                c if c.is_control() || is_tricky(c) => {
                    let _ = write!(line, "\\u{:04x}", u32::from(c));
                }
                c => line.push(c),
            }
        }
        line.push('"');
    }
}

fn put_digits(to: &mut [u8], mut number: u32) {
    for digit in to.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn is_tricky(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

fn trace_id(traceparent: &HeaderValue) -> Option<&str> {
    let id = traceparent.to_str().ok()?.get(3..35)?;
    let is_hex = id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then_some(id)
}
