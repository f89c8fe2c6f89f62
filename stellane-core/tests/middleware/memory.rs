//! A memory budget around a service, without sockets: who waits, who goes on, who is ended.

use std::{
    any::Any,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use stellane_core::{
    BoxError,
    memory::{MemoryBudget, MemoryBudgetLayer, MemoryExhausted, MemoryKey, MemoryRequestBody},
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::looks::in_time;

const MIB: usize = 1 << 20;
const MB: u64 = 1 << 20;

/// What a client sends, and how much it said that it would.
struct Sent {
    pieces: mpsc::UnboundedReceiver<Bytes>,
    left: Option<u64>,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == Some(0) {
            return Poll::Ready(None);
        }
        let piece = std::task::ready!(self.pieces.poll_recv(cx));
        if let (Some(left), Some(piece)) = (&mut self.left, &piece) {
            *left -= piece.len() as u64;
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or(SizeHint::default(), SizeHint::with_exact)
    }
}

type UploadBody = MemoryRequestBody<Sent>;

/// An upload under way.
struct Upload {
    pieces: mpsc::UnboundedSender<Bytes>,
    answer: JoinHandle<Response<()>>,
}

impl Upload {
    fn send(&self, bytes: usize) {
        let _ = self.pieces.send(Bytes::from(vec![1; bytes]));
    }

    async fn status(self) -> StatusCode {
        let answer = in_time(self.answer);
        answer.await.expect("in time").expect("no panic").status()
    }
}

/// What the handlers do with a body.
#[derive(Clone, Default)]
struct Handlers {
    /// Those that have collected a body wait for it.
    go: Option<Arc<Notify>>,
    errors: Arc<Mutex<Vec<BoxError>>>,
}

impl Handlers {
    async fn collect(self, body: UploadBody) -> Response<Empty<Bytes>> {
        let mut response = Response::new(Empty::new());
        match body.collect().await {
            Ok(body) => {
                let body = body.to_bytes();
                if let Some(go) = &self.go {
                    go.notified().await;
                }
                drop(body);
            }
            Err(error) => {
                self.errors.lock().expect("no panic").push(error);
                *response.status_mut() = StatusCode::BAD_REQUEST;
            }
        }
        response
    }
}

async fn consume(mut body: UploadBody) -> Response<Empty<Bytes>> {
    while let Some(frame) = body.frame().await {
        drop(frame);
        tokio::task::yield_now().await;
    }
    Response::new(Empty::new())
}

/// Begins an upload to a service behind the budget.
fn begin<F>(
    budget: &MemoryBudget,
    length: Option<usize>,
    key: Option<u64>,
    handler: impl Fn(UploadBody) -> F + Clone + Send + 'static,
) -> Upload
where
    F: Future<Output = Response<Empty<Bytes>>> + Send + 'static,
{
    let (pieces, received) = mpsc::unbounded_channel();
    let service =
        MemoryBudgetLayer::new(budget).layer(service_fn(move |request: Request<UploadBody>| {
            let answer = handler(request.into_body());
            async { Ok::<_, Infallible>(answer.await) }
        }));
    let mut request = Request::new(Sent {
        pieces: received,
        left: length.map(|length| length as u64),
    });
    if let Some(key) = key {
        request.extensions_mut().insert(MemoryKey(key));
    }
    let answer = async { service.oneshot(request).await.expect("infallible") };
    Upload {
        pieces,
        answer: tokio::spawn(async { answer.await.map(drop) }),
    }
}

/// Lets every task do what it can.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_an_extractor_has_collected_counts_until_the_request_is_answered() {
    let budget = MemoryBudget::new(100 * MB);
    let handlers = Handlers {
        go: Some(Arc::default()),
        ..Handlers::default()
    };
    let go = handlers.go.clone().expect("is there");
    let upload = begin(&budget, Some(8 * MIB), None, move |body| {
        handlers.clone().collect(body)
    });
    for n in 1..=8 {
        upload.send(MIB);
        settle().await;
        assert_eq!(budget.stats().held_bytes, n * MB);
    }
    go.notify_one();
    assert_eq!(upload.status().await, StatusCode::OK);
    let stats = budget.stats();
    assert_eq!(
        (stats.held_bytes, stats.waits_total, stats.ended_total),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn a_small_part_of_all_is_set_aside_as_a_whole_until_the_request_is_answered() {
    let budget = MemoryBudget::new(64 * MB);
    let handlers = Handlers::default();
    let collect = move |body| handlers.clone().collect(body);
    let begin = || begin(&budget, Some(MIB), None, collect.clone());
    let mut uploads = Vec::new();
    for n in 1..=8 {
        uploads.push(begin());
        settle().await;
        assert_eq!(budget.stats().held_bytes, n * MB);
    }
    // Not more than an eighth: it may be that nothing of it is there.
    uploads.push(begin());
    settle().await;
    assert_eq!(budget.stats().held_bytes, 8 * MB);
    uploads[8].send(MIB / 2);
    settle().await;
    assert_eq!(budget.stats().held_bytes, 8 * MB + MB / 2);
    uploads[8].send(MIB / 2);
    for upload in &uploads[..8] {
        upload.send(MIB);
    }
    for upload in uploads {
        assert_eq!(upload.status().await, StatusCode::OK);
    }
    // Nor where others hold much.
    let held = budget.hold(16 * MB);
    let upload = begin();
    settle().await;
    assert_eq!(budget.stats().held_bytes, 16 * MB);
    upload.answer.abort();
    drop(held);
    settle().await;
    let stats = budget.stats();
    assert_eq!((stats.held_bytes, stats.waits_total), (0, 0));
}

#[tokio::test]
async fn none_is_ended_while_what_is_set_aside_may_come_back() {
    for comes_back in [true, false] {
        let budget = MemoryBudget::new(64 * MB);
        let handlers = Handlers::default();
        let collect = move |body| handlers.clone().collect(body);
        let begin = |bytes| begin(&budget, Some(bytes), None, collect.clone());
        let small: Vec<_> = (0..8).map(|_| begin(MIB)).collect();
        let large = begin(60 * MIB);
        settle().await;
        for _ in 0..60 {
            large.send(MIB);
        }
        settle().await;
        for _ in 0..15 {
            budget.look();
            settle().await;
        }
        let stats = budget.stats();
        assert_eq!((stats.waiting, stats.ended_total), (1, 0), "{stats:?}");
        if comes_back {
            for upload in small {
                upload.send(MIB);
                assert_eq!(upload.status().await, StatusCode::OK);
            }
            assert_eq!(large.status().await, StatusCode::OK);
            continue;
        }
        for _ in 0..15 {
            budget.look();
            settle().await;
        }
        assert_eq!(large.status().await, StatusCode::SERVICE_UNAVAILABLE);
    }
}

/// What a handler says that it holds, or an answer of which its client has not read anything.
async fn others(budget: &MemoryBudget, is_answer: bool) -> Box<dyn Any> {
    if !is_answer {
        return Box::new(budget.hold(7 * MB));
    }
    let service =
        MemoryBudgetLayer::new(budget).layer(service_fn(async |_: Request<UploadBody>| {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![1; 7 * MIB]))))
        }));
    let request = Request::new(Sent {
        pieces: mpsc::unbounded_channel().1,
        left: Some(0),
    });
    let answer = service.oneshot(request).await.expect("infallible");
    Box::new(answer.into_body().frame().await)
}

async fn look(budget: &MemoryBudget, times: usize) {
    for _ in 0..times {
        budget.look();
        settle().await;
    }
}

#[tokio::test]
async fn an_upload_waits_for_what_others_hold_and_is_not_ended_in_their_place() {
    for (is_answer, comes_back) in [(false, true), (true, true), (false, false), (true, false)] {
        let budget = MemoryBudget::new(10 * MB);
        let others = others(&budget, is_answer).await;
        let handlers = Handlers::default();
        let collect = move |body| handlers.clone().collect(body);
        for length in [Some(5 * MIB), None] {
            let upload = begin(&budget, length, None, collect.clone());
            for _ in 0..5 {
                upload.send(MIB);
            }
            look(&budget, 15).await;
            let stats = budget.stats();
            assert_eq!((stats.waiting, stats.ended_total), (1, 0), "{stats:?}");
            // How long others have waited is not its matter.
            upload.answer.abort();
        }
        let upload = begin(&budget, Some(5 * MIB), None, collect.clone());
        for _ in 0..5 {
            upload.send(MIB);
        }
        look(&budget, 15).await;
        let stats = budget.stats();
        assert_eq!((stats.waiting, stats.ended_total), (1, 0), "{stats:?}");
        if comes_back {
            drop(others);
            assert_eq!(upload.status().await, StatusCode::OK);
            assert_eq!(
                (budget.stats().held_bytes, budget.stats().ended_total),
                (0, 0)
            );
            continue;
        }
        // It need not wait for ever.
        look(&budget, 15).await;
        assert_eq!(upload.status().await, StatusCode::SERVICE_UNAVAILABLE);
    }
}

/// It could not be whole even if all of that came back.
#[tokio::test]
async fn what_can_not_be_held_at_all_does_not_wait_for_what_others_hold() {
    let budget = MemoryBudget::new(10 * MB);
    let _others = budget.hold(MB);
    let handlers = Handlers::default();
    let upload = begin(&budget, Some(20 * MIB), None, move |body| {
        handlers.clone().collect(body)
    });
    for _ in 0..20 {
        upload.send(MIB);
    }
    assert_eq!(upload.status().await, StatusCode::SERVICE_UNAVAILABLE);
}

/// Beyond a quarter of the budget it is seen that nothing is kept.
#[tokio::test]
async fn what_is_consumed_as_it_comes_holds_nothing_however_long_it_is() {
    let budget = MemoryBudget::new(10 * MB);
    let upload = begin(&budget, None, None, consume);
    for _ in 0..100 {
        upload.send(MIB);
        settle().await;
        assert!(budget.stats().held_bytes <= 3 * MB, "{budget:?}");
    }
    drop(upload.pieces);
    assert_eq!(
        upload.answer.await.expect("no panic").status(),
        StatusCode::OK
    );
    let stats = budget.stats();
    assert_eq!(
        (stats.held_bytes, stats.waits_total, stats.ended_total),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn a_piece_that_outlives_its_request_counts_for_as_long_as_it_is_there() {
    let budget = MemoryBudget::new(10 * MB);
    let held = budget.hold(5 * MB);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeps = {
        let kept = Arc::clone(&kept);
        move |mut body: UploadBody| {
            let kept = Arc::clone(&kept);
            async move {
                while let Some(Ok(frame)) = body.frame().await {
                    kept.lock()
                        .expect("no panic")
                        .extend(frame.into_data().ok());
                }
                Response::new(Empty::new())
            }
        }
    };
    let upload = begin(&budget, Some(2 * MIB + 100_000), None, keeps);
    upload.send(100_000); // seen to be long with it, and not followed
    upload.send(MIB);
    upload.send(MIB);
    assert_eq!(upload.status().await, StatusCode::OK);
    assert_eq!(budget.stats().held_bytes, 7 * MB);
    kept.lock().expect("no panic").clear();
    assert_eq!(budget.stats().held_bytes, 5 * MB);
    drop(held);
    assert_eq!(budget.stats().held_bytes, 0);
}

#[tokio::test]
async fn uploads_wait_for_each_other_and_all_become_whole() {
    let budget = MemoryBudget::new(10 * MB);
    let handlers = Handlers::default();
    let uploads: Vec<_> = (0..8)
        .map(|_| {
            let handlers = handlers.clone();
            let collect = move |body| handlers.clone().collect(body);
            begin(&budget, Some(3 * MIB), None, collect)
        })
        .collect();
    // All of them at once, more than there is.
    for _ in 0..12 {
        for upload in &uploads {
            upload.send(MIB / 4);
        }
        settle().await;
        assert!(budget.stats().held_bytes <= 10 * MB, "{budget:?}");
    }
    for upload in uploads {
        assert_eq!(upload.status().await, StatusCode::OK);
    }
    let stats = budget.stats();
    assert!(stats.waits_total > 0);
    assert_eq!(
        (stats.held_bytes, stats.waiting, stats.ended_total),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn what_can_not_be_held_is_ended_and_the_others_go_on() {
    let budget = MemoryBudget::new(10 * MB);
    let handlers = Handlers::default();
    let collect = {
        let handlers = handlers.clone();
        move |body| handlers.clone().collect(body)
    };
    for length in [Some(20 * MIB), None] {
        let large = begin(&budget, length, None, collect.clone());
        let small = begin(&budget, Some(MIB), None, collect.clone());
        small.send(MIB / 2);
        for _ in 0..20 {
            large.send(MIB);
        }
        settle().await;
        small.send(MIB / 2);
        assert_eq!(large.status().await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(small.status().await, StatusCode::OK);
    }
    let errors = handlers.errors.lock().expect("no panic");
    assert_eq!(errors.len(), 2);
    assert!(errors.iter().all(|error| error.is::<MemoryExhausted>()));
    let stats = budget.stats();
    assert_eq!(
        (stats.held_bytes, stats.waiting, stats.ended_total),
        (0, 0, 2)
    );
}

/// Two and a half times as much as there is, each more than a third of it: a few give way, and the others come to their end
/// one after the other.
#[tokio::test]
async fn no_more_are_ended_than_make_room_for_another() {
    let budget = MemoryBudget::new(10 * MB);
    let handlers = Handlers::default();
    let uploads: Vec<_> = (0..20)
        .map(|_| {
            let handlers = handlers.clone();
            begin(&budget, Some(4 * MIB), None, move |body| {
                handlers.clone().collect(body)
            })
        })
        .collect();
    for _ in 0..16 {
        for upload in &uploads {
            upload.send(MIB / 4);
        }
        settle().await;
    }
    let mut whole = 0;
    for upload in uploads {
        whole += usize::from(upload.status().await == StatusCode::OK);
    }
    let stats = budget.stats();
    assert_eq!((stats.held_bytes, stats.waiting), (0, 0));
    assert!(whole >= 16, "{whole} of 20, {stats:?}");
}

#[tokio::test]
async fn a_client_with_many_uploads_loses_one_before_others_do() {
    let budget = MemoryBudget::new(10 * MB);
    let handlers = Handlers::default();
    let collect = move |body| handlers.clone().collect(body);
    let greedy: Vec<_> = (0..5)
        .map(|_| begin(&budget, Some(9 * MIB), Some(7), collect.clone()))
        .collect();
    let modest = begin(&budget, Some(4 * MIB), Some(1), collect.clone());
    for _ in 0..6 {
        modest.send(MIB / 4);
        for upload in &greedy {
            upload.send(MIB / 4);
        }
        settle().await;
    }
    for _ in 0..10 {
        modest.send(MIB / 4);
    }
    assert_eq!(modest.status().await, StatusCode::OK);
    assert!(budget.stats().ended_total > 0);
}

/// A handler that does not look at its body again is dropped.
#[tokio::test]
async fn a_handler_that_waits_for_something_else_gives_up_what_it_holds() {
    let budget = MemoryBudget::new(10 * MB);
    let forgets = |mut body: UploadBody| async move {
        let mut kept = Vec::new();
        while kept.len() < 7 {
            kept.push(body.frame().await);
        }
        std::future::pending::<()>().await;
        drop(body);
        Response::new(Empty::new())
    };
    let stuck = begin(&budget, Some(20 * MIB), None, forgets);
    for _ in 0..8 {
        stuck.send(MIB);
    }
    settle().await;
    assert_eq!(budget.stats().held_bytes, 7 * MB);
    let handlers = Handlers::default();
    let other = begin(&budget, Some(5 * MIB), None, move |body| {
        handlers.clone().collect(body)
    });
    for _ in 0..5 {
        other.send(MIB);
    }
    settle().await;
    assert_eq!(budget.stats().waiting, 1, "it may read on by itself");
    // Its client has sent nothing for two seconds.
    for _ in 0..5 {
        budget.look();
        settle().await;
    }
    assert_eq!(stuck.status().await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(other.status().await, StatusCode::OK);
}

#[tokio::test]
async fn calls_of_grpc_hear_of_it_in_their_own_words() {
    let budget = MemoryBudget::new(10 * MB);
    let service =
        MemoryBudgetLayer::new(&budget).layer(service_fn(async |request: Request<UploadBody>| {
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, BoxError>(Response::new(body.len().to_string()))
        }));
    let (pieces, received) = mpsc::unbounded_channel();
    for _ in 0..20 {
        pieces.send(Bytes::from(vec![1; MIB])).expect("open");
    }
    let request = Request::post("/a.B/C")
        .header("content-type", "application/grpc+proto")
        .body(Sent {
            pieces: received,
            left: None,
        })
        .expect("valid");
    let answer = service.oneshot(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["grpc-status"], "8");
    assert_eq!(answer.headers()["content-type"], "application/grpc+proto");
}

#[tokio::test]
async fn small_requests_wait_for_nobody() {
    let budget = MemoryBudget::new(10 * MB);
    let _full = budget.hold(11 * MB);
    let handlers = Handlers::default();
    for length in [Some(16 << 10), None] {
        let handlers = handlers.clone();
        let upload = begin(&budget, length, None, move |body| {
            handlers.clone().collect(body)
        });
        upload.send(8 << 10);
        upload.send(8 << 10);
        drop(upload.pieces);
        let answer = upload.answer.await.expect("no panic");
        assert_eq!(answer.status(), StatusCode::OK);
    }
    assert_eq!(budget.stats().waits_total, 0);
}

/// Who is given up while it waits keeps nobody waiting.
#[tokio::test]
async fn a_client_that_leaves_makes_room() {
    let budget = MemoryBudget::new(10 * MB);
    let handlers = Handlers::default();
    let collect = move |body| handlers.clone().collect(body);
    let first = begin(&budget, Some(9 * MIB), None, collect.clone());
    for _ in 0..5 {
        first.send(MIB);
    }
    settle().await;
    let second = begin(&budget, Some(9 * MIB), None, collect.clone());
    for _ in 0..9 {
        second.send(MIB);
    }
    settle().await;
    assert_eq!(budget.stats().waiting, 1);
    first.answer.abort();
    assert_eq!(second.status().await, StatusCode::OK);
    assert_eq!((budget.stats().held_bytes, budget.stats().waiting), (0, 0));
}

#[tokio::test]
async fn a_budget_of_nothing_is_off() {
    let budget = MemoryBudget::new(0);
    let handlers = Handlers::default();
    let upload = begin(&budget, Some(64 * MIB), None, move |body| {
        handlers.clone().collect(body)
    });
    for _ in 0..64 {
        upload.send(MIB);
    }
    settle().await;
    assert_eq!(budget.stats().held_bytes, 0);
    assert_eq!(upload.status().await, StatusCode::OK);
}

/// Where the process has no memory left for other reasons, each comes to its end after the other.
#[tokio::test]
async fn uploads_go_one_by_one_where_the_process_has_no_memory_left() {
    let budget = MemoryBudget::new(100 * MB);
    budget.set_squeezed(true);
    let handlers = Handlers::default();
    let uploads: Vec<_> = (0..4)
        .map(|_| {
            let handlers = handlers.clone();
            begin(&budget, Some(4 * MIB), None, move |body| {
                handlers.clone().collect(body)
            })
        })
        .collect();
    for _ in 0..4 {
        for upload in &uploads {
            upload.send(MIB);
        }
    }
    for upload in uploads {
        assert_eq!(upload.status().await, StatusCode::OK);
    }
    let stats = budget.stats();
    assert!(stats.waits_total > 0);
    assert_eq!(
        (stats.held_bytes, stats.waiting, stats.ended_total),
        (0, 0, 0)
    );
}

/// It could go on, and does so by a byte now and then.
#[tokio::test]
async fn nobody_waits_for_a_client_that_would_need_more_than_a_minute() {
    let budget = MemoryBudget::new(10 * MB);
    let handlers = Handlers::default();
    let collect = move |body| handlers.clone().collect(body);
    let trickles = begin(&budget, Some(8 * MIB), None, collect.clone());
    for _ in 0..6 {
        trickles.send(MIB);
    }
    settle().await;
    let other = begin(&budget, Some(5 * MIB), None, collect.clone());
    for _ in 0..5 {
        other.send(MIB);
    }
    for _ in 0..20 {
        trickles.send(1);
        settle().await;
        budget.look();
        settle().await;
    }
    assert_eq!(other.status().await, StatusCode::OK);
    assert_eq!(trickles.status().await, StatusCode::SERVICE_UNAVAILABLE);
}

/// Neither what it has sent nor how slowly makes it the one that is ended.
#[tokio::test]
async fn a_slow_client_that_holds_little_is_never_ended_before_those_that_hold_much() {
    let budget = MemoryBudget::new(10 * MB);
    let handlers = Handlers::default();
    let collect = move |body| handlers.clone().collect(body);
    let slow = begin(&budget, Some(MIB), None, collect.clone());
    slow.send(100_000);
    settle().await;
    let looks = {
        let budget = budget.clone();
        tokio::spawn(async move {
            loop {
                budget.look();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    for _ in 0..5 {
        let large: Vec<_> = (0..3)
            .map(|_| begin(&budget, Some(9 * MIB), None, collect.clone()))
            .collect();
        for _ in 0..9 {
            for upload in &large {
                upload.send(MIB);
            }
            slow.send(5_000);
            settle().await;
        }
        for upload in large {
            upload.status().await;
        }
    }
    slow.send(MIB - 100_000 - 5 * 9 * 5_000);
    assert_eq!(slow.status().await, StatusCode::OK);
    looks.abort();
    assert!(budget.stats().ended_total > 0);
    assert_eq!(budget.stats().held_bytes, 0);
}

#[tokio::test]
async fn who_was_let_go_on_comes_to_its_end_whatever_others_take_meanwhile() {
    let budget = MemoryBudget::new(10 * MB);
    let handlers = Handlers::default();
    let collect = move |body| handlers.clone().collect(body);
    let upload = begin(&budget, Some(8 * MIB), None, collect);
    for _ in 0..6 {
        upload.send(MIB);
    }
    settle().await;
    let _others = budget.hold(2 * MB);
    upload.send(MIB);
    settle().await;
    let _more = budget.hold(2 * MB);
    upload.send(MIB);
    assert_eq!(upload.status().await, StatusCode::OK);
    assert_eq!(budget.stats().ended_total, 0);
}
