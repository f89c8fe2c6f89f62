//! A place is held while the service works, not while its client is waited for.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, AlgorithmKind, Class, Hold, Key, LimitBody, LimitConfig,
    LimitRequestBody, ManualClock,
};
use tokio::sync::{mpsc, oneshot};
use tower::{Layer, Service, service_fn};

/// A limit of so many places that never changes, and its clock.
fn fixed(limit: u32, hold: Hold) -> (AdaptiveLimit, ManualClock) {
    let mut config = LimitConfig::default();
    config.algorithm = AlgorithmKind::Fixed;
    (config.initial, config.min, config.hold) = (limit, 1, hold);
    let time = ManualClock::default();
    let builder = AdaptiveLimit::builder().config(config).clock(time.clock());
    (builder.build().unwrap(), time)
}

/// A body whose frames come from the test: one that has none is one whose client is slow.
#[derive(Debug)]
struct Slow(mpsc::UnboundedReceiver<&'static str>);

type Sender = mpsc::UnboundedSender<&'static str>;

fn slow() -> (Sender, Slow) {
    let (sender, frames) = mpsc::unbounded_channel();
    (sender, Slow(frames))
}

impl Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = self.0.poll_recv(cx);
        frame.map(|frame| Some(Ok(Frame::data(Bytes::from_static(frame?.as_bytes())))))
    }
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut cx())
}

type Answer = Response<Full<Bytes>>;
type Answered<B> = Pin<Box<dyn Future<Output = Result<Response<LimitBody<B>>, Infallible>>>>;

/// An upload whose handler reads the whole body, waits for the test, and answers.
fn upload(limit: &AdaptiveLimit) -> (Sender, oneshot::Sender<()>, Answered<Full<Bytes>>) {
    let (sender, body) = slow();
    let (work, wait) = oneshot::channel();
    let wait = Arc::new(Mutex::new(Some(wait)));
    let handler = move |request: Request<LimitRequestBody<Slow>>| {
        let wait = wait.lock().unwrap().take().unwrap();
        async move {
            let whole = request.into_body().collect().await?.to_bytes();
            let _ = wait.await;
            Ok::<Answer, Infallible>(Response::new(Full::new(whole)))
        }
    };
    let mut service = AdaptiveLimitLayer::new(limit).layer(service_fn(handler));
    (sender, work, Box::pin(service.call(Request::new(body))))
}

/// Whether one more request is let in just now.
fn has_room(limit: &AdaptiveLimit) -> bool {
    limit.try_acquire().is_ok()
}

fn places(limit: &AdaptiveLimit) -> (u32, u32) {
    let stats = limit.stats();
    (stats.in_flight, stats.lent)
}

#[test]
fn an_upload_holds_its_place_only_while_there_is_something_to_do() {
    let (limit, _) = fixed(1, Hold::Work);
    let (sender, work, mut upload) = upload(&limit);
    assert!(!has_room(&limit), "its handler has not begun");
    assert!(poll(&mut upload).is_pending());
    assert_eq!(places(&limit), (0, 1));
    assert!(has_room(&limit), "its client is waited for");
    sender.send("bytes").unwrap();
    assert!(poll(&mut upload).is_pending());
    assert_eq!(
        places(&limit),
        (0, 1),
        "it has read them and waits for more"
    );
    drop(sender);
    assert!(poll(&mut upload).is_pending());
    assert_eq!(places(&limit), (1, 0), "it works");
    assert!(!has_room(&limit));
    work.send(()).unwrap();
    assert!(poll(&mut upload).is_ready());
    assert_eq!(limit.stats().successes, 1);
}

#[test]
fn a_place_is_taken_again_though_it_is_no_longer_free() {
    let (limit, _) = fixed(1, Hold::Work);
    let (sender, work, mut upload) = upload(&limit);
    assert!(poll(&mut upload).is_pending());
    let other = limit.try_acquire().unwrap();
    drop(sender);
    assert!(poll(&mut upload).is_pending());
    assert_eq!(places(&limit), (2, 0), "neither is delayed");
    drop(other);
    assert!(!has_room(&limit), "what was too much is not given away");
    work.send(()).unwrap();
    assert!(poll(&mut upload).is_ready());
}

#[test]
fn with_hold_body_a_slow_client_holds_its_place() {
    let (limit, _) = fixed(1, Hold::Body);
    let (_sender, _work, mut upload) = upload(&limit);
    assert!(poll(&mut upload).is_pending());
    assert_eq!(places(&limit), (1, 0));
    assert!(!has_room(&limit));
}

#[test]
fn a_request_that_is_dropped_while_it_is_lent_leaves_nothing() {
    let (limit, _) = fixed(1, Hold::Work);
    let (_sender, _work, mut upload) = upload(&limit);
    assert!(poll(&mut upload).is_pending());
    drop(upload);
    assert_eq!(places(&limit), (0, 0));
    let stats = limit.stats();
    assert_eq!((stats.admitted, stats.cancelled), (1, 1));
    let held = limit.try_acquire().unwrap();
    assert!(!has_room(&limit));
    drop(held);
}

#[test]
fn the_time_in_which_the_client_was_waited_for_is_not_the_service_s() {
    let (limit, time) = fixed(1, Hold::Work);
    for _ in 0..1000 {
        let (sender, work, mut upload) = upload(&limit);
        assert!(poll(&mut upload).is_pending());
        time.advance(Duration::from_secs(5));
        drop(sender);
        assert!(poll(&mut upload).is_pending());
        time.advance(Duration::from_millis(10));
        work.send(()).unwrap();
        assert!(poll(&mut upload).is_ready());
    }
    let median = limit.latency_p50().as_secs_f64();
    assert!((0.009..0.011).contains(&median), "{median}");
}

#[test]
fn a_body_that_another_task_reads_lends_the_place_as_well() {
    let (limit, _) = fixed(1, Hold::Work);
    let (body_out, body_in) = oneshot::channel();
    let handler = {
        let body_out = Arc::new(Mutex::new(Some(body_out)));
        move |request: Request<LimitRequestBody<Slow>>| {
            let body_out = body_out.lock().unwrap().take().unwrap();
            let _ = body_out.send(request.into_body());
            std::future::pending::<Result<Answer, Infallible>>()
        }
    };
    let (sender, body) = slow();
    let mut service = AdaptiveLimitLayer::new(&limit).layer(service_fn(handler));
    let mut answered = Box::pin(service.call(Request::new(body)));
    assert!(poll(&mut answered).is_pending());
    assert_eq!(
        places(&limit),
        (1, 0),
        "nobody says that it waits for the body"
    );
    let mut body = Box::pin(body_in);
    let Poll::Ready(Ok(mut body)) = poll(&mut body) else {
        panic!("the handler sent it");
    };
    assert!(Pin::new(&mut body).poll_frame(&mut cx()).is_pending());
    assert_eq!(places(&limit), (0, 1));
    sender.send("bytes").unwrap();
    assert!(Pin::new(&mut body).poll_frame(&mut cx()).is_ready());
    assert_eq!(places(&limit), (1, 0));
    assert!(Pin::new(&mut body).poll_frame(&mut cx()).is_pending());
    drop(body);
    assert_eq!(places(&limit), (1, 0), "nobody reads any more");
}

/// The body of an answer whose frames come from the test.
fn download(limit: &AdaptiveLimit, version: Version) -> (Sender, LimitBody<Slow>) {
    let (sender, frames) = slow();
    let frames = Arc::new(Mutex::new(Some(frames)));
    let handler = move |_: Request<LimitRequestBody<Full<Bytes>>>| {
        let frames = frames.lock().unwrap().take().unwrap();
        async { Ok::<_, Infallible>(Response::new(frames)) }
    };
    let mut service = AdaptiveLimitLayer::new(limit).layer(service_fn(handler));
    let mut request = Request::new(Full::default());
    *request.version_mut() = version;
    let mut answered: Answered<Slow> = Box::pin(service.call(request));
    let Poll::Ready(Ok(response)) = poll(&mut answered) else {
        panic!("answered at once");
    };
    (sender, response.into_body())
}

/// Long enough for a client to count as slow.
fn wait(time: &ManualClock) {
    for _ in 0..3 {
        time.advance(Duration::from_millis(25));
    }
}

#[test]
fn a_download_holds_no_place_while_its_client_takes_its_time() {
    let (limit, time) = fixed(1, Hold::Work);
    let (sender, mut body) = download(&limit, Version::HTTP_11);
    for frame in ["one", "two"] {
        sender.send(frame).unwrap();
        assert!(Pin::new(&mut body).poll_frame(&mut cx()).is_ready());
        assert!(
            !has_room(&limit),
            "it may be asked for the next frame at once"
        );
        wait(&time);
        let held: Vec<_> = (0..3)
            .filter_map(|_| {
                wait(&time);
                limit.try_acquire().ok()
            })
            .collect();
        assert_eq!(held.len(), 1, "its client is waited for");
        assert_eq!(places(&limit), (1, 1));
    }
    assert!(Pin::new(&mut body).poll_frame(&mut cx()).is_pending());
    assert_eq!(places(&limit), (1, 0), "the producer works");
    assert!(!has_room(&limit));
    drop(body);
    assert!(has_room(&limit));
}

#[test]
fn a_stream_of_http2_that_never_gets_a_window_holds_no_place() {
    let (limit, time) = fixed(1, Hold::Work);
    let (_sender, _body) = download(&limit, Version::HTTP_2);
    assert!(!has_room(&limit));
    wait(&time);
    let _ = limit.try_acquire();
    wait(&time);
    assert!(has_room(&limit), "nobody asks for its body");
}

#[test]
fn many_that_come_back_at_once_leave_a_quarter_to_others() {
    let (limit, _) = fixed(20, Hold::Work);
    let begin = |_| {
        let mut begun = upload(&limit);
        assert!(poll(&mut begun.2).is_pending());
        begun
    };
    let mut uploads: Vec<_> = (0..200).map(begin).collect();
    assert_eq!(places(&limit), (0, 200));
    for (sender, _, upload) in &mut uploads {
        *sender = slow().0;
        assert!(poll(upload).is_pending());
    }
    assert_eq!(places(&limit), (200, 0));
    assert!(!has_room(&limit), "that is load like any other");
    uploads.drain(..180);
    assert_eq!(places(&limit), (20, 0));
    assert!(has_room(&limit));
}

#[test]
fn what_one_key_lends_and_takes_back_is_not_for_others_to_pay() {
    let (limit, _) = fixed(20, Hold::Work);
    let attacker = Key::of("attacker");
    let mut lent = Vec::new();
    for _ in 0..100 {
        let mut permit = limit.try_acquire_of(Class::DEFAULT, attacker).unwrap();
        permit.lend();
        lent.push(permit);
    }
    lent.iter_mut().for_each(|permit| permit.retake());
    assert_eq!(places(&limit), (100, 0));
    assert!(!of(&limit, "attacker"));
    let others = (0..100).filter(|other| of(&limit, &format!("other {other}")));
    assert!((4..=6).contains(&others.count()), "a quarter");
}

#[test]
fn a_key_lends_no_more_than_so_much() {
    let lend = |limit: &AdaptiveLimit| {
        let lent = (0..300).map_while(|_| {
            let attacker = Key::of("attacker");
            let mut permit = limit.try_acquire_of(Class::DEFAULT, attacker).ok()?;
            permit.lend();
            Some(permit)
        });
        lent.collect::<Vec<_>>()
    };
    let (limit, _) = fixed(20, Hold::Work);
    let lent = lend(&limit);
    assert_eq!(
        (places(&limit).1, lent.len()),
        (200, 220),
        "the first hundred of all, and a hundred; beyond that the place is kept"
    );
    assert!(of(&limit, "other"));

    let (limit, _) = fixed(20, Hold::Work);
    let mut few = Vec::new();
    for _ in 0..100 {
        let mut permit = limit.try_acquire().unwrap();
        permit.lend();
        few.push(permit);
    }
    let lent = lend(&limit);
    assert_eq!((places(&limit).1, lent.len()), (200, 120), "beside others");
}

fn of(limit: &AdaptiveLimit, tenant: &str) -> bool {
    let permit = limit.try_acquire_of(Class::DEFAULT, Key::of(tenant));
    permit.map(std::mem::forget).is_ok()
}

#[test]
fn a_key_that_asks_for_everything_leaves_a_quarter_to_others() {
    let (limit, _) = fixed(100, Hold::Work);
    assert!(of(&limit, "other"));
    let greedy = (0..200).filter(|_| of(&limit, "greedy")).count();
    assert_eq!(greedy, 99, "while nobody else asks, nothing is kept");
    assert!(
        of(&limit, "other"),
        "who holds next to nothing is let in all the same"
    );
    let others = (0..200).filter(|_| of(&limit, "other")).count();
    assert!((20..=24).contains(&others), "{others}");
}

#[test]
fn what_is_kept_for_others_is_not_given_to_who_holds_a_quarter() {
    let (limit, _) = fixed(100, Hold::Work);
    let greedy = (0..75).filter(|_| of(&limit, "greedy")).count();
    assert_eq!(greedy, 75);
    assert!(of(&limit, "other"));
    assert!(!of(&limit, "greedy"), "somebody else asks");
    for other in 0..24 {
        assert!(of(&limit, &format!("other {other}")));
    }
    assert!(!of(&limit, "one more"));
    assert_eq!(limit.stats().in_flight, 100);
}
