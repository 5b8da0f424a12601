//! The Redis tier beside redis-rs alone: reads with 64 in flight, writes, and how long it takes until another is told.
//!
//! `cargo bench -p kvcache-engine --bench redis`. Starts a redis-server of its own; `REDIS_URL` names another.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kvcache_engine::tier::conformance::record;
use kvcache_engine::tier::redis::{RedisTier, Settings};
use kvcache_engine::tier::{Key, Put, SharedLog, Tier, TierError, Told, Watcher};
use tokio::sync::mpsc;

const KEYS: usize = 10_000;
const IN_FLIGHT: usize = 64;
const CALLS: usize = 300_000;
const ROUNDS: usize = 3;

struct Server(Option<Child>);

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn server() -> (Server, String) {
    if let Ok(url) = std::env::var("REDIS_URL") {
        return (Server(None), url);
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]).stdout(Stdio::null());
    (Server(Some(command.spawn().unwrap())), format!("redis://127.0.0.1:{port}"))
}

/// Calls a second, with so many in flight.
async fn rate<F: Future<Output = ()> + Send + 'static>(call: impl Fn(usize) -> F + Send + Sync + 'static) -> f64 {
    let call = Arc::new(call);
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..IN_FLIGHT {
        let call = Arc::clone(&call);
        tasks.spawn(async move {
            for n in 0..CALLS / IN_FLIGHT {
                call((n * IN_FLIGHT + task) * 7919 % KEYS).await;
            }
        });
    }
    tasks.join_all().await;
    CALLS as f64 / begun.elapsed().as_secs_f64()
}

struct Times(mpsc::UnboundedSender<Instant>);

impl Watcher for Times {
    fn told(&self, facts: &[Told]) {
        let now = Instant::now();
        facts.iter().for_each(|_| self.0.send(now).unwrap());
    }

    fn missed(&self) {}

    fn failed(&self, error: &TierError, _: Option<&Key>) {
        println!("{error}");
    }
}

/// From a delete's beginning until the other has been told, in microseconds: median and 99th percentile of so many.
async fn until_told(from: &RedisTier, times: &mut mpsc::UnboundedReceiver<Instant>, n: usize) -> (u128, u128) {
    let mut took = Vec::new();
    for _ in 0..n {
        let begun = Instant::now();
        let deleted = from.delete_many(vec![b"none"[..].into()]).await;
        assert!(deleted[0].is_ok());
        took.push((times.recv().await.unwrap() - begun).as_micros());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    took.sort_unstable();
    (took[n / 2], took[n * 99 / 100])
}

fn main() {
    // Cargo asks the same of every bench when it tests.
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (_server, url) = server();
        let settings = Settings { urls: vec![url.clone()], ..Settings::default() };
        let tier = Arc::new(RedisTier::new(&settings, &tokio::runtime::Handle::current()).unwrap());
        while tier.get_many(vec![b"x"[..].into()]).await[0].is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let value = "x".repeat(1000);
        let keys: Arc<Vec<Key>> = Arc::new((0..KEYS).map(|n| format!("bench:key:{n}").into_bytes().into()).collect());
        for some in keys.chunks(1000) {
            let puts = some.iter().map(|key| Put::write(record(&String::from_utf8_lossy(key), &value, 0)));
            assert!(tier.put_many(puts.collect()).await.iter().all(Result::is_ok));
        }
        let raw = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
        for round in 1..=ROUNDS {
            let (conn, names) = (raw.clone(), Arc::clone(&keys));
            let alone = rate(move |n| {
                let (mut conn, key) = (conn.clone(), [b"kvcache:v:", &*names[n]].concat());
                async move {
                    let bytes: Vec<u8> = redis::cmd("GET").arg(key).query_async(&mut conn).await.unwrap();
                    assert!(bytes.len() > 1000);
                }
            })
            .await;
            let (reader, names) = (Arc::clone(&tier), Arc::clone(&keys));
            let ours = rate(move |n| {
                let (tier, key) = (Arc::clone(&reader), names[n].clone());
                async move { assert!(matches!(tier.get_many(vec![key]).await[0], Ok(Some(_)))) }
            })
            .await;
            let ratio = ours / alone;
            println!("{round}: {ours:.0} reads/s; redis-rs GET, multiplexed: {alone:.0}; ratio {ratio:.2}");
        }
        let (writer, names) = (Arc::clone(&tier), Arc::clone(&keys));
        let writes = rate(move |n| {
            let (tier, key) = (Arc::clone(&writer), String::from_utf8_lossy(&names[n]).into_owned());
            async move { assert!(tier.put_many(vec![Put::write(record(&key, "value", 0))]).await[0].is_ok()) }
        })
        .await;
        println!("{writes:.0} writes/s, each told before it was answered");
        let other = RedisTier::new(&settings, &tokio::runtime::Handle::current()).unwrap();
        assert!(other.get_many(vec![b"x"[..].into()]).await[0].is_ok());
        let (sender, mut times) = mpsc::unbounded_channel();
        let watcher: Arc<dyn Watcher> = Arc::new(Times(sender));
        other.watch(Arc::downgrade(&watcher) as Weak<dyn Watcher>);
        let (median, p99) = until_told(&tier, &mut times, 2000).await;
        println!("invalidate to told elsewhere, idle: median {median} µs, p99 {p99} µs");
        let (reader, names) = (Arc::clone(&tier), Arc::clone(&keys));
        let load = tokio::spawn(async move {
            // 10,000 reads a second.
            let mut tick = tokio::time::interval(Duration::from_millis(1));
            for n in 0.. {
                tick.tick().await;
                for k in 0..10 {
                    let (tier, key) = (Arc::clone(&reader), names[(n * 10 + k) % KEYS].clone());
                    tokio::spawn(async move { assert!(tier.get_many(vec![key]).await[0].is_ok()) });
                }
            }
        });
        let (median, p99) = until_told(&tier, &mut times, 2000).await;
        load.abort();
        println!("with 10,000 reads a second: median {median} µs, p99 {p99} µs");
    });
}
