//! Redis behind a disk that processes share: what its log tells takes nothing newer away, and what it told while no process listened is not served.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kvcache_engine::invalidation::links::{Role, push};
use kvcache_engine::invalidation::target::Target;
use kvcache_engine::tier::conformance::get;
use kvcache_engine::tier::disk::{DiskTier, MAX_SIZE, Settings};
use kvcache_engine::tier::redis::RedisTier;
use kvcache_engine::tier::{Runtime, SharedLog, Tier};

use super::server::{self, Dir, Server, until};
use crate::stack::World;

/// A process with a disk before Redis.
struct Process {
    world: World,
    redis: Arc<RedisTier>,
    disk: Arc<DiskTier>,
}

fn settings(path: &Path) -> Settings {
    Settings { path: path.into(), max_size: MAX_SIZE, timeout: Duration::from_secs(10) }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    Runtime::shared().unwrap().handle().block_on(future)
}

impl Process {
    fn start(path: &Path, server: &Server) -> Self {
        let runtime = Runtime::shared().unwrap();
        let disk = Arc::new(DiskTier::open(&settings(path), runtime.handle()).unwrap());
        let redis = Arc::new(RedisTier::new(&server.settings(), runtime.handle()).unwrap());
        let world = World::new(vec![Arc::clone(&disk) as _, Arc::clone(&redis) as _]);
        Self { world, redis, disk }
    }

    fn heard(&self) -> u64 {
        self.redis.position().seq
    }

    /// Waits until it has heard what another has, and has passed it on.
    fn hears(&self, other: &Self) {
        run(until("it hears what another has heard", async || self.heard() >= other.heard()));
        assert_eq!(self.world.arrived(), None);
    }

    /// Whether its disk holds a value of that key.
    fn holds(&self, key: &str) -> bool {
        run(get(&*self.disk, key)).unwrap().is_some()
    }

    /// Whether everything was once cut on its disk.
    async fn was_emptied(&self) -> bool {
        self.disk.read_markers(0).await.unwrap().iter().any(|fact| fact.target == Target::All)
    }

    /// Waits until everything is cut on its disk: as soon as it knows that it cannot know what was cut meanwhile. Until
    /// then nothing of the disk is served, so that look-ups need not wait for it.
    fn is_emptied(&self) {
        run(until("its disk is emptied", async || self.was_emptied().await));
    }

    /// Waits until it has first written down how far the log has been passed on to its disk.
    fn has_noted(&self) {
        let notes = async || self.disk.list(b"__kvcache__:seen:".to_vec(), 1, None).await.unwrap().keys;
        run(until("it has noted how far it is", async || !notes().await.is_empty()));
    }
}

fn tagged(tag: &str) -> Vec<u8> {
    let mut links = Vec::new();
    push(&mut links, Role::Tag, tag.as_bytes());
    links
}

fn store(dir: &Dir, name: &str) -> PathBuf {
    dir.path().join(name)
}

#[test]
fn what_a_log_tells_late_takes_nothing_newer_from_the_disk_before_it() {
    if !server::is_there() {
        return;
    }
    let (server, dir) = (Server::ready(&[]), Dir::new());
    let (shared, apart) = (store(&dir, "shared"), store(&dir, "apart"));
    let [a, b, c] = [&shared, &shared, &apart].map(|path| Process::start(path, &server));
    for round in 0..50 {
        a.world.invalidate("k*");
        a.world.put("k", &format!("{round}"), &tagged("t"));
        a.world.put("kept", "v", b"");
        assert_eq!(a.world.arrived(), None);
        b.hears(&a);
        assert!(a.holds("k") && a.holds("kept"), "what {round} has put was taken away by what it had cut before");
        assert_eq!(b.world.find("k").unwrap(), round.to_string());
        b.world.engine().apply(&Target::Key(b"k"[..].into()), "k", false);
    }
    // What a process beside another disk does is passed on.
    c.world.engine().delete(b"kept");
    assert_eq!(c.world.arrived(), None);
    a.hears(&c);
    b.hears(&c);
    assert!(!a.holds("kept") && a.holds("k"));
    assert_eq!(b.world.find("kept"), None);
    [a, b, c].iter().for_each(|process| process.world.close());
}

/// What happens to Redis while a process is away.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meanwhile {
    Nothing,
    Trimmed,
    Flushed,
}

fn what_was_cut_while_away(meanwhile: Meanwhile, in_order: bool) {
    if !server::is_there() {
        return;
    }
    let (server, dir) = (Server::ready(&[]), Dir::new());
    let (here, there) = (store(&dir, "here"), store(&dir, "there"));
    let other = Process::start(&there, &server);
    {
        let first = Process::start(&here, &server);
        for key in ["deleted", "put", "pre:1", "tagged", "stays"] {
            first.world.put(key, "old", &if key == "tagged" { tagged("t") } else { Vec::new() });
        }
        assert_eq!(first.world.arrived(), None);
        // One that ends before that is not known to have heard anything, and all it has put counts as cut.
        first.has_noted();
        if in_order {
            first.world.close();
        }
    }
    other.world.engine().delete(b"deleted");
    other.world.put("put", "new", b"");
    other.world.invalidate("pre:*");
    let tag = Target::Tag("t".into());
    other.world.engine().invalidate(&kvcache_engine::engine::Invalidation::new(&tag, "t", false));
    assert_eq!(other.world.arrived(), None);
    match meanwhile {
        Meanwhile::Nothing => {}
        Meanwhile::Trimmed => drop(server.ask(&["XTRIM", "kvcache:{log}:s", "MAXLEN", "0"])),
        Meanwhile::Flushed => drop(server.ask(&["FLUSHALL"])),
    }
    let again = Process::start(&here, &server);
    for key in ["deleted", "pre:1", "tagged", "put"] {
        let found = again.world.find(key);
        assert_ne!(found.as_deref(), Some("old"), "{key}, {meanwhile:?}");
        if key == "put" && meanwhile == Meanwhile::Nothing {
            assert_eq!(found.as_deref(), Some("new"));
        }
    }
    if meanwhile == Meanwhile::Nothing {
        again.hears(&other);
        assert!(!run(again.was_emptied()));
        assert!(again.holds("stays"));
        assert_eq!(again.world.find("stays").as_deref(), Some("old"));
    } else {
        again.is_emptied();
    }
    again.world.close();
    // Once all is known, nothing is cut again.
    again.world.close();
    other.world.close();
}

#[test]
fn what_others_cut_while_no_process_had_the_disk_open_is_not_served_from_it() {
    what_was_cut_while_away(Meanwhile::Nothing, true);
    what_was_cut_while_away(Meanwhile::Nothing, false);
}

#[test]
fn nothing_of_the_disk_is_served_where_the_log_was_cut_off_meanwhile() {
    what_was_cut_while_away(Meanwhile::Trimmed, true);
    what_was_cut_while_away(Meanwhile::Trimmed, false);
}

#[test]
fn nothing_of_the_disk_is_served_where_redis_has_lost_its_memory_meanwhile() {
    what_was_cut_while_away(Meanwhile::Flushed, true);
}

#[test]
fn nothing_of_the_disk_is_served_before_the_log_behind_it_is_known() {
    if !server::is_there() {
        return;
    }
    let (mut server, dir) = (Server::ready(&[]), Dir::new());
    let path = store(&dir, "store");
    {
        let first = Process::start(&path, &server);
        first.world.put("k", "v", b"");
        assert_eq!(first.world.arrived(), None);
        first.world.close();
    }
    server.kill();
    let again = Process::start(&path, &server);
    assert_eq!(again.world.find("k"), None, "it may have been cut");
    server.run();
    server.wait(&server.url());
    // Redis has lost its memory.
    again.is_emptied();
    assert_eq!(again.world.find("k"), None);
    again.world.put("k", "new", b"");
    again.world.close();
}
