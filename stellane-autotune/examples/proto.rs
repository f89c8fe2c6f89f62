//! The tables of the prototype.
#![allow(clippy::all, missing_docs, clippy::unwrap_used)]
use stellane_autotune::AlgorithmKind;
use stellane_autotune::sim::{self, Clients, Closed, Contender, Discipline, Plant, Scenario, Work};

fn contenders(which: &str) -> Vec<(&'static str, Contender, bool)> {
    let all = vec![
        ("rq", Contender::Default, true),
        ("none", Contender::Default, false),
        ("nolimit", Contender::NoLimit, false),
    ];
    let which: Vec<&str> = which.split(',').collect();
    all.into_iter()
        .filter(|(n, _, _)| which.contains(n))
        .collect()
}

fn honest_base() -> Scenario {
    let mut s = sim::scenarios().into_iter().next().unwrap();
    s.name = "honest";
    s.plant = |_| Plant {
        cores: 1e9,
        contention: 0.0,
        ..Plant::healthy()
    };
    s.load = |_| 1.0;
    s.steps = vec![];
    s.slo = 1e9;
    s.discipline = Discipline::Sharing;
    s.clients = Clients::patient();
    s
}

fn oracles(s: &Scenario, seed: u64) -> Vec<f64> {
    sim::oracle(s, seed)
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let what = args[1].as_str();
    let cs = contenders(&args[2]);
    let seeds: u64 = args.get(3).map_or(2, |s| s.parse().unwrap());
    let first: u64 = std::env::var("FIRST")
        .ok()
        .map_or(1, |s| s.parse().unwrap());
    match what {
        "services" => services(first..first + seeds),
        "scen" => {
            let only = args.get(4).cloned().unwrap_or_default();
            println!(
                "| scenario | oracle | {} |",
                cs.iter().map(|c| c.0).collect::<Vec<_>>().join(" | ")
            );
            let mut all: Vec<Vec<f64>> = vec![vec![]; cs.len()];
            for mut s in sim::scenarios() {
                if !only.is_empty() && !only.split(',').any(|o| o == s.name) {
                    continue;
                }
                s.signal = false;
                let os: Vec<_> = (first..first + seeds).map(|x| oracles(&s, x)).collect();
                print!("| {} | {:.0} |", s.name, os[0][0]);
                for (k, (_, c, rq)) in cs.iter().enumerate() {
                    let mut v = vec![];
                    let mut p99 = 0f64;
                    for seed in first..first + seeds {
                        s.signal = *rq;
                        let r = sim::run(&s, c, seed);
                        v.extend(sim::score(&s, &os[(seed - first) as usize], &r));
                        for (a, b) in s.judged() {
                            p99 = p99.max(r.latency(0.99, a, b));
                        }
                    }
                    v.sort_by(f64::total_cmp);
                    print!(
                        " {:.1} / {:.1}, {:.0} |",
                        100.0 * v[0],
                        100.0 * v[v.len() / 2],
                        1000.0 * p99
                    );
                    all[k].extend(v);
                }
                println!();
            }
            for (k, v) in all.iter_mut().enumerate() {
                v.sort_by(f64::total_cmp);
                println!(
                    "{}: worst {:.3} median {:.3}",
                    cs[k].0,
                    v[0],
                    v[v.len() / 2]
                );
            }
        }
        "cold" => {
            // Cold starts, judged from t = 0.
            for factor in [1.2, 2.0, 10.0] {
                for (pname, mode) in [
                    ("ps cpu", 0),
                    ("ps remote", 1),
                    ("fifo", 2),
                    ("knee", 3),
                    ("slow 1s", 4),
                ] {
                    let mut s = sim::scenarios().into_iter().next().unwrap();
                    s.load = |_| 1600.0;
                    s.scale = factor;
                    s.duration = 20.0;
                    let hears = mode != 1 && mode != 4;
                    if mode == 2 {
                        s.discipline = Discipline::Fifo;
                    }
                    if mode == 3 {
                        s.plant = |_| Plant {
                            cores: 10.0,
                            contention: 0.2,
                            ..Plant::healthy()
                        };
                        s.scale = factor * 0.6;
                    }
                    if mode == 4 {
                        s.work = Work::Exponential(1.0);
                        s.plant = |_| Plant {
                            cores: 200.0,
                            ..Plant::healthy()
                        };
                        s.scale = factor * 0.125;
                        s.slo = 5.0;
                        s.duration = 60.0;
                    }
                    print!("{factor:>4}x {pname:<10}");
                    let d = s.duration;
                    for (name, c, rq) in &cs {
                        let (mut rec, mut dip, mut lost, mut peak) = (0f64, 1f64, 0f64, 0u32);
                        for seed in first..first + seeds {
                            let best = sim::run(
                                &s,
                                &Contender::Kind(
                                    AlgorithmKind::Fixed,
                                    if mode == 4 { 220 } else { 22 },
                                ),
                                seed,
                            )
                            .goodput(d / 2.0, d);
                            s.signal = *rq && hears;
                            let r = sim::run(&s, c, seed);
                            let k = if mode == 4 { 8.0 } else { 1.0 };
                            let step = 0.1 * k;
                            // Recovered: from here on 1 s and 3 s (8 and 24) are at 90 %.
                            let mut last = d;
                            let mut t = 0.0;
                            while t + 3.0 * k <= d {
                                if r.goodput(t, t + k) / best >= 0.9
                                    && r.goodput(t, t + 3.0 * k) / best >= 0.9
                                    && r.goodput(t, t + 0.3 * k) / best >= 0.7
                                {
                                    last = t;
                                    break;
                                }
                                t += step;
                            }
                            let sum = (1.0 - r.goodput(0.0, 5.0 * k) / best) * 5.0 * k;
                            dip = dip.min(
                                (0..9)
                                    .map(|i| {
                                        r.goodput(0.5 * k * i as f64, 0.5 * k * (i as f64 + 1.0))
                                            / best
                                    })
                                    .fold(1.0, f64::min),
                            );
                            rec = rec.max(last);
                            lost = lost.max(sum);
                            peak = peak.max(r.peak);
                        }
                        print!(
                            " | {name}: rec {rec:.2}s lost {lost:.2}s dip {:.0}% peak {peak}",
                            100.0 * dip
                        );
                    }
                    println!();
                }
            }
        }
        "honest" => {
            let lat = [0.001, 0.01, 0.05, 0.2, 1.0, 5.0, 20.0, 60.0];
            let inf = [5.0, 20.0, 60.0, 200.0, 1000.0];
            let shapes = ["fixed", "exp", "bimodal", "mix50"];
            for (name, c, rq) in &cs {
                println!("## {name}: refused per cent (cells with any refusal)");
                let (mut cells, mut bad, mut refused, mut asked) = (0, 0, 0u64, 0u64);
                for closed in [false, true] {
                    for shape in shapes {
                        for w in lat {
                            let mut row = String::new();
                            for n in inf {
                                let mut s = honest_base();
                                s.signal = *rq;
                                s.work = match shape {
                                    "fixed" => Work::Constant(w),
                                    "exp" => Work::Exponential(w),
                                    "bimodal" => Work::Bimodal(0.9, w / 2.9, 20.0 * w / 2.9),
                                    _ => Work::Bimodal(0.5, w / 50.0, w * 99.0 / 50.0),
                                };
                                // At most some 300 000 requests; ten latencies at least.
                                s.duration =
                                    (20.0f64).max(10.0 * w).min((60_000.0 * w / n).max(3.0));
                                if closed {
                                    s.scale = 0.0;
                                    s.closed = Some(Closed {
                                        clients: n as usize,
                                        think: 0.0,
                                        backoff: 1.0,
                                        within: 0.1,
                                    });
                                } else {
                                    s.scale = n / w;
                                }
                                let (mut a, mut r) = (0, 0);
                                for seed in first..first + seeds {
                                    let run = sim::run(&s, c, seed);
                                    a += run.arrived;
                                    r += run.refused;
                                }
                                cells += 1;
                                asked += a;
                                refused += r;
                                if r > 0 {
                                    bad += 1;
                                }
                                row += &format!(" {:>6.2}", 100.0 * r as f64 / a.max(1) as f64);
                            }
                            if row.split_whitespace().any(|x| x != "0.00") {
                                println!(
                                    "{} {shape:<8} {w:>6}: {row}",
                                    if closed { "closed" } else { "open  " }
                                );
                            }
                        }
                    }
                }
                println!(
                    "{name}: {bad} of {cells} cells with refusals; {refused} of {asked} requests = {:.3} %",
                    100.0 * refused as f64 / asked as f64
                );
            }
        }
        "streams" => {
            // Honest load beside them.
            // 20, 100 streams come within 2 s beside hello of 10 ms at 200/s, unsaturated; then overloaded 2x.
            for (most, over) in [
                (20u32, false),
                (100, false),
                (20, true),
                (100, true),
                (500, true),
            ] {
                for (name, c, rq) in &cs {
                    let mut s = sim::scenarios().into_iter().next().unwrap();
                    s.duration = 40.0;
                    s.others = Some(sim::Others {
                        most,
                        reads: f64::INFINITY,
                        lent: false,
                        ..sim::Others::quick()
                    });
                    s.signal = *rq;
                    s.load = |_| 1600.0;
                    s.scale = if over { 2.0 } else { 0.2 };
                    let r = sim::run(&s, c, 1);
                    println!(
                        "{most} streams over={over} {name}: refused {:.2} %, goodput 10..40 {:.0}/s, first 5s {:.0}/s, limit {:?}",
                        100.0 * r.refused as f64 / r.arrived as f64,
                        r.goodput(10.0, 40.0),
                        r.goodput(0.0, 5.0),
                        r.limits(20.0, 40.0)
                    );
                }
            }
        }
        "f3" => {
            for (name, w, scale, clients, dur, exp) in [
                ("60 in flight x 5 s, open", 5.0, 12.0, 0usize, 600.0, true),
                ("3/s x 20 s, open", 20.0, 3.0, 0, 600.0, true),
                ("100 clients x 1 s, closed", 1.0, 0.0, 100, 30.0, false),
                ("40 clients x 3 s, closed", 3.0, 0.0, 40, 30.0, false),
                ("100 clients x 200 ms, closed", 0.2, 0.0, 100, 15.0, false),
                (
                    "300 users, think 5 s, LLM 10 s",
                    10.0,
                    0.0,
                    300,
                    120.0,
                    true,
                ),
            ] {
                print!("{name}");
                for (cn, c, rq) in &cs {
                    let mut s = honest_base();
                    s.signal = *rq;
                    s.work = if exp {
                        Work::Exponential(w)
                    } else {
                        Work::Constant(w)
                    };
                    s.duration = dur;
                    s.scale = scale;
                    if clients > 0 {
                        s.closed = Some(Closed {
                            clients,
                            think: if clients == 300 { 5.0 } else { 0.0 },
                            backoff: 0.9,
                            within: 0.1,
                        });
                    }
                    let (mut a, mut r, mut last) = (0, 0, 0f32);
                    for seed in first..first + seeds {
                        let run = sim::run(&s, c, seed);
                        a += run.arrived;
                        r += run.refused;
                        last = last.max(run.refused_at.last().copied().unwrap_or(0.0));
                    }
                    print!(
                        " | {cn}: {:.1} % refused, last at {last:.0} s",
                        100.0 * r as f64 / a as f64
                    );
                }
                println!();
            }
        }
        "tcold" => {
            let mut s = sim::scenarios().into_iter().next().unwrap();
            s.load = |_| 1600.0;
            s.signal = true;
            s.scale = args[4].parse().unwrap();
            if args[5] == "slow" {
                s.work = Work::Exponential(1.0);
                s.plant = |_| Plant {
                    cores: 200.0,
                    ..Plant::healthy()
                };
                s.scale *= 0.125;
                s.slo = 5.0;
                s.duration = 60.0;
            }
            if args[5] == "knee" {
                s.plant = |_| Plant {
                    cores: 10.0,
                    contention: 0.2,
                    ..Plant::healthy()
                };
                s.scale *= 0.6;
            }
            s.signal = cs[0].2;
            let r = sim::run(&s, &cs[0].1, seeds);
            for x in &r.said {
                println!("{x:?}");
            }
            let step: usize = args[6].parse().unwrap();
            for x in r.samples.iter().step_by(step) {
                println!(
                    "{:.1} limit {} in {} good {:.0}",
                    x.at,
                    x.limit,
                    x.in_flight,
                    r.goodput(x.at, x.at + 0.1 * step as f64)
                );
            }
        }
        "trace" => {
            let name = &args[4];
            let mut s = sim::scenarios()
                .into_iter()
                .find(|s| s.name == name)
                .unwrap();
            s.signal = true;
            let from: f64 = args[5].parse().unwrap();
            let to: f64 = args[6].parse().unwrap();
            s.signal = cs[0].2;
            let r = sim::run(&s, &cs[0].1, seeds);
            for x in &r.said {
                println!("{x:?}");
            }
            for x in r.samples.iter().filter(|x| x.at >= from && x.at < to) {
                println!(
                    "{:.1} limit {} in {} good {:.0}",
                    x.at,
                    x.limit,
                    x.in_flight,
                    r.goodput(x.at, x.at + 0.1)
                );
            }
        }
        _ => {}
    }
}
fn services(seeds: std::ops::Range<u64>) {
    let one = |s: &Scenario, c: &Contender, seed| sim::run(s, c, seed);
    for s in sim::honest_services() {
        print!("{:45}", s.name);
        for signal in [true, false] {
            let mut s = s.clone();
            s.signal = signal;
            let (mut r, mut a, mut o) = (0, 0, (0, 0, 0));
            for seed in seeds.clone() {
                let run = one(&s, &Contender::Default, seed);
                r += run.refused;
                a += run.arrived;
                o = (o.0 + run.others.0, o.1 + run.others.1, o.2 + run.others.2);
                if run.said.len() > 1 {
                    print!(" {:?}", &run.said[1..run.said.len().min(3)]);
                }
            }
            print!(" | {r} of {a} refused; others {o:?}");
        }
        println!();
    }
    for s in sim::hostile() {
        print!("{:45}", s.name);
        for signal in [true, false] {
            let mut s = s.clone();
            s.signal = signal;
            for seed in seeds.clone() {
                let run = one(&s, &Contender::Default, seed);
                let good: Vec<_> = [0.0, 5.0, 10.0, 11.0, 13.0, 15.0, 20.0, 30.0, 40.0]
                    .windows(2)
                    .map(|w| run.goodput(w[0], w[1]) as u32)
                    .collect();
                print!(
                    " | {good:?} others {:?}, refused {} of {}",
                    run.others, run.refused, run.arrived
                );
            }
        }
        println!();
    }
}
