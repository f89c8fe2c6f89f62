//! What a component costs with one thread, and with two that share it.

use std::{
    convert::Infallible,
    env, fmt,
    future::poll_fn,
    hint::black_box,
    pin::pin,
    sync::{
        Arc, Barrier, Once,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::{Ready, ready};
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde::Serialize;
use stellane_core::{
    autotune::{AdaptiveLimit, AdaptiveLimitLayer, AlgorithmKind, LimitConfig, Outcome},
    engine_selector::{EngineSelector, EngineSelectorLayer, SelectorConfig},
    metrics::{HttpMetrics, MetricsLayer, label_route},
    pool::{BufPool, PoolConfig, PoolLayer, Pools},
    prepared::{Prepared, PreparedLayer, PreparedResponse},
    router::{Interner, Path, Route, RouteLayer, RouteTable, Router},
};
use tower::{Layer, Service, ServiceExt, limit::GlobalConcurrencyLimitLayer, service_fn};

use super::{Figures, Plan, Section};
use crate::{BoxError, load::thread_cpu, measure::Spread, server::pin};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ComponentRow {
    pub name: &'static str,
    /// Nanoseconds of CPU time for each operation of a thread.
    pub one: Spread,
    pub two: Spread,
    /// What two threads do, divided by twice what one does: 1 if nothing is shared that is written.
    pub efficiency: Spread,
}

/// Does something a few times; how often.
type Batch = Box<dyn FnMut() -> u64>;

/// Made once; each thread makes its own batch of it.
struct Component {
    name: &'static str,
    batch: Box<dyn Fn(usize) -> Batch + Sync>,
}

pub(super) fn run(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let title = "Components with two threads".to_owned();
    let what = "Each component in its own stack, called in a loop by one thread and by two, on cores of their own. With two \
        threads a component shows what all cores write for each request. CPU time of an operation; the last column is what \
        two threads do by twice what one does."
        .to_owned();
    let cpus = plan.cpus;
    let figures = if cpus < 2 {
        Figures::Missing("there is one core only".to_owned())
    } else {
        // The harness is pinned: a component that asks how many cores there are would be made for one.
        pin(&Vec::from_iter(0..cpus))?;
        let all = components()?;
        let chosen = env::var("COMPARE_COMPONENTS").unwrap_or_default();
        let all = all.iter().filter(|each| each.name.contains(&chosen));
        let rows = all.map(|component| row(component, plan));
        let rows = rows.collect::<Result<_, BoxError>>();
        // The harness has a core of its own again.
        pin(&plan.cores.load)?;
        Figures::Components(rows?)
    };
    Ok(Section {
        name,
        title,
        what,
        figures,
    })
}

fn row(component: &Component, plan: &Plan) -> Result<ComponentRow, BoxError> {
    let cores = [0, plan.cpus - 1];
    // Long enough for some ten thousand operations.
    let time = Duration::from_secs_f64(plan.rounds.seconds / 5.0);
    let rounds = plan.rounds.count.min(9);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        one.push(nanos(component, &cores[..1], time)?);
        two.push(nanos(component, &cores, time)?);
    }
    let efficiency = one.iter().zip(&two).map(|(one, two)| one / two);
    let spread = |values: &[f64]| Spread::of(values.iter().copied()).ok_or("no rounds");
    Ok(ComponentRow {
        name: component.name,
        efficiency: Spread::of(efficiency).ok_or("no rounds")?,
        one: spread(&one)?,
        two: spread(&two)?,
    })
}

/// The CPU time that an operation takes with a thread on each of the cores.
fn nanos(component: &Component, cores: &[usize], time: Duration) -> Result<f64, BoxError> {
    let (start, over) = (Barrier::new(cores.len()), AtomicBool::new(false));
    let (start, over) = (&start, &over);
    let work = |place: usize, core: usize| {
        pin(&[core])?;
        let mut batch = (component.batch)(place);
        // Not counted: caches and branch predictors warm up.
        for _ in 0..16 {
            batch();
        }
        start.wait();
        let (begin, cpu, mut count) = (Instant::now(), thread_cpu(), 0);
        loop {
            count += batch();
            if begin.elapsed() >= time {
                // Nobody is counted while the other rests.
                over.store(true, Relaxed);
            }
            if over.load(Relaxed) {
                break;
            }
        }
        // What waits for a cache line is busy; what waits for a core does not count.
        let used = thread_cpu().saturating_sub(cpu);
        Ok::<f64, BoxError>(used.as_nanos() as f64 / count as f64)
    };
    let each = thread::scope(|scope| {
        let threads: Vec<_> = cores
            .iter()
            .enumerate()
            .map(|(place, core)| scope.spawn(move || work(place, *core)))
            .collect();
        let ended = threads.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| BoxError::from("a thread panicked"))?
        });
        ended.collect::<Result<Vec<f64>, BoxError>>()
    })?;
    Ok(each.iter().sum::<f64>() / each.len() as f64)
}

fn component<B: FnMut() -> u64 + 'static>(
    name: &'static str,
    batch: impl Fn(usize) -> B + Sync + 'static,
) -> Component {
    Component {
        name,
        batch: Box::new(move |place| Box::new(batch(place))),
    }
}

const BATCH: u64 = 64;

fn repeat(mut operation: impl FnMut()) -> impl FnMut() -> u64 {
    move || {
        for _ in 0..BATCH {
            operation();
        }
        BATCH
    }
}

/// What stands within the layers.
#[derive(Debug, Clone)]
struct Bare;

impl<B> Service<Request<B>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Full::from("Hello, world!"))))
    }
}

/// Requests one after the other, their answers read to the end.
fn drive<S, B>(mut service: S, uri: &'static str) -> impl FnMut() -> u64
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    B: Body,
{
    repeat(move || {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = http::Uri::from_static(uri);
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(())) = service.poll_ready(&mut context) else {
            unreachable!("it has room for two")
        };
        let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut context) else {
            unreachable!("nothing in it waits or fails")
        };
        assert!(response.status().is_success());
        let mut body = pin!(response.into_body());
        while !body.is_end_stream() {
            let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut context) else {
                break;
            };
            let _ = black_box(frame.is_ok());
        }
    })
}

/// Connections one after the other, each with a clone of the service and one request, which hyper reads from memory.
fn connect<S, B>(service: S) -> impl FnMut() -> u64
where
    S: Service<Request<hyper::body::Incoming>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    const REQUEST: &[u8] = b"GET /users/7 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    repeat(move || {
        let socket = TokioIo::new(tokio::io::join(REQUEST, tokio::io::sink()));
        let service = TowerToHyperService::new(service.clone());
        // It reads the end of what is in memory before it answers.
        let mut http1 = http1::Builder::new();
        let connection = http1.half_close(true).serve_connection(socket, service);
        let mut context = Context::from_waker(Waker::noop());
        let polled = pin!(connection).poll(&mut context);
        assert!(matches!(polled, Poll::Ready(Ok(()))), "{polled:?}");
    })
}

const ROUTES: usize = 520;
/// More than the metrics tell apart.
const FLOOD: usize = 10_000;

fn components() -> Result<Vec<Component>, BoxError> {
    let nothing = component("nothing: the service that stands within the layers", |_| {
        drive(Bare, "/hello")
    });
    let mut all = vec![nothing];
    all.extend(routers()?);
    all.extend(layers()?);
    all.extend(pools()?);
    all.extend(limits()?);
    all.extend(interner()?);
    Ok(all)
}

fn routers() -> Result<Vec<Component>, BoxError> {
    let router = |layer: bool| {
        let user = async |Path(id): Path<u64>| if id == 7 { "seven" } else { "other" };
        let builder = Router::builder();
        let builder = match layer {
            true => builder.layer(tower::layer::layer_fn(|route: Route| route)),
            false => builder,
        };
        builder
            .get("/", async || "hello")
            .get("/users/{id}", user)
            .build()
    };
    let (plain, layered) = (router(false)?, router(true)?);
    let (parameter, cloned, of_each) = (plain.clone(), plain.clone(), plain.clone());
    let route_layer = RouteLayer::new(RouteTable::new(["/users/{id}", "/"])?);
    Ok(vec![
        component("Router, `GET /`", move |_| drive(plain.clone(), "/")),
        component("Router, a parameter", move |_| {
            drive(parameter.clone(), "/users/7")
        }),
        component("Router, a layer inside", move |_| {
            drive(layered.clone(), "/users/7")
        }),
        component("RouteLayer", move |_| {
            drive(route_layer.layer(Bare), "/users/7")
        }),
        component("Router, cloned for each request", move |_| {
            let router = cloned.clone();
            let once = service_fn(move |request| router.clone().call(request));
            drive(once, "/users/7")
        }),
        component(
            "Router, cloned for each connection of one request",
            move |_| connect(of_each.clone()),
        ),
        component("nothing, the same", |_| connect(Bare)),
    ])
}

fn layers() -> Result<Vec<Component>, BoxError> {
    let prepared = Prepared::new();
    let hello = PreparedResponse::new("text/plain", Bytes::from_static(&[b'x'; 512]));
    prepared.insert("/hello", hello);
    let mut config = SelectorConfig::default();
    config.accelerated_routes = vec!["/hello".to_owned()];
    let selector = EngineSelector::builder().config(config).build()?;
    let accelerated = prepared.service();
    let prepared = PreparedLayer::new(&prepared);
    let metrics = |routes: usize| -> Result<_, BoxError> {
        let labels: Vec<&'static str> = (0..routes)
            .map(|number| &*format!("/resource-{number}/{{id}}").leak())
            .collect();
        let layer = MetricsLayer::new(&HttpMetrics::builder().build()?);
        Ok(move |thread: usize| {
            let (labels, mut place) = (labels.clone(), 97 * thread);
            let service = service_fn(move |_: Request<_>| {
                place += 1;
                label_route(labels[place % labels.len()]);
                ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
                    "Hello, world!",
                ))))
            });
            drive(layer.layer(service), "/hello")
        })
    };
    let pools = PoolLayer::new(&Pools::builder().config(PoolConfig::enabled()).build()?);
    Ok(vec![
        component("PreparedLayer", move |_| {
            drive(prepared.layer(Bare), "/hello")
        }),
        component("EngineSelectorLayer, prepared answers", move |_| {
            let layer = EngineSelectorLayer::new(&selector, accelerated.clone());
            drive(layer.layer(Bare), "/hello")
        }),
        component("MetricsLayer, one route", metrics(1)?),
        component("MetricsLayer, 520 routes", metrics(ROUTES)?),
        component("MetricsLayer, a flood of labels", metrics(FLOOD)?),
        component("PoolLayer", move |_| drive(pools.layer(Bare), "/hello")),
    ])
}

fn pools() -> Result<Vec<Component>, BoxError> {
    let pool = BufPool::new(&PoolConfig::enabled())?;
    let fill = |buffer: &mut BytesMut| {
        buffer.extend_from_slice(&[7; 100]);
        black_box(buffer.len());
    };
    let pooled = |size: usize| {
        let pool = pool.clone();
        move |_: usize| {
            let pool = pool.clone();
            repeat(move || {
                let mut buffer = pool.get(black_box(size));
                buffer.extend_from_slice(&[7; 100]);
                black_box(buffer.len());
            })
        }
    };
    let (small, large) = (pooled(4 << 10), pooled(64 << 10));
    Ok(vec![
        component("BufPool, 4 KiB", small),
        component("BufPool, 64 KiB", large),
        component("the allocator, 64 KiB", move |_| {
            repeat(move || fill(&mut BytesMut::with_capacity(black_box(64 << 10))))
        }),
    ])
}

fn limits() -> Result<Vec<Component>, BoxError> {
    let mut config = LimitConfig::default();
    config.algorithm = AlgorithmKind::Fixed;
    (config.initial, config.max) = (1000, 10_000);
    let limit = AdaptiveLimit::builder().config(config.clone()).build()?;
    let warm = Once::new();
    let layer = AdaptiveLimitLayer::new(&limit);
    let semaphore = Arc::new(tokio::sync::Semaphore::new(1000));
    let visited = layer.clone();
    let mut config = config.clone();
    (config.initial, config.min, config.max_wait) = (1, 1, Duration::from_secs(5));
    let one_place = AdaptiveLimit::builder().config(config).build()?;
    let one_place = AdaptiveLimitLayer::new(&one_place);
    let tower = GlobalConcurrencyLimitLayer::new(1);
    Ok(vec![
        component("AdaptiveLimit, a place taken and given back", move |_| {
            warm.call_once(|| settle(&limit));
            let limit = limit.clone();
            repeat(move || {
                if let Ok(place) = limit.try_acquire() {
                    black_box(place).finish(Outcome::Success);
                }
            })
        }),
        component("AdaptiveLimitLayer", move |_| {
            drive(layer.layer(Bare), "/hello")
        }),
        component("AdaptiveLimitLayer, as the preset asks it", move |_| {
            let layer = visited.clone();
            let (request, response) = (Request::new(()), Response::new(Full::<Bytes>::default()));
            repeat(move || {
                if let Some(mut admission) = layer.enter(black_box(&request)) {
                    layer.answered(&mut admission, black_box(&response));
                    layer.leave(&mut admission);
                }
            })
        }),
        component("tokio's Semaphore, the same", move |_| {
            let semaphore = Arc::clone(&semaphore);
            repeat(move || drop(black_box(semaphore.try_acquire())))
        }),
        component(
            "AdaptiveLimitLayer, four tasks wait for a place",
            move |_| queue(one_place.layer(service_fn(work))),
        ),
        component("tower's ConcurrencyLimit, the same", move |_| {
            queue(tower.layer(service_fn(work)))
        }),
    ])
}

/// By the windows of a limit that two threads ask it chooses how many requests it times, and whether threads keep places.
/// When nobody has asked for a while, it begins anew.
fn settle(limit: &AdaptiveLimit) {
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while began.elapsed() < Duration::from_secs(2) {
                    for _ in 0..10_000 {
                        if let Ok(place) = limit.try_acquire() {
                            place.finish(Outcome::Success);
                        }
                    }
                }
            });
        }
    });
}

/// Gives way once, so that others come.
async fn work<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    tokio::task::yield_now().await;
    Ok(Response::new(Full::from("Hello, world!")))
}

/// Four tasks of each thread call a service that has one place.
fn queue<S, B>(service: S) -> impl FnMut() -> u64
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: fmt::Debug,
    B: Body + Send,
{
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().build();
    move || {
        let Ok(runtime) = &runtime else {
            unreachable!("a runtime needs nothing")
        };
        let task = |mut service: S| async move {
            for _ in 0..BATCH {
                let ready = service.ready().await.expect("it never fails");
                let answer = ready.call(Request::new(Full::default())).await;
                let mut body = pin!(answer.expect("it never fails").into_body());
                while !body.is_end_stream() {
                    poll_fn(|context| body.as_mut().poll_frame(context)).await;
                }
            }
        };
        let tasks = [(); 4].map(|()| runtime.spawn(task(service.clone())));
        runtime.block_on(async {
            for task in tasks {
                task.await.expect("it does not panic");
            }
        });
        4 * BATCH
    }
}

fn interner() -> Result<Vec<Component>, BoxError> {
    const WORDS: usize = 256;
    let wrong = |errors: Vec<_>| format!("{errors:?}");
    let words: Vec<String> = (0..WORDS).map(|n| format!("region-{n:03}-name")).collect();
    let frozen = Interner::builder()
        .vocabulary(words.iter())
        .build()
        .map_err(wrong)?;
    let dynamic = Interner::builder()
        .admit_after(1)
        .max_bytes(16 << 20)
        .build()
        .map_err(wrong)?;
    for word in &words {
        drop(dynamic.intern(word));
    }
    let hot = dynamic.clone();
    let papaya: Arc<papaya::HashMap<Arc<str>, Arc<str>>> = Arc::default();
    for word in &words {
        papaya
            .pin()
            .insert(word.as_str().into(), word.as_str().into());
    }
    let each = move |thread: usize| {
        let (words, mut place) = (words.clone(), 37 * thread);
        move |find: &dyn Fn(&str)| {
            place += 1;
            find(black_box(&words[place % WORDS]));
        }
    };
    let of_dynamic = each.clone();
    Ok(vec![
        component("Interner, words of the program", move |thread| {
            let (frozen, mut next) = (frozen.clone(), each(thread));
            repeat(move || next(&|word| drop(black_box(frozen.lookup(word)))))
        }),
        component("Interner, words that were seen", move |thread| {
            let (dynamic, mut next) = (dynamic.clone(), of_dynamic(thread));
            repeat(move || next(&|word| drop(black_box(dynamic.intern(word)))))
        }),
        component("Interner, one hot word", move |_| {
            let hot = hot.clone();
            repeat(move || drop(black_box(hot.intern(black_box("region-017-name")))))
        }),
        component("papaya, one hot word, borrowed", move |_| {
            let papaya = Arc::clone(&papaya);
            repeat(move || {
                let words = papaya.pin();
                black_box(words.get(black_box("region-017-name")));
            })
        }),
    ])
}
