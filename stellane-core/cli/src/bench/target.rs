//! What is requested, from what was typed.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    str::FromStr,
};

use http::{HeaderName, HeaderValue, Method, Uri, header};

/// What is requested, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) method: Method,
    pub(super) address: SocketAddr,
    pub(super) request: Vec<u8>,
}

impl Target {
    pub(super) fn new(
        url: &str,
        method: &str,
        headers: &[String],
        body: Option<&str>,
    ) -> Result<Self, String> {
        let uri = Uri::from_str(url).map_err(|error| format!("`{url}` is not a URL: {error}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(format!(
                    "`{url}`: https is not supported, measure in front of TLS"
                ));
            }
            _ => {
                return Err(format!(
                    "`{url}` is not a URL: expected http://HOST:PORT/PATH"
                ));
            }
        }
        let authority = uri
            .authority()
            .ok_or_else(|| format!("`{url}` names no host"))?;
        let host = authority.host();
        let address = (
            host.trim_matches(['[', ']']),
            authority.port_u16().unwrap_or(80),
        )
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .ok_or_else(|| format!("`{host}` has no address"))?;
        let method = Method::from_str(method).map_err(|_| format!("`{method}` is not a method"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        let mut has_host = false;
        for text in headers {
            let (name, value) = parse_header(text)?;
            has_host |= name == header::HOST;
            if [
                header::CONTENT_LENGTH,
                header::TRANSFER_ENCODING,
                header::CONNECTION,
            ]
            .contains(&name)
            {
                return Err(format!(
                    "header `{name}` is set by the load generator itself"
                ));
            }
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !has_host {
            head.push_str(&format!("host: {authority}\r\n"));
        }
        if let Some(body) = body {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        head.push_str(body.unwrap_or_default());
        Ok(Self {
            url: url.to_owned(),
            method,
            address,
            request: head.into_bytes(),
        })
    }
}

fn parse_header(text: &str) -> Result<(HeaderName, &str), String> {
    let wrong = || format!("`{text}` is not a header: expected `NAME: VALUE`");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let value = value.trim();
    HeaderValue::from_str(value).map_err(|_| wrong())?;
    Ok((
        HeaderName::from_str(name.trim()).map_err(|_| wrong())?,
        value,
    ))
}
