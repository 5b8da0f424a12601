//! A cluster of six nodes: three masters, each with a replica.

use std::sync::Arc;

use kvcache_engine::tier::Tier;
use kvcache_engine::tier::conformance::{conformance, under_chaos};
use kvcache_engine::tier::redis::{RedisTier, Settings};
use tokio::runtime::Handle;

use super::server::{Server, is_there};

/// Six nodes.
pub struct Cluster {
    pub nodes: Vec<Server>,
}

impl Cluster {
    pub fn ready() -> Self {
        let args = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--appendonly", "no"];
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

    pub fn settings(&self) -> Settings {
        let urls = self.nodes.iter().take(2).map(Server::url).collect();
        Settings { urls, cluster: true, ..Settings::default() }
    }

    pub fn tier(&self) -> RedisTier {
        RedisTier::new(&self.settings(), &Handle::current()).unwrap()
    }
}

/// Something that holds with one node and with six.
pub async fn on_one_and_on_six(server: &Server, holds: impl AsyncFn(&dyn Fn() -> RedisTier)) {
    holds(&|| server.tier()).await;
    let cluster = Cluster::ready();
    holds(&|| cluster.tier()).await;
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
