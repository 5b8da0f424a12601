//! The Redis tier against real servers: one node, and six of a cluster.

mod access;
mod behind_disk;
mod cluster;
mod faults;
mod leases;
mod log;
mod server;

use std::sync::Arc;

use kvcache_engine::tier::Tier;
use kvcache_engine::tier::conformance::{conformance, under_chaos};

use self::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    if !server::is_there() {
        return;
    }
    let server = Server::ready(&[]);
    conformance(&|| Box::pin(async { Arc::new(server.tier()) as Arc<dyn Tier> })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_it_under_chaos() {
    if !server::is_there() {
        return;
    }
    let server = Server::ready(&[]);
    under_chaos(Arc::new(server.tier()), 7, 60).await;
}
