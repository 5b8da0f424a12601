//! Random writes, loads, invalidations, dependencies and sweeps on an engine, beside a naive model: one that applies each
//! invalidation at once, to every value that it concerns at that moment, by walking all of them. What is served, who leads and
//! who joins, what is stored, what those who waited are told, and what was swept must be the same.
//!
//! ```sh
//! KVCACHE_MODEL_CASES=100000 cargo test -p kvcache-engine --test invalidation --release
//! ```
//!
//! A failure prints what was done and the seed of its case, which `KVCACHE_MODEL_SEED=…` runs alone.

#![cfg(not(feature = "shuttle"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};

use kvcache_engine::clock::{FOREVER, FakeClock, Millis};
use kvcache_engine::codec::workshop::Tools;
use kvcache_engine::engine::{
    Alarm, Begin, Begun, Config, Engine, Event, Inbox, Invalidation, Loaded, Stored, ThreadId, Value,
};
use kvcache_engine::entry::{Ages, Freshness, Kind};
use kvcache_engine::invalidation::links::{Role, names, push};
use kvcache_engine::invalidation::target::Target;
use kvcache_engine::load::breaker::{OriginId, Outcome};
use kvcache_engine::load::queue::Limits;

const OPERATIONS: usize = 200;
const CASES: u64 = 100;

const KEYS: [&str; 6] = ["a", "a:1", "a:1:x", "b", "b:1", "ab"];
const TAGS: [&str; 3] = ["t", "u", "v"];
const PATTERNS: [&str; 9] = ["*", "a*", "a:*", "b:*", "*:1", "a*x", "a*1*x", "*b*", "c*"];

type Key = usize;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Links {
    tags: BTreeSet<&'static str>,
    parents: BTreeSet<Key>,
}

#[derive(Debug, Clone)]
struct Item {
    value: u8,
    own: Links,
    /// Own and inherited.
    links: Links,
    dead: bool,
    outdated: bool,
}

/// What was known when something happened.
#[derive(Debug, Clone, Default)]
struct Graph {
    /// What each key's value was stored with.
    known: BTreeMap<Key, Links>,
    /// Children and their parents.
    edges: BTreeSet<(Key, Key)>,
}

impl Graph {
    fn parents<'a>(&'a self, key: Key, links: Option<&'a Links>) -> impl Iterator<Item = Key> + 'a {
        let by_links = links.into_iter().flat_map(|links| links.parents.iter().copied());
        by_links.chain(self.edges.iter().filter(move |(child, _)| *child == key).map(|(_, parent)| *parent))
    }

    fn is_in_cycle(&self, key: Key, links: &Links) -> bool {
        let mut seen = BTreeSet::new();
        let mut open: Vec<Key> = self.parents(key, Some(links)).collect();
        while let Some(parent) = open.pop() {
            if parent == key {
                return true;
            }
            if seen.insert(parent) {
                open.extend(self.parents(parent, self.known.get(&parent)));
            }
        }
        false
    }
}

#[derive(Debug, Clone)]
enum Happened {
    /// An invalidation, of the keys it covers by name.
    Names(Vec<Key>),
    Tag(&'static str),
    Changed(Key),
}

#[derive(Debug, Clone)]
struct Fact {
    number: u64,
    soft: bool,
    happened: Happened,
    graph: Graph,
}

impl Fact {
    /// Whether it concerns what is of that key and has these links.
    fn concerns(&self, key: Key, links: &Links) -> bool {
        if matches!(&self.happened, Happened::Names(names) if names.contains(&key)) {
            return true;
        }
        let own = key;
        let mut seen = BTreeSet::from([own]);
        let mut open = vec![(own, Some(links))];
        while let Some((key, links)) = open.pop() {
            if matches!((&self.happened, links), (Happened::Tag(tag), Some(links)) if links.tags.contains(tag)) {
                return true;
            }
            for parent in self.graph.parents(key, links) {
                let named = match &self.happened {
                    Happened::Names(names) => names.contains(&parent),
                    Happened::Changed(changed) => *changed == parent,
                    Happened::Tag(_) => false,
                };
                if named && parent != own {
                    return true;
                }
                if seen.insert(parent) {
                    open.push((parent, self.graph.known.get(&parent)));
                }
            }
        }
        false
    }
}

#[derive(Debug, Clone)]
struct Load {
    token: u64,
    key: Key,
    born: usize,
    /// The newest number when it began.
    since: u64,
    attached: bool,
    outdated: bool,
    declared: Links,
    has_copy: Option<Item>,
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Event>>);

impl Inbox for Recorder {
    fn post(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

struct Silent;

impl Alarm for Silent {
    fn work_waits(&self) {}
    fn no_later_than(&self, _: Millis) {}
}

struct World {
    engine: Engine,
    clock: FakeClock,
    inbox: Arc<Recorder>,
    thread: ThreadId,
    items: BTreeMap<Key, Item>,
    edges: BTreeSet<(Key, Key)>,
    facts: Vec<Fact>,
    loads: Vec<Load>,
    invalidated: BTreeSet<Key>,
    /// Invalidations that are to be told, with how many entries each has swept so far.
    told: Vec<(String, bool, u64)>,
    swept: BTreeMap<usize, u64>,
    next: u8,
    journal: Vec<String>,
}

impl World {
    fn new() -> Self {
        let config = Config {
            memory: 1 << 20,
            queue: Limits { concurrency: 1, max_queued: 1, retries: 0 },
            backoff: 0,
            cooldown: 0,
            breaker: None,
            compression: None,
        };
        let clock = FakeClock::default();
        let engine = Engine::new(config, Arc::new(clock.clone()), Arc::new(Silent));
        let inbox = Arc::new(Recorder::default());
        let thread = engine.attach(Arc::<Recorder>::clone(&inbox));
        engine.tell_invalidations(thread, true);
        clock.advance_millis(1_000_000);
        Self {
            engine,
            clock,
            inbox,
            thread,
            items: BTreeMap::new(),
            edges: BTreeSet::new(),
            facts: Vec::new(),
            loads: Vec::new(),
            invalidated: BTreeSet::new(),
            told: Vec::new(),
            swept: BTreeMap::new(),
            next: 0,
            journal: Vec::new(),
        }
    }

    fn note(&mut self, what: String) {
        self.journal.push(what);
    }

    // ------------------------------------------------------------ the model

    fn graph(&self) -> Graph {
        let known = self.items.iter().map(|(key, item)| (*key, item.links.clone())).collect();
        Graph { known, edges: self.edges.clone() }
    }

    /// Something has happened: every value that it concerns is cut.
    fn happens(&mut self, happened: Happened, soft: bool) {
        let fact = Fact { number: self.engine.current(), soft, happened, graph: self.graph() };
        let at = self.facts.len();
        for (key, item) in &mut self.items {
            if !item.dead && fact.concerns(*key, &item.links) {
                if soft {
                    item.outdated = true;
                } else {
                    item.dead = true;
                }
                if !matches!(fact.happened, Happened::Changed(_)) {
                    *self.swept.entry(at).or_default() += 1;
                }
            }
        }
        self.facts.push(fact);
    }

    /// The newest hard and soft facts that concern a load.
    fn cut(&self, load: &Load, own: &Links) -> (u64, u64) {
        let mut cut = (0, 0);
        for fact in &self.facts[load.born..] {
            if fact.concerns(load.key, own) {
                if fact.soft { cut.1 = fact.number } else { cut.0 = fact.number }
            }
        }
        cut
    }

    /// What a value with these links has when it is stored.
    fn inherit(&self, key: Key, own: &Links) -> Links {
        let graph = self.graph();
        let mut all = own.clone();
        let mut open: Vec<Key> = own.parents.iter().copied().collect();
        open.extend(graph.edges.iter().filter(|(child, _)| *child == key && !own.parents.is_empty()).map(|(_, p)| *p));
        let mut seen = BTreeSet::from([key]);
        while let Some(parent) = open.pop() {
            if !seen.insert(parent) {
                continue;
            }
            all.parents.insert(parent);
            if let Some(known) = graph.known.get(&parent) {
                all.tags.extend(&known.tags);
                open.extend(&known.parents);
            }
            open.extend(graph.edges.iter().filter(|(child, _)| *child == parent).map(|(_, p)| *p));
        }
        all
    }

    fn store(&mut self, key: Key, value: u8, own: Links, outdated: bool) {
        let links = self.inherit(key, &own);
        self.invalidated.remove(&key);
        self.items.insert(key, Item { value, own, links, dead: false, outdated });
    }

    fn detach(&mut self, key: Key) -> bool {
        let attached: Vec<_> = self.loads.iter_mut().filter(|load| load.key == key && load.attached).collect();
        let was = !attached.is_empty();
        attached.into_iter().for_each(|load| load.attached = false);
        was
    }

    // ------------------------------------------------------------ operations

    fn step(&mut self, random: &mut fastrand::Rng) {
        match random.usize(..20) {
            0..=2 => self.put(random),
            3 => self.delete(random),
            4..=8 => self.invalidate(random),
            9..=12 => self.begin(random),
            13..=15 => self.settle(random),
            16 => self.fail(random),
            17 => self.edge(random),
            18 => self.sweep(),
            _ => self.list(random),
        }
        self.engine.validate();
        // To look lifts: some cases look at few keys only.
        for key in 0..KEYS.len() {
            if random.usize(..3) == 0 {
                self.look(key);
            }
        }
    }

    fn key(random: &mut fastrand::Rng) -> Key {
        random.usize(..KEYS.len())
    }

    fn links(random: &mut fastrand::Rng) -> Links {
        let mut links = Links::default();
        for _ in 0..random.usize(..3) {
            links.tags.insert(TAGS[random.usize(..TAGS.len())]);
        }
        for _ in 0..random.usize(..3) {
            links.parents.insert(Self::key(random));
        }
        links
    }

    fn encode(links: &Links) -> Vec<u8> {
        let mut out = Vec::new();
        links.tags.iter().for_each(|tag| push(&mut out, Role::Tag, tag.as_bytes()));
        links.parents.iter().for_each(|key| push(&mut out, Role::Parent, KEYS[*key].as_bytes()));
        out
    }

    fn value<'a>(bytes: &'a [u8], links: &'a [u8]) -> Value<'a> {
        let ages = Ages { max_age: FOREVER, stale_age: FOREVER, stale_if_error: FOREVER };
        Value { kind: Kind::Bytes, bytes, metadata: b"", ages, route: 0, links }
    }

    fn put(&mut self, random: &mut fastrand::Rng) {
        let (key, own) = (Self::key(random), Self::links(random));
        self.next = self.next.wrapping_add(1);
        let value = self.next;
        self.note(format!("put {} = {value} {own:?}", KEYS[key]));
        let links = Self::encode(&own);
        let entry = self.engine.prepare(KEYS[key].as_bytes(), &Self::value(&[value], &links)).unwrap();
        self.engine.commit(entry);
        self.detach(key);
        self.store(key, value, own, false);
        self.happens(Happened::Changed(key), false);
    }

    fn delete(&mut self, random: &mut fastrand::Rng) {
        let key = Self::key(random);
        self.note(format!("delete {}", KEYS[key]));
        let removed = self.engine.delete(KEYS[key].as_bytes());
        self.detach(key);
        let expected = self.items.remove(&key).is_some_and(|item| !item.dead);
        assert_eq!(removed, expected);
        self.happens(Happened::Changed(key), false);
    }

    fn invalidate(&mut self, random: &mut fastrand::Rng) {
        let soft = random.usize(..4) == 0;
        let (target, text, happened) = match random.usize(..6) {
            0 => {
                let key = Self::key(random);
                return self.invalidate_key(key, soft);
            }
            1..=2 => {
                let tag = TAGS[random.usize(..TAGS.len())];
                (Target::Tag(tag.into()), format!("#{tag}"), Happened::Tag(tag))
            }
            _ => {
                let text = PATTERNS[random.usize(..PATTERNS.len())];
                let covered = (0..KEYS.len()).filter(|key| covers(text.as_bytes(), KEYS[*key].as_bytes())).collect();
                (Target::parse(text).unwrap(), text.to_owned(), Happened::Names(covered))
            }
        };
        self.note(format!("invalidate {text} soft {soft}"));
        self.engine.invalidate(&Invalidation::new(&target, &text, soft));
        self.told.push((text, soft, self.facts.len() as u64));
        self.happens(happened, soft);
    }

    fn invalidate_key(&mut self, key: Key, soft: bool) {
        self.note(format!("invalidate key {} soft {soft}", KEYS[key]));
        let target = Target::Key(KEYS[key].as_bytes().into());
        self.engine.invalidate(&Invalidation::new(&target, KEYS[key], soft));
        let held = self.items.get(&key).is_some_and(|item| !item.dead);
        if soft {
            self.loads.iter_mut().filter(|load| load.key == key && load.attached).for_each(|load| load.outdated = true);
            if let Some(item) = self.items.get_mut(&key) {
                item.outdated = true;
            }
        } else {
            let loading = self.detach(key);
            if self.items.remove(&key).is_some() || loading {
                self.invalidated.insert(key);
            }
        }
        let told = self.inbox.0.lock().unwrap().pop();
        match told {
            Some(Event::Invalidated { text, soft: told_soft, swept, .. }) => {
                assert_eq!((&*text, told_soft, swept), (KEYS[key], soft, u64::from(held)));
            }
            other => panic!("{other:?}"),
        }
        self.happens(Happened::Changed(key), soft);
    }

    fn begin(&mut self, random: &mut fastrand::Rng) {
        let (key, force) = (Self::key(random), random.usize(..3) == 0);
        self.note(format!("begin {} force {force}", KEYS[key]));
        let begin = Begin {
            thread: self.thread,
            parent: 0,
            origin: OriginId::NONE,
            route: 0,
            hard_timeout: FOREVER,
            force,
            permit: true,
            since: 0,
        };
        let since = self.engine.current();
        let begun = self.engine.begin(KEYS[key].as_bytes(), &begin);
        let running = self.loads.iter().find(|load| load.key == key && load.attached);
        let joined = running.filter(|load| self.cut(load, &load.declared).0 == 0).map(|load| load.token);
        let item = self.items.get(&key).filter(|item| !item.dead);
        match (begun, joined) {
            (Begun::Join(token), Some(expected)) => assert_eq!(token, expected),
            (Begun::Hit(found), None) if !force => {
                assert_eq!(Some(found.entry.value()[0]), item.map(|item| item.value));
            }
            (Begun::Lead { token, stale, invalidated }, None) => {
                assert!(item.is_none() || force, "leads, and there is {item:?}");
                assert_eq!(stale.map(|found| found.entry.value()[0]), item.map(|item| item.value));
                let expected = match item {
                    Some(item) => item.outdated,
                    None => self.invalidated.contains(&key) || self.items.contains_key(&key),
                };
                assert_eq!(invalidated, expected, "whether it was invalidated");
                let copy = item.cloned();
                self.detach(key);
                let declared = if random.bool() { Self::links(random) } else { Links::default() };
                self.note(format!("  leads {token}, declares {declared:?}"));
                self.engine.declare(token, &Self::encode(&declared));
                self.loads.push(Load {
                    token,
                    key,
                    born: self.facts.len(),
                    since,
                    attached: true,
                    outdated: false,
                    declared,
                    has_copy: copy,
                });
            }
            (begun, joined) => panic!("{begun:?}, and the load to join is {joined:?}, what there is {item:?}"),
        }
    }

    fn settle(&mut self, random: &mut fastrand::Rng) {
        if self.loads.is_empty() {
            return;
        }
        let load = self.loads.swap_remove(random.usize(..self.loads.len()));
        let held = self.items.get(&load.key).filter(|item| !item.dead).cloned();
        let not_modified = load.has_copy.is_some() && random.usize(..3) == 0;
        let ages = Ages { max_age: FOREVER, stale_age: FOREVER, stale_if_error: FOREVER };
        let own = if random.bool() { load.declared.clone() } else { Self::links(random) };
        let encoded = Self::encode(&own);
        let (own, value, settled) = if not_modified {
            let copy = load.has_copy.as_ref().unwrap();
            let keeps = random.bool();
            let own = if keeps { copy.own.clone() } else { own };
            self.note(format!("settle {} of {}: not modified, {own:?}", load.token, KEYS[load.key]));
            let links = (!keeps).then_some(&encoded[..]);
            let loaded = Loaded::NotModified { ages, metadata: None, links };
            (own, copy.value, self.engine.settle(load.token, &loaded))
        } else {
            // Often the bytes that are there already.
            let value = match &held {
                Some(item) if random.bool() => item.value,
                _ => {
                    self.next = self.next.wrapping_add(1);
                    self.next
                }
            };
            self.note(format!("settle {} of {} = {value} {own:?}", load.token, KEYS[load.key]));
            (own, value, self.engine.settle(load.token, &Loaded::Value(Self::value(&[value], &encoded))))
        };
        let mut concern = own.clone();
        if let Some(copy) = load.has_copy.as_ref().filter(|_| not_modified) {
            concern.tags.extend(&copy.links.tags);
            concern.parents.extend(&copy.links.parents);
        }
        let (hard, soft) = self.cut(&load, &concern);
        // In a cycle, what had cut the value before may have cut a parent, and so cuts this one too.
        let in_cycle = || self.facts[load.born..].iter().any(|fact| fact.graph.is_in_cycle(load.key, &concern));
        // Whoever has joined when anything had happened since it began may have come after what cut it.
        assert!(settled.cut == if settled.cut > 0 { load.since + 1 } else { 0 });
        // What could tell of one that is not stored anyway may be gone.
        assert!(
            (settled.cut > 0) == (hard > 0) || settled.cut > 0 && (!load.attached || in_cycle()),
            "cut: {}, by {hard}",
            settled.cut
        );
        if !load.attached || settled.cut > 0 {
            assert_eq!(settled.stored, Stored::No);
            return;
        }
        assert_eq!(settled.stored, Stored::Yes);
        let other = held.is_some_and(|held| held.value != value);
        self.store(load.key, value, own, load.outdated || soft > 0);
        if other {
            self.happens(Happened::Changed(load.key), false);
        }
    }

    fn fail(&mut self, random: &mut fastrand::Rng) {
        if self.loads.is_empty() {
            return;
        }
        let load = self.loads.swap_remove(random.usize(..self.loads.len()));
        self.note(format!("fail {} of {}", load.token, KEYS[load.key]));
        let settled = self.engine.fail(load.token, Outcome::Failure, true);
        assert_eq!((settled.stored, settled.cut), (Stored::No, 0));
    }

    fn edge(&mut self, random: &mut fastrand::Rng) {
        let (parent, child) = (Self::key(random), Self::key(random));
        let (parent_name, child_name) = (KEYS[parent].as_bytes(), KEYS[child].as_bytes());
        match random.usize(..5) {
            0 => {
                self.note(format!("no edge {} -> {}", KEYS[parent], KEYS[child]));
                self.engine.remove_dependency(parent_name, Some(child_name));
                self.edges.remove(&(child, parent));
            }
            1 => {
                self.note(format!("no edges {} ->", KEYS[parent]));
                self.engine.remove_dependency(parent_name, None);
                self.edges.retain(|(_, p)| *p != parent);
            }
            _ => {
                self.note(format!("edge {} -> {}", KEYS[parent], KEYS[child]));
                self.engine.add_dependency(parent_name, child_name);
                self.edges.insert((child, parent));
            }
        }
    }

    fn sweep(&mut self) {
        self.note("sweep".into());
        // For the sake of values that only a changed parent has cut.
        self.engine.invalidate(&Invalidation::new(&Target::Tag("nobody".into()), "#nobody", false));
        self.clock.advance_millis(3_600_000);
        self.engine.tick();
        let mut tools = Tools::default();
        while self.engine.work(&mut tools) {}
        let items = std::mem::take(&mut self.items);
        for (key, item) in items {
            if item.dead {
                self.invalidated.insert(key);
            } else {
                self.items.insert(key, item);
            }
        }
        let events = std::mem::take(&mut *self.inbox.0.lock().unwrap());
        let told: Vec<_> = events
            .into_iter()
            .filter_map(|event| match event {
                Event::Invalidated { text, soft, .. } => Some((text.to_string(), soft)),
                _ => None,
            })
            .collect();
        let mut expected: Vec<_> = self.told.drain(..).map(|(text, soft, _)| (text, soft)).collect();
        expected.push(("#nobody".into(), false));
        assert_eq!(told, expected, "what was told");
        assert_eq!(self.engine.stats().entries, self.items.len() as u64, "what is left");
        if self.loads.is_empty() {
            assert_eq!(self.engine.facts().markers, 0, "markers that nothing is older than");
        }
    }

    fn list(&mut self, random: &mut fastrand::Rng) {
        let prefix = ["", "a", "a:", "b:"][random.usize(..4)];
        self.note(format!("list {prefix}"));
        let (entries, complete) = self.engine.list(prefix.as_bytes(), None, 100);
        let names: Vec<_> = entries.iter().map(|entry| entry.key_str()).collect();
        let alive = self.items.iter().filter(|(key, item)| KEYS[**key].starts_with(prefix) && !item.dead);
        let mut expected: Vec<_> = alive.map(|(key, _)| KEYS[*key]).collect();
        expected.sort_unstable();
        assert_eq!((names, complete), (expected, true));
    }

    fn look(&mut self, key: Key) {
        let found = self.engine.peek(KEYS[key].as_bytes());
        let item = self.items.get(&key).filter(|item| !item.dead);
        let seen = found.as_ref().map(|found| (found.entry.value()[0], found.freshness, found.outdated));
        let expected = item
            .map(|item| (item.value, if item.outdated { Freshness::Stale } else { Freshness::Fresh }, item.outdated));
        assert_eq!(seen, expected, "key {}", KEYS[key]);
        if let (Some(found), Some(item)) = (found, item) {
            let mut links = Links::default();
            let mut own = Links::default();
            for (role, name) in names(found.entry.links()) {
                for links in [Some(&mut links), role.is_own().then_some(&mut own)].into_iter().flatten() {
                    if role.is_tag() {
                        links.tags.extend(TAGS.iter().filter(|tag| tag.as_bytes() == name));
                    } else {
                        links.parents.extend(KEYS.iter().position(|key| key.as_bytes() == name));
                    }
                }
            }
            assert_eq!((own, links), (item.own.clone(), item.links.clone()), "links of {}", KEYS[key]);
        }
    }

    fn finish(&mut self) {
        for load in std::mem::take(&mut self.loads) {
            self.engine.fail(load.token, Outcome::Aborted, false);
        }
        self.sweep();
        (0..KEYS.len()).for_each(|key| self.look(key));
        // Nothing is left of what is gone.
        for key in KEYS {
            self.engine.delete(key.as_bytes());
            self.engine.remove_dependency(key.as_bytes(), None);
        }
        self.items.clear();
        (0..3).for_each(|_| self.sweep());
        let facts = self.engine.facts();
        assert_eq!((facts.markers, facts.parents, facts.edges), (0, 0, 0));
        self.engine.validate();
    }
}

fn covers(pattern: &[u8], key: &[u8]) -> bool {
    match pattern {
        [] => key.is_empty(),
        [b'*', rest @ ..] => (0..=key.len()).any(|at| covers(rest, &key[at..])),
        [byte, rest @ ..] => key.first() == Some(byte) && covers(rest, &key[1..]),
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn cuts_what_a_model_cuts_that_looks_at_everything() {
    let seeds = match variable("KVCACHE_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("KVCACHE_MODEL_CASES").unwrap_or(CASES),
    };
    for seed in seeds {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..OPERATIONS {
                world.step(&mut random);
            }
            world.finish();
        }));
        if let Err(panic) = outcome {
            world.journal.iter().rev().take(60).rev().for_each(|line| eprintln!("{line}"));
            eprintln!("To run this case alone: KVCACHE_MODEL_SEED={seed}");
            resume_unwind(panic);
        }
    }
}
