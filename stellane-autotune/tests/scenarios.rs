//! The limiters in the simulator: closed-loop, seeded, against an oracle.
//!
//! On two seeds that no constant was chosen on; `STELLANE_SIM_SEEDS=301..321` takes others.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use stellane_autotune::AlgorithmKind::{Adaptive, Aimd, Fixed, Gradient2, Vegas};
use stellane_autotune::algorithm::Window;
use stellane_autotune::sim::{
    self, Closed, ColdStart, Contender, Honest, Member, Plant, Scenario, Work,
};
use stellane_autotune::{Algorithm, AlgorithmKind, Latencies, algorithm};

fn scenario(name: &str) -> Scenario {
    sim::scenarios()
        .into_iter()
        .find(|scenario| scenario.name == name)
        .unwrap()
}

fn seeds() -> std::ops::Range<u64> {
    let seeds = std::env::var("STELLANE_SIM_SEEDS").ok();
    let range = seeds.as_deref().and_then(|seeds| seeds.split_once(".."));
    range.map_or(11..13, |(first, end)| {
        first.parse().unwrap()..end.parse().unwrap()
    })
}

/// Where one is enough.
const SEED: u64 = 11;

/// The default, without what the machine says of itself.
fn deaf(scenario: Scenario) -> Scenario {
    Scenario {
        signal: false,
        ..scenario
    }
}

/// The worst score of one contender over the intervals of one scenario.
fn worst(name: &str, kind: AlgorithmKind, initial: u32) -> f64 {
    let scenario = scenario(name);
    let contender = match kind {
        Adaptive => Contender::Default,
        kind => Contender::Kind(kind, initial),
    };
    let run = sim::run(&scenario, &contender, SEED);
    let scores = sim::score(&scenario, &sim::oracle(&scenario, SEED), &run);
    scores.into_iter().fold(f64::INFINITY, f64::min)
}

#[test]
fn the_default_is_near_the_oracle_in_every_scenario() {
    let mut medians = Vec::new();
    for scenario in sim::scenarios() {
        let mut scores = Vec::new();
        for seed in seeds() {
            let run = sim::run(&scenario, &Contender::Default, seed);
            scores.extend(sim::score(&scenario, &sim::oracle(&scenario, seed), &run));
        }
        scores.sort_by(f64::total_cmp);
        let (worst, median) = (scores[0], scores[scores.len() / 2]);
        println!("{:16} worst {worst:.3} median {median:.3}", scenario.name);
        assert!(worst >= 0.90, "{}: {scores:?}", scenario.name);
        assert!(median >= 0.94, "{}: {scores:?}", scenario.name);
        medians.push(median);
    }
    medians.sort_by(f64::total_cmp);
    assert!(medians[medians.len() / 2] >= 0.97, "{medians:?}");
}

/// Every eleventh cell of the matrix, so that all of its rows and columns are among them.
#[test]
fn honest_load_is_not_refused() {
    for cell in Honest::matrix().into_iter().step_by(11) {
        for seed in seeds() {
            let run = sim::run(&cell.scenario(), &Contender::Default, seed);
            let part = run.refused as f64 / run.arrived as f64;
            let most = if cell.in_flight <= 200 { 0.0 } else { 1e-4 };
            assert!(
                part <= most,
                "{cell}, seed {seed}: {} of {}",
                run.refused,
                run.arrived
            );
        }
    }
}

#[test]
fn honest_services_are_not_refused_anything_with_or_without_a_signal_of_the_machine() {
    for scenario in sim::honest_services() {
        for scenario in [scenario.clone(), deaf(scenario)] {
            let run = sim::run(&scenario, &Contender::Default, SEED);
            let refused = run.refused + run.others.1;
            assert_eq!(
                refused, 0,
                "{}, {}: {:?}",
                scenario.name, scenario.signal, run.said
            );
        }
    }
}

/// Seeds of some hundreds in which by chance those who were served did not follow those who asked, or so many came at once
/// that a third of the service had to wait.
#[test]
fn a_route_that_answers_503_is_no_evidence_whatever_chance_does() {
    let services = sim::honest_services();
    for (name, bad) in [
        ("one route of three answers 503", [9163, 9230].as_slice()),
        ("a route begins to answer 503", &[9028, 9311, 9353]),
        ("200 streams for 8 seats", &[9054]),
    ] {
        let scenario = services.iter().find(|s| s.name == name).unwrap();
        for seed in bad.iter().copied().chain(seeds()) {
            let run = sim::run(scenario, &Contender::Default, seed);
            let refused = run.refused + run.others.1;
            assert_eq!(refused, 0, "{name}, seed {seed}: {:?}", run.said);
        }
    }
}

/// Two seeds of some hundred in which more answers than usual came while the clients did.
#[test]
fn what_was_answered_by_chance_while_clients_came_is_not_held_against_them() {
    let services = sim::honest_services();
    let scenario = services.iter().find(|s| s.name == "100 clients of 200 ms");
    for seed in [4001, 6079] {
        let run = sim::run(scenario.unwrap(), &Contender::Default, seed);
        assert_eq!(run.refused, 0, "seed {seed}: {:?}", run.said);
    }
}

/// Half of the load waits for 200 ms: neither is the limit what the others alone need, nor is there none. On a machine
/// with one core a moment tells little.
#[test]
fn a_service_of_which_half_waits_serves_what_it_can() {
    for times in [2.0, 10.0] {
        for one_core in [false, true] {
            let mut scenario = scenario("half_waits");
            scenario.scale = times / 2.0;
            if one_core {
                scenario.scale /= 16.0;
                scenario.plant = |_| Plant {
                    cores: 1.0,
                    contention: 0.0,
                    waits: (0.5, 0.2),
                    ..Plant::healthy()
                };
            }
            // With one core chance decides of a tenth: more runs, and their mean.
            let (runs, least) = if one_core { (6, 0.8) } else { (2, 0.9) };
            let parts = seeds().flat_map(|seed| (0..runs / 2).map(move |more| seed + 2 * more));
            let parts: Vec<f64> = parts
                .map(|seed| {
                    let best = sim::oracle(&scenario, seed)[0];
                    let run = sim::run(&scenario, &Contender::Default, seed);
                    // It begins with a limit that is far too low, as there are no latencies yet.
                    run.goodput(15.0, scenario.duration) / best
                })
                .collect();
            let mean = parts.iter().sum::<f64>() / parts.len() as f64;
            assert!(mean > least, "{times} x, {one_core}: {parts:.2?}");
        }
    }
}

#[test]
fn a_cold_start_into_ten_times_the_load_is_over_in_two_seconds() {
    let mut services = ColdStart::services(10.0);
    // Which takes a second for everything.
    services.pop();
    services.extend(ColdStart::services(2.0).pop());
    for cold in services {
        let most = if cold.slowness > 1.0 { 30.0 } else { 2.0 };
        for seed in seeds() {
            let right = sim::run(&cold.scenario, &Contender::Kind(Fixed, cold.right), seed);
            let best = right.goodput(0.5 * cold.scenario.duration, cold.scenario.duration);
            let run = sim::run(&cold.scenario, &Contender::Default, seed);
            let recovery = cold.recovery(&run, best);
            println!("{}, seed {seed}: {recovery:.1} s", cold.scenario.name);
            assert!(
                recovery <= most,
                "{}, seed {seed}: {recovery} s",
                cold.scenario.name
            );
        }
    }
}

/// Seeds of some hundreds in which what came first was taken for what the service does without a queue, in which twice as
/// many were answered in the first milliseconds as it can, or in which the limit was looked for where it was right.
#[test]
fn chance_in_the_first_milliseconds_of_a_cold_start_costs_no_seconds() {
    let [sharing, fifo, knee] = [
        [12012, 20190, 20101].as_slice(),
        &[12004, 20020, 20185, 20091],
        &[12016, 12017, 20180, 20183],
    ];
    for (cold, bad) in ColdStart::services(10.0).iter().zip([sharing, fifo, knee]) {
        for seed in bad.iter().copied() {
            let end = cold.scenario.duration;
            let right = sim::run(&cold.scenario, &Contender::Kind(Fixed, cold.right), seed);
            let run = sim::run(&cold.scenario, &Contender::Default, seed);
            let recovery = cold.recovery(&run, right.goodput(0.5 * end, end));
            println!("{}, seed {seed}: {recovery:.1} s", cold.scenario.name);
            assert!(recovery <= 2.0, "{}, seed {seed}", cold.scenario.name);
        }
    }
}

/// Where a request takes a second, a window says little and comes seldom. Of some hundreds of seeds those in which the first
/// window told of those who came while there was no limit, or of too few, and the limit was wrong for a minute.
#[test]
fn chance_at_the_beginning_of_a_slow_service_does_not_cost_a_minute() {
    let cold = ColdStart::services(2.0).pop().unwrap();
    let end = cold.scenario.duration;
    for seed in [80017, 100_068, 100_268, 100_312, 100_380, 996_010, 998_034] {
        let right = sim::run(&cold.scenario, &Contender::Kind(Fixed, cold.right), seed);
        let run = sim::run(&cold.scenario, &Contender::Default, seed);
        let recovery = cold.recovery(&run, right.goodput(0.5 * end, end));
        println!("seed {seed}: {recovery:.1} s");
        assert!(recovery <= 30.0, "seed {seed}: {recovery} s");
    }
}

/// A service whose dependency is quick again, under a limit at which the queue that takes its place is as long as the
/// dependency took; and one that has twice the cores, under a limit that noise keeps low. Latency says neither, the machine
/// says both. And one that loses requests, whose limit must be looked at often, and must not follow what throughput does by
/// chance.
#[test]
fn a_service_that_has_changed_is_noticed_where_its_latency_says_little() {
    let seeds = [
        ("slow_dependency", 80002),
        ("slow_dependency", 910_020),
        ("slow_dependency", 995_004),
        ("capacity_halves", 30005),
        ("black_hole", 90006),
        ("black_hole", 910_001),
        ("black_hole", 930_015),
    ];
    for (name, seed) in seeds {
        let scenario = scenario(name);
        let run = sim::run(&scenario, &Contender::Default, seed);
        let scores = sim::score(&scenario, &sim::oracle(&scenario, seed), &run);
        println!("{name}, seed {seed}: {scores:.3?}");
        assert!(scores.iter().all(|score| *score >= 0.9), "{scores:?}");
    }
}

/// A probe that stayed at its bottom took an eighth and more of what could be served in two seconds of a storm; in 2020 it began
/// from a limit that chance had made far too low.
#[test]
fn a_probe_of_a_service_that_is_the_same_costs_less_than_a_tenth_of_two_seconds() {
    let scenario = scenario("retry_storm");
    for seed in [2020, 3189, 994_010] {
        let run = sim::run(&scenario, &Contender::Default, seed);
        let scores = sim::score(&scenario, &sim::oracle(&scenario, seed), &run);
        println!("seed {seed}: {scores:.3?}");
        assert!(scores.iter().all(|score| *score >= 0.9), "{scores:?}");
    }
}

#[test]
fn a_service_full_of_streams_or_of_uploads_that_end_at_once_comes_back() {
    for scenario in sim::hostile() {
        let run = sim::run(&scenario, &Contender::Default, SEED);
        let load = ((scenario.load)(30.0)).min(1580.0);
        let goodput = run.goodput(20.0, 40.0);
        println!("{}: {goodput} of {load}", scenario.name);
        assert!(
            goodput > 0.9 * load,
            "{}: {goodput} of {load}",
            scenario.name
        );
    }
}

#[test]
fn the_limit_says_what_it_knows_and_forgets_it_when_it_is_no_longer_needed() {
    let says = |name: &str, signal| {
        let scenario = Scenario {
            signal,
            ..scenario(name)
        };
        let run = sim::run(&scenario, &Contender::Default, SEED);
        let said: Vec<_> = run.said.into_iter().map(|(_, text)| text).collect();
        println!("{name}: {said:?}");
        assert_eq!(said[0], "open: nothing says that the service is full");
        assert!(said[1].starts_with("limiting at "), "{said:?}");
        said
    };
    assert!(says("overload_10x", true)[1].contains("tasks ready for each core"));
    assert!(says("overload_2x", false)[1].contains("throughput flat at "));
    assert!(says("defers_at_rate", true)[1].contains("% of the answers say overloaded"));

    let mut spike = scenario("spike");
    spike.load = |t| if t < 10.0 { 3200.0 } else { 320.0 };
    let run = sim::run(&spike, &Contender::Default, SEED);
    let (at, last) = run.said.last().unwrap();
    assert!(
        last.starts_with("open: ") && (14.0..16.0).contains(at),
        "{:?}",
        run.said
    );
}

/// The cases that Vector tests its adaptive concurrency with, scaled to shorter windows, and the mean limit that
/// each must lead to. Goodput is asserted above for all scenarios; the two cases of a fixed
/// limit need no test here, and where requests are lost (`drops`) no limit is as good as any from 24 on.
const OF_VECTOR: [(&str, std::ops::RangeInclusive<f64>); 8] = [
    // Where the load needs fewer places there is no limit, and what may begin at once stays.
    ("slow_send", 256.0..=256.0),
    ("medium_send", 256.0..=256.0),
    ("constant_link", 256.0..=256.0),
    ("jittery_link", 256.0..=256.0),
    // More concurrency adds nothing, or costs throughput.
    ("slow_link", 4.0..=8.0),
    ("shallow_knee", 9.0..=16.0),
    // Forty places, and some for a tenth of a second that are told so.
    ("defers", 34.0..=50.0),
    ("defers_at_rate", 34.0..=50.0),
];

#[test]
fn the_cases_of_vector_end_at_the_right_limit() {
    for (name, expected) in OF_VECTOR {
        let scenario = scenario(name);
        for seed in seeds() {
            let run = sim::run(&scenario, &Contender::Default, seed);
            let mean = run.limits(15.0, scenario.duration).0;
            println!("{name:16} seed {seed}: {mean:.1}");
            assert!(expected.contains(&mean), "{name} seed {seed}: {mean}");
        }
    }
}

/// Nothing tells a cold start into far too much from requests that take long, but that throughput does not follow while the
/// load still climbs.
#[test]
fn what_the_machine_does_not_tell_is_found_out_while_the_load_climbs() {
    for name in [
        "overload_2x",
        "overload_10x",
        "overload_1.2x",
        "fifo",
        "spike",
        "bursty",
    ] {
        let scenario = deaf(scenario(name));
        for seed in seeds() {
            let run = sim::run(&scenario, &Contender::Default, seed);
            let scores = sim::score(&scenario, &sim::oracle(&scenario, seed), &run);
            assert!(
                scores.iter().all(|score| *score >= 0.9),
                "{name}: {scores:?}"
            );
        }
    }
}

/// Eight places of 41 ms behind a machine that is not heard, for clients that come within a fifth of a second and each wait
/// for their answer: if it is found out while they come, what is let in is soon what can be done; if it is not, then nothing
/// tells them from clients of a service that takes two seconds, and nobody is refused.
#[test]
fn four_hundred_clients_for_eight_places_are_limited_soon_or_not_refused_at_all() {
    let scenario = Scenario {
        load: |_| 0.0,
        closed: Some(Closed {
            clients: 400,
            think: 0.2,
            backoff: 0.2,
            within: 0.2,
        }),
        work: Work::Constant(0.041),
        plant: |_| Plant {
            cores: 8.0,
            contention: 0.0,
            ..Plant::healthy()
        },
        slo: 0.2,
        ..deaf(scenario("fifo"))
    };
    let mut limited = 0;
    for seed in 11..19 {
        let run = sim::run(&scenario, &Contender::Default, seed);
        if run.said.len() == 1 {
            assert_eq!(run.refused, 0);
            continue;
        }
        limited += 1;
        let goodput = run.goodput(5.0, 13.0);
        assert!(goodput > 0.85 * 195.0, "seed {seed}: {goodput}");
    }
    assert!(limited > 4, "{limited} of 8");
}

/// From no matter which initial limit.
#[test]
fn the_default_finds_its_limit_within_five_seconds_from_far_off() {
    for initial in [4, 200, 1000] {
        let score = worst("overload_2x", Adaptive, initial);
        println!("from {initial}: {score}");
        assert!(score > 0.9, "from {initial}: {score}");
    }
}

/// Over two seconds it is within 15 % of its mean. Of one run in twenty it is not (of `pareto` one in six, whose heavy requests
/// move it by up to 15 % under a fixed limit too): so chance is left one of ten, up to 30 %.
#[test]
fn goodput_does_not_oscillate_at_steady_state() {
    let mut worst = Vec::new();
    for name in ["overload_2x", "overload_10x", "fifo", "pareto", "spike"] {
        let scenario = scenario(name);
        let (from, to) = *scenario.judged().last().unwrap();
        for seed in seeds() {
            let run = sim::run(&scenario, &Contender::Default, seed);
            let mean = run.goodput(from, to);
            let spans = (0..).map(|span| from + 2.0 * f64::from(span));
            let spans = spans.take_while(|at| at + 2.0 <= to);
            let off = spans.map(|at| (run.goodput(at, at + 2.0) / mean - 1.0).abs());
            worst.push((off.fold(0.0, f64::max), name, seed));
        }
    }
    worst.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("{worst:.3?}");
    let bad = worst.iter().filter(|run| run.0 >= 0.15).count();
    assert!(bad <= worst.len().div_ceil(10), "{worst:?}");
    assert!(worst[0].0 < 0.3, "{worst:?}");
}

/// Over two minutes, of which the second counts. Of 96 runs on other seeds one, of a service with a knee, had a band above 0.15
/// and none above 0.2: so chance is left one of them.
#[test]
fn the_limit_does_not_oscillate_at_steady_state() {
    let mut bands = Vec::new();
    for name in STEADY {
        let mut scenario = scenario(name);
        scenario.duration = 120.0;
        for seed in seeds() {
            let run = sim::run(&scenario, &Contender::Default, seed);
            let band = run.limit_band(60.0, 120.0);
            println!("{name:16} seed {seed}: {band:.3}");
            bands.push((band, name, seed));
        }
    }
    bands.sort_by(|a, b| a.0.total_cmp(&b.0));
    let [.., second, worst] = bands.as_slice() else {
        panic!("no bands");
    };
    assert!(worst.0 <= 0.2, "{bands:?}");
    assert!(second.0 <= 0.15 || bands.len() > 16, "{bands:?}");
    assert!(bands[bands.len() / 2].0 <= 0.1, "{bands:?}");
}

/// Services in which nothing changes.
const STEADY: [&str; 8] = [
    "overload_2x",
    "overload_10x",
    "overload_1.2x",
    "bimodal",
    "pareto",
    "fifo",
    "knee",
    "bad_requests",
];

#[test]
fn ten_minutes_of_slight_overload_move_nothing() {
    let mut scenario = scenario("overload_1.2x");
    scenario.duration = 600.0;
    let run = sim::run(&scenario, &Contender::Default, SEED);
    let (early, late) = (run.limits(20.0, 120.0).0, run.limits(500.0, 600.0).0);
    assert!((late / early - 1.0).abs() < 0.3, "{early} -> {late}");
    let goodput = [20.0, 500.0].map(|from| run.goodput(from, from + 100.0));
    assert!(goodput[1] > 0.95 * goodput[0], "{goodput:?}");
}

#[test]
fn two_limits_in_series_serve_as_much_as_one() {
    let scenario = scenario("overload_2x");
    for seed in seeds() {
        let kind = Contender::Default;
        let one = sim::run(&scenario, &kind, seed).goodput(10.0, 30.0);
        let two = sim::run_in_series(&scenario, [&kind, &kind], seed).goodput(10.0, 30.0);
        println!("seed {seed}: one {one}, two {two}");
        assert!(two > 0.9 * one, "seed {seed}: {one} alone, {two} in series");
    }
}

#[test]
fn a_latency_target_is_kept() {
    let scenario = scenario("overload_10x");
    let own = |seed| -> Box<dyn Algorithm> {
        let target = Duration::from_millis(25);
        Box::new(algorithm::Adaptive::new(200, 4, 1000, seed).latency_target(target))
    };
    let run = sim::run(&scenario, &Contender::Own(own), SEED);
    let (p99, goodput) = (run.latency(0.99, 5.0, 20.0), run.goodput(5.0, 20.0));
    // The work alone has a p99 of 46 ms.
    assert!(p99 <= 0.055, "{p99}");
    assert!(goodput > 1000.0, "{goodput}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let scenario = scenario("overload_2x").shortened(5.0);
    let [a, b, c] = [7, 7, 8].map(|seed| sim::run(&scenario, &Contender::Default, seed).answers);
    assert_eq!(a, b);
    assert_ne!(a, c);
}

mod known_failures_of_others {
    use super::*;

    #[test]
    fn gradient2_collapses_when_a_dependency_becomes_slow() {
        assert!(worst("slow_dependency", Gradient2, 20) < 0.5);
        assert!(worst("slow_dependency", Adaptive, 20) > 0.85);
    }

    #[test]
    fn gradient2_never_finds_a_knee_and_lets_the_limit_drift_up() {
        assert!(worst("knee", Gradient2, 20) < 0.6);
        assert!(worst("knee", Adaptive, 20) > 0.88);
    }

    #[test]
    fn vegas_takes_a_heavy_tail_for_a_queue() {
        assert!(worst("bimodal", Vegas, 20) < 0.6);
        assert!(worst("bimodal", Adaptive, 20) > 0.88);
    }

    #[test]
    fn vegas_collapses_when_latency_varies_without_load() {
        assert!(worst("load_independent", Vegas, 20) < 0.7);
        assert!(worst("load_independent", Adaptive, 20) > 0.95);
    }

    #[test]
    fn aimd_is_blind_to_latency() {
        assert!(worst("overload_2x", Aimd, 20) < 0.5);
    }

    #[test]
    fn a_fixed_limit_is_wrong_as_soon_as_the_service_changes() {
        assert!(worst("slow_dependency", Fixed, 24) < 0.5);
    }

    #[test]
    fn baselines_do_not_ratchet_up_under_lasting_overload() {
        let mut scenario = scenario("overload_2x");
        scenario.duration = 240.0;
        let run = sim::run(&scenario, &Contender::Default, SEED);
        let (early, ..) = run.limits(10.0, 40.0);
        let (late, ..) = run.limits(200.0, 240.0);
        assert!((late / early - 1.0).abs() < 0.3, "{early} -> {late}");
    }

    #[test]
    fn explicit_refusals_from_below_are_heard() {
        // Forty places are enough, eighty are asked for.
        let scenario = scenario("defers_at_rate");
        let run = sim::run(&scenario, &Contender::Default, SEED);
        let (limit, ..) = run.limits(15.0, 30.0);
        assert!(limit < 60.0, "{limit}");
    }

    /// Of a limiter whose baseline is an average of what it sees (failsafe-go#127).
    #[test]
    fn a_long_incident_does_not_become_the_normal_state() {
        let mut scenario = scenario("slow_dependency");
        scenario.duration = 130.0;
        scenario.plant = |t| Plant {
            delay: if (20.0..100.0).contains(&t) {
                0.04
            } else {
                0.0
            },
            ..Plant::healthy()
        };
        let run = sim::run(&scenario, &Contender::Default, SEED);
        let (before, after) = (run.goodput(10.0, 20.0), run.goodput(110.0, 130.0));
        assert!(after > 0.95 * before, "{before} -> {after}");
        let (before, after) = (run.limits(10.0, 20.0).0, run.limits(115.0, 130.0).0);
        assert!(after < 1.5 * before, "{before} -> {after}");
    }

    /// Of a probe that lets only a few requests in (Envoy#8337).
    #[test]
    fn probing_the_baseline_costs_little() {
        let mut scenario = scenario("overload_2x");
        scenario.duration = 60.0;
        for seed in seeds() {
            let run = sim::run(&scenario, &Contender::Default, seed);
            let mean = run.goodput(5.0, 60.0);
            let seconds = (5..60).map(|s| run.goodput(f64::from(s), f64::from(s) + 1.0));
            let mut parts: Vec<f64> = seconds.map(|goodput| goodput / mean).collect();
            parts.sort_by(f64::total_cmp);
            println!("seed {seed}: {:.2?}", &parts[..3]);
            // One probe of one run in five goes too deep by chance, in two of a hundred runs one more or across two seconds: of
            // a hundred runs none came below a half.
            assert!(parts[0] > 0.5 && parts[1] > 0.75, "seed {seed}: {parts:?}");
        }
    }

    /// Of a window without answers that becomes a baseline (Envoy#14997).
    #[test]
    fn a_window_without_answers_says_nothing() {
        let mut adaptive = algorithm::Adaptive::new(20, 4, 1000, 1);
        for second in 0..100 {
            let next = adaptive.on_window(&Window {
                start: Duration::from_secs(second),
                end: Duration::from_secs(second + 1),
                limit: 20,
                max_in_flight: 20,
                in_flight: 20,
                mean_in_flight: 20.0,
                tasks_per_core: None,
                refused: 1000,
                overloads: 0,
                answers: 0,
                so_far: (0, 0),
                latencies: &Latencies::default(),
            });
            assert_eq!(next.limit, 20);
        }
    }

    #[test]
    fn a_limit_does_not_grow_while_idle() {
        let mut scenario = scenario("spike");
        scenario.duration = 15.0;
        let run = sim::run(&scenario, &Contender::Default, SEED);
        assert!(run.limits(5.0, 15.0).2 <= 256);
    }
}

#[test]
fn a_retry_storm_ends_within_three_seconds_of_its_cause() {
    let scenario = scenario("retry_storm");
    let after = |contender: &Contender, seed| {
        let run = sim::run(&scenario, contender, seed);
        run.goodput(18.0, 20.0) / run.goodput(5.0, 10.0).max(1.0)
    };
    for seed in seeds() {
        let recovered = after(&Contender::Default, seed);
        assert!(recovered > 0.95, "seed {seed}: {recovered}");
        // The overload outlives its cause where nothing is refused.
        assert!(after(&Contender::NoLimit, seed) < 0.1, "seed {seed}");
    }
}

/// Four places of the service for each of so many clients, which all ask for so many times as much together.
fn shared(clients: u32, times: f64) -> (Scenario, f64) {
    fn plant<const CORES: u32>(_: f64) -> Plant {
        Plant {
            cores: f64::from(CORES),
            ..Plant::healthy()
        }
    }
    let capacity = 400.0 * f64::from(clients);
    let scenario = Scenario {
        duration: 40.0,
        load: |_| 1.0,
        scale: times * capacity,
        plant: match clients {
            4 => plant::<16>,
            16 => plant::<64>,
            _ => plant::<256>,
        },
        ..scenario("overload_2x")
    };
    (scenario, capacity)
}

/// What members get together from 15 s on, of what the service can do.
fn together(scenario: &Scenario, capacity: f64, members: &[Member], seed: u64) -> f64 {
    let runs = sim::run_fleet(scenario, members, seed);
    let all: f64 = runs.iter().map(|run| run.goodput(15.0, 40.0)).sum();
    all / capacity
}

/// With clocks that are up to 20 ms off.
fn aligned(clients: u32, seed: u64) -> Vec<Member> {
    let off = |client| 0.02 * (f64::from(client) + seed as f64).sin();
    (0..clients)
        .map(|client| Member::aligned(off(client)))
        .collect()
}

#[test]
fn aligned_limits_that_share_a_service_find_what_it_can_do_together() {
    for (clients, times, least) in [
        (4, 2.0, 0.90),
        (16, 2.0, 0.90),
        (64, 2.0, 0.90),
        (4, 10.0, 0.85),
        (16, 10.0, 0.85),
    ] {
        let (scenario, capacity) = shared(clients, times);
        for seed in seeds() {
            let members = aligned(clients, seed);
            let part = together(&scenario, capacity, &members, seed);
            assert!(
                part > least,
                "{clients} clients, {times} x, seed {seed}: {part:.3}"
            );
        }
    }
}

#[test]
fn they_find_it_again_when_half_of_them_come_or_go_and_when_their_loads_differ() {
    let (scenario, capacity) = shared(16, 2.0);
    for seed in seeds() {
        let (mut come, mut go, mut skewed) =
            (aligned(16, seed), aligned(16, seed), aligned(16, seed));
        for client in 0..16 {
            skewed[client].part = 1.0 / (client as f64 + 1.0);
            if client % 2 == 1 {
                come[client].stays = 10.0..f64::INFINITY;
                go[client].stays = 0.0..10.0;
            }
        }
        for (what, members) in [("come", come), ("go", go), ("skewed", skewed)] {
            let part = together(&scenario, capacity, &members, seed);
            assert!(part > 0.88, "{what}, seed {seed}: {part:.3}");
        }
    }
}

#[test]
fn clocks_that_are_off_by_seconds_are_set_by_the_date_of_the_service() {
    let (scenario, capacity) = shared(16, 2.0);
    for seed in seeds() {
        let mut members = aligned(16, seed);
        for (client, member) in members.iter_mut().enumerate() {
            member.aligned = Some(3.7 * client as f64);
        }
        let off = together(&scenario, capacity, &members, seed);
        members.iter_mut().for_each(|member| member.hears = true);
        let heard = together(&scenario, capacity, &members, seed);
        assert!(
            off < 0.7 && heard > 0.85,
            "seed {seed}: {off:.3}, {heard:.3}"
        );
    }
}

/// A cold start into a service that collapses, of which they hear nothing.
#[test]
fn one_aligned_limit_alone_survives_what_one_without_a_signal_of_the_machine_does_not() {
    for name in ["knee", "shallow_knee", "gc_pauses", "overload_10x"] {
        let scenario = deaf(scenario(name));
        for seed in seeds() {
            let best = sim::oracle(&scenario, seed);
            let run = sim::run_fleet(&scenario, &[Member::aligned(0.0)], seed).remove(0);
            let worst = sim::score(&scenario, &best, &run)
                .into_iter()
                .fold(f64::INFINITY, f64::min);
            assert!(worst > 0.8, "{name}, seed {seed}: {worst:.3}");
        }
    }
}

/// Some, as its docs say, but none of these.
#[test]
fn an_aligned_limit_refuses_hardly_any_honest_load() {
    for cell in Honest::matrix().into_iter().step_by(29) {
        let run = sim::run_fleet(&deaf(cell.scenario()), &[Member::aligned(0.0)], SEED);
        let part = run[0].refused as f64 / run[0].arrived as f64;
        assert!(part <= 1e-4, "{cell}: {part}");
    }
}

#[test]
fn clients_that_share_a_service_get_equal_parts() {
    let mut scenario = scenario("overload_2x");
    scenario.duration = 60.0;
    let clients = vec![Contender::Default; 2];
    for seed in seeds() {
        let runs = sim::run_shared(&scenario, &clients, seed);
        let x: Vec<f64> = runs.iter().map(|run| run.goodput(20.0, 60.0)).collect();
        let jain = x.iter().sum::<f64>().powi(2) / (2.0 * x.iter().map(|x| x * x).sum::<f64>());
        assert!(jain >= 0.9, "seed {seed}: {x:?}");
        // Together they may be below the 1590 of a single limit: see `algorithm::Adaptive`.
        assert!(x.iter().sum::<f64>() > 700.0, "seed {seed}: {x:?}");
    }
}
