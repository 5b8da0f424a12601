//! What becomes of the tier when Redis loses its memory, stops, goes and comes back, or is no longer what it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvcache_engine::tier::conformance::{get, record};
use kvcache_engine::tier::redis::{RedisTier, Settings};
use kvcache_engine::tier::{Fact, Put, SharedLog, Tier, TierErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::cluster::Stage;
use super::log::{fact, key, loaded, put, synced, tag, value};
use super::server::{LONG, Server, free_port, is_there, until};

async fn works(tier: &RedisTier, name: &str) -> bool {
    let put = tier.put_many(vec![Put::write(record(name, "v", 0))]).await;
    put[0].is_ok() && get(tier, name).await.is_ok_and(|found| found.is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_lost_its_memory_begins_another_log() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let ((a, at_a), (b, at_b)) = (synced(&server).await, synced(&server).await);
    put(&a, Put::write(record("k", "1", 0))).await;
    let (before, late) = (a.position(), loaded(&a, "k", "old"));
    server.ask(&["FLUSHALL"]);
    until("both notice", async || at_a.missed() == 1 && at_b.missed() == 1).await;
    until("both know the new log", async || a.position().epoch == b.position().epoch).await;
    assert_ne!(a.position().epoch, before.epoch);
    put(&a, Put::load(late)).await;
    assert_eq!(value(&a, "k").await, None, "a load of the log before is left out");
    put(&b, Put::write(record("k", "2", 0))).await;
    until("all goes on", async || value(&a, "k").await.as_deref() == Some("2")).await;
    until("and is told", async || at_a.told().last().is_some_and(|told| !told.own)).await;
    // Where the first thing that is seen is a fact of the new log.
    for n in 0..20 {
        server.ask(&["FLUSHALL"]);
        put(&b, Put::write(record("k", &n.to_string(), 0))).await;
    }
    put(&b, Put::write(record("k", "end", 0))).await;
    until("they meet again", async || a.position() == b.position()).await;
    assert_eq!(value(&a, "k").await.as_deref(), Some("end"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_a_log_before_are_not_given() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let (a, at_a) = synced(&server).await;
    put(&a, Put::write(record("k", "1", 0))).await;
    // As if only the log had been lost: a shard of a cluster, or keys that were evicted.
    server.ask(&["DEL", "kvcache:{log}"]);
    until("that is noticed", async || at_a.missed() == 1).await;
    assert_eq!(value(&a, "k").await, None);
    put(&a, Put::load(loaded(&a, "k", "2"))).await;
    assert_eq!(value(&a, "k").await.as_deref(), Some("2"));
    // And one whose entries are gone, though their numbers are not.
    server.ask(&["HINCRBY", "kvcache:{log}", "n", "3"]);
    until("that, too", async || at_a.missed() == 2).await;
    assert_eq!(value(&a, "k").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_for_too_long_has_missed_some() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let ((a, at_a), (b, at_b)) = (synced(&server).await, synced(&server).await);
    put(&a, Put::write(record("k", "1", 0))).await;
    until("told", async || at_b.told().len() == 1).await;
    // What was read is of no use to those who read it.
    server.ask(&["XTRIM", "kvcache:{log}:s", "MAXLEN", "0"]);
    put(&a, Put::write(record("k", "2", 0))).await;
    until("told", async || at_b.told().len() == 2).await;
    assert_eq!((at_a.missed(), at_b.missed()), (0, 0), "who was there has missed nothing");
    // Entries that are gone before they were read.
    let gap = "redis.call('HINCRBY', KEYS[1], 'n', 5)";
    server.ask(&["EVAL", gap, "1", "kvcache:{log}"]);
    put(&a, Put::write(record("k", "3", 0))).await;
    until("that is noticed", async || at_a.missed() == 1 && at_b.missed() == 1).await;
    until("all goes on", async || works(&a, "k").await && works(&b, "k").await).await;
    assert_eq!(a.position(), b.position());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_still_hangs_nobody_and_is_caught_up_with() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let ((a, at_a), (b, at_b)) = (synced(&server).await, synced(&server).await);
    put(&a, Put::write(record("k", "1", 0))).await;
    for _ in 0..2 {
        server.signal("STOP");
        let mut failed = 0;
        for _ in 0..3 {
            failed += usize::from(timeout(LONG, get(&a, "k")).await.unwrap().is_err());
            let put = timeout(LONG, a.put_many(vec![Put::write(record("k", "2", 0))])).await.unwrap();
            failed += usize::from(put[0].is_err());
        }
        assert_eq!(failed, 6, "every call ends, in an error");
        until("its silence is noticed", async || !at_b.failed().is_empty()).await;
        server.signal("CONT");
        let back = Instant::now();
        until("all goes on", async || works(&a, "k").await && works(&b, "k").await).await;
        until("and is told", async || a.position() == b.position()).await;
        assert!(back.elapsed() < LONG);
    }
    assert_eq!((at_a.missed(), at_b.missed()), (0, 0), "nothing was missed");
    let (by_a, by_b) = (at_a.told(), at_b.told());
    assert!(by_a.iter().zip(&by_b).all(|(a, b)| a.fact == b.fact) && by_a.len() == by_b.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_with_its_data_is_caught_up_with() {
    if !is_there() {
        return;
    }
    let mut server = Server::ready(&["--appendonly", "yes", "--appendfsync", "always"]);
    let ((a, at_a), (b, at_b)) = (synced(&server).await, synced(&server).await);
    put(&a, Put::write(record("k", "1", 0))).await;
    let before = a.position();
    server.kill();
    until("that it is gone is an error", async || get(&a, "k").await.is_err()).await;
    let error = get(&a, "k").await.unwrap_err();
    assert!(matches!(error.kind, TierErrorKind::Unavailable | TierErrorKind::Timeout), "{error}");
    server.run();
    until("all goes on", async || works(&a, "k2").await && works(&b, "k2").await).await;
    assert_eq!(value(&b, "k").await.as_deref(), Some("1"));
    assert_eq!((a.position().epoch, at_a.missed(), at_b.missed()), (before.epoch, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_without_its_data_begins_another_log() {
    if !is_there() {
        return;
    }
    let mut server = Server::ready(&[]);
    let ((a, at_a), (b, at_b)) = (synced(&server).await, synced(&server).await);
    put(&a, Put::write(record("k", "1", 0))).await;
    server.kill();
    until("that it is gone is an error", async || get(&a, "k").await.is_err()).await;
    server.run();
    until("all goes on", async || works(&a, "k2").await && works(&b, "k3").await).await;
    assert_eq!((value(&a, "k").await, at_a.missed(), at_b.missed()), (None, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_with_older_data_begins_another_log() {
    if !is_there() {
        return;
    }
    let mut server = Server::ready(&[]);
    let ((a, at_a), (b, at_b)) = (synced(&server).await, synced(&server).await);
    put(&a, Put::write(record("k", "1", 0))).await;
    server.ask(&["SAVE"]);
    let before = a.position();
    put(&a, Put::write(record("k", "2", 0))).await;
    assert_eq!(a.write_marker(fact(tag("t"), false)).await, Ok(()));
    server.kill();
    until("that it is gone is an error", async || get(&a, "k").await.is_err()).await;
    server.run();
    until("all goes on", async || works(&a, "k2").await && works(&b, "k3").await).await;
    until("both know the new log", async || a.position() == b.position()).await;
    assert_ne!(a.position().epoch, before.epoch);
    assert_eq!((value(&a, "k").await, at_a.missed(), at_b.missed()), (None, 1, 1), "nothing of before is given");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_need_not_be_there_when_the_tier_is_made() {
    if !is_there() {
        return;
    }
    let mut server = Server::ready(&[]);
    server.kill();
    let tier = server.tier();
    let seen = super::log::Seen::on(&tier);
    assert_eq!(get(&tier, "k").await.unwrap_err().kind, TierErrorKind::Unavailable);
    let early = loaded(&tier, "k", "old");
    server.run();
    until("it is there", async || works(&tier, "x").await).await;
    assert_eq!(seen.missed(), 1, "what was loaded before counts as outdated");
    put(&tier, Put::load(early)).await;
    assert_eq!(value(&tier, "k").await, None);
    assert_eq!(tier.close().await, Ok(()));
    let nobody = Settings { urls: vec![format!("redis://127.0.0.1:{}", free_port())], ..Settings::default() };
    let tier = RedisTier::new(&nobody, &Handle::current()).unwrap();
    assert_eq!(get(&tier, "k").await.unwrap_err().kind, TierErrorKind::Unavailable);
    let end = timeout(Duration::from_secs(5), tier.close()).await;
    assert_eq!(end, Ok(Ok(())), "the end does not wait for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_invalidated_while_one_was_cut_off_is_told_afterwards() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let ((a, _), (b, at_b)) = (synced(&server).await, synced(&server).await);
    for n in 0..50 {
        // All connections of normal clients, those that read the log among them.
        server.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
        let target = tag(&format!("t{n}"));
        until("written", async || a.write_marker(fact(target.clone(), false)).await.is_ok()).await;
    }
    until("all are told", async || b.position().seq == a.position().seq).await;
    let mut told: Vec<Fact> = at_b.told().into_iter().map(|told| told.fact).collect();
    told.dedup_by(|b, a| b.target == a.target);
    let targets: Vec<_> = told.into_iter().map(|fact| fact.target).collect();
    assert_eq!(targets, (0..50).map(|n| tag(&format!("t{n}"))).collect::<Vec<_>>());
    assert_eq!(at_b.missed(), 0);
    assert_eq!(a.delete_many(vec![key("x")]).await, vec![Ok(())]);
}

/// A way to a server that can be cut for those connections that read the log.
struct Way {
    port: u16,
    is_cut: Arc<AtomicBool>,
}

impl Way {
    /// Bytes go both ways, but nothing does on a connection that reads the log while it is cut: neither an end nor an error.
    async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), server.port);
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&is_cut);
        tokio::spawn(async move {
            while let Ok((here, _)) = listener.accept().await {
                let cut = Arc::clone(&cut);
                tokio::spawn(async move {
                    let there = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    let reads_log = Arc::new(AtomicBool::new(false));
                    let ((here_in, here_out), (there_in, there_out)) = (here.into_split(), there.into_split());
                    let forth = carry(here_in, there_out, Arc::clone(&cut), Arc::clone(&reads_log));
                    let back = carry(there_in, here_out, cut, reads_log);
                    tokio::select! { () = forth => {} () = back => {} }
                });
            }
        });
        Self { port, is_cut }
    }

    fn cut(&self, cut: bool) {
        self.is_cut.store(cut, Ordering::SeqCst);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: Arc<AtomicBool>, reads_log: Arc<AtomicBool>) {
    let mut bytes = vec![0; 65_536];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        if bytes[..n].windows(5).any(|word| word == b"XREAD") {
            reads_log.store(true, Ordering::SeqCst);
        }
        while cut.load(Ordering::SeqCst) && reads_log.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_of_the_log_alone_is_noticed_and_caught_up_with() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let way = Way::to(&server).await;
    let (a, _) = synced(&server).await;
    let settings = Settings { urls: vec![format!("redis://127.0.0.1:{}", way.port)], ..Settings::default() };
    let b = RedisTier::new(&settings, &Handle::current()).unwrap();
    assert_eq!(get(&b, "k").await, Ok(None));
    let at_b = super::log::Seen::on(&b);
    put(&a, Put::write(record("k", "1", 0))).await;
    until("told", async || at_b.told().len() == 1).await;
    way.cut(true);
    let early = loaded(&b, "other", "old");
    assert_eq!(a.write_marker(fact(tag("t"), false)).await, Ok(()));
    until("what is found is not trusted any more", async || get(&b, "k").await.is_err()).await;
    let silent = get(&b, "k").await.unwrap_err();
    assert!(silent.kind == TierErrorKind::Unavailable && silent.message.contains("log"), "{silent}");
    assert!(b.put_many(vec![Put::load(early)]).await[0].is_err(), "and no load is stored");
    assert!(at_b.told().len() == 1 && !at_b.failed().is_empty(), "its silence is told");
    for n in 0..100 {
        assert_eq!(a.write_marker(fact(tag(&format!("t{n}")), false)).await, Ok(()));
    }
    way.cut(false);
    until("all is told", async || at_b.told().len() == 102 && a.position() == b.position()).await;
    assert_eq!((value(&b, "k").await.as_deref(), at_b.missed()), (Some("1"), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lay_in_the_socket_of_a_redis_that_stood_still_is_not_stored() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    super::cluster::on_one_and_on_six(&server, late_writes).await;
}

async fn late_writes(stage: Stage<'_>) {
    let (a, b) = ((stage.tier)(), (stage.tier)());
    assert_eq!((get(&a, "k").await, get(&b, "k").await), (Ok(None), Ok(None)));
    put(&a, Put::write(record("k", "1", 0))).await;
    let load = loaded(&a, "other", "late");
    stage.signal("STOP");
    let puts = vec![Put::write(record("k", "late", 0)), Put::load(load)];
    let failed = timeout(LONG, a.put_many(puts)).await.unwrap();
    assert!(failed.iter().all(Result::is_err), "nobody answers: {failed:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    stage.signal("CONT");
    until("all goes on", async || works(&a, "x").await && works(&b, "x").await).await;
    let found = value(&b, "k").await;
    assert!(found.is_none() || found.as_deref() == Some("1"), "{found:?}");
    assert_eq!(value(&b, "other").await, None);
}
