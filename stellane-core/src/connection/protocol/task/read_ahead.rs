//! What is read while a handler waits.

use bytes::{Buf, Bytes};

/// What was read around a request that has no answer yet.
pub(crate) struct ReadAhead {
    /// Its head, and what was read with it.
    bytes: Bytes,
    head: usize,
    /// What was read while its handler waited.
    ahead: Bytes,
}

impl ReadAhead {
    /// These bytes begin with a request whose head is so long.
    pub(crate) fn new(bytes: Bytes, head: usize) -> Self {
        Self {
            bytes,
            head,
            ahead: Bytes::new(),
        }
    }

    /// More has come. To be called once, and only if nothing was read behind the request before.
    pub(crate) fn add(&mut self, ahead: Bytes) {
        self.ahead = ahead;
    }

    /// Whether nothing was read behind the request.
    pub(crate) fn is_last(&self) -> bool {
        self.ahead.is_empty() && self.bytes.len() == self.head
    }

    /// What was read behind the request.
    pub(crate) fn rest(mut self) -> Bytes {
        self.bytes.advance(self.head);
        match self.bytes.is_empty() {
            true => self.ahead,
            false => self.bytes,
        }
    }

    /// The request, and all that was read behind it.
    pub(crate) fn whole(self) -> Bytes {
        match self.ahead.is_empty() {
            true => self.bytes,
            false => [&self.bytes[..], &self.ahead[..]].concat().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_behind_a_request_is_told_apart_from_it() {
        for (bytes, ahead, rest, whole) in [
            ("GET", "", "", "GET"),
            ("GETnext", "", "next", "GETnext"),
            ("GET", "later", "later", "GETlater"),
        ] {
            let read = || {
                let mut read = ReadAhead::new(Bytes::from(bytes), 3);
                read.add(Bytes::from(ahead));
                read
            };
            assert_eq!(read().is_last(), rest.is_empty());
            assert_eq!(read().rest(), rest);
            assert_eq!(read().whole(), whole);
        }
    }
}
