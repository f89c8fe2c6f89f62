//! The admin address of a running service, asked by a command.

use std::{
    io::{Error, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use serde_json::Value;
use stellane_core::config::Loader;

use super::Failure;

/// A profile of the CPU takes some seconds.
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_BYTES: u64 = 64 << 20;
/// The same variable as that of the service.
const TOKEN: &str = "STELLANE__SERVER__ADMIN_TOKEN";

/// Where it is: `HOST:PORT`.
#[derive(Debug)]
pub(super) struct Admin {
    pub(super) address: String,
}

impl Admin {
    /// The address that was given, else that of the service that this environment and its configuration file start.
    pub(super) fn at(given: Option<&str>) -> Result<Self, Failure> {
        let address = match given {
            Some(given) => given
                .trim_start_matches("http://")
                .trim_end_matches('/')
                .to_owned(),
            None => configured()?,
        };
        if !is_host_and_port(&address) {
            return Err(Failure::input(format_args!(
                "`{address}` is not an address: expected HOST:PORT, such as 127.0.0.1:9090"
            )));
        }
        Ok(Self { address })
    }

    /// What `/runtime.json` says.
    ///
    /// # Errors
    /// What to do about it, in one line.
    pub(super) fn runtime(&self) -> Result<Value, String> {
        let address = &self.address;
        let url = format!("http://{address}/runtime.json");
        let stranger = |what: String| {
            format!("{url}: {what}; is this the admin address of a Stellane service?")
        };
        let (status, body) = self.get("/runtime.json").map_err(|error| {
            format!(
                "{url}: {error}; is the service running, and is `server.admin_address` {address}?"
            )
        })?;
        if matches!(status, 401 | 403) {
            return Err(format!(
                "{url}: refused with {status}; is `{TOKEN}` here the `server.admin_token` there?"
            ));
        }
        if status != 200 {
            return Err(stranger(format!("status {status}")));
        }
        let json: Value = serde_json::from_slice(&body)
            .map_err(|error| stranger(format!("not JSON ({error})")))?;
        match json.is_object() {
            true => Ok(json),
            false => Err(stranger("not a JSON object".to_owned())),
        }
    }

    /// A page, if it is there and JSON.
    pub(super) fn json(&self, path: &str) -> Option<Value> {
        match self.get(path) {
            Ok((200, body)) => serde_json::from_slice(&body).ok(),
            _ => None,
        }
    }

    pub(super) fn get(&self, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
        let address = &self.address;
        let invalid = || Error::new(ErrorKind::InvalidData, "not an HTTP response");
        let target = address.to_socket_addrs()?.next().ok_or_else(invalid)?;
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // HTTP/1.0: the body ends with the connection and comes in no chunks.
        let token = match std::env::var(TOKEN) {
            Ok(token) if !token.is_empty() => format!("authorization: Bearer {token}\r\n"),
            _ => String::new(),
        };
        let request = format!(
            "GET {path} HTTP/1.0\r\nhost: {address}\r\naccept: application/json\r\n{token}\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut response = Vec::new();
        stream.take(MAX_BYTES).read_to_end(&mut response)?;

        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut headers);
        match head.parse(&response) {
            Ok(httparse::Status::Complete(length)) => {
                let status = head.code.ok_or_else(invalid)?;
                Ok((status, response.split_off(length)))
            }
            _ => Err(invalid()),
        }
    }
}

fn configured() -> Result<String, Failure> {
    let config = Loader::from_process().load().map_err(Failure::input)?;
    let (address, _) = config.server.admin();
    // Where it is off, somebody may have turned it on by hand.
    let address = if address.is_empty() {
        "127.0.0.1:9090"
    } else {
        address
    };
    // Every address of the machine is no address to ask.
    Ok(match address.parse::<SocketAddr>() {
        Ok(at) if at.ip().is_unspecified() => {
            let ip = match at.ip() {
                IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
            };
            SocketAddr::new(ip, at.port()).to_string()
        }
        _ => address.to_owned(),
    })
}

fn is_host_and_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (bracketed || !host.contains(':')) && port.parse::<u16>().is_ok()
    })
}
