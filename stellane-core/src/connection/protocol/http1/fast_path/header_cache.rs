//! Lines and header fields that come again and again.

use bytes::Bytes;
use http::HeaderMap;
use httparse::Status;

use crate::connection::protocol::http1::fast_path::{
    field::{MAX_FIELDS, read_field},
    line::KnownLine,
    once::Once,
};

/// Longer ones are not kept: each connection in use keeps its own.
const MAX_KEPT: usize = 4 << 10;
/// So many fields are copied together: to hash their names anew costs more than two allocations.
const MANY: usize = 8;

/// The line and the header fields that a client sends again and again on its connection: they need not be read anew.
#[derive(Default)]
pub(crate) struct HeaderCache {
    pub(crate) line: KnownLine,
    /// As they come, with the empty line behind them.
    block: Bytes,
    fields: HeaderMap,
    once: Once<MAX_KEPT>,
}

impl HeaderCache {
    /// Takes the known fields if these bytes begin with them, and returns their length.
    pub(crate) fn take(&self, bytes: &[u8], headers: &mut HeaderMap) -> Option<usize> {
        if self.fields.is_empty() || !bytes.starts_with(&self.block) {
            return None;
        }
        if self.fields.len() < MANY {
            headers.reserve(self.fields.len());
            for (name, value) in &self.fields {
                headers.append(name.clone(), value.clone());
            }
        } else {
            *headers = self.fields.clone();
        }
        Some(self.block.len())
    }

    /// Remembers the fields of a simple request. They are known when they come twice in a row.
    pub(crate) fn learn(&mut self, block: &[u8]) {
        let Some(block) = self.once.again(block) else {
            return;
        };
        self.block = block;
        self.fields.clear();
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        if let Ok(Status::Complete((_, read))) = httparse::parse_headers(&self.block, &mut fields) {
            let read = read.iter().map(|field| read_field(&self.block, field));
            self.fields = read.collect::<Option<_>>().unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn known_fields_are_those_that_came_be_they_few_or_many() {
        for count in [1, MANY - 1, MANY, MAX_FIELDS] {
            let (mut block, mut came) = (String::new(), HeaderMap::new());
            for n in 0..count {
                // Names come again, and not side by side.
                let (name, value) = (format!("x-{}", n % 5), n.to_string());
                block += &format!("{name}: {value}\r\n");
                let name = HeaderName::try_from(name).expect("a name");
                came.append(name, HeaderValue::try_from(value).expect("a value"));
            }
            block += "\r\n";
            let (mut cache, mut headers) = (HeaderCache::default(), HeaderMap::new());
            for _ in 0..2 {
                assert_eq!(cache.take(block.as_bytes(), &mut headers), None);
                cache.learn(block.as_bytes());
            }
            let read = block.clone() + "GET / HTTP/1.1\r\n";
            for _ in 0..2 {
                let length = cache.take(read.as_bytes(), &mut headers);
                assert_eq!((length, &headers), (Some(block.len()), &came));
                headers.clear();
            }
        }
    }
}
