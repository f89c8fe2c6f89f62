//! Rates that replicas share, by a real Redis or Valkey: `redis-server` or `valkey-server`, or what `REDIS_SERVER` names. Where there
//! is none these tests say so and pass; `shared_rates.rs` needs none.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use stellane_autotune::{
    Key, ManualClock, RateRule,
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

/// What is between a replica and the store: it may be slow, or let nothing through.
struct Line {
    port: u16,
    /// How much later each answer comes.
    millis: Arc<AtomicU64>,
    is_cut: Arc<AtomicBool>,
}

impl Line {
    fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = Self {
            port: listener.local_addr().unwrap().port(),
            millis: Arc::default(),
            is_cut: Arc::default(),
        };
        let (millis, is_cut) = (Arc::clone(&line.millis), Arc::clone(&line.is_cut));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                // Of a server that is not there the replica hears by the end of its connection.
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(("127.0.0.1", server))) else {
                    continue;
                };
                let ends = [
                    (&near, &far, Arc::default()),
                    (&far, &near, Arc::clone(&millis)),
                ];
                for (from, to, millis) in ends {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let is_cut = Arc::clone(&is_cut);
                    std::thread::spawn(move || hand_over(from, to, &millis, &is_cut));
                }
            }
        });
        line
    }
}

/// Until one of both ends.
fn hand_over(mut from: TcpStream, mut to: TcpStream, millis: &AtomicU64, is_cut: &AtomicBool) {
    let mut bytes = [0; 16384];
    while let Ok(count) = from.read(&mut bytes)
        && count > 0
    {
        std::thread::sleep(Duration::from_millis(millis.load(Relaxed)));
        // What goes into a line that is cut never arrives, and its end is not told.
        while is_cut.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// A clock that is so many seconds ahead of the true one.
fn goes(ahead: Arc<AtomicU64>) -> ManualClock {
    let (time, began) = (ManualClock::default(), Instant::now());
    let moved = time.clone();
    std::thread::spawn(move || {
        loop {
            moved.set(began.elapsed() + Duration::from_secs(ahead.load(Relaxed)));
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    time
}

/// Three replicas, each with a line of its own to the store.
struct Fleet {
    server: Server,
    lines: Vec<Line>,
    stores: Vec<RateStore>,
    /// How many seconds each replica's clock is ahead.
    ahead: Vec<Arc<AtomicU64>>,
    open: Vec<SharedRateLimit>,
    closed: Vec<SharedRateLimit>,
}

/// What clients that keep to the rate have seen at one replica.
#[derive(Debug, Default)]
struct Seen {
    asked: u32,
    refused: u32,
    /// By the limit that is to refuse without a store.
    closed: u32,
    longest: Duration,
}

impl Fleet {
    async fn start() -> Option<Self> {
        let server = Server::start()?;
        let lines: Vec<_> = (0..3).map(|_| Line::to(server.port)).collect();
        let stores: Vec<_> = lines
            .iter()
            .map(|line| RateStore::builder(format!("redis://127.0.0.1:{}", line.port)))
            .map(|store| store.build().unwrap())
            .collect();
        let ahead: Vec<_> = (0..3).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let times: Vec<_> = ahead.iter().map(|ahead| goes(Arc::clone(ahead))).collect();
        let limits = |name: &str, without: WithoutStore| -> Vec<_> {
            let of = |(store, time): (_, &ManualClock)| {
                let limit = SharedRateLimit::builder(store, name);
                let limit = limit.rule("100/s burst 30".parse().unwrap());
                let limit = limit.clock(time.clock()).without_store(without);
                limit.build().unwrap()
            };
            stores.iter().zip(&times).map(of).collect()
        };
        let open = limits("open", WithoutStore::Whole);
        let closed = limits("closed", WithoutStore::Refuse);
        let fleet = Self {
            server,
            lines,
            stores,
            ahead,
            open,
            closed,
        };
        fleet.is_there().await;
        Some(fleet)
    }

    async fn is_there(&self) {
        for store in &self.stores {
            is_there(store).await;
        }
    }

    /// Clients ask all the while: before `fault`, for as long as it lasts, and until all replicas are well again after `heal`.
    async fn suffers<T>(
        &mut self,
        what: &str,
        lasts: Duration,
        fault: impl AsyncFnOnce(&mut Self) -> T,
        heal: impl AsyncFnOnce(&mut Self, T),
    ) -> Vec<Seen> {
        self.is_there().await;
        let failures = |fleet: &Self| -> Vec<_> {
            fleet
                .stores
                .iter()
                .map(|store| store.stats().failures)
                .collect()
        };
        let (before, ends) = (failures(self), Arc::new(AtomicBool::new(false)));
        let ask = |place: usize| {
            let (open, closed) = (self.open[place].clone(), self.closed[place].clone());
            let ends = Arc::clone(&ends);
            tokio::spawn(async move {
                let mut seen = Seen::default();
                while !ends.load(Relaxed) {
                    // Each of ten keys some ten times a second at each replica.
                    let key = seen.asked % 10;
                    let began = Instant::now();
                    let answer = open.check(Key::of(key), 1).await;
                    seen.longest = seen.longest.max(began.elapsed());
                    seen.refused += u32::from(answer.is_err());
                    let answer = closed.check(Key::of(key), 1).await;
                    seen.closed +=
                        u32::from(matches!(answer, Err(SharedRateLimited::WithoutStore)));
                    seen.asked += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                seen
            })
        };
        let asks = [0, 1, 2].map(ask);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let done = fault(self).await;
        tokio::time::sleep(lasts).await;
        heal(self, done).await;
        let healed = Instant::now();
        self.is_there().await;
        let back = healed.elapsed();
        // It is asked again, and lets in what it shall.
        for limit in &self.closed {
            let wait = async { while limit.check(Key::of("new"), 1).await.is_err() {} };
            tokio::time::timeout(Duration::from_secs(60), wait)
                .await
                .unwrap();
        }
        ends.store(true, Relaxed);
        let mut all = Vec::new();
        for seen in asks {
            all.push(seen.await.unwrap());
        }
        let failed: Vec<_> = failures(self)
            .iter()
            .zip(&before)
            .map(|(now, then)| now - then)
            .collect();
        let asked: u32 = all.iter().map(|seen| seen.asked).sum();
        let refused: u32 = all.iter().map(|seen| seen.refused).sum();
        let closed: Vec<_> = all.iter().map(|seen| seen.closed).collect();
        let longest = all.iter().map(|seen| seen.longest).max().unwrap();
        eprintln!(
            "{what}: {asked} asked, {refused} refused; {closed:?} by the limits that shall refuse; longest wait {longest:.1?}; \
             failures {failed:?}; back after {back:.1?}"
        );
        assert_eq!(refused, 0, "{what}");
        all
    }
}

/// The failures of a store as a fleet sees them, each with its effect printed: nobody who keeps to the rate is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_s_clients_notice_no_failure_of_the_store() {
    let Some(mut fleet) = Fleet::start().await else {
        return;
    };
    let second = Duration::from_secs(1);
    fleet
        .suffers(
            "killed",
            2 * second,
            async |fleet| fleet.server.kill(),
            async |fleet, ()| {
                fleet.server.child = Server::run(&fleet.server.program, fleet.server.port);
            },
        )
        .await;
    let stopped = fleet
        .suffers(
            "stopped for 30 s",
            30 * second,
            async |fleet| fleet.server.signal("-STOP"),
            async |fleet, ()| fleet.server.signal("-CONT"),
        )
        .await;
    assert!(stopped.iter().all(|seen| seen.closed > 0), "{stopped:?}");
    let late = |fleet: &Fleet, millis| {
        for line in &fleet.lines {
            line.millis.store(millis, Relaxed);
        }
    };
    fleet
        .suffers(
            "answers after 500 ms",
            5 * second,
            async |fleet| late(fleet, 500),
            async |fleet, ()| late(fleet, 0),
        )
        .await;
    fleet
        .suffers(
            "flushed",
            second,
            async |fleet| fleet.server.tell(&["FLUSHALL"]),
            async |_, ()| (),
        )
        .await;
    fleet
        .suffers(
            "a replica of another",
            2 * second,
            async |fleet| fleet.server.tell(&["REPLICAOF", "127.0.0.1", "1"]),
            async |fleet, ()| fleet.server.tell(&["REPLICAOF", "NO", "ONE"]),
        )
        .await;
    fleet
        .suffers(
            "wrong password",
            2 * second,
            async |fleet| {
                fleet
                    .server
                    .tell(&["CONFIG", "SET", "requirepass", "hunter2"]);
                let url = format!("redis://:hunter2@127.0.0.1:{}", fleet.server.port);
                let mut knows = redis::Client::open(url).unwrap().get_connection().unwrap();
                let kill = ["KILL", "TYPE", "normal"];
                redis::cmd("CLIENT").arg(&kill).exec(&mut knows).unwrap();
                knows
            },
            async |_, mut knows| {
                let none = ["SET", "requirepass", ""];
                redis::cmd("CONFIG").arg(&none).exec(&mut knows).unwrap();
            },
        )
        .await;
    for (what, micros) in [("30 s ahead", "-30e6"), ("30 s behind", "30e6")] {
        // As if another server were in charge, with what this one has written.
        let script = format!(
            "for _, key in ipairs(redis.call('KEYS', 'stellane:rate:*')) do
               if redis.call('TYPE', key).ok == 'string' then
                 local words = {{}}
                 for word in string.gmatch(redis.call('GET', key), '%S+') do
                   words[#words + 1] = string.format('%.0f', tonumber(word) + {micros})
                 end
                 redis.call('SET', key, table.concat(words, ' '))
               end
             end"
        );
        let what = format!("the store's clock {what}");
        fleet
            .suffers(
                &what,
                second,
                async |fleet| fleet.server.tell(&["EVAL", &script, "0"]),
                async |_, ()| (),
            )
            .await;
    }
}

/// It has the whole rule, and the others notice nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_cut_off_goes_on_alone_and_comes_back() {
    let Some(mut fleet) = Fleet::start().await else {
        return;
    };
    let seen = fleet
        .suffers(
            "a replica is cut off",
            Duration::from_secs(5),
            async |fleet| fleet.lines[2].is_cut.store(true, Relaxed),
            async |fleet, ()| fleet.lines[2].is_cut.store(false, Relaxed),
        )
        .await;
    assert!(seen[2].closed > 0, "{seen:?}");
    until("each knows of the others", || {
        fleet.stores.iter().all(|store| store.stats().replicas == 3)
    })
    .await;
}

/// Theirs are monotonic, and what they say is compared with none of another: two leap ahead here, one is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_of_replicas_that_are_off_by_30_s_change_nothing() {
    let Some(mut fleet) = Fleet::start().await else {
        return;
    };
    fleet
        .suffers(
            "clocks of replicas off by 30 and 60 s",
            Duration::from_secs(3),
            async |fleet| {
                fleet.ahead[0].store(30, Relaxed);
                fleet.ahead[1].store(60, Relaxed);
            },
            async |_, ()| (),
        )
        .await;
}
