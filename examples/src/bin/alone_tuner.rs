//! The tuner of `stellane-autotune` alone, over a knob of somebody else's: the size of a batch, which grows while the
//! queue does.
//!
//! `cargo run -p stellane-examples --bin alone_tuner`

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use stellane_core::autotune::{AutoTuner, Condition, Knob, Rule, Signal, TunerMode};

fn main() -> Result<(), Box<dyn Error>> {
    let (batch, queue) = (Arc::new(AtomicU64::new(10)), Arc::new(AtomicU64::new(0)));
    let (get, set, depth) = (Arc::clone(&batch), Arc::clone(&batch), Arc::clone(&queue));
    let knob = Knob::new(
        "batch.size",
        1.0..=1000.0,
        1.0,
        move || get.load(Relaxed) as f64,
        move |size| set.store(size as u64, Relaxed),
    );
    let tuner = AutoTuner::builder()
        .signal(Signal::new("queue", move || {
            Some(depth.load(Relaxed) as f64)
        }))
        .knob(knob)
        .rule(
            Rule::new("queue grows")
                .when(Condition::above("queue", 100.0))
                .scale("batch.size", 2.0),
        )
        .build()?;
    // Without it, it says what it would do.
    tuner.set_mode(TunerMode::Apply);
    // In a program: `tokio::spawn(async move { tuner.run().await })`. Here time is made.
    for second in 0..120 {
        queue.store(if second < 60 { 500 } else { 0 }, Relaxed);
        for action in tuner.tick(Duration::from_secs(second)) {
            println!("{second} s: {action}");
        }
    }
    println!("a batch has {} now", batch.load(Relaxed));
    Ok(())
}
