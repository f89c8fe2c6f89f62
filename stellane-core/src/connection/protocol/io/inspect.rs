//! What looks at the bytes that a client sends, before hyper reads them.

use std::{error, fmt, io};

#[cfg(feature = "http2")]
use crate::connection::protocol::http2::{
    abuse::{Abuse, AbuseMeter},
    trailers::TrailerMarks,
};
use crate::connection::{
    protocol::{
        http1::guard::{FramingGuard, Verdict},
        open_body,
    },
    table::{clock::Clock, record::Record},
};

/// What there is to look at.
#[derive(Debug)]
pub(crate) enum Watch {
    Nothing,
    Http1(FramingGuard),
    #[cfg(feature = "http2")]
    Http2(Box<AbuseMeter>, Option<Box<TrailerMarks>>),
}

/// Follows what hyper reads, with the requests that it has begun.
#[derive(Debug)]
pub(crate) struct Inspector {
    watch: Watch,
    /// Requests of the connection before hyper was there.
    requests_before: u64,
    /// Whether the next head is of a request that is not for hyper to answer.
    refuses: bool,
}

/// The body of a request comes in a way that nobody here knows: 501.
#[derive(Debug)]
pub(crate) struct UnknownCoding;

impl fmt::Display for UnknownCoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown transfer coding")
    }
}

impl error::Error for UnknownCoding {}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// A byte was spoilt; the end of a head makes hyper answer now.
    Spoilt,
    /// So many bytes are hyper's, and no more: see [`Inspector::refuses`].
    Refused(usize),
    /// So many bytes are hyper's; the others are once it is known whether they are HTTP.
    Behind(usize),
}

impl Inspector {
    pub(crate) fn new(watch: Watch, requests_before: u64) -> Self {
        Self {
            watch,
            requests_before,
            refuses: false,
        }
    }

    /// hyper begins with a request, after so many.
    pub(crate) fn begin_anew(&mut self, requests_before: u64) {
        self.requests_before = requests_before;
        if let Watch::Http1(guard) = &mut self.watch {
            *guard = FramingGuard::new();
        }
    }

    /// Looks at bytes on their way to hyper.
    ///
    /// # Errors
    /// The client is to be served no more.
    pub(crate) fn look(
        &mut self,
        bytes: &mut [u8],
        record: &Record,
        clock: &Clock,
    ) -> io::Result<Found> {
        #[cfg(not(feature = "http2"))]
        let _ = clock;
        let guard = match &mut self.watch {
            _ if bytes.is_empty() => return Ok(Found::Nothing),
            Watch::Nothing => return Ok(Found::Nothing),
            Watch::Http1(guard) => guard,
            #[cfg(feature = "http2")]
            Watch::Http2(meter, _) => {
                let abuse = meter.look(bytes, record.requests(), clock.now());
                if meter.has_answered_ping() {
                    record.flags().answer_ping();
                }
                if abuse != Abuse::None {
                    record.flags().set_abusive();
                }
                return match abuse {
                    Abuse::Hard => Err(io::ErrorKind::ConnectionAborted.into()),
                    Abuse::Soft | Abuse::None => Ok(Found::Nothing),
                };
            }
        };
        if guard.is_held() {
            let upgraded = record.flags().is_upgraded();
            if upgraded || record.answers().in_flight() == 0 {
                guard.decide(upgraded);
            }
        }
        match guard.look(bytes) {
            Verdict::Fine => {}
            Verdict::Spoilt => return Ok(Found::Spoilt),
            Verdict::Unknown(at) => {
                self.refuses = true;
                return Ok(Found::Refused(at));
            }
            Verdict::Held(at) => {
                self.found_behind_upgrade(record);
                return Ok(Found::Behind(at));
            }
        }
        Ok(Found::Nothing)
    }

    /// Bytes behind a declined upgrade are requests like others. Behind a refused CONNECT they are not to be taken for
    /// any: proxies are known that send on what their own client says before they are answered (RFC 9931, 7).
    fn found_behind_upgrade(&self, record: &Record) {
        let Watch::Http1(guard) = &self.watch else {
            return;
        };
        if !guard.is_connect() {
            return;
        }
        record.flags().set_bytes_behind_upgrade();
        if self.requests_before + guard.heads() <= record.requests() {
            record.flags().close_after_response();
        }
    }

    /// Bytes were read that hyper has not asked for, while a service is at work.
    pub(crate) fn has_read_ahead(&self, record: &Record) {
        let is_held = matches!(&self.watch, Watch::Http1(guard) if guard.is_held());
        if is_held && !record.flags().is_upgraded() && record.answers().in_flight() > 0 {
            self.found_behind_upgrade(record);
        }
    }

    pub(crate) fn is_http2(&self) -> bool {
        #[cfg(feature = "http2")]
        return matches!(&self.watch, Watch::Http2(..));
        #[cfg(not(feature = "http2"))]
        false
    }

    /// Whether the next byte may begin a request. Without a guard nobody knows.
    pub(crate) fn is_between_messages(&self) -> bool {
        match &self.watch {
            Watch::Http1(guard) => !guard.in_body(),
            Watch::Nothing => true,
            #[cfg(feature = "http2")]
            Watch::Http2(..) => false,
        }
    }

    /// Whether hyper has no request to answer any more, and is not to have the next: in place of its bytes it gets
    /// an error once those before it are answered.
    pub(crate) fn refuses(&self) -> bool {
        self.refuses
    }

    /// Whether hyper is done with the requests whose heads were read.
    pub(crate) fn all_are_answered(&self, record: &Record) -> bool {
        let Watch::Http1(guard) = &self.watch else {
            return false;
        };
        self.requests_before + guard.heads() <= record.requests()
            && record.answers().in_flight() == 0
            && open_body::none_open()
    }

    /// Looks at bytes that were written.
    #[inline]
    pub(crate) fn wrote(&mut self, bytes: &[u8]) {
        match &mut self.watch {
            #[cfg(feature = "http2")]
            Watch::Http2(meter, _) => meter.wrote(bytes),
            _ => {
                let _ = bytes;
            }
        }
    }

    /// What marks the trailers of streams, if anything does.
    #[cfg(feature = "http2")]
    #[inline]
    pub(crate) fn trailer_marks(&mut self) -> Option<&mut TrailerMarks> {
        match &mut self.watch {
            Watch::Http2(_, marks) => marks.as_deref_mut(),
            _ => None,
        }
    }

    /// What a client is told in the end that abuses its connection.
    #[cfg(feature = "http2")]
    pub(crate) fn last_words(&self, record: &Record) -> Option<[u8; 17]> {
        match &self.watch {
            Watch::Http2(meter, _) if record.flags().is_abusive() => meter.last_words(),
            _ => None,
        }
    }

    /// Whether the next byte belongs to a body.
    pub(crate) fn is_in_body(&self) -> bool {
        matches!(&self.watch, Watch::Http1(guard) if guard.in_body())
    }

    /// Whether hyper has the whole head of another request and nothing to do before it reads that: it will
    /// write again without waiting for anybody.
    pub(crate) fn another_follows(&self, record: &Record) -> bool {
        let Watch::Http1(guard) = &self.watch else {
            return false;
        };
        self.requests_before + guard.heads() > record.requests()
            && record.answers().in_flight() == 0
            && open_body::none_open()
            // hyper waits until the body of a request is read.
            && !record.had_body()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "http2")]
    use crate::connection::{config::http2::Http2Config, protocol::http2::ledger::Ledger};

    fn record() -> Record {
        Record::new(1, 0, None, false, 0, 0)
    }

    fn look(inspector: &mut Inspector, bytes: &[u8], record: &Record) -> io::Result<Found> {
        inspector.look(&mut bytes.to_vec(), record, &Clock::new())
    }

    fn http1(requests_before: u64) -> Inspector {
        Inspector::new(Watch::Http1(FramingGuard::new()), requests_before)
    }

    #[test]
    fn another_request_follows_until_hyper_has_begun_all_whose_heads_were_read() {
        let record = record();
        record.begin_request(false, 0);
        let mut inspector = http1(1);
        let two = b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\nGET / HT";
        assert_eq!(
            look(&mut inspector, two, &record).expect("fine"),
            Found::Nothing
        );
        for another in [true, true, false] {
            assert_eq!(inspector.another_follows(&record), another);
            record.begin_request(false, 0);
        }
        inspector.begin_anew(4);
        assert!(!inspector.another_follows(&record));
    }

    #[test]
    fn no_other_follows_while_a_handler_waits_or_a_body_is_read() {
        let record = record();
        let mut inspector = http1(0);
        look(&mut inspector, b"GET / HTTP/1.1\r\n\r\n", &record).expect("fine");
        record.answers().wait_begins();
        assert!(!inspector.another_follows(&record));
        record.answers().wait_ends();
        assert!(inspector.another_follows(&record));
        let post = b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nab";
        look(&mut inspector, post, &record).expect("fine");
        assert!(inspector.is_in_body());
        record.begin_request(true, 0);
        assert!(!inspector.another_follows(&record));
    }

    #[test]
    fn bytes_behind_a_connect_make_its_response_the_last() {
        let (connect, behind) = ("CONNECT x:1 HTTP/1.1\r\n\r\n", "more");
        for (begun, at_connect) in [(false, true), (true, false)] {
            let record = record();
            record.answers().wait_begins();
            if begun {
                record.begin_request(false, 0);
            }
            let bytes = [connect, behind].concat();
            let found = look(&mut http1(0), bytes.as_bytes(), &record).expect("fine");
            assert_eq!(found, Found::Behind(connect.len()));
            let flags = record.flags();
            assert!(flags.has_bytes_behind_upgrade());
            assert_eq!(flags.closes_after_response(), !at_connect);
        }
    }

    #[test]
    fn bytes_behind_a_request_for_an_upgrade_wait_for_what_comes_of_it() {
        let upgrade = "GET / HTTP/1.1\r\nupgrade: x\r\n\r\n";
        // A bare line feed, which is nobody's business but the other protocol's.
        let behind = b"GET / HTTP/1.1\n\r\n";
        for (upgraded, found) in [(true, Found::Nothing), (false, Found::Spoilt)] {
            let record = record();
            record.answers().wait_begins();
            let mut inspector = http1(0);
            let bytes = [upgrade.as_bytes(), behind].concat();
            for (bytes, hypers) in [(&bytes[..], upgrade.len()), (behind, 0)] {
                let waits = look(&mut inspector, bytes, &record).expect("fine");
                assert_eq!(waits, Found::Behind(hypers));
            }
            record.begin_request(false, 0);
            record.answers().wait_ends();
            if upgraded {
                record.flags().set_upgraded();
            }
            assert!(!record.flags().closes_after_response());
            assert_eq!(look(&mut inspector, behind, &record).expect("fine"), found);
        }
    }

    #[test]
    fn a_bare_line_feed_is_spoilt_and_without_a_guard_it_is_not() {
        let bare = b"GET / HTTP/1.1\n\r\n";
        let found = look(&mut http1(0), bare, &record()).expect("an answer");
        assert_eq!(found, Found::Spoilt);
        let mut blind = Inspector::new(Watch::Nothing, 0);
        assert_eq!(
            look(&mut blind, bare, &record()).expect("fine"),
            Found::Nothing
        );
    }

    #[cfg(feature = "http2")]
    #[test]
    fn a_flood_marks_the_connection_and_then_ends_it() {
        let record = record();
        let ledger = std::sync::Arc::new(Ledger::new(std::sync::Arc::new(self::record())));
        let meter = AbuseMeter::new(&Http2Config::default(), ledger, 0);
        let mut inspector = Inspector::new(Watch::Http2(Box::new(meter), None), 0);
        look(&mut inspector, &[0; 24], &record).expect("the preface");
        assert!(!record.flags().is_abusive());
        // Heads of PING frames, one after the other.
        let ping = [0, 0, 0, 6, 0, 0, 0, 0, 0];
        look(&mut inspector, &ping.repeat(800), &record).expect("still served");
        assert!(record.flags().is_abusive());
        look(&mut inspector, &ping.repeat(800), &record).expect_err("too many");
    }
}
