//! The limit itself: places, classes, modes, and what a clock may do.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use stellane_autotune::{
    AdaptiveLimit, AlgorithmKind::Fixed, Class, LimitConfig, LimitMode, ManualClock, Outcome,
};

fn fixed(limit: u32) -> LimitConfig {
    let mut config = LimitConfig::default();
    config.algorithm = Fixed;
    (config.initial, config.min) = (limit, 1);
    config
}

#[test]
fn threads_never_exceed_the_limit_and_every_place_comes_back() {
    let limit = AdaptiveLimit::builder().config(fixed(7)).build().unwrap();
    let (inside, peak) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (limit, inside, peak) = (limit.clone(), &inside, &peak);
            scope.spawn(move || {
                for turn in 0..20_000 {
                    let Ok(permit) = limit.try_acquire() else {
                        continue;
                    };
                    peak.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    if turn % 16 == thread {
                        std::thread::yield_now();
                    }
                    inside.fetch_sub(1, Ordering::SeqCst);
                    if turn % 3 == 0 {
                        drop(permit)
                    } else {
                        permit.finish(Outcome::Success)
                    }
                }
            });
        }
    });
    let stats = limit.stats();
    assert!(peak.into_inner() <= 7);
    assert_eq!((stats.in_flight, stats.admitted + stats.shed), (0, 160_000));
    assert_eq!(stats.admitted, stats.successes + stats.cancelled);
}

#[test]
fn a_lowered_limit_is_a_debt_that_is_paid_as_places_come_back() {
    let limit = AdaptiveLimit::builder().config(fixed(10)).build().unwrap();
    let mut permits: Vec<_> = (0..10).map(|_| limit.try_acquire().unwrap()).collect();
    limit.set_max(4);
    assert_eq!(limit.stats().limit, 4);
    for left in (4..10).rev() {
        permits.pop();
        assert_eq!(limit.stats().in_flight, left);
        assert!(limit.try_acquire().is_err(), "{left} in flight");
    }
    permits.pop();
    assert!(limit.try_acquire().is_ok());
}

#[test]
fn only_cancelled_requests_leave_the_limit_alone() {
    let time = ManualClock::default();
    let limit = AdaptiveLimit::builder()
        .clock(time.clock())
        .build()
        .unwrap();
    for _ in 0..100_000 {
        let _permit = limit.try_acquire().unwrap();
        time.advance(Duration::from_millis(1));
    }
    let stats = limit.stats();
    assert_eq!(
        (stats.limit, stats.cancelled, stats.windows),
        (256, 100_000, 0)
    );
}

/// Runs a service that takes 10 ms at a constant concurrency, across one jump of the clock.
fn across_a_jump(to: Duration) -> AdaptiveLimit {
    let time = ManualClock::default();
    time.set(Duration::from_secs(1000));
    let mut config = LimitConfig::default();
    config.max = 1000;
    let limit = AdaptiveLimit::builder()
        .config(config)
        .clock(time.clock())
        .build()
        .unwrap();
    let mut permits = std::collections::VecDeque::new();
    for turn in 0..20_000 {
        if turn == 10_000 {
            time.set(to);
        }
        time.advance(Duration::from_millis(1));
        while let Ok(permit) = limit.try_acquire() {
            permits.push_back(permit);
        }
        for _ in 0..permits.len().div_ceil(10) {
            permits.pop_front().unwrap().finish(Outcome::Success);
        }
    }
    limit
}

#[test]
fn a_clock_that_jumps_stops_nothing() {
    for seconds in [0, 100_000] {
        let stats = across_a_jump(Duration::from_secs(seconds)).stats();
        // Ten seconds of windows before the jump, ten after it.
        assert!(stats.windows > 60, "{seconds}: {stats:?}");
        assert!((4..=1000).contains(&stats.limit), "{seconds}: {stats:?}");
    }
}

#[test]
fn a_high_class_is_served_while_a_low_one_takes_all_it_can() {
    let time = ManualClock::default();
    let mut config = fixed(20);
    config.classes.insert("high".into(), 0.3.into());
    let limit = AdaptiveLimit::builder()
        .config(config)
        .clock(time.clock())
        .build()
        .unwrap();
    let high = limit.class("high").unwrap();
    let mut held = std::collections::VecDeque::new();
    let (mut served, mut refused) = (0, 0);
    for turn in 0..10_000 {
        // Ten times what is served; of what is served, a fifth is high.
        for request in 0..10 {
            let is_high = turn % 5 == 0 && request == turn % 10;
            let class = if is_high { high } else { Class::DEFAULT };
            match limit.try_acquire_for(class) {
                Ok(permit) => {
                    served += u32::from(class == high);
                    held.push_back(permit);
                }
                Err(_) => refused += u32::from(class == high),
            }
        }
        held.pop_front();
    }
    assert!(
        f64::from(served) / f64::from(served + refused) >= 0.99,
        "{served} of {refused}"
    );
}

/// Two classes of one limit of 20 places, at ten times what it serves.
struct Classes {
    name: &'static str,
    /// The guaranteed share of the high class; the low one has none.
    share: f64,
    /// Requests per hundred milliseconds, of the high class and of the low.
    load: [u32; 2],
    /// How many milliseconds each holds its place.
    hold: [u32; 2],
    /// The least part of each that is served.
    served: [f64; 2],
}

const CLASSES: [Classes; 3] = [
    Classes {
        name: "priority inversion: low requests hold their places for long",
        share: 0.3,
        load: [20, 1000],
        hold: [10, 1000],
        served: [0.99, 0.0],
    },
    Classes {
        name: "a high class in excess of its share leaves the low one its part of the rest",
        share: 0.3,
        load: [1800, 200],
        hold: [10, 10],
        served: [0.07, 0.07],
    },
    Classes {
        name: "a share of all places is all there is for the low one to lose",
        share: 1.0,
        load: [100, 1000],
        hold: [10, 10],
        served: [0.99, 0.05],
    },
];

#[test]
fn classes_neither_invert_nor_starve() {
    for case in CLASSES {
        let mut config = fixed(20);
        config.classes.insert("high".into(), case.share.into());
        let limit = AdaptiveLimit::builder().config(config).build().unwrap();
        let classes = [limit.class("high").unwrap(), Class::DEFAULT];
        let (mut asked, mut served) = ([0_u32; 2], [0_u32; 2]);
        let mut held = std::collections::BTreeMap::<u32, Vec<_>>::new();
        for now in 0..20_000 {
            drop(held.remove(&now));
            // In turn, so that neither is always the first to find a free place.
            for class in if now % 2 == 0 { [0, 1] } else { [1, 0] } {
                let due = (now + 1) * case.load[class] / 100;
                while asked[class] < due {
                    asked[class] += 1;
                    if let Ok(permit) = limit.try_acquire_for(classes[class]) {
                        served[class] += 1;
                        held.entry(now + case.hold[class]).or_default().push(permit);
                    }
                }
            }
        }
        let parts = [0, 1].map(|class| f64::from(served[class]) / f64::from(asked[class]));
        println!("{}: {parts:?}", case.name);
        for (part, least) in parts.iter().zip(case.served) {
            assert!(*part >= least, "{}: {parts:?}", case.name);
        }
    }
}

#[test]
fn shadow_mode_follows_the_load_and_refuses_nothing() {
    let mut config = fixed(5);
    config.mode = LimitMode::Shadow;
    let limit = AdaptiveLimit::builder().config(config).build().unwrap();
    let permits: Vec<_> = (0..50).map(|_| limit.try_acquire().unwrap()).collect();
    assert_eq!(
        (limit.stats().in_flight, limit.stats().would_shed),
        (50, 45)
    );
    drop(permits);
    limit.set_mode(LimitMode::Enforce);
    let _permits: Vec<_> = (0..5).map(|_| limit.try_acquire().unwrap()).collect();
    assert!(limit.try_acquire().is_err());
}

/// Whoever is refused here would wait, had it come through a layer.
#[cfg(feature = "tokio")]
#[test]
fn what_may_begin_at_once_doubles_each_tenth_of_a_second_also_after_an_idle_hour() {
    let time = ManualClock::default();
    let limit = AdaptiveLimit::builder()
        .clock(time.clock())
        .build()
        .unwrap();
    time.advance(Duration::from_secs(3600));
    let mut permits = Vec::new();
    let mut inside = |millis| {
        for _ in 0..millis / 10 {
            time.advance(Duration::from_millis(10));
            let mut refused = 0;
            while refused < 64 {
                match limit.try_acquire() {
                    Ok(permit) => permits.push(permit),
                    Err(_) => refused += 1,
                }
            }
        }
        permits.len()
    };
    assert_eq!([50, 100, 100].map(&mut inside), [256, 512, 1024]);
    assert_eq!(
        limit.explain(),
        "open: nothing says that the service is full"
    );
}
