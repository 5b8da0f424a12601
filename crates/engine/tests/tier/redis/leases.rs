//! Leases: one holder at a time, taken over when it dies, and nobody who asks again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kvcache_engine::tier::conformance::get;
use kvcache_engine::tier::redis::{RedisTier, Settings};
use kvcache_engine::tier::{Lease, Tier, TierErrorKind};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::cluster::Cluster;
use super::log::key;
use super::server::{LONG, Server, is_there};

async fn with_leases(settings: Settings) -> Arc<RedisTier> {
    let tier = RedisTier::new(&Settings { lock: true, ..settings }, &Handle::current()).unwrap();
    assert_eq!(get(&tier, "none").await, Ok(None));
    Arc::new(tier)
}

async fn acquire(tier: &RedisTier, name: &str) -> Lease {
    timeout(LONG, tier.leases().unwrap().acquire(key(name))).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_holds_it_and_the_others_are_woken() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    assert!(server.tier().leases().is_none(), "there are none unless asked for");
    one_holder(server.settings()).await;
    one_holder(Cluster::ready().settings()).await;
}

async fn one_holder(settings: Settings) {
    let (a, b) = (with_leases(settings.clone()).await, with_leases(settings).await);
    let Lease::Held(held) = acquire(&a, "k").await else { panic!("the first holds it") };
    assert!(matches!(acquire(&b, "other").await, Lease::Held(_)), "each key has its own");
    let woken = Arc::new(AtomicUsize::new(0));
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (tier, woken) = (Arc::clone(if n % 2 == 0 { &a } else { &b }), Arc::clone(&woken));
        waiting.spawn(async move {
            assert!(matches!(acquire(&tier, "k").await, Lease::Released), "what is let go of is worth another look");
            woken.fetch_add(1, Ordering::SeqCst);
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(woken.load(Ordering::SeqCst), 0, "as long as it is held they wait");
    drop(held);
    waiting.join_all().await;
    assert_eq!(woken.load(Ordering::SeqCst), 20);
    assert!(matches!(acquire(&b, "k").await, Lease::Held(_)), "it is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_is_not_polling_and_a_lease_is_renewed() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let (a, b) = (with_leases(server.settings()).await, with_leases(server.settings()).await);
    let Lease::Held(held) = acquire(&a, "k").await else { panic!() };
    let other = Arc::clone(&b);
    let waits = tokio::spawn(async move { acquire(&other, "k").await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = server.calls("set");
    // Longer than it lasts by itself.
    tokio::time::sleep(Duration::from_millis(5500)).await;
    assert!(server.calls("set") - before <= 2, "who waits asks only when it would be over");
    assert!(!waits.is_finished(), "it is still held");
    drop(held);
    assert!(matches!(timeout(LONG, waits).await.unwrap().unwrap(), Lease::Released));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_of_one_that_died_is_taken_over() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let b = with_leases(server.settings()).await;
    // A process that ends without a word: its runtime is gone with all that ran there.
    let settings = server.settings();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let lease = runtime.block_on(async {
            let a = with_leases(settings).await;
            acquire(&a, "k").await
        });
        runtime.shutdown_background();
        assert!(matches!(lease, Lease::Held(_)));
    })
    .join()
    .unwrap();
    assert!(matches!(acquire(&b, "k").await, Lease::Held(_)), "when it has run out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_lets_go_of_all_and_wakes_who_waits() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let (a, b) = (with_leases(server.settings()).await, with_leases(server.settings()).await);
    let Lease::Held(_held) = acquire(&a, "k").await else { panic!() };
    let (here, there) = (Arc::clone(&a), Arc::clone(&b));
    let own = tokio::spawn(async move { here.leases().unwrap().acquire(key("k")).await.map(|_| ()) });
    let other = tokio::spawn(async move { acquire(&there, "k").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(a.close().await, Ok(()));
    assert!(matches!(timeout(LONG, other).await.unwrap().unwrap(), Lease::Released));
    assert_eq!(timeout(LONG, own).await.unwrap().unwrap().unwrap_err().kind, TierErrorKind::Closed);
}
