//! Who a client is, by its certificate.

use std::{fmt, fmt::Write, sync::Arc};

use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// A client that has shown a certificate which the server accepts; a cheap handle.
///
/// It is in the extensions of each request beside the [`ConnectInfo`](crate::connection::ConnectInfo), which
/// [`TlsConfig::client_auth`](crate::connection::TlsConfig::client_auth) turns on; with a configuration of rustls that
/// one has to do oneself.
///
/// ```
/// use stellane_core::connection::TlsClient;
///
/// async fn whoami(request: http::Request<()>) -> String {
///     match request.extensions().get::<TlsClient>().and_then(TlsClient::id) {
///         Some(id) => format!("you are {id}"),
///         None => "I do not know you".to_owned(),
///     }
/// }
/// ```
///
/// The [limit](crate::runtime::RuntimeBuilder::limit_layer) can share its places among clients by it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TlsClient {
    names: Arc<Names>,
}

#[derive(PartialEq, Eq, Hash)]
struct Names {
    certificate: Vec<u8>,
    subject: String,
    dns_names: Vec<String>,
    uris: Vec<String>,
}

impl TlsClient {
    /// `None` if its certificate is of no form that webpki knows.
    pub(crate) fn new(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = EndEntityCert::try_from(certificate).ok()?;
        let names = Names {
            certificate: certificate.to_vec(),
            subject: subject(parsed.subject()).unwrap_or_default(),
            dns_names: parsed.valid_dns_names().map(str::to_owned).collect(),
            uris: parsed.valid_uri_names().map(str::to_owned).collect(),
        };
        Some(Self {
            names: Arc::new(names),
        })
    }

    /// A name for it that others can't have: the [SPIFFE id](Self::spiffe_id), else the [subject](Self::subject), else the
    /// first DNS name, else the only URI. `None` if the certificate has none of these.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        let subject = Some(self.subject()).filter(|subject| !subject.is_empty());
        let dns = self.dns_names().first().map(String::as_str);
        // Of several none is the one.
        let uri = match self.uris() {
            [only] => Some(&**only),
            _ => None,
        };
        self.spiffe_id().or(subject).or(dns).or(uri)
    }

    /// The subject as RFC 4514 writes it, such as `CN=alice,OU=ops,O=Example`: what is most specific comes first. Empty if
    /// there is none.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.names.subject
    }

    /// Its DNS names (of the subject's alternative names).
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.names.dns_names
    }

    /// Its URIs (of the subject's alternative names).
    #[must_use]
    pub fn uris(&self) -> &[String] {
        &self.names.uris
    }

    /// Its SPIFFE id, such as `spiffe://example.org/billing`: the only URI of the certificate, since one with several is
    /// no identity of SPIFFE. Whose it is to give is not asked: trust no more than the bundle of one trust domain in
    /// [`client_ca`](crate::connection::TlsConfig::client_ca), or compare the domain.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<&str> {
        match self.uris() {
            [only] if only.starts_with("spiffe://") => Some(only),
            _ => None,
        }
    }

    /// The certificate, in DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.names.certificate
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient")
            .field("subject", &self.subject())
            .field("dns_names", &self.dns_names())
            .field("uris", &self.uris())
            .finish_non_exhaustive()
    }
}

/// A distinguished name without its outer tag, as RFC 4514 writes it.
fn subject(mut der: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    while !der.is_empty() {
        let (mut attributes, rest) = tagged(der, SET)?;
        der = rest;
        let mut part = String::new();
        while !attributes.is_empty() {
            let (attribute, rest) = tagged(attributes, SEQUENCE)?;
            attributes = rest;
            let (oid, value) = tagged(attribute, OID)?;
            if !part.is_empty() {
                part.push('+');
            }
            write_attribute(&mut part, oid, value)?;
        }
        parts.push(part);
    }
    parts.reverse();
    Some(parts.join(","))
}

const OID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const TELETEX: u8 = 0x14;
const IA5: u8 = 0x16;
const BMP: u8 = 0x1e;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// The attributes that have a short name.
const NAMES: [(&[u8], &str); 11] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1],
        "UID",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25],
        "DC",
    ),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1],
        "emailAddress",
    ),
];

/// What is in the first value, and what comes behind it; `None` if it is not whole.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (inside, rest) = rest.split_at_checked(length)?;
    Some((tag, inside, rest))
}

fn tagged(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, inside, rest) = value(der)?;
    (found == tag).then_some((inside, rest))
}

fn write_attribute(out: &mut String, oid: &[u8], der: &[u8]) -> Option<()> {
    let (tag, bytes, _) = value(der)?;
    let text = match tag {
        UTF8 | PRINTABLE | IA5 => str::from_utf8(bytes).ok().map(str::to_owned),
        TELETEX => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
        BMP if bytes.len().is_multiple_of(2) => {
            let units: Vec<_> = bytes
                .chunks_exact(2)
                .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
                .collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    };
    let name = NAMES.iter().find(|(known, _)| *known == oid);
    // Writing to a string does not fail.
    let _ = match name {
        Some((_, name)) => write!(out, "{name}="),
        None => write!(out, "{}=", dotted(oid)?),
    };
    match text.filter(|_| name.is_some()) {
        Some(text) => write_escaped(out, &text),
        None => {
            out.push('#');
            der.iter().for_each(|byte| {
                let _ = write!(out, "{byte:02x}");
            });
        }
    }
    Some(())
}

fn write_escaped(out: &mut String, text: &str) {
    let last = text.len() - text.chars().next_back().map_or(0, char::len_utf8);
    for (at, c) in text.char_indices() {
        let at_an_end = (at == 0 && matches!(c, ' ' | '#')) || (at == last && c == ' ');
        if c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(out, "\\{byte:02x}");
            }
            continue;
        }
        if at_an_end || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
        }
        out.push(c);
    }
}

/// An object identifier in numbers.
fn dotted(oid: &[u8]) -> Option<String> {
    let mut numbers = Vec::new();
    let mut number: u64 = 0;
    for byte in oid {
        number = number.checked_mul(128)? + u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            numbers.push(std::mem::take(&mut number));
        }
    }
    let (&first, others) = numbers.split_first()?;
    let head = (first / 40).min(2);
    let mut text = format!("{head}.{}", first - 40 * head);
    for number in others {
        let _ = write!(text, ".{number}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(oid: &[u8], tag: u8, text: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, inside: &[u8]| {
            let length = u8::try_from(inside.len()).expect("short");
            let long = (length > 0x7f).then_some(0x81);
            let head = std::iter::once(tag).chain(long).chain([length]);
            head.chain(inside.iter().copied()).collect::<Vec<_>>()
        };
        let both = [wrap(OID, oid), wrap(tag, text)].concat();
        wrap(SET, &wrap(SEQUENCE, &both))
    }

    #[test]
    fn a_subject_is_written_as_rfc_4514_does() {
        for (oid, tag, text, expected) in [
            (&[0x55, 4, 3][..], UTF8, "älice".as_bytes(), "CN=älice"),
            (&[0x55, 4, 10], PRINTABLE, b"A, B", "O=A\\, B"),
            (&[0x55, 4, 10], PRINTABLE, b" a ", "O=\\ a\\ "),
            (&[0x55, 4, 10], UTF8, b"#x\"+\\", "O=\\#x\\\"\\+\\\\"),
            (&[0x55, 4, 10], UTF8, b"a\nO=b", "O=a\\0aO=b"),
            (&[0x55, 4, 3], TELETEX, &[0xe4], "CN=ä"),
            (&[0x55, 4, 3], BMP, &[0, 0x41], "CN=A"),
            (&[0x55, 4, 3], BMP, &[0xd8, 0], "CN=#1e02d800"),
            (&[0x55, 4, 3], UTF8, &[0xff], "CN=#0c01ff"),
            (&[0x2a, 0x86, 0x48, 3], UTF8, b"x", "1.2.840.3=#0c0178"),
            (&[0x55, 4, 3], UTF8, b"", "CN="),
        ] {
            let der = attribute(oid, tag, text);
            assert_eq!(subject(&der).as_deref(), Some(expected));
        }
        let two = [
            attribute(&[0x55, 4, 10], UTF8, b"Example"),
            attribute(&[0x55, 4, 3], UTF8, &[b'x'; 120]),
        ];
        let expected = format!("CN={},O=Example", "x".repeat(120));
        assert_eq!(subject(&two.concat()), Some(expected));
        assert_eq!(subject(&[]).as_deref(), Some(""));
    }

    #[test]
    fn what_is_cut_or_of_another_form_is_no_subject_and_no_panic() {
        let whole = attribute(&[0x55, 4, 3], UTF8, b"alice");
        for end in 1..whole.len() {
            assert_eq!(subject(&whole[..end]), None, "{end}");
        }
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut other = whole.clone();
                other[at] = byte;
                let _ = subject(&other);
            }
        }
        assert_eq!(subject(&[SET, 0x84, 1, 0, 0, 0]), None);
    }
}
