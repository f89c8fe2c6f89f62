//! Rates that replicas share, by a real Redis or Valkey: `redis-server` or `valkey-server`, or what `REDIS_SERVER` names. Where there
//! is none these tests say so and pass; `shared_rates.rs` needs none.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use stellane_autotune::{
    Key, RateRule,
    rate_limit::shared::{RateStore, SharedRateLimit, SharedRateLimited, WithoutStore},
};

struct Server {
    program: String,
    port: u16,
    child: Child,
}

impl Server {
    /// `None` where there is no such program.
    fn start() -> Option<Self> {
        let named = std::env::var("REDIS_SERVER").ok();
        let names = named
            .iter()
            .map(|name| &**name)
            .chain(["redis-server", "valkey-server"]);
        let is_there = |name: &&str| {
            let version = Command::new(name).arg("--version").output();
            version.is_ok_and(|output| output.status.success())
        };
        let Some(program) = names.into_iter().find(is_there).map(str::to_owned) else {
            eprintln!("skipped: no redis-server here, and REDIS_SERVER names none");
            return None;
        };
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Self::run(&program, port);
        Some(Self {
            program,
            port,
            child,
        })
    }

    fn run(program: &str, port: u16) -> Child {
        Command::new(program)
            .args([
                "--save",
                "",
                "--appendonly",
                "no",
                "--bind",
                "127.0.0.1",
                "--port",
            ])
            .arg(port.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    async fn replica(&self) -> RateStore {
        // Long enough for a machine that does something else for a while.
        let store = RateStore::builder(self.url()).timeout(Duration::from_millis(300));
        let store = store.build().unwrap();
        is_there(&store).await;
        store
    }

    fn tell(&self, command: &[&str]) {
        let mut connection = redis::Client::open(self.url())
            .unwrap()
            .get_connection()
            .unwrap();
        let mut told = redis::cmd(command[0]);
        told.arg(&command[1..]).exec(&mut connection).unwrap();
    }

    fn signal(&self, name: &str) {
        let told = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status();
        assert!(told.unwrap().success());
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    assert!(waited.is_ok(), "never: {what}");
}

async fn is_there(store: &RateStore) {
    until("the store is there", || store.stats().is_there).await;
}

fn limit(store: &RateStore, name: &str, rules: &[&str]) -> SharedRateLimit {
    let mut limit = SharedRateLimit::builder(store, name);
    for rule in rules {
        limit = limit.rule(rule.parse().unwrap());
    }
    limit.build().unwrap()
}

#[tokio::test]
async fn four_replicas_let_in_together_what_one_would() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut replicas = Vec::new();
    for _ in 0..4 {
        replicas.push(server.replica().await);
    }
    let limits = |name: &str, rules: &[&str]| -> Vec<_> {
        replicas
            .iter()
            .map(|store| limit(store, name, rules))
            .collect()
    };
    // No lease at such a rate: to the last one.
    let exact = limits("exact", &["10/h burst 7", "1000/h"]);
    let mut let_in = 0;
    for round in 0..100 {
        let answer = exact[round % 4].check(Key::of("eve"), 1).await;
        let_in += u32::from(answer.is_ok());
        if let Err(SharedRateLimited::Rate(limited)) = answer {
            assert_eq!(limited.rule, 0);
            assert!(limited.retry_after <= Duration::from_secs(360));
        }
    }
    assert_eq!(let_in, 7);
    assert!(exact[0].check(Key::of("ada"), 1).await.is_ok());
    // What costs more than a bucket is let in when it is full, and paid off.
    let costly = limits("costly", &["10/h"]);
    assert!(costly[0].check(Key::of("eve"), 30).await.is_ok());
    let Err(SharedRateLimited::Rate(limited)) = costly[1].check(Key::of("eve"), 1).await else {
        panic!("paid off")
    };
    assert!(limited.retry_after > Duration::from_secs(360 * 20));

    // By leases: never more than the rule, the leases and what was on its way allow, and no less than the rule.
    let rule: RateRule = "1000/s burst 100".parse().unwrap();
    let busy = limits("busy", &[&rule.to_string()]);
    let (began, let_in) = (Instant::now(), Arc::new(AtomicU32::new(0)));
    let tasks: Vec<_> = busy
        .iter()
        .map(|limit| {
            let (limit, let_in) = (limit.clone(), Arc::clone(&let_in));
            tokio::spawn(async move {
                while began.elapsed() < Duration::from_secs(2) {
                    match limit.check(Key::of("eve"), 1).await {
                        Ok(_) => drop(let_in.fetch_add(1, Relaxed)),
                        Err(_) => tokio::time::sleep(Duration::from_micros(500)).await,
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (let_in, seconds) = (
        f64::from(let_in.load(Relaxed)),
        began.elapsed().as_secs_f64(),
    );
    let asked: u64 = busy.iter().map(|limit| limit.stats().asked).sum();
    eprintln!("let in {let_in} in {seconds} s, asked {asked} times");
    assert!(let_in <= 1000.0 * seconds + 100.0 + 4.0 * 50.0, "{let_in}");
    assert!(asked as f64 * 10.0 < let_in, "{asked} for {let_in}");
    until("each knows of the others", || {
        replicas[0].stats().replicas == 4
    })
    .await;
}

#[tokio::test]
async fn who_keeps_to_the_rate_is_never_refused_wherever_he_asks() {
    let Some(server) = Server::start() else {
        return;
    };
    let (first, second) = (server.replica().await, server.replica().await);
    for rule in ["200/s burst 1", "100/s burst 3", "1000/s burst 10"] {
        let limits = [limit(&first, rule, &[rule]), limit(&second, rule, &[rule])];
        let pace = {
            let rule: RateRule = rule.parse().unwrap();
            rule.window() / rule.limit()
        };
        for number in 0..200_usize {
            let whose = limits[number * number % 3 % 2]
                .check(Key::of("ada"), 1)
                .await;
            assert!(whose.is_ok(), "{rule}: {whose:?}");
            tokio::time::sleep(pace + Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn who_comes_again_when_told_to_is_let_in() {
    let Some(server) = Server::start() else {
        return;
    };
    let (first, second) = (server.replica().await, server.replica().await);
    let limits = [
        limit(&first, "again", &["50/s burst 2"]),
        limit(&second, "again", &["50/s burst 2"]),
    ];
    let mut refused = 0;
    for number in 0..200 {
        let limit = &limits[number % 2];
        let mut tries = 0;
        while let Err(limited) = limit.check(Key::of("ada"), 1).await {
            (refused, tries) = (refused + 1, tries + 1);
            // What the other let in may be paid meanwhile.
            assert!(tries <= 2, "{limited}");
            tokio::time::sleep(limited.retry_after()).await;
        }
    }
    assert!(refused > 0);
}

/// Nobody who keeps to the rate is refused, whatever happens to the store; when it is well again it is asked again.
#[tokio::test]
async fn whatever_happens_to_the_store_no_request_fails() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let store = server.replica().await;
    let open = limit(&store, "open", &["10/s"]);
    let closed = SharedRateLimit::builder(&store, "closed")
        .rule("1000/s".parse().unwrap())
        .without_store(WithoutStore::Refuse)
        .build()
        .unwrap();
    let ask = async || {
        for key in 0..20 {
            assert!(open.check(Key::of(key), 1).await.is_ok());
            tokio::time::sleep(Duration::from_millis(6)).await;
        }
    };
    let away = async |store: &RateStore| {
        let failures = store.stats().failures;
        let wait = async {
            while store.stats().failures == failures {
                ask().await;
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(60), wait)
                .await
                .is_ok()
        );
        assert!(matches!(
            closed.check(Key::of("password"), 1).await,
            Err(SharedRateLimited::WithoutStore)
        ));
        ask().await;
    };
    let back = async |store: &RateStore| {
        is_there(store).await;
        let asked = open.stats().asked;
        ask().await;
        assert!(open.stats().asked > asked);
        assert!(closed.check(Key::of("password"), 1).await.is_ok());
    };
    ask().await;
    // Stopped: it takes connections still, and says nothing.
    server.signal("-STOP");
    away(&store).await;
    server.signal("-CONT");
    back(&store).await;
    // Killed.
    server.kill();
    away(&store).await;
    server.child = Server::run(&server.program, server.port);
    back(&store).await;
    // Another is in charge.
    server.tell(&["REPLICAOF", "127.0.0.1", "1"]);
    away(&store).await;
    server.tell(&["REPLICAOF", "NO", "ONE"]);
    back(&store).await;
    // It wants a password that we don't have.
    server.tell(&["CONFIG", "SET", "requirepass", "hunter2"]);
    let asking =
        redis::Client::open(format!("redis://:hunter2@127.0.0.1:{}", server.port)).unwrap();
    let mut connection = asking.get_connection().unwrap();
    redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal"])
        .exec(&mut connection)
        .unwrap();
    away(&store).await;
    redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", ""])
        .exec(&mut connection)
        .unwrap();
    back(&store).await;
    // It has no memory left.
    server.tell(&["CONFIG", "SET", "maxmemory", "1"]);
    away(&store).await;
    server.tell(&["CONFIG", "SET", "maxmemory", "0"]);
    back(&store).await;
    // Its scripts are gone, and its data.
    server.tell(&["SCRIPT", "FLUSH"]);
    ask().await;
    back(&store).await;
    server.tell(&["FLUSHALL"]);
    ask().await;
    back(&store).await;
    assert_eq!(open.stats().local.rules[0].refused, 0);
}

#[tokio::test]
async fn a_clock_of_the_store_that_goes_back_makes_nobody_wait_for_longer() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.replica().await;
    let limit = limit(&store, "clock", &["10/s burst 2"]);
    assert!(limit.check(Key::of("ada"), 2).await.is_ok());
    // As if all of it had been written by a server whose clock is half a minute ahead.
    server.tell(&[
        "EVAL",
        "local key = redis.call('KEYS', 'stellane:rate:*')[1]
         local words = {}
         for word in string.gmatch(redis.call('GET', key), '%S+') do
           words[#words + 1] = string.format('%.0f', tonumber(word) + 30e6)
         end
         redis.call('SET', key, table.concat(words, ' '))
         return key",
        "0",
    ]);
    tokio::time::sleep(Duration::from_millis(250)).await;
    if let Err(limited) = limit.check(Key::of("ada"), 1).await {
        assert!(
            limited.retry_after() <= Duration::from_millis(200),
            "{limited}"
        );
    }
}
