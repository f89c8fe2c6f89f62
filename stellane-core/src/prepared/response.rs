use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Encoding, encoding};

/// A response to be served again and again: its bytes, its headers and its compressed variants.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedResponse {
    plain: Variant,
    variants: Vec<(Encoding, Variant)>,
    /// Those of all variants, `Vary` included once there is one.
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Variant {
    pub(super) bytes: Bytes,
    pub(super) etag: HeaderValue,
}

impl Variant {
    fn new(bytes: Bytes) -> Self {
        let tag = format!("\"{:032x}\"", fnv(&bytes));
        Self {
            bytes,
            // Hexadecimal digits in quotes are a header value.
            etag: HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\"")),
        }
    }

    fn apart(&self) -> Self {
        Self {
            bytes: Bytes::from_owner(self.bytes.clone()),
            etag: copy(&self.etag),
        }
    }
}

fn copy(value: &HeaderValue) -> HeaderValue {
    // The bytes of a header value are one.
    let mut copy = HeaderValue::from_bytes(value.as_bytes()).unwrap_or(value.clone());
    copy.set_sensitive(value.is_sensitive());
    copy
}

/// FNV-1a over 128 bits: the same in every process and version, which a random hash is not. Not made to withstand
/// someone who chooses the bytes of both responses.
fn fnv(bytes: &[u8]) -> u128 {
    const PRIME: u128 = (1 << 88) + 0x13b;
    bytes
        .iter()
        .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
        })
}

impl PreparedResponse {
    /// A response with status 200. A `content_type` that is no header value is left out.
    #[must_use]
    pub fn new(content_type: &str, bytes: impl Into<Bytes>) -> Self {
        let mut headers = Vec::new();
        if let Ok(value) = HeaderValue::from_str(content_type) {
            headers.push((header::CONTENT_TYPE, value));
        }
        Self {
            plain: Variant::new(bytes.into()),
            variants: Vec::new(),
            headers,
        }
    }

    /// One with the headers of a response, those of its connection and of its length left out.
    pub(super) fn of(headers: &HeaderMap, bytes: Bytes) -> Self {
        let own = [
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::DATE,
            header::ETAG,
            header::TRANSFER_ENCODING,
        ];
        let kept = headers
            .iter()
            .filter(|(name, _)| !own.contains(name))
            .map(|(name, value)| (name.clone(), value.clone()));
        Self {
            plain: Variant::new(bytes),
            variants: Vec::new(),
            headers: kept.collect(),
        }
    }

    /// Adds a header, such as `Cache-Control`.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds the same bytes, compressed beforehand with the best that a build step can do. Clients that accept it
    /// get it; the smallest of those they like best.
    #[must_use]
    pub fn variant(mut self, encoding: Encoding, bytes: impl Into<Bytes>) -> Self {
        if self.variants.is_empty() {
            let by = HeaderValue::from_static("accept-encoding");
            self.headers.push((header::VARY, by));
        }
        self.variants.retain(|(other, _)| *other != encoding);
        self.variants.push((encoding, Variant::new(bytes.into())));
        self
    }

    /// The entity tag of the response as it is without compression.
    #[must_use]
    pub const fn etag(&self) -> &HeaderValue {
        &self.plain.etag
    }

    /// The bytes, without compression.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.plain.bytes
    }

    /// The same with references of its own: to the same bytes, and to copies of the headers.
    pub(super) fn apart(&self) -> Self {
        let header = |(name, value): &(HeaderName, HeaderValue)| (name.clone(), copy(value));
        let variant = |(encoding, variant): &(Encoding, Variant)| (*encoding, variant.apart());
        Self {
            plain: self.plain.apart(),
            variants: self.variants.iter().map(variant).collect(),
            headers: self.headers.iter().map(header).collect(),
        }
    }

    pub(super) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// What the client likes best; of those it likes the same, the smallest.
    pub(super) fn choose(&self, headers: &HeaderMap) -> (Option<Encoding>, &Variant) {
        if self.variants.is_empty() {
            return (None, &self.plain);
        }
        let plain = (None, &self.plain);
        let variants = self.variants.iter().map(|(e, variant)| (Some(*e), variant));
        std::iter::once(plain)
            .chain(variants)
            .map(|(coding, variant)| (encoding::weight(headers, coding), coding, variant))
            .filter(|(weight, ..)| *weight > 0)
            .max_by_key(|(weight, _, variant)| (*weight, std::cmp::Reverse(variant.bytes.len())))
            // Nothing is acceptable: better an answer than none (RFC 9110 §12.5.3 allows it).
            .map_or(plain, |(_, coding, variant)| (coding, variant))
    }
}
