use std::{
    fmt,
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(3);
const MAX_BYTES: u64 = 16 << 20;

/// What `/runtime.json` says.
///
/// Fields are looked up by name, so that a service of another version shows what it has.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    json: Value,
}

impl Snapshot {
    pub(super) fn new(json: Value) -> Self {
        Self { json }
    }

    /// The number at a path such as `connections.active`.
    pub(super) fn number(&self, path: &str) -> Option<f64> {
        self.value(path)?.as_f64()
    }

    /// The sum of the numbers of a map, such as the reasons of sheds.
    pub(super) fn sum(&self, path: &str) -> Option<f64> {
        match self.value(path)? {
            // From zero: the sum of nothing is -0 otherwise.
            Value::Object(map) => Some(
                map.values()
                    .filter_map(Value::as_f64)
                    .fold(0.0, |a, b| a + b),
            ),
            value => value.as_f64(),
        }
    }

    pub(super) fn value(&self, path: &str) -> Option<&Value> {
        path.split('.')
            .try_fold(&self.json, |value, key| value.get(key))
    }
}

/// One `path: value` on each line, for scripts.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn lines(f: &mut fmt::Formatter<'_>, path: &str, value: &Value) -> fmt::Result {
            let join = |key: &dyn fmt::Display| {
                if path.is_empty() {
                    key.to_string()
                } else {
                    format!("{path}.{key}")
                }
            };
            match value {
                Value::Object(map) => map
                    .iter()
                    .try_for_each(|(key, value)| lines(f, &join(key), value)),
                Value::Array(list) => list
                    .iter()
                    .enumerate()
                    .try_for_each(|(i, value)| lines(f, &join(&i), value)),
                value => writeln!(f, "{path}: {value}"),
            }
        }
        lines(f, "", &self.json)
    }
}

/// The same variable as that of the service.
const TOKEN: &str = "STELLANE__SERVER__ADMIN_TOKEN";

/// Asks the admin service, also whether it is ready and what its tuner did.
///
/// # Errors
/// What to do about it, in one line.
pub(super) fn fetch(address: &str) -> Result<Snapshot, String> {
    let url = format!("http://{address}/runtime.json");
    let stranger =
        |what: String| format!("{url}: {what}; is this the admin address of a Stellane service?");
    let (status, body) = get(address, "/runtime.json").map_err(|error| {
        format!("{url}: {error}; is the service running, and is `server.admin_address` {address}?")
    })?;
    if matches!(status, 401 | 403) {
        return Err(format!(
            "{url}: refused with {status}; is `{TOKEN}` here the `server.admin_token` there?"
        ));
    }
    if status != 200 {
        return Err(stranger(format!("status {status}")));
    }
    let mut json: Value =
        serde_json::from_slice(&body).map_err(|error| stranger(format!("not JSON ({error})")))?;
    let Value::Object(map) = &mut json else {
        return Err(stranger("not a JSON object".to_owned()));
    };
    if let Ok((status @ (200 | 503), _)) = get(address, "/readyz") {
        map.insert("ready".to_owned(), (status == 200).into());
    }
    for (path, key) in [("/tuning", "tuning"), ("/requests", "requests")] {
        if let Ok((200, body)) = get(address, path)
            && let Ok(value) = serde_json::from_slice(&body)
        {
            map.insert(key.to_owned(), value);
        }
    }
    Ok(Snapshot::new(json))
}

fn get(address: &str, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
    let invalid = || std::io::Error::new(std::io::ErrorKind::InvalidData, "not an HTTP response");
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
