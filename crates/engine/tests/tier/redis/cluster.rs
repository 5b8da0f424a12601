//! A cluster of six nodes: three masters, each with a replica.

use std::sync::Arc;

use kvcache_engine::invalidation::target::Target;
use kvcache_engine::tier::conformance::{conformance, get, record, under_chaos};
use kvcache_engine::tier::redis::{RedisTier, Settings};
use kvcache_engine::tier::{Put, SharedLog, Tier, Told};
use tokio::runtime::Handle;

use super::log::{Seen, loaded, put, value};
use super::server::{Server, is_there, until};

/// Six nodes.
pub struct Cluster {
    pub nodes: Vec<Server>,
}

impl Cluster {
    pub fn ready() -> Self {
        let args = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"];
        let nodes: Vec<_> = (0..6).map(|_| Server::ready(&args)).collect();
        let addresses: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let made = std::process::Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        let cluster = Self { nodes };
        for _ in 0..1000 {
            let ok = |node: &Server| format!("{:?}", node.ask(&["CLUSTER", "INFO"])).contains("cluster_state:ok");
            if cluster.nodes.iter().all(ok) {
                return cluster;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("the cluster does not come up");
    }

    /// Which node is the master of a key.
    fn master_of(&self, key: &str) -> usize {
        self.nodes
            .iter()
            .position(|node| {
                let Ok(mut conn) = ::redis::Client::open(node.url()).and_then(|client| client.get_connection()) else {
                    return false;
                };
                // Only its master does not send elsewhere.
                ::redis::cmd("HLEN").arg(key).query::<u64>(&mut conn).is_ok()
            })
            .unwrap()
    }

    /// Whether every master has a replica.
    fn is_whole(&self) -> bool {
        self.nodes.iter().all(|node| {
            let Ok(mut conn) = ::redis::Client::open(node.url()).and_then(|client| client.get_connection()) else {
                return false;
            };
            let info: String = ::redis::cmd("INFO").arg("replication").query(&mut conn).unwrap_or_default();
            info.contains("master_link_status:up") || info.contains("role:master") && info.contains("state=online")
        })
    }

    pub fn settings(&self) -> Settings {
        let urls = self.nodes.iter().take(2).map(Server::url).collect();
        Settings { urls, cluster: true, ..Settings::default() }
    }

    pub fn tier(&self) -> RedisTier {
        RedisTier::new(&self.settings(), &Handle::current()).unwrap()
    }
}

/// One node, or six.
pub struct Stage<'a> {
    pub tier: &'a dyn Fn() -> RedisTier,
    nodes: &'a [&'a Server],
}

impl Stage<'_> {
    /// Sends all nodes a signal.
    pub fn signal(&self, name: &str) {
        self.nodes.iter().for_each(|node| node.signal(name));
    }
}

/// Something that holds with one node and with six.
pub async fn on_one_and_on_six(server: &Server, holds: impl AsyncFn(Stage<'_>)) {
    holds(Stage { tier: &|| server.tier(), nodes: &[server] }).await;
    let cluster = Cluster::ready();
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    holds(Stage { tier: &|| cluster.tier(), nodes: &nodes }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    if !is_there() {
        return;
    }
    let cluster = Cluster::ready();
    conformance(&|| Box::pin(async { Arc::new(cluster.tier()) as Arc<dyn Tier> })).await;
    under_chaos(Arc::new(cluster.tier()), 3, 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_followed_and_nothing_acknowledged_is_lost_in_silence() {
    if !is_there() {
        return;
    }
    let mut cluster = Cluster::ready();
    until("the replicas are in step", async || cluster.is_whole()).await;
    let (a, b) = (cluster.tier(), cluster.tier());
    assert_eq!((get(&a, "k").await, get(&b, "k").await), (Ok(None), Ok(None)));
    let (at_a, at_b) = (Seen::on(&a), Seen::on(&b));
    put(&a, Put::write(record("k", "1", 0))).await;
    // The master that has the log: killed, then its successor held up.
    for how in ["kill", "STOP"] {
        let master = cluster.master_of("kvcache:{log}");
        let epoch = a.position().epoch;
        match how {
            "kill" => cluster.nodes[master].kill(),
            signal => cluster.nodes[master].signal(signal),
        }
        let mut n = 0;
        let mut write = async |tier: &RedisTier| {
            n += 1;
            let put = tier.put_many(vec![Put::write(record("k", &format!("{how}{n}"), 0))]).await;
            put[0].is_ok() && get(tier, "k").await.is_ok_and(|found| found.is_some())
        };
        until("writes go on", async || write(&a).await && write(&b).await).await;
        until("both read the same log", async || a.position() == b.position()).await;
        let missed = usize::from(a.position().epoch != epoch);
        assert!(at_a.missed() >= missed && at_b.missed() >= missed, "what was lost is known to be");
        if how == "kill" {
            // Its place is taken by another replica.
            cluster.nodes[master].run();
            until("the replica is in step", async || cluster.is_whole()).await;
        } else {
            cluster.nodes[master].signal("CONT");
        }
    }
    assert_eq!(value(&a, "k").await, value(&b, "k").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_writers_and_loaders_at_once_the_last_write_of_the_log_stays() {
    if !is_there() {
        return;
    }
    let cluster = Cluster::ready();
    let one = Server::ready(&[]);
    for tiers in [[cluster.tier(), cluster.tier()], [one.tier(), one.tier()]] {
        let tiers = tiers.map(Arc::new);
        let mut seen = Vec::new();
        for tier in &tiers {
            assert_eq!(get(&**tier, "k").await, Ok(None));
            seen.push(Seen::on(tier));
        }
        for round in 0..30 {
            let name = format!("k{round}");
            let mut tasks = tokio::task::JoinSet::new();
            for n in 0..8 {
                let (tier, name) = (Arc::clone(&tiers[n % 2]), name.clone());
                tasks.spawn(async move {
                    for _ in 0..5 {
                        put(&tier, Put::write(record(&name, "write", 0))).await;
                        let begun = loaded(&tier, &name, "load");
                        assert!(get(&*tier, &name).await.is_ok());
                        put(&tier, Put::load(begun)).await;
                    }
                });
            }
            let reader = Arc::clone(&tiers[0]);
            let (at, name_read) = (Arc::clone(&seen[0]), name.clone());
            tasks.spawn(async move {
                for _ in 0..40 {
                    let newest = newest_of(&at, &name_read);
                    if let Some(found) = get(&*reader, &name_read).await.unwrap() {
                        assert!(found.seq >= newest, "a value older than a fact that was told before");
                    }
                }
            });
            tasks.join_all().await;
            until("all is told", async || tiers[0].position() == tiers[1].position()).await;
            let newest = newest_of(&seen[0], &name);
            let found = get(&*tiers[1], &name).await.unwrap().unwrap();
            assert!(found.seq >= newest, "what stays is the last write, or a load that began after it");
        }
    }
}

fn newest_of(seen: &Seen, name: &str) -> u64 {
    let is_of = |told: &&Told| told.fact.target == Target::Key(name.as_bytes().into());
    seen.told().iter().filter(is_of).map(|told| told.fact.seq).max().unwrap_or(0)
}
