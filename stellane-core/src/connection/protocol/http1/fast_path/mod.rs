//! Simple requests, which are answered without hyper.
//!
//! Most requests come whole, in one read, have no body and ask for nothing special of their connection; and most
//! of their answers are whole and short. For these hyper's state machine is most of what an HTTP/1 connection costs.
//! Here is the little that such a [request] and its [answer](response) need. All else goes to hyper, with the bytes as
//! they came, and with the answer if there is one already: whatever is wrong with a request, what streams, or ends its
//! connection is hyper's to handle, and what is sent is the same in both cases.

pub(crate) mod body;
pub(crate) mod date;
pub(crate) mod field;
pub(crate) mod header_cache;
pub(crate) mod line;
pub(crate) mod once;
pub(crate) mod refusal;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod write_batch;

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};

/// How much is read at once, and with it the longest head of a simple request.
pub(crate) const MAX_READ: usize = 8 << 10;
/// The longest body of a simple answer, which is copied behind its head.
pub(crate) const MAX_BODY: usize = 8 << 10;

// What a thread uses again for each of its reads.
thread_local! {
    static READ: RefCell<Option<BytesMut>> = const { RefCell::new(None) };
}

/// Copies what was read to where parts of it can be shared.
pub(crate) fn share(bytes: &[u8]) -> Bytes {
    READ.with_borrow_mut(|read| {
        let read = read.get_or_insert_default();
        if read.capacity() < bytes.len() {
            // Gives the same memory again if no request holds any of it.
            read.reserve(MAX_READ);
        }
        read.extend_from_slice(bytes);
        read.split().freeze()
    })
}
