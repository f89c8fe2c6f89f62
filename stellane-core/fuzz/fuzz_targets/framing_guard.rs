//! The guard sees the same however its bytes are cut, and hyper makes no more requests of them than it has seen heads.
#![no_main]

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use stellane_core::connection::fuzzing::{Guarded, guard};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::{Builder, Runtime},
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((cut, bytes)) = data.split_first() else {
        return;
    };
    let Guarded { passed, heads } = guard(bytes, usize::MAX);
    let again = guard(bytes, usize::from(*cut).max(1));
    assert_eq!((&again.passed, again.heads), (&passed, heads), "cut");
    let served = served_by_hyper(&passed);
    assert!(served <= heads, "{served} of {heads}");
});

thread_local! {
    static RUNTIME: RefCell<Runtime> = Builder::new_current_thread().build().expect("a runtime").into();
}

fn served_by_hyper(bytes: &[u8]) -> u64 {
    let serving = async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(bytes).await.expect("fits");
        client.shutdown().await.expect("ends");
        let requests = Cell::new(0);
        let service = service_fn(|request: Request<Incoming>| {
            requests.set(requests.get() + 1);
            async {
                let _ = request.into_body().collect().await;
                Ok::<_, Infallible>(Response::new(String::new()))
            }
        });
        // The end is no reason to drop what was read.
        let mut http1 = http1::Builder::new();
        let _ = http1
            .half_close(true)
            .serve_connection(TokioIo::new(server), service)
            .await;
        let _ = client.read_to_end(&mut Vec::new()).await;
        requests.get()
    };
    RUNTIME.with_borrow(|runtime| runtime.block_on(serving))
}
