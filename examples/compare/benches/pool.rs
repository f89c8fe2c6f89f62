//! Take and return against other pools and against plain mimalloc, all in one process.
//!
//! Every pool gives an owned guard, as a value that lives across an `await` needs, and clears the value.
//! `cargo bench --bench pool`

use std::{
    hint::black_box,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use stellane_pool::{BufPool, Pool, PoolConfig, recycle};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a handler might need: three allocations.
struct Scratch {
    spans: Vec<(u16, u16)>,
    text: String,
    bytes: Vec<u8>,
}

recycle!(Scratch { spans, text, bytes });

fn scratch() -> Scratch {
    Scratch {
        spans: Vec::with_capacity(16),
        text: String::with_capacity(512),
        bytes: Vec::with_capacity(4096),
    }
}

fn clear(scratch: &mut Scratch) {
    let Scratch { spans, text, bytes } = scratch;
    spans.clear();
    text.clear();
    bytes.clear();
}

fn touch(scratch: &mut Scratch) {
    scratch.spans.push((1, 2));
    scratch.text.push('x');
    scratch.bytes.push(3);
    black_box(scratch);
}

struct Maker;

impl opool::PoolAllocator<Scratch> for Maker {
    fn allocate(&self) -> Scratch {
        scratch()
    }

    fn reset(&self, value: &mut Scratch) {
        clear(value);
    }
}

fn object(c: &mut Criterion) {
    let mut group = c.benchmark_group("scratch of three allocations");
    group.bench_function("mimalloc", |b| b.iter(|| touch(&mut scratch())));
    let pool = Pool::builder(scratch)
        .build()
        .expect("the defaults are valid");
    group.bench_function("stellane", |b| b.iter(|| touch(&mut pool.take())));
    let pool = Arc::new(object_pool::Pool::new(32, scratch));
    group.bench_function("object-pool", |b| {
        b.iter(|| {
            let mut value = pool.pull_owned(scratch);
            clear(&mut value);
            touch(&mut value);
        });
    });
    let pool = opool::Pool::new(32, Maker).to_rc();
    group.bench_function("opool", |b| {
        b.iter(|| touch(&mut Arc::clone(&pool).get_rc()))
    });
    let pool = Arc::new(lockfree_object_pool::LinearObjectPool::new(scratch, clear));
    group.bench_function("lockfree-object-pool", |b| {
        b.iter(|| touch(&mut pool.pull_owned()))
    });
    group.finish();
}

fn small(c: &mut Criterion) {
    let mut group = c.benchmark_group("one small allocation: what not to pool");
    let make = || Vec::<u64>::with_capacity(1);
    group.bench_function("mimalloc", |b| b.iter(|| black_box(make())));
    let pool = Pool::builder(make).build().expect("the defaults are valid");
    group.bench_function("stellane", |b| {
        b.iter(|| black_box(&mut pool.take()).push(1))
    });
    group.finish();
}

fn headers(c: &mut Criterion) {
    let mut group = c.benchmark_group("header map with room for 24");
    let make = || http::HeaderMap::<http::HeaderValue>::with_capacity(24);
    let fill = |map: &mut http::HeaderMap| {
        map.insert(
            http::header::HOST,
            http::HeaderValue::from_static("localhost"),
        );
        black_box(map);
    };
    group.bench_function("mimalloc", |b| b.iter(|| fill(&mut make())));
    let pool = Pool::builder(make).build().expect("the defaults are valid");
    group.bench_function("stellane", |b| b.iter(|| fill(&mut pool.take())));
    group.finish();
}

fn buffers(c: &mut Criterion) {
    for size in [4 << 10, 64 << 10, 1 << 20] {
        let mut group = c.benchmark_group(format!(
            "buffer of {} KiB, 100 bytes written, frozen",
            size >> 10
        ));
        let written = [7; 100];
        group.bench_function("mimalloc", |b| {
            b.iter(|| {
                let mut buf = bytes::BytesMut::with_capacity(size);
                buf.extend_from_slice(&written);
                black_box(buf.freeze())
            });
        });
        let pool = BufPool::new(&PoolConfig::enabled()).expect("the defaults are valid");
        group.bench_function("stellane", |b| {
            b.iter(|| {
                let mut buf = pool.get(size);
                buf.extend_from_slice(&written);
                black_box(buf.freeze())
            });
        });
        group.finish();
        let mut group = c.benchmark_group(format!("buffer of {} KiB, filled", size >> 10));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function("mimalloc", |b| {
            b.iter_batched_ref(
                || (),
                |()| {
                    let mut buf = Vec::with_capacity(size);
                    buf.resize(size, 7_u8);
                    black_box(buf.len())
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function("stellane", |b| {
            b.iter_batched_ref(
                || (),
                |()| {
                    let mut buf = pool.get(size);
                    bytes::BufMut::put_bytes(&mut buf, 7, size);
                    black_box(buf.len())
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

/// Values taken here and returned by `consumers` other threads.
fn handed_over<T: Send + 'static>(
    rounds: u64,
    consumers: usize,
    mut take: impl FnMut() -> T,
) -> Duration {
    let lanes: Vec<_> = (0..consumers)
        .map(|_| {
            let (send, receive) = mpsc::sync_channel::<T>(64);
            (
                send,
                thread::spawn(move || receive.into_iter().for_each(drop)),
            )
        })
        .collect();
    let start = Instant::now();
    for round in 0..rounds {
        let lane = &lanes[round as usize % lanes.len()].0;
        lane.send(take()).expect("the consumer runs");
    }
    for (send, consumer) in lanes {
        drop(send);
        consumer.join().expect("it does not panic");
    }
    start.elapsed()
}

fn across_threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("taken on one thread, returned on three");
    group.bench_function("mimalloc", |b| {
        b.iter_custom(|n| handed_over(n, 3, scratch))
    });
    let pool = Pool::builder(scratch)
        .magazines(4)
        .build()
        .expect("the defaults are valid");
    group.bench_function("stellane", |b| {
        b.iter_custom(|n| handed_over(n, 3, || pool.take()))
    });
    println!(
        "stellane: hit ratio {:.4} {:?}",
        pool.stats().hit_ratio(),
        pool.stats()
    );
    let pool = Arc::new(object_pool::Pool::new(256, scratch));
    group.bench_function("object-pool", |b| {
        b.iter_custom(|n| handed_over(n, 3, || pool.pull_owned(scratch)));
    });
    let pool = opool::Pool::new(256, Maker).to_rc();
    group.bench_function("opool", |b| {
        b.iter_custom(|n| handed_over(n, 3, || Arc::clone(&pool).get_rc()))
    });
    let pool = Arc::new(lockfree_object_pool::LinearObjectPool::new(scratch, clear));
    group.bench_function("lockfree-object-pool", |b| {
        b.iter_custom(|n| handed_over(n, 3, || pool.pull_owned()));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700))
        .sample_size(30);
    targets = object, small, headers, buffers, across_threads
}
criterion_main!(benches);
