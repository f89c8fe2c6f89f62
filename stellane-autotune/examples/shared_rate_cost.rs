//! What rates by key cost: time and round trips for each request, alone and shared by a store, and memory for a million keys.
//!
//! ```sh
//! cargo run --release -p stellane-autotune --features redis --example shared_rate_cost -- redis://127.0.0.1:6379
//! ```
//!
//! Without an address, those that need no store.

use std::{
    error::Error,
    fs,
    time::{Duration, Instant},
};

use stellane_autotune::{
    Key, RateLimit, RateLimitConfig, RateRule,
    rate_limit::shared::{RateStore, SharedRateLimit},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const REQUESTS: u32 = 1_000_000;
const PACED: u32 = 10_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let rule: RateRule = "1000/s".parse()?;
    let config = |keys: usize| {
        RateLimitConfig::default()
            .with(|config| (config.rules, config.max_keys) = (vec![rule], keys))
    };
    let alone = RateLimit::builder().config(config(1 << 16)).build()?;
    let per =
        |began: Instant, requests: u32| began.elapsed().as_nanos() as f64 / f64::from(requests);
    let began = Instant::now();
    for number in 0..REQUESTS {
        let _ = alone.check(Key::of(number % 1000), 1);
    }
    println!(
        "alone, a thousand keys: {:.0} ns a request",
        per(began, REQUESTS)
    );
    let before = resident()?;
    let many = RateLimit::builder().config(config(1 << 20)).build()?;
    for number in 0..REQUESTS {
        let _ = many.check(Key::of(number), 1);
    }
    println!(
        "a million keys: {:.1} MB",
        (resident()? - before) as f64 / 1e6
    );
    let Some(url) = std::env::args().nth(1) else {
        return Ok(());
    };
    // The cost is what is asked for, not what a machine that does other things makes of 20 ms.
    let store = RateStore::builder(&url)
        .timeout(Duration::from_millis(500))
        .prefix(format!("cost-{}", std::process::id()))
        .build()?;
    while !store.stats().is_there {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let busy = SharedRateLimit::builder(&store, "busy")
        .config(config(1 << 16))
        .build()?;
    // A key at 1000 a second for ten seconds, within the rate: what the process needs for it without a rate, with one of its own, and with
    // one that is shared.
    let mut refused = 0;
    let nothing = paced(async || {}).await?;
    let own =
        paced(async || refused += u32::from(alone.check(Key::of("busy"), 1).is_err())).await?;
    let trips = store.stats().round_trips;
    let (mut waited, mut longest) = (Duration::ZERO, Duration::ZERO);
    let shared = paced(async || {
        let asked = Instant::now();
        refused += u32::from(busy.check(Key::of("busy"), 1).await.is_err());
        waited += asked.elapsed();
        longest = longest.max(asked.elapsed());
    })
    .await?;
    println!(
        "one key at 1000/s for ten seconds: {refused} refused; CPU of the process for each request, beyond the {nothing:.1} us of a timer: \
         {:.2} us alone, {:.2} us shared ({} round trips for {PACED} requests, waited {:.1} us on average and at most {longest:?})",
        own - nothing,
        shared - nothing,
        store.stats().round_trips - trips,
        waited.as_secs_f64() * 1e6 / f64::from(PACED),
    );
    // Refused here.
    let (began, trips) = (Instant::now(), store.stats().round_trips);
    let mut refused = 0;
    for _ in 0..REQUESTS {
        refused += u32::from(busy.check(Key::of("busy"), 1).await.is_err());
    }
    println!(
        "shared, one key as fast as it can: {:.0} ns a request, {refused} refused of a million, {} round trips",
        per(began, REQUESTS),
        store.stats().round_trips - trips
    );
    // Each key asks once.
    let cold = SharedRateLimit::builder(&store, "cold")
        .config(config(1 << 20))
        .build()?;
    let before = resident()?;
    let (began, trips) = (Instant::now(), store.stats().round_trips);
    let asks = 100_000;
    for number in 0..asks / 100 {
        let together: Vec<_> = (0..100)
            .map(|one| cold.check(Key::of((number, one)), 1))
            .collect();
        for check in together {
            let _ = check.await;
        }
    }
    println!(
        "shared, each request another key, a hundred at a time: {:.1} us each, {} round trips for {asks}",
        per(began, asks) / 1000.0,
        store.stats().round_trips - trips
    );
    for number in 0..REQUESTS / 1000 {
        let together: Vec<_> = (0..1000)
            .map(|one| cold.check(Key::of((number, one, 0)), 1))
            .collect();
        for check in together {
            let _ = check.await;
        }
    }
    println!(
        "shared, a million keys and more: {:.1} MB",
        (resident()? - before) as f64 / 1e6
    );
    println!(
        "decided without the store: {}; asked: {}",
        cold.without_store() + busy.without_store(),
        cold.asked() + busy.asked()
    );
    Ok(())
}

/// Bytes of memory of this process.
fn resident() -> Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).ok_or("statm")?;
    Ok(pages.parse::<u64>()? * 4096)
}

/// Microseconds of CPU for each of these, one each millisecond.
async fn paced(mut request: impl AsyncFnMut()) -> Result<f64> {
    let (began, before) = (Instant::now(), cpu()?);
    for number in 0..PACED {
        tokio::time::sleep_until((began + Duration::from_millis(number.into())).into()).await;
        request().await;
    }
    Ok((cpu()? - before).as_secs_f64() * 1e6 / f64::from(PACED))
}

/// CPU of this process, which has one thread.
fn cpu() -> Result<Duration> {
    let schedstat = fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds = schedstat.split(' ').next().ok_or("schedstat")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
