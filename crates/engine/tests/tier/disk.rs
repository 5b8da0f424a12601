//! The disk tier: the contract, also between tier objects and between processes that share a path; what survives a kill, damage and
//! a full disk; and that it keeps to its size.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvcache_engine::clock::FOREVER;
use kvcache_engine::invalidation::links::{Role, push};
use kvcache_engine::invalidation::target::Target;
use kvcache_engine::tier::conformance::{conformance, get, puts, record, under_chaos};
use kvcache_engine::tier::disk::{DiskTier, LEAST_SIZE, MAX_SIZE, Settings};
use kvcache_engine::tier::{
    Answer, Fact, Key, Position, Put, Record, SharedLog, Tier, TierError, TierErrorKind, Told, Watcher,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// A directory that is gone with it.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kvcache-disk-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    pub fn settings(&self) -> Settings {
        settings(&self.store(), MAX_SIZE)
    }

    async fn open(&self) -> DiskTier {
        DiskTier::open(&self.settings(), &Handle::current()).unwrap()
    }

    /// What was set aside.
    fn damaged(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().flatten().map(|entry| entry.path());
        entries.filter(|path| path.to_string_lossy().contains("store.damaged-")).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn settings(path: &Path, max_size: u64) -> Settings {
    Settings { path: path.into(), max_size, timeout: Duration::from_secs(10) }
}

/// Keeps what it is told.
#[derive(Default)]
struct Listener {
    told: Mutex<Vec<Told>>,
    missed: AtomicU64,
    failed: Mutex<Vec<TierError>>,
}

impl Watcher for Listener {
    fn told(&self, facts: &[Told]) {
        self.told.lock().extend_from_slice(facts);
    }

    fn missed(&self) {
        self.missed.fetch_add(1, Ordering::SeqCst);
    }

    fn failed(&self, error: &TierError, _key: Option<&Key>) {
        self.failed.lock().push(error.clone());
    }
}

fn listen(tier: &DiskTier) -> Arc<Listener> {
    let listener = Arc::new(Listener::default());
    let watcher: Arc<dyn Watcher> = Arc::clone(&listener) as _;
    tier.log().unwrap().watch(Arc::downgrade(&watcher));
    listener
}

fn key(text: &str) -> Key {
    text.as_bytes().into()
}

async fn write(tier: &DiskTier, key: &str, value: &str) {
    assert_eq!(tier.put_many(puts(vec![record(key, value, 0)])).await, [Ok(())]);
}

async fn delete(tier: &DiskTier, name: &str) {
    assert_eq!(tier.delete_many(vec![key(name)]).await, [Ok(())]);
}

/// What a load that began at that position brings.
fn loaded(key: &str, value: &str, began: Position) -> Record {
    Record { seq: began.seq, epoch: began.epoch, ..record(key, value, 0) }
}

async fn load(tier: &DiskTier, record: Record) {
    assert_eq!(tier.put_many(vec![Put::load(record)]).await, [Ok(())]);
}

async fn value(tier: &DiskTier, key: &str) -> Option<String> {
    get(tier, key).await.unwrap().map(|record| String::from_utf8_lossy(&record.value).into_owned())
}

fn fact(target: Target, soft: bool) -> Fact {
    Fact { target, soft, seq: 0, epoch: 0, at: 1, until: FOREVER }
}

// ------------------------------------------------------------ the contract

#[tokio::test]
async fn keeps_the_contract() {
    let dir = Dir::new();
    let make = || -> Answer<'_, Arc<dyn Tier>> { Box::pin(async { Arc::new(dir.open().await) as Arc<dyn Tier> }) };
    conformance(&make).await;
}

#[tokio::test]
async fn keeps_it_under_chaos() {
    let dir = Dir::new();
    under_chaos(Arc::new(dir.open().await), 1, 60).await;
}

// ------------------------------------------------------------ one log

#[tokio::test]
async fn each_is_told_what_all_have_written_in_one_order() {
    let dir = Dir::new();
    let (a, b) = (dir.open().await, dir.open().await);
    let (by_a, by_b) = (listen(&a), listen(&b));
    assert!(!b.is_behind());
    write(&a, "k", "1").await;
    assert!(b.is_behind() && !a.is_behind(), "the writer was told before it was answered");
    delete(&b, "k").await;
    a.write_marker(fact(Target::parse("x*").unwrap(), true)).await.unwrap();
    a.catch_up();
    b.catch_up();
    assert!(!a.is_behind() && !b.is_behind());
    let seen = |listener: &Listener| -> Vec<_> {
        listener.told.lock().iter().map(|told| (told.fact.seq, told.fact.target.clone(), told.own)).collect()
    };
    let (k, x) = (Target::Key(b"k"[..].into()), Target::Prefix(b"x"[..].into()));
    assert_eq!(seen(&by_a), [(1, k.clone(), true), (2, k.clone(), false), (3, x.clone(), true)]);
    assert_eq!(seen(&by_b), [(1, k.clone(), false), (2, k, true), (3, x, false)]);
    assert_eq!((a.position(), by_a.missed.load(Ordering::SeqCst)), (b.position(), 0));
}

#[tokio::test]
async fn a_load_is_stored_only_if_nothing_newer_cuts_it() {
    let dir = Dir::new();
    let (a, b) = (dir.open().await, dir.open().await);
    let mut links = Vec::new();
    push(&mut links, Role::Tag, b"t");
    push(&mut links, Role::InheritedParent, b"parent");
    let mark = |target: Target, soft| b.write_marker(fact(target, soft));
    for (name, cut) in [
        ("nothing", false),
        ("another key", false),
        ("write", true),
        ("delete", true),
        ("marker of the key", true),
        ("soft marker of the key", true),
        ("prefix", true),
        ("pattern", true),
        ("tag", true),
        ("another tag", false),
        ("write of a parent", true),
        ("delete of a parent", true),
        ("prefix of a parent", true),
        ("all", true),
    ] {
        // Of what was before nothing is left.
        a.catch_up();
        let began = a.position();
        let child = format!("child:{name}");
        match name {
            "another key" => write(&b, "another", "x").await,
            "write" => write(&b, &child, "written").await,
            "delete" => delete(&b, &child).await,
            "marker of the key" => mark(Target::Key(child.as_bytes().into()), false).await.unwrap(),
            "soft marker of the key" => mark(Target::Key(child.as_bytes().into()), true).await.unwrap(),
            "prefix" => mark(Target::parse("child:*").unwrap(), false).await.unwrap(),
            "pattern" => mark(Target::parse("*:pattern").unwrap(), true).await.unwrap(),
            "tag" => mark(Target::Tag("t".into()), false).await.unwrap(),
            "another tag" => mark(Target::Tag("u".into()), false).await.unwrap(),
            "write of a parent" => write(&b, "parent", "x").await,
            "delete of a parent" => delete(&b, "parent").await,
            "prefix of a parent" => mark(Target::parse("par*").unwrap(), false).await.unwrap(),
            "all" => mark(Target::All, false).await.unwrap(),
            _ => {}
        }
        load(&a, Record { links: links.clone().into(), ..loaded(&child, "loaded", began) }).await;
        let expected = if name == "write" { Some("written") } else { (!cut).then_some("loaded") };
        assert_eq!(value(&a, &child).await.as_deref(), expected, "{name}");
        a.catch_up();
        load(&a, Record { links: links.clone().into(), ..loaded(&child, "again", a.position()) }).await;
        assert_eq!(value(&b, &child).await.as_deref(), Some("again"), "{name}: a load that began after it is stored");
    }
}

#[tokio::test]
async fn what_a_load_brings_does_not_hide_the_write_before_it() {
    let dir = Dir::new();
    let tier = dir.open().await;
    let before = tier.position();
    write(&tier, "parent", "1").await;
    let began = tier.position();
    write(&tier, "other", "1").await;
    load(&tier, loaded("parent", "2", tier.position())).await;
    let mut links = Vec::new();
    push(&mut links, Role::Parent, b"parent");
    load(&tier, Record { links: links.clone().into(), ..loaded("child", "old", before) }).await;
    assert_eq!(value(&tier, "child").await, None, "the parent was written since");
    load(&tier, Record { links: links.into(), ..loaded("child", "new", began) }).await;
    assert_eq!(value(&tier, "child").await.as_deref(), Some("new"), "a load of the parent cuts nothing");
}

#[tokio::test]
async fn a_load_of_another_log_is_not_stored() {
    let dir = Dir::new();
    let tier = dir.open().await;
    load(&tier, loaded("k", "x", Position { epoch: tier.position().epoch ^ 1, seq: 0 })).await;
    load(&tier, loaded("k", "x", Position { seq: 9, ..tier.position() })).await;
    assert_eq!(value(&tier, "k").await, None);
}

#[tokio::test]
async fn versions_grow_whoever_asks() {
    let dir = Dir::new();
    let (a, b) = (dir.open().await, dir.open().await);
    let mut last = 0;
    for (tier, above) in [(&a, 0), (&b, 0), (&a, 100), (&b, 5), (&a, 5)] {
        let next = tier.next_version(key("v"), above).await.unwrap();
        assert!(next > last && next > above);
        last = next;
    }
    assert_eq!(a.next_version(key("w"), 0).await, Ok(1));
    assert_eq!((a.last_version(key("v")).await, a.last_version(key("x")).await), (Ok(last), Ok(0)));
}

// ------------------------------------------------------------ many processes

/// What a process that was started by [`start`] does, for ever or until it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn child() {
    let Ok(work) = std::env::var("KVCACHE_TEST_DISK") else { return };
    let (path, work) = work.split_once('|').unwrap();
    let tier = DiskTier::open(&settings(path.as_ref(), MAX_SIZE), &Handle::current()).unwrap();
    match work {
        // Writes a row of numbers, and says of each that it was answered.
        "count" => {
            for n in 0_u64.. {
                let records = vec![record("count", &n.to_string(), 0), record(&format!("n:{}", n % 100), "x", 0)];
                assert_eq!(tier.put_many(puts(records)).await, [Ok(()), Ok(())]);
                say(&format!("{n}"));
            }
        }
        // Hands out versions.
        "versions" => {
            for _ in 0..200 {
                say(&tier.next_version(key("v"), 0).await.unwrap().to_string());
            }
        }
        // Answers each line with the value of a key, as a process that keeps copies would have it.
        "copies" => {
            let listener = listen(&tier);
            let mut copy = None;
            for line in std::io::stdin().lines() {
                let name = line.unwrap();
                if tier.is_behind() {
                    tier.catch_up();
                    copy = if listener.told.lock().drain(..).count() > 0 { None } else { copy };
                }
                if copy.is_none() {
                    copy = Some(value(&tier, &name).await.unwrap_or_default());
                }
                say(copy.as_deref().unwrap_or_default());
            }
        }
        // Overwrites and reads keys that others do, too, and checks that nobody sees what is not whole.
        "mix" => {
            let mut random = fastrand::Rng::new();
            for n in 0..300 {
                let name = format!("mix:{}", random.u32(..20));
                match random.u32(..4) {
                    0 => delete(&tier, &name).await,
                    1 => {
                        tier.catch_up();
                        load(&tier, loaded(&name, &format!("{name}={n}"), tier.position())).await;
                    }
                    2 => write(&tier, &name, &format!("{name}={n}")).await,
                    _ => {
                        let found = value(&tier, &name).await;
                        assert!(found.is_none_or(|found| found.split_once('=').unwrap().0 == name));
                    }
                }
            }
            say("done");
        }
        other => panic!("{other}"),
    }
}

/// Says a line to the process that started this one.
fn say(line: &str) {
    use std::io::Write;
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "@{line}");
    let _ = out.flush();
}

/// A process that is killed at the end.
struct Process {
    child: Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStderr>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// The next thing it says; none at its end.
    fn hear(&mut self) -> Option<String> {
        loop {
            let line = self.lines.next()?.ok()?;
            if let Some(said) = line.strip_prefix('@') {
                return Some(said.to_owned());
            }
            eprintln!("{line}");
        }
    }

    fn ask(&mut self, line: &str) -> String {
        use std::io::Write;
        writeln!(self.child.stdin.as_ref().unwrap(), "{line}").unwrap();
        self.hear().unwrap()
    }
}

fn start(dir: &Dir, work: &str) -> Process {
    use std::io::BufRead;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "disk::child", "--nocapture"])
        .env("KVCACHE_TEST_DISK", format!("{}|{work}", dir.store().display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    Process { child, lines }
}

/// How often something is tried: more where the environment says so.
fn rounds(few: u32) -> u32 {
    std::env::var("KVCACHE_FAULT_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

#[tokio::test]
async fn what_was_answered_survives_the_kill_of_the_writer() {
    let dir = Dir::new();
    let mine = dir.open().await;
    for round in 0..rounds(8) {
        let mut writer = start(&dir, "count");
        let mut answered = 0;
        for _ in 0..fastrand::u32(1..60) {
            answered = writer.hear().unwrap().parse().unwrap();
        }
        writer.child.kill().unwrap();
        while let Some(said) = writer.hear() {
            answered = said.parse().unwrap_or(answered);
        }
        drop(writer);
        // Alternately by one that had it open meanwhile, and by one that opens it.
        let found = if round % 2 == 0 { value(&mine, "count").await } else { value(&dir.open().await, "count").await };
        let found: u64 = found.unwrap().parse().unwrap();
        assert!(found == answered || found == answered + 1, "{found} after {answered}");
        let later = tokio::time::timeout(Duration::from_secs(5), write(&mine, "after", "x")).await;
        assert!(later.is_ok(), "the others go on");
    }
}

#[tokio::test]
async fn no_process_answers_from_an_old_copy() {
    let dir = Dir::new();
    let tier = dir.open().await;
    let mut other = start(&dir, "copies");
    for n in 0..200 {
        let value = n.to_string();
        match n % 3 {
            0 => delete(&tier, "k").await,
            _ => write(&tier, "k", &value).await,
        }
        let expected = if n % 3 == 0 { "" } else { &value };
        assert_eq!(other.ask("k"), expected);
        assert_eq!(other.ask("k"), expected);
    }
}

#[tokio::test]
async fn versions_differ_across_processes() {
    let dir = Dir::new();
    let mut processes: Vec<_> = (0..3).map(|_| start(&dir, "versions")).collect();
    let mut all = Vec::new();
    for process in &mut processes {
        let mut last = 0;
        while let Some(version) = process.hear() {
            let version: u64 = version.parse().unwrap();
            assert!(version > last);
            last = version;
            all.push(version);
        }
    }
    all.sort_unstable();
    assert_eq!(all, (1..=600).collect::<Vec<_>>());
}

#[tokio::test]
async fn processes_write_side_by_side() {
    let dir = Dir::new();
    let mut processes: Vec<_> = (0..3).map(|_| start(&dir, "mix")).collect();
    for process in &mut processes {
        assert_eq!(process.hear().as_deref(), Some("done"));
    }
}

// ------------------------------------------------------------ the directory

/// What opening with these settings is refused with.
fn refused(settings: &Settings) -> TierError {
    DiskTier::open(settings, &Handle::current()).err().expect("it is not opened")
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_the_owners_alone() {
    let dir = Dir::new();
    let tier = dir.open().await;
    write(&tier, "large", &"x".repeat(300_000)).await;
    let mut seen = 0;
    let mut paths = vec![dir.store()];
    while let Some(path) = paths.pop() {
        seen += 1;
        if path.is_dir() {
            assert_eq!(mode(&path), 0o700, "{}", path.display());
            paths.extend(fs::read_dir(path).unwrap().flatten().map(|entry| entry.path()));
        } else {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }
    assert!(seen > 7);
}

#[tokio::test]
async fn what_is_not_ours_is_refused_and_left_untouched() {
    for name in ["photo.jpg", "data.mdb", "format"] {
        let dir = Dir::new();
        fs::create_dir(dir.store()).unwrap();
        fs::write(dir.store().join(name), b"mine").unwrap();
        let error = refused(&dir.settings());
        assert_eq!(error.kind, TierErrorKind::Refused);
        assert!(error.message.contains("option 'path'") && error.message.contains("something else"), "{error}");
        let left: Vec<_> = fs::read_dir(dir.store()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!((left, fs::read(dir.store().join(name)).unwrap()), (vec![name.into()], b"mine".to_vec()));
    }
    let dir = Dir::new();
    fs::write(dir.store(), b"mine").unwrap();
    assert_eq!(refused(&dir.settings()).kind, TierErrorKind::Refused, "a file");
    assert_eq!(fs::read(dir.store()).unwrap(), b"mine");
}

#[tokio::test]
async fn a_store_of_a_later_release_is_refused_and_left_untouched() {
    let dir = Dir::new();
    let tier = dir.open().await;
    write(&tier, "k", "v").await;
    assert_eq!(tier.close().await, Ok(()));
    drop(tier);
    let mark = dir.store().join("format");
    let ours = fs::read_to_string(&mark).unwrap();
    fs::write(&mark, "kvcache disk tier, format 2\n").unwrap();
    let error = refused(&dir.settings());
    assert_eq!(error.kind, TierErrorKind::Refused);
    assert!(error.message.contains("format 2") && error.message.contains("up to 1"), "{error}");
    fs::write(&mark, ours).unwrap();
    assert_eq!(value(&dir.open().await, "k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_size_that_is_too_small_is_refused_by_name() {
    let dir = Dir::new();
    let error = refused(&settings(&dir.store(), LEAST_SIZE - 1));
    assert!(error.kind == TierErrorKind::Refused && error.message.contains("'maxSize' (1048575)"), "{error}");
    assert!(!dir.store().exists(), "nothing was made");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_path_that_cannot_be_written_is_refused() {
    for path in ["/proc/kvcache", "/sys/kvcache"] {
        let error = refused(&settings(path.as_ref(), MAX_SIZE));
        assert!(error.message.contains(path), "{error}");
    }
}

// ------------------------------------------------------------ damage

#[tokio::test]
async fn a_damaged_store_is_set_aside_and_a_new_one_begun() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 5] = [
        ("emptied but for a byte", |bytes| bytes.truncate(1)),
        ("no store at all", |bytes| bytes.fill(0x5A)),
        ("both meta pages lost", |bytes| bytes[..8192].fill(0)),
        ("cut off", |bytes| bytes.truncate(3 * 4096)),
        ("zeros but for the meta pages", |bytes| bytes[8192..].fill(0)),
    ];
    for (what, damage) in damages {
        let dir = Dir::new();
        let tier = dir.open().await;
        for n in 0..200 {
            write(&tier, &format!("k:{n}"), &"x".repeat(500)).await;
        }
        let before = tier.position();
        assert_eq!(tier.close().await, Ok(()));
        drop(tier);
        let data = dir.store().join("data.mdb");
        let mut bytes = fs::read(&data).unwrap();
        damage(&mut bytes);
        // A new file: the old one may not have been let go of.
        fs::write(dir.0.join("new"), bytes).unwrap();
        fs::rename(dir.0.join("new"), &data).unwrap();

        let tier = dir.open().await;
        let listener = listen(&tier);
        let failed = listener.failed.lock().clone();
        assert_eq!(failed.len(), 1, "{what}: it is told");
        assert!(failed[0].kind == TierErrorKind::Corrupt && failed[0].message.contains("set aside"), "{}", failed[0]);
        assert_eq!(dir.damaged().len(), 1, "{what}");
        assert!(dir.damaged()[0].join("data.mdb").exists());
        assert_ne!(tier.position().epoch, before.epoch, "another log");
        assert_eq!(value(&tier, "k:1").await, None);
        write(&tier, "k:1", "new").await;
        assert_eq!(value(&tier, "k:1").await.as_deref(), Some("new"));
    }
}

#[tokio::test]
async fn a_store_that_others_have_open_is_not_set_aside() {
    let dir = Dir::new();
    let mut other = start(&dir, "copies");
    assert_eq!(other.ask("k"), "");
    let data = dir.store().join("data.mdb");
    let mut bytes = fs::read(&data).unwrap();
    bytes[..8192].fill(0);
    // A new file: what the other has open may be the end of it.
    fs::write(dir.0.join("new"), bytes).unwrap();
    fs::rename(dir.0.join("new"), &data).unwrap();
    let error = refused(&dir.settings());
    assert!(error.kind == TierErrorKind::Corrupt && error.message.contains("other processes"), "{error}");
    assert!(dir.damaged().is_empty());
    drop(other);
    assert_eq!(value(&dir.open().await, "k").await, None);
    assert_eq!(dir.damaged().len(), 1);
}

#[tokio::test]
async fn a_value_whose_bytes_were_changed_is_an_error() {
    let dir = Dir::new();
    let tier = dir.open().await;
    let large = "a large value ".repeat(30_000);
    write(&tier, "large", &large).await;
    assert_eq!(value(&tier, "large").await.as_deref(), Some(&*large));
    let file = fs::read_dir(dir.store().join("values")).unwrap().flatten().next().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    assert_eq!(get(&tier, "large").await.map_err(|error| error.kind), Err(TierErrorKind::Corrupt));
    fs::remove_file(&file).unwrap();
    assert_eq!(value(&tier, "large").await, None, "and one whose file is gone is none");
    write(&tier, "large", "small").await;
    assert_eq!(value(&tier, "large").await.as_deref(), Some("small"));
}

// ------------------------------------------------------------ size and time

/// Bytes of all files of the store but the stamps.
fn size(dir: &Dir) -> u64 {
    let sizes = |path: PathBuf| -> u64 {
        fs::read_dir(path).unwrap().flatten().map(|entry| entry.metadata().unwrap()).map(|meta| meta.len()).sum()
    };
    sizes(dir.store()) + sizes(dir.store().join("values"))
        - fs::metadata(dir.store().join("stamps")).unwrap().len()
        - fs::metadata(dir.store().join("lock.mdb")).unwrap().len()
}

fn values(dir: &Dir) -> usize {
    fs::read_dir(dir.store().join("values")).unwrap().count()
}

#[tokio::test]
async fn it_keeps_to_its_size_and_what_is_read_stays_longest() {
    let dir = Dir::new();
    let most = 4 << 20;
    let tier = DiskTier::open(&settings(&dir.store(), most), &Handle::current()).unwrap();
    write(&tier, "read", "again and again").await;
    for n in 0..400 {
        let records = (0..50).map(|m| record(&format!("k:{n}:{m}"), &"x".repeat(900), 0)).collect();
        assert_eq!(tier.put_many(puts(records)).await, vec![Ok(()); 50]);
        assert!(value(&tier, "read").await.is_some(), "round {n}: what is read stays");
        assert!(size(&dir) <= most, "round {n}: {} bytes", size(&dir));
    }
    assert_eq!(value(&tier, "k:0:0").await, None, "what is old and not read goes");
    assert!(value(&tier, "k:399:49").await.is_some(), "what is new stays");
    let page = tier.list(b"k:".to_vec(), 10_000, None).await.unwrap();
    assert!(page.keys.len() > 1000, "the room is used: {}", page.keys.len());
}

#[tokio::test]
async fn large_values_count_and_their_files_go_with_them() {
    let dir = Dir::new();
    let most = 4 << 20;
    let tier = DiskTier::open(&settings(&dir.store(), most), &Handle::current()).unwrap();
    for n in 0..20 {
        write(&tier, &format!("k:{n}"), &n.to_string().repeat(400_000)).await;
        assert!(size(&dir) <= most, "round {n}: {} bytes", size(&dir));
    }
    assert!(value(&tier, "k:19").await.is_some());
    assert!(values(&dir) < 10, "{}", values(&dir));
    write(&tier, "k:19", "small").await;
    for n in 0..19 {
        delete(&tier, &format!("k:{n}")).await;
    }
    assert_eq!(values(&dir), 0, "replaced and deleted ones have no file");
    let error = tier.put_many(puts(vec![record("k:19", &"x".repeat(1 << 21), 0)])).await.remove(0).unwrap_err();
    assert!(error.kind == TierErrorKind::TooLarge && error.message.contains("'maxSize'"), "{error}");
    assert_eq!(value(&tier, "k:19").await, None, "what was refused leaves nothing older behind");
}

#[tokio::test]
async fn what_is_over_is_removed_with_its_file() {
    let dir = Dir::new();
    let tier = dir.open().await;
    let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64 + 500;
    let over = |name: &str, len: usize| Record {
        fresh_until: at,
        stale_until: at,
        error_until: at,
        ..record(name, &"x".repeat(len), 0)
    };
    let began = tier.position();
    let records = vec![over("small", 10), over("large", 300_000), record("stays", "x", 0)];
    assert_eq!(tier.put_many(puts(records)).await, vec![Ok(()); 3]);
    assert!(value(&tier, "small").await.is_some() && values(&dir) == 1);
    while value(&tier, "small").await.is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while values(&dir) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let page = tier.list(Vec::new(), 10, None).await.unwrap();
    assert_eq!(page.keys.len(), 1, "{page:?}");
    load(&tier, loaded("large", "older", began)).await;
    load(&tier, loaded("another", "x", began)).await;
    assert_eq!(value(&tier, "large").await, None, "it is remembered that it was written");
    assert_eq!(value(&tier, "another").await.as_deref(), Some("x"), "which concerns no other key");
}

#[tokio::test]
async fn it_is_compacted_while_nobody_has_it_open() {
    let dir = Dir::new();
    let tier = dir.open().await;
    let records = (0..2000).map(|n| record(&format!("k:{n}"), &"x".repeat(1000), 0)).collect();
    assert_eq!(tier.put_many(puts(records)).await, vec![Ok(()); 2000]);
    let keys: Vec<_> = (1..2000).map(|n| key(&format!("k:{n}"))).collect();
    assert_eq!(tier.delete_many(keys).await, vec![Ok(()); 1999]);
    let error = DiskTier::compact(&dir.settings()).unwrap_err();
    assert!(error.kind == TierErrorKind::Refused && error.message.contains("nobody has it open"), "{error}");
    assert_eq!(tier.close().await, Ok(()));
    drop(tier);
    let mut other = start(&dir, "copies");
    other.ask("k");
    assert_eq!(DiskTier::compact(&dir.settings()).unwrap_err().kind, TierErrorKind::Refused, "nor another process");
    drop(other);
    let (before, after) = DiskTier::compact(&dir.settings()).unwrap();
    assert!(after * 3 < before * 2, "{before} to {after}");
    assert_eq!(value(&dir.open().await, "k:0").await, Some("x".repeat(1000)));
}

/// A small file system in memory; none where we may not mount one.
#[cfg(target_os = "linux")]
struct Mount(Dir);

#[cfg(target_os = "linux")]
impl Mount {
    fn new(size: &str) -> Option<Self> {
        let dir = Dir::new();
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&dir.0).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        eprintln!("skipped: a tmpfs cannot be mounted here");
        None
    }
}

#[cfg(target_os = "linux")]
impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0.0).status();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_reported_and_survived() {
    let Some(mount) = Mount::new("8m") else { return };
    let dir = &mount.0;
    let tier = dir.open().await;
    write(&tier, "before", "x").await;
    let filler = dir.0.join("filler");
    let mut failed = 0;
    for n in 0..400 {
        let value = if n % 20 == 0 { "x".repeat(300_000) } else { "x".repeat(20_000) };
        let done = tier.put_many(puts(vec![record(&format!("k:{}", n % 300), &value, 0)])).await.remove(0);
        if let Err(error) = done {
            assert_eq!(error.kind, TierErrorKind::Unavailable, "{error}");
            failed += 1;
        }
        if n == 200 {
            // Somebody else takes what is left.
            let _ = fs::write(&filler, vec![0; 8 << 20]);
        }
        assert!(get(&tier, &format!("k:{n}")).await.is_ok(), "what is there is read");
    }
    assert!(failed > 0, "it was full");
    fs::remove_file(&filler).unwrap();
    let mut tries = 0;
    while let Err(error) = tier.put_many(puts(vec![record("after", "x", 0)])).await.remove(0) {
        tries += 1;
        assert!(tries < 10, "with room again it goes on: {error}");
    }
    assert_eq!(value(&tier, "after").await.as_deref(), Some("x"));
    assert_eq!(tier.close().await, Ok(()));
    drop(tier);
    fs::remove_dir_all(dir.store()).unwrap();
    let full = dir.0.join("full");
    let _ = fs::write(&filler, vec![0; 8 << 20]);
    let error = refused(&settings(&full, MAX_SIZE));
    assert_eq!(error.kind, TierErrorKind::Unavailable, "{error}");
    fs::remove_file(&filler).unwrap();
    let opened = DiskTier::open(&settings(&full, MAX_SIZE), &Handle::current());
    assert_eq!(opened.err(), None, "what was begun is gone on with");
}

#[tokio::test]
async fn who_has_slept_too_long_is_told_that_something_was_missed() {
    let dir = Dir::new();
    let small = settings(&dir.store(), LEAST_SIZE);
    let open = || DiskTier::open(&small, &Handle::current()).unwrap();
    let (awake, asleep) = (open(), open());
    let listener = listen(&asleep);
    for n in 0..40 {
        let records = (0..100).map(|m| record(&format!("k:{n}:{m}"), &"x".repeat(200), 0)).collect();
        assert!(awake.put_many(puts(records)).await.iter().all(Result::is_ok));
    }
    awake.write_marker(fact(Target::Tag("t".into()), false)).await.unwrap();
    assert!(asleep.is_behind());
    asleep.catch_up();
    assert_eq!(listener.missed.load(Ordering::SeqCst), 1, "the log was cut off beyond what it knew");
    assert!(listener.told.lock().is_empty() && !asleep.is_behind());
    assert_eq!(asleep.position(), awake.position());
    assert_eq!(asleep.read_markers(0).await.unwrap().len(), 1, "the markers are whole");
    write(&awake, "k", "v").await;
    asleep.catch_up();
    assert_eq!(listener.told.lock().len(), 1, "from then on it is told");
}

// ------------------------------------------------------------ against a model

/// What there should be, said as plainly as it can be.
#[derive(Default)]
struct Model {
    seq: u64,
    /// By key: value, number, newest fact.
    keys: std::collections::HashMap<String, (Option<String>, u64, u64)>,
    /// By prefix and by tag.
    prefixes: std::collections::HashMap<String, u64>,
    tags: std::collections::HashMap<String, u64>,
}

impl Model {
    fn change(&mut self, key: &str, value: Option<String>) {
        self.seq += 1;
        self.keys.insert(key.into(), (value, self.seq, self.seq));
    }

    fn over(&self, key: &str) -> u64 {
        let prefixes = self.prefixes.iter().filter(|(prefix, _)| key.starts_with(prefix.as_str()));
        prefixes.map(|(_, seq)| *seq).max().unwrap_or(0)
    }

    fn load(&mut self, key: &str, value: String, began: u64, parent: Option<&str>, tag: Option<&str>) {
        let (_, seq, fact) = self.keys.get(key).cloned().unwrap_or_default();
        let of_parent =
            parent.map_or(0, |parent| self.over(parent).max(self.keys.get(parent).map_or(0, |(_, _, fact)| *fact)));
        let of_tag = tag.and_then(|tag| self.tags.get(tag)).copied().unwrap_or(0);
        if seq.max(fact).max(self.over(key)).max(of_parent).max(of_tag) <= began {
            self.keys.insert(key.into(), (Some(value), began, fact));
        }
    }
}

#[tokio::test]
async fn two_tiers_on_one_path_do_as_the_model_does() {
    for seed in 0..u64::from(rounds(6)) {
        let mut random = fastrand::Rng::with_seed(seed);
        let dir = Dir::new();
        let tiers = [dir.open().await, dir.open().await];
        let mut model = Model::default();
        let mut positions = vec![tiers[0].position()];
        for step in 0..250 {
            let tier = &tiers[random.usize(..2)];
            let name = format!("{}:{}", ["a", "b"][random.usize(..2)], random.u32(..5));
            let (text, prefix) = (format!("{name}={step}"), &name[..2]);
            match random.u32(..8) {
                0 | 1 => {
                    write(tier, &name, &text).await;
                    model.change(&name, Some(text));
                }
                2 => {
                    delete(tier, &name).await;
                    model.change(&name, None);
                }
                3 => {
                    tier.write_marker(fact(Target::prefix(prefix.as_bytes()), random.bool())).await.unwrap();
                    model.seq += 1;
                    model.prefixes.insert(prefix.into(), model.seq);
                }
                4 => {
                    tier.write_marker(fact(Target::Tag(prefix.into()), false)).await.unwrap();
                    model.seq += 1;
                    model.tags.insert(prefix.into(), model.seq);
                }
                5 => {
                    tier.catch_up();
                    assert_eq!(tier.position().seq, model.seq, "seed {seed}, step {step}");
                    positions.push(tier.position());
                }
                _ => {
                    let began = positions[positions.len() - 1 - random.usize(..positions.len().min(4))];
                    let parent = random.bool().then(|| format!("a:{}", random.u32(..5)));
                    let tag = random.bool().then_some(prefix);
                    let mut links = Vec::new();
                    parent.iter().for_each(|parent| push(&mut links, Role::Parent, parent.as_bytes()));
                    tag.iter().for_each(|tag| push(&mut links, Role::Tag, tag.as_bytes()));
                    load(tier, Record { links: links.into(), ..loaded(&name, &text, began) }).await;
                    model.load(&name, text, began.seq, parent.as_deref(), tag);
                }
            }
            let expected = model.keys.get(&name).cloned().unwrap_or_default();
            for tier in &tiers {
                let found = tier.get_now(name.as_bytes()).unwrap().unwrap();
                let found = found.map(|record| (String::from_utf8_lossy(&record.value).into_owned(), record.seq));
                let expected = expected.0.clone().map(|value| (value, expected.1));
                assert_eq!(found, expected, "seed {seed}, step {step}");
            }
        }
    }
}
