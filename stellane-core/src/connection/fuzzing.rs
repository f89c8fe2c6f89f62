//! The parsers of what strangers send, for `stellane-core/fuzz`. Not part of the API.

use std::{
    io::Cursor,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::Request;

use crate::connection::{
    config::http2::Http2Config,
    incoming::Incoming,
    protocol::{
        http1::{
            fast_path::{header_cache::HeaderCache, request},
            guard::{FramingGuard, Verdict},
        },
        http2::{
            abuse::{Abuse, AbuseMeter},
            ledger::Ledger,
            trailers::TrailerMarks,
        },
    },
    table::record::Record,
    transport::{proxy_protocol, socket::Socket},
};

/// Reads the heads of a connection's requests.
///
/// # Panics
/// If it matters what was sent before, or the guard sees another head.
pub fn heads<'a>(reads: impl Iterator<Item = &'a [u8]>) {
    let mut cache = HeaderCache::default();
    for read in reads {
        let bytes = Bytes::copy_from_slice(read);
        let (length, request) = head(&bytes, &mut cache);
        let (fresh_length, fresh) = head(&bytes, &mut HeaderCache::default());
        assert_eq!(length, fresh_length, "length");
        let Some(length) = length else { continue };
        assert_eq!(request.method(), fresh.method(), "method");
        assert_eq!(request.uri(), fresh.uri(), "target");
        assert_eq!(request.headers(), fresh.headers(), "fields");
        let mut guard = FramingGuard::new();
        let verdict = guard.look(&mut read[..length].to_vec());
        assert_eq!((verdict, guard.heads()), (Verdict::Fine, 1), "guard");
        assert!(!guard.in_body() && !guard.is_held(), "no simple request");
    }
}

fn head(bytes: &Bytes, cache: &mut HeaderCache) -> (Option<usize>, Request<Incoming>) {
    let mut request = Request::new(Incoming::default());
    let length = request::parse(bytes, 64 << 10, cache, &mut request);
    (length, request)
}

/// What the guard lets through.
#[derive(Debug)]
pub struct Guarded {
    /// What hyper gets, but for a part of a line in which it was stopped.
    pub passed: Vec<u8>,
    /// How many heads the guard has seen.
    pub heads: u64,
}

/// Has the guard look at bytes in pieces; an upgrade that is asked for is declined.
///
/// # Panics
/// If it changes other bytes than the one that it spoils.
#[must_use]
pub fn guard(bytes: &[u8], piece: usize) -> Guarded {
    let mut guard = FramingGuard::new();
    let mut passed = bytes.to_vec();
    let mut at = 0;
    while at < passed.len() {
        let end = at.saturating_add(piece).min(passed.len());
        match guard.look(&mut passed[at..end]) {
            Verdict::Fine => at = end,
            Verdict::Held(hypers) => {
                at += hypers;
                guard.decide(false);
            }
            Verdict::Spoilt => break,
            Verdict::Unknown(start) => {
                passed.truncate(at + start);
                let line = passed.iter().rposition(|byte| *byte == b'\n');
                passed.truncate(line.map_or(0, |feed| feed + 1));
                break;
            }
        }
    }
    let changed = passed.iter().zip(bytes).filter(|(a, b)| a != b).count();
    assert!(changed <= 1, "{changed} bytes are spoilt");
    Guarded {
        passed,
        heads: guard.heads(),
    }
}

/// Reads the header of a proxy.
///
/// # Panics
/// If more is taken than the header, or it waits for more than there is.
pub fn proxy_header(bytes: &[u8]) {
    let io = tokio::io::join(Cursor::new(bytes.to_vec()), tokio::io::sink());
    let mut socket = Socket::Other(Box::new(io));
    let mut cx = Context::from_waker(Waker::noop());
    let read = match pin!(proxy_protocol::read_header(&mut socket)).poll(&mut cx) {
        Poll::Ready(read) => read,
        Poll::Pending => panic!("waits, though all is there"),
    };
    if read.is_err() {
        return;
    }
    let mut rest = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut rest);
    assert!(pin!(reading).poll(&mut cx).is_ready());
    let header = &bytes[..bytes.len() - rest.len()];
    let whole = match header.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n") {
        Some([_, _, high, low, rest @ ..]) => {
            rest.len() == usize::from(u16::from_be_bytes([*high, *low]))
        }
        // What stands before the end of the line is nobody's business if the proxy knows no address.
        _ => {
            let end = header.windows(2).position(|two| two == b"\r\n");
            header.len() <= 107 && end == Some(header.len() - 2)
        }
    };
    assert!(whole && bytes.ends_with(&rest), "{header:?}");
}

/// Has the meter look at frames in both directions, whole and in pieces. A byte says how many come next, and by its
/// lowest bit who sends them.
///
/// # Panics
/// If it matters how they are cut.
pub fn abuse_meter(bytes: &[u8], piece: usize) {
    assert_eq!(
        verdicts(bytes, usize::MAX),
        verdicts(bytes, piece),
        "cut by {piece}"
    );
}

/// Has trailers marked in what a client sends, whole and in pieces.
///
/// # Panics
/// If it matters how it is cut.
pub fn trailer_marks(bytes: &[u8], piece: usize) {
    assert_eq!(
        marked(bytes, usize::MAX),
        marked(bytes, piece),
        "cut by {piece}"
    );
}

/// What h2 gets.
fn marked(bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut marks = TrailerMarks::after(0);
    let mut got = Vec::new();
    for piece in bytes.chunks(piece) {
        let whole = marks.look(piece);
        got.extend_from_slice(&piece[..whole]);
        got.extend(marks.take(usize::MAX).into_iter().flatten());
    }
    got
}

fn verdicts(mut bytes: &[u8], piece: usize) -> Vec<(Abuse, Option<[u8; 17]>)> {
    let record = Arc::new(Record::new(1, 0, None, false, 0, 0));
    let mut meter = AbuseMeter::new(&Http2Config::default(), Arc::new(Ledger::new(record)), 0);
    let (mut requests, mut verdicts) = (0, Vec::new());
    while let Some((kind, rest)) = bytes.split_first() {
        let (part, rest) = rest.split_at(rest.len().min(usize::from(kind >> 1)));
        bytes = rest;
        requests += u64::from(kind >> 7);
        let mut abuse = Abuse::None;
        for piece in part.chunks(piece) {
            match kind & 1 {
                0 => abuse = meter.look(piece, requests, requests),
                _ => meter.wrote(piece),
            }
        }
        verdicts.push((abuse, meter.last_words()));
    }
    verdicts
}
