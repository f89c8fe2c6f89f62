//! The requests, byte for byte, and the bodies that must come back.

use std::sync::Arc;

use crate::{
    databases::{USERS, user},
    load::Exchange,
    peers::work::{DOWNLOAD, PIECE, PIECES},
};

/// Different clients ask for different things.
const VARIANTS: usize = 64;

fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").into_bytes()
}

const HELLO: &[u8] = b"Hello, world!";

pub(super) fn hello() -> Arc<[Exchange]> {
    [Exchange::new(&get("/hello", "")).expecting(HELLO)].into()
}

pub(super) fn pipelined(times: usize) -> Arc<[Exchange]> {
    [Exchange::new(&get("/hello", ""))
        .expecting(HELLO)
        .repeated(times)]
    .into()
}

pub(super) fn json() -> Arc<[Exchange]> {
    (0..VARIANTS)
        .map(|n| {
            let name = format!("user-{:06}", n * 7919);
            let body = format!("{{\"hello\":\"{name}\"}}");
            Exchange::new(&get(&format!("/hello/{name}"), "")).expecting(body.as_bytes())
        })
        .collect()
}

pub(super) fn browser() -> Arc<[Exchange]> {
    const HEADERS: &str = "Connection: keep-alive\r\n\
        Cache-Control: max-age=0\r\n\
        sec-ch-ua: \"Not)A;Brand\";v=\"8\", \"Chromium\";v=\"138\", \"Google Chrome\";v=\"138\"\r\n\
        sec-ch-ua-mobile: ?0\r\n\
        sec-ch-ua-platform: \"Linux\"\r\n\
        Upgrade-Insecure-Requests: 1\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36\r\n\
        Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8\r\n\
        Sec-Fetch-Site: same-origin\r\n\
        Sec-Fetch-Mode: navigate\r\n\
        Sec-Fetch-User: ?1\r\n\
        Sec-Fetch-Dest: document\r\n\
        Referer: http://localhost/account/orders?page=3\r\n\
        Accept-Encoding: gzip, deflate, br, zstd\r\n\
        Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
        Cookie: session=9f8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d; theme=dark; consent=all; \
        _ga=GA1.1.1234567890.1700000000; _ga_ABCDEFGHIJ=GS1.1.1700000000.12.1.1700000300.0.0.0\r\n";
    [Exchange::new(&get("/hello", HEADERS)).expecting(HELLO)].into()
}

pub(super) fn upload(path: &str) -> Arc<[Exchange]> {
    [one_upload(path)].into()
}

fn one_upload(path: &str) -> Exchange {
    const LENGTH: usize = 1 << 20;
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LENGTH}\r\n\r\n");
    let mut request = head.into_bytes();
    request.extend((0..LENGTH).map(|n| n as u8));
    let body = format!("{{\"received\":{LENGTH}}}");
    Exchange::new(&request).expecting(body.as_bytes())
}

/// A call of the greeter with one more header field, and so many messages that come back.
pub(super) fn grpc(method: &str, header: &str, messages: usize) -> Arc<[Exchange]> {
    let message = |text: &[u8]| {
        let length = 2 + text.len() as u8;
        // Not compressed, its length, and the text as its first field.
        let mut message = vec![0, 0, 0, 0, length, 0x0a, length - 2];
        message.extend_from_slice(text);
        message
    };
    let head = format!(
        "POST /compare.Greeter/{method} HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/grpc\r\n\
         te: trailers\r\nuser-agent: grpc-compare/1.0\r\n{header}\r\n"
    );
    let mut request = head.into_bytes();
    request.extend(message(b"world"));
    [Exchange::new(&request).expecting(&message(HELLO).repeat(messages))].into()
}

/// Of 16 clients, what each asks for; the first so many are short.
pub(super) fn mixed() -> (Arc<[Exchange]>, usize) {
    const SHORT: usize = 10;
    let each = |count: usize, path: &str, body: Vec<u8>| {
        let one = move |path: &str| Exchange::new(&get(path, "")).expecting(&body);
        (0..count).map(|_| one(path)).collect::<Vec<_>>()
    };
    let mut all = each(SHORT, "/hello", HELLO.to_vec());
    all.extend(each(2, "/slow", HELLO.to_vec()));
    all.extend(each(2, "/stream", PIECE.repeat(PIECES)));
    all.extend(each(1, "/download", DOWNLOAD.to_vec()));
    all.push(one_upload("/upload"));
    (all.into(), SHORT)
}

pub(super) fn cpu(below: u32, primes: u32) -> Arc<[Exchange]> {
    let body = format!("{{\"primes\":{primes}}}");
    [Exchange::new(&get(&format!("/cpu/{below}"), "")).expecting(body.as_bytes())].into()
}

/// One user of a database, `sqlite` or `postgres`; each client asks for another.
pub(super) fn users(database: &str) -> Arc<[Exchange]> {
    (0..VARIANTS as u32)
        .map(|n| {
            let id = 1 + n * 149 % USERS;
            let (name, region) = user(id);
            let body = format!("{{\"id\":{id},\"name\":\"{name}\",\"region\":\"{region}\"}}");
            Exchange::new(&get(&format!("/{database}/{id}"), "")).expecting(body.as_bytes())
        })
        .collect()
}
