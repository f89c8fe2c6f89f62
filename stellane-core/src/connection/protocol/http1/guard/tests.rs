use std::{convert::Infallible, sync::Mutex};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// A few requests, most of them good, with some bytes changed.
fn requests(random: &mut Random) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..=random.below(3) {
        text += random.pick(&[
            "GET / HTTP/1.1\r\n",
            "POST /a HTTP/1.1\r\n",
            "\r\nPUT / HTTP/1.1\r\n",
        ]);
        for _ in 0..random.below(4) {
            text += random.pick(&[
                "Host: x\r\n",
                "A: b\r\n",
                "Cookie: c\r\n",
                "TE: trailers\r\n",
                "Content-Type: t\r\n",
            ]);
        }
        text += random.pick(&[
            "\r\n",
            "Content-Length: 5\r\n\r\nhello",
            "Content-Length:   000000000000000000000000000000000000000000000000000000000005\r\n\r\nhello",
            "content-length: 0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "transfer-encoding: Chunked\r\n\r\n005;a=b\r\nh\nl\r\n\r\n0\r\nA: b\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n3 ; a = \"b\\\"\" ;c\r\nabc\r\n0;d\r\nHost-Id: x\r\n\r\n",
            "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "A: b\r\nTransfer-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 33\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
            "A: b\nContent-Length: 5\r\n\r\nhello",
        ]);
    }
    let mut bytes = text.into_bytes();
    for _ in 0..random.below(3) {
        let at = random.below(bytes.len());
        let odd = b"\r\n \t:05;ct"[random.below(10)];
        match random.below(3) {
            0 => bytes[at] = odd,
            1 => bytes.insert(at, odd),
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}

/// Looks at the bytes in random pieces; what hyper gets, but for a part of a line, and how many heads were seen.
fn guarded(bytes: &[u8], random: &mut Random) -> (Vec<u8>, u64) {
    let mut guard = FramingGuard::new();
    let mut bytes = bytes.to_vec();
    let whole = random.below(2) == 0;
    let mut at = 0;
    while at < bytes.len() {
        let left = bytes.len() - at;
        let n = if whole {
            left
        } else {
            1 + random.below(left.min(40))
        };
        match guard.look(&mut bytes[at..at + n]) {
            Verdict::Spoilt => break,
            Verdict::Unknown(start) => {
                bytes.truncate(at + start);
                let line = bytes.iter().rposition(|byte| *byte == b'\n');
                bytes.truncate(line.map_or(0, |feed| feed + 1));
                break;
            }
            Verdict::Fine => at += n,
            Verdict::Held(hypers) => {
                at += hypers;
                guard.decide(false);
            }
        }
    }
    (bytes, guard.heads)
}

/// How many requests hyper makes of the bytes.
async fn with_hyper(bytes: &[u8]) -> u64 {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    client.write_all(bytes).await.expect("fits");
    client.shutdown().await.expect("ends");
    let requests = Mutex::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        *requests.lock().expect("not poisoned") += 1;
        async {
            let _ = request.into_body().collect().await;
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    });
    // Not at the end of input, where hyper may drop requests it has read already.
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(server), service);
    let _ = connection.await;
    let mut answers = Vec::new();
    let _ = client.read_to_end(&mut answers).await;
    *requests.lock().expect("not poisoned")
}

#[tokio::test]
async fn guard_and_hyper_agree_where_a_request_begins() {
    let seed = 0x5EED_u64;
    let mut random = Random(seed);
    let (mut heads, mut spoilt) = (0, 0);
    for case in 0..20_000 {
        let bytes = requests(&mut random);
        let (first, seen) = guarded(&bytes, &mut random);
        let (second, again) = guarded(&bytes, &mut random);
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(
            (&first, seen),
            (&second, again),
            "seed {seed}, case {case}: {shown:?}"
        );
        let served = with_hyper(&first).await;
        // hyper refuses more, such as names and values with odd bytes, but never sees other requests.
        assert!(
            served <= seen,
            "seed {seed}, case {case}: {served} of {seen}: {shown:?}"
        );
        heads += served;
        spoilt += usize::from(first != bytes);
    }
    assert!(heads > 10_000 && spoilt > 1000, "{heads} {spoilt}");
}
