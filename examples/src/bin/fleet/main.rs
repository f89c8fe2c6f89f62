//! A fleet, and what its users see: a gateway that balances between three replicas of a service, these before one database, each a
//! process of its own with the preset in it (but for the database, which is simulated).
//!
//! ```text
//! cargo run --release -p stellane-examples --bin fleet                  # all situations, a minute
//! cargo run --release -p stellane-examples --bin fleet short            # the same in small
//! cargo run --release -p stellane-examples --bin fleet deploy tenant    # some of them
//! cargo run --release -p stellane-examples --bin fleet bottleneck       # four limits before one upstream
//! ```
//!
//! | situation | what happens |
//! |---|---|
//! | `balance` | the replicas do 50, 100 and 200 a second; each tells its load with its answers, and gets what it can do |
//! | `rates` | a rate that they share by Redis, which is killed in the middle; skipped where there is no `redis-server` |
//! | `deploy` | every replica is replaced by a new one, one after the other |
//! | `database` | each query takes forty times as long for a while, which is less than what is asked |
//! | `tenant` | one tenant asks for ten times what he may |
//! | `blocked` | handlers of one route block their threads for a second |
//!
//! The users' calls come at a steady pace, whether those before are answered or not. Ends with 1 if a user got no answer at all.

mod client;
mod process;
mod roles;
mod users;

use std::{process::ExitCode, time::Duration};

use process::{Process, Redis};
use stellane_core::BoxError;
use tokio::time::sleep;
use users::{Seen, Users};

const SITUATIONS: [&str; 6] = [
    "balance", "rates", "deploy", "database", "tenant", "blocked",
];

/// How much of everything.
#[derive(Clone, Copy)]
struct Scale {
    /// Calls a second.
    rate: f64,
    /// How long each part of a situation lasts.
    part: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("serve") => roles::serve(&arguments[1..]).await.map(|()| true),
        _ => {
            let is_short = arguments.first().is_some_and(|word| word == "short");
            let scale = match is_short {
                true => Scale {
                    rate: 60.0,
                    part: Duration::from_secs(2),
                },
                false => Scale {
                    rate: 200.0,
                    part: Duration::from_secs(5),
                },
            };
            arguments.drain(..usize::from(is_short));
            show(&arguments, scale).await
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

async fn show(names: &[String], scale: Scale) -> Result<bool, BoxError> {
    let names: Vec<&str> = match names.is_empty() {
        true => SITUATIONS.to_vec(),
        false => names.iter().map(String::as_str).collect(),
    };
    let mut all_answered = true;
    for name in names {
        let seen = match name {
            "balance" => balance(scale).await?,
            "rates" => rates(scale).await?,
            "deploy" => deploy(scale).await?,
            "database" => database(scale).await?,
            "tenant" => tenant(scale).await?,
            "blocked" => blocked(scale).await?,
            "bottleneck" => bottleneck(scale).await?,
            _ => {
                return Err(
                    format!("`{name}`: expected one of {SITUATIONS:?}, or `bottleneck`").into(),
                );
            }
        };
        all_answered &= seen.unanswered == 0;
    }
    Ok(all_answered)
}

/// The processes of a chain.
struct Chain {
    gateway: Process,
    replicas: Vec<Process>,
    database: Process,
}

impl Chain {
    fn start(seats: [usize; 3]) -> Result<Self, BoxError> {
        let database = Process::start(&["database"])?;
        let replica = |seats| Self::replica(&database, seats);
        let replicas = seats
            .map(replica)
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        let mut gateway = Process::start(&["gateway"])?;
        gateway.tell(&addresses(&replicas))?;
        Ok(Self {
            gateway,
            replicas,
            database,
        })
    }

    fn replica(database: &Process, seats: usize) -> Result<Process, BoxError> {
        Process::start(&["replica", &database.address, &seats.to_string(), ""])
    }

    fn users(&self, scale: Scale) -> Users {
        Users::new(&[&self.gateway.address], scale.rate, scale.part)
    }

    /// What those that limit say of it.
    async fn explain(&self) {
        for process in [&self.gateway].into_iter().chain(&self.replicas) {
            match users::get(&process.address, "/limit").await {
                Ok(said) if said.starts_with("open") => {}
                Ok(said) => println!("        {} {}: {said}", process.role, process.address),
                Err(error) => println!("        {} {}: {error}", process.role, process.address),
            }
        }
    }
}

fn addresses(replicas: &[Process]) -> String {
    let all: Vec<_> = replicas.iter().map(|replica| &*replica.address).collect();
    all.join(",")
}

async fn balance(scale: Scale) -> Result<Seen, BoxError> {
    println!("balance: replicas with 1, 2 and 4 seats, asked for half of what they do");
    let chain = Chain::start([1, 2, 4])?;
    let scale = Scale {
        rate: 175.0,
        ..scale
    };
    // Nothing is told in the first second.
    let mut seen = chain.users(scale).run().await.say("at first");
    let later = chain.users(scale).run().await;
    let shares = chain
        .replicas
        .iter()
        .map(|replica| later.share(&replica.address));
    let shares: Vec<_> = shares.map(|share| format!("{share:.2}")).collect();
    println!(
        "    shares {}, by their seats 0.14 0.29 0.57",
        shares.join(" ")
    );
    seen.add(&later.say("then"));
    chain.explain().await;
    Ok(seen)
}

async fn rates(scale: Scale) -> Result<Seen, BoxError> {
    println!("rates: three replicas share 20 a second of a key by Redis");
    let Some(mut redis) = Redis::start()? else {
        println!("    skipped: no redis-server here, and REDIS_SERVER names none");
        return Ok(Seen::default());
    };
    let database = Process::start(&["database"])?;
    let replica = |_| Process::start(&["replica", &database.address, "8", &redis.url()]);
    let replicas = (0..3).map(replica).collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<_> = replicas.iter().map(|replica| &*replica.address).collect();
    let users = Users::new(&addresses, scale.rate, scale.part).field("x-api-key", "busy");
    sleep(Duration::from_secs(1)).await;
    let mut seen = users.run().await.say("Redis is there");
    let (during, ()) = tokio::join!(users.run(), async {
        sleep(scale.part / 2).await;
        redis.kill();
    });
    seen.add(&during.say("it is killed"));
    redis.restart()?;
    sleep(Duration::from_secs(3)).await;
    seen.add(&users.run().await.say("it is back"));
    Ok(seen)
}

async fn deploy(scale: Scale) -> Result<Seen, BoxError> {
    println!("deploy: each replica is replaced by a new one");
    let mut chain = Chain::start([8, 8, 8])?;
    let mut seen = chain.users(scale).run().await.say("before");
    let users = chain.users(Scale {
        part: scale.part * 3,
        ..scale
    });
    let (during, replaced) = tokio::join!(users.run(), async {
        for place in 0..3 {
            sleep(scale.part / 2).await;
            let new = Chain::replica(&chain.database, 8)?;
            let mut old = std::mem::replace(&mut chain.replicas[place], new);
            // As in Kubernetes the balancer hears of both while the old one drains already.
            old.end();
            sleep(Duration::from_millis(200)).await;
            chain.gateway.tell(&addresses(&chain.replicas))?;
            old.ended().await?;
        }
        Ok::<_, BoxError>(())
    });
    replaced?;
    seen.add(&during.say("during it"));
    chain.explain().await;
    Ok(seen)
}

async fn database(scale: Scale) -> Result<Seen, BoxError> {
    println!(
        "database: each query takes 200 ms in the place of 5: it does 40 a second, and {} are asked for",
        scale.rate
    );
    let chain = Chain::start([8, 8, 8])?;
    let mut seen = chain.users(scale).run().await.say("before");
    users::get(&chain.database.address, "/millis/200").await?;
    seen.add(&chain.users(scale).run().await.say("slow"));
    chain.explain().await;
    users::get(&chain.database.address, "/millis/5").await?;
    seen.add(&chain.users(scale).run().await.say("well again"));
    seen.add(&chain.users(scale).run().await.say("then"));
    Ok(seen)
}

async fn tenant(scale: Scale) -> Result<Seen, BoxError> {
    println!(
        "tenant: each may ask for {} a second; one asks for ten times that",
        roles::TENANT
    );
    let chain = Chain::start([8, 8, 8])?;
    let hot = chain
        .users(Scale {
            rate: 10.0 * roles::TENANT,
            ..scale
        })
        .field("x-tenant", "hot");
    let others = chain.users(scale);
    let (hot, others) = tokio::join!(hot.run(), others.run());
    let mut seen = hot.say("the hot one");
    seen.add(&others.say("the others"));
    chain.explain().await;
    Ok(seen)
}

async fn blocked(scale: Scale) -> Result<Seen, BoxError> {
    println!("blocked: eight handlers at a time block their thread for a second each");
    let chain = Chain::start([8, 8, 8])?;
    let mut seen = chain.users(scale).run().await.say("before");
    let blocks = chain.users(Scale { rate: 8.0, ..scale }).path("/block");
    let others = chain.users(scale);
    let (blocks, others) = tokio::join!(blocks.run(), others.run());
    seen.add(&blocks.say("who blocks"));
    seen.add(&others.say("the others"));
    chain.explain().await;
    Ok(seen)
}

/// Each replica has a limit of its own before what they share.
async fn bottleneck(scale: Scale) -> Result<Seen, BoxError> {
    let database = Process::start(&["database"])?;
    users::get(&database.address, "/millis/40").await?;
    let replicas = (0..4)
        .map(|_| Chain::replica(&database, 1000))
        .collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<_> = replicas.iter().map(|replica| &*replica.address).collect();
    let mut seen = Seen::default();
    for times in [1.0, 2.0, 4.0] {
        let rate = roles::QUERIES as f64 / 0.04 * times;
        println!(
            "bottleneck: four replicas before a database that does {}/s, asked for {rate}",
            roles::QUERIES as f64 / 0.04
        );
        let users = Users::new(&addresses, rate, 3 * scale.part).quick();
        // Until the limits have settled.
        seen.add(&users.run().await.say("at first"));
        let settled = users.run().await;
        let goodput = settled.good() as f64 / users.seconds();
        println!(
            "    goodput {:.0}/s, {:.0} % of what the database does",
            goodput,
            100.0 * goodput * 0.04 / roles::QUERIES as f64
        );
        for replica in &replicas {
            println!(
                "    {}: {}",
                replica.address,
                users::get(&replica.address, "/limit").await?
            );
        }
        seen.add(&settled.say("settled"));
    }
    Ok(seen)
}
