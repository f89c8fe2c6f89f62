//! A fault costs its own request only.
#![cfg(feature = "layers")]

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, LengthLimitError};
use stellane_core::{
    BoxError,
    catch_faults::{CatchFaultsLayer, Faults},
};
use tower::{Layer, ServiceExt, service_fn};

type Reply = Result<Response<Full<Bytes>>, BoxError>;

async fn answer<F>(faults: &Faults, reply: fn() -> F) -> (StatusCode, Bytes)
where
    F: Future<Output = Reply>,
{
    let service = CatchFaultsLayer::new(faults).layer(service_fn(move |_: Request<()>| reply()));
    let response = service
        .oneshot(Request::new(()))
        .await
        .expect("faults are responses");
    (
        response.status(),
        response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes(),
    )
}

#[tokio::test]
async fn a_good_answer_passes_untouched() {
    let faults = Faults::new();
    let (status, body) = answer(&faults, || async { Ok(Response::new(Full::from("hi"))) }).await;
    assert_eq!((status, &*body), (StatusCode::OK, b"hi".as_slice()));
    assert_eq!((faults.stats().panics, faults.stats().errors), (0, 0));
}

#[tokio::test]
async fn a_panic_in_the_future_or_the_call_is_500_and_counted() {
    let faults = Faults::new();
    let (status, _) = answer(&faults, || async { panic!("in the future") }).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    let (status, _) = answer(&faults, || -> std::future::Ready<Reply> {
        panic!("in call")
    })
    .await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(faults.stats().panics, 2);
}

#[tokio::test]
async fn an_error_is_500_without_its_text() {
    let faults = Faults::new();
    let (status, body) = answer(&faults, || async { Err("the password is x".into()) }).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(&*body, b"Internal Server Error");
    assert_eq!(faults.stats().errors, 1);
}

#[tokio::test]
async fn a_body_over_its_limit_is_413_and_no_fault() {
    let faults = Faults::new();
    let over = || async {
        let body = http_body_util::Limited::new(Full::new(Bytes::from("12345")), 2);
        let error = body.collect().await.expect_err("over");
        assert!(error.is::<LengthLimitError>());
        Err(error)
    };
    assert_eq!(answer(&faults, over).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(faults.stats().errors, 0);
}

struct PanickingBody;

impl Body for PanickingBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("in the body")
    }
}

#[tokio::test]
async fn a_panic_in_the_response_body_ends_it_with_an_error() {
    let faults = Faults::new();
    let service = CatchFaultsLayer::new(&faults).layer(service_fn(|_: Request<()>| async {
        Ok::<_, BoxError>(Response::new(PanickingBody))
    }));
    let mut body = service
        .oneshot(Request::new(()))
        .await
        .expect("a head")
        .into_body();
    assert!(body.frame().await.expect("one frame").is_err());
    assert!(body.frame().await.is_none(), "and nothing after it");
    assert_eq!(faults.stats().panics, 1);
}
