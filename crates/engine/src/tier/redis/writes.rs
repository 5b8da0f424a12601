//! Writes: each numbered by the log, and stored so that no older one takes its place.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Value, cmd};

use super::feed::{Feed, fresh};
use super::link::Link;
use super::scripts::{self, GUARD_MS};
use super::wire::{self, odd};
use crate::tier::{Fact, Key, Position, Put, PutOf, Record, TierError, TierErrorKind, unix_now};

/// Writes that are made at once; the facts of so many are appended in one step.
const MOST_AT_ONCE: usize = 128;

/// How long a value of a write stays at least, for loads that began before it.
const SHORTEST: u64 = GUARD_MS;

/// What was sent for longer is stored no more, whatever the timeout.
const LONGEST: Duration = Duration::from_secs(10);

/// Writes to one Redis.
pub struct Writes {
    /// What keys begin with in Redis.
    pub prefix: Vec<u8>,
    pub link: Arc<Link>,
    pub feed: Arc<Feed>,
}

/// A write of one key.
struct Write {
    key: Key,
    /// None deletes.
    envelope: Option<Vec<u8>>,
    /// How long it stays, in milliseconds; 0 for ever.
    px: u64,
    /// What is to be answered though it was done.
    refusal: Option<TierError>,
}

enum Op {
    Write(Write),
    Load(Box<Record>),
}

impl Write {
    fn delete(key: Key) -> Self {
        Self { key, envelope: None, px: GUARD_MS, refusal: None }
    }

    fn of(record: &Record, now: u64) -> Self {
        let key = record.key.clone();
        if !record.is_alive(now) {
            return Self::delete(key);
        }
        match wire::envelope(record) {
            Ok(envelope) => {
                let left = wire::left(record.dead_at(), now);
                let px = if left == 0 { 0 } else { left.max(SHORTEST) };
                Self { key, envelope: Some(envelope), px, refusal: None }
            }
            // Nothing older is left behind.
            Err(error) => Self { refusal: Some(error), ..Self::delete(key) },
        }
    }

    fn envelope(&self) -> &[u8] {
        self.envelope.as_deref().unwrap_or_default()
    }
}

type Outcome = Result<Position, TierError>;

impl Writes {
    fn name(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    /// Until when a value may be stored, by Redis's clock; 0 for ever. A delete is right however late it comes.
    fn till(&self, envelope: &[u8]) -> String {
        let till = if envelope.is_empty() { 0 } else { self.feed.till(self.link.timeout().min(LONGEST)) };
        till.to_string()
    }

    /// Stores records, in their order; see [`crate::tier::Tier::put_many`].
    pub async fn put(&self, puts: Vec<Put>) -> Vec<Result<(), TierError>> {
        let now = unix_now();
        // Of a key that is given twice the last counts.
        let mut last: HashMap<Key, usize> = HashMap::with_capacity(puts.len());
        let mut places = Vec::with_capacity(puts.len());
        let mut ops: Vec<Op> = Vec::with_capacity(puts.len());
        for Put { record, of } in puts {
            let key = record.key.clone();
            let op = match of {
                PutOf::Write => Op::Write(Write::of(&record, now)),
                PutOf::Load => Op::Load(Box::new(record)),
            };
            let at = *last.entry(key).or_insert(ops.len());
            if at == ops.len() {
                ops.push(op);
            } else if matches!((&ops[at], &op), (Op::Load(_), _) | (_, Op::Write(_))) {
                // A load may be left out; a write that comes before it may not.
                ops[at] = op;
            }
            places.push(at);
        }
        let mut done = Vec::with_capacity(ops.len());
        let mut ops = ops.into_iter().peekable();
        while ops.peek().is_some() {
            let some: Vec<_> = ops.by_ref().take(MOST_AT_ONCE).collect();
            done.extend(self.some(some).await);
        }
        places.into_iter().map(|at| done[at].clone()).collect()
    }

    /// Removes keys.
    pub async fn delete(&self, keys: Vec<Key>) -> Vec<Result<(), TierError>> {
        let mut done = Vec::with_capacity(keys.len());
        for some in keys.chunks(MOST_AT_ONCE) {
            done.extend(self.some(some.iter().map(|key| Op::Write(Write::delete(key.clone()))).collect()).await);
        }
        done
    }

    async fn some(&self, ops: Vec<Op>) -> Vec<Result<(), TierError>> {
        let before = self.feed.standing();
        let mut done: Vec<Result<(), TierError>> = ops.iter().map(|_| Ok(())).collect();
        let (mut writes, mut loads) = (Vec::new(), Vec::new());
        for (at, op) in ops.into_iter().enumerate() {
            match op {
                Op::Write(write) => writes.push((at, write)),
                Op::Load(record) => loads.push((at, record)),
            }
        }
        let (places, writes): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
        let write = async {
            if writes.is_empty() {
                Vec::new()
            } else if self.link.is_cluster() {
                self.write_in_steps(&writes).await
            } else {
                join_all(writes.iter().map(|write| self.write(write))).await
            }
        };
        let load = join_all(loads.iter().map(|(_, record)| self.load(record)));
        let (written, loaded) = futures_util::future::join(write, load).await;
        let newest = written.iter().flatten().copied().max_by_key(|position| position.seq);
        let told = match newest {
            Some(newest) => self.feed.told(newest, before, self.link.timeout()).await,
            None => Ok(()),
        };
        for ((at, written), write) in places.into_iter().zip(written).zip(&writes) {
            done[at] = match (written, &write.refusal) {
                (Err(error), _) => Err(error),
                (Ok(_), Some(refusal)) => Err(refusal.clone()),
                (Ok(_), None) => told.clone(),
            };
        }
        for ((at, _), loaded) in loads.iter().zip(loaded) {
            done[*at] = loaded;
        }
        done
    }

    /// Number, fact and value in one step.
    async fn write(&self, write: &Write) -> Outcome {
        let names = &self.feed.names;
        let fact = self.feed.payload(&wire::key_fact(&write.key, unix_now()));
        let keys: [&[u8]; 3] = [&names.hash, &names.stream, &self.name(&write.key)];
        let (px, till) = (write.px.to_string(), self.till(write.envelope()));
        let args: [&[u8]; 5] = [&fresh(), &fact, write.envelope(), px.as_bytes(), till.as_bytes()];
        wire::position(scripts::WRITE.call(&self.link, &keys, &args).await?).ok_or_else(odd)
    }

    /// The same in three steps, where the value lies elsewhere than the log.
    async fn write_in_steps(&self, writes: &[Write]) -> Vec<Outcome> {
        let guard = GUARD_MS.to_string();
        let marked = join_all(writes.iter().map(|write| async {
            if write.envelope.is_some() {
                scripts::BEGIN.call(&self.link, &[&self.name(&write.key)], &[guard.as_bytes()]).await?;
            }
            Ok(())
        }))
        .await;
        let ready: Vec<_> = writes.iter().zip(&marked).filter(|(_, marked)| marked.is_ok()).map(|(w, _)| w).collect();
        let now = unix_now();
        let facts: Vec<_> = ready.iter().map(|write| wire::key_fact(&write.key, now)).collect();
        let last = if facts.is_empty() { Ok(Position::default()) } else { self.publish(&facts).await };
        let first = last.clone().map(|last| last.seq - ready.len() as u64 + 1);
        let mut landed = join_all(ready.iter().enumerate().map(|(at, write)| {
            let position = match (&last, &first) {
                (Ok(last), Ok(first)) => Ok(Position { epoch: last.epoch, seq: first + at as u64 }),
                (Err(error), _) | (_, Err(error)) => Err(error.clone()),
            };
            async move {
                let position = position?;
                let marks = u64::from(write.envelope.is_some());
                self.land(&write.key, position, write.envelope(), write.px, marks).await.map(|()| position)
            }
        }))
        .await
        .into_iter();
        marked.into_iter().map(|marked| marked.and_then(|()| landed.next().unwrap_or_else(|| Err(odd())))).collect()
    }

    /// Appends facts: the number of the last.
    async fn publish(&self, facts: &[Fact]) -> Outcome {
        let (names, fresh) = (&self.feed.names, fresh());
        let payloads: Vec<_> = facts.iter().map(|fact| self.feed.payload(fact)).collect();
        let args: Vec<&[u8]> = std::iter::once(&fresh[..]).chain(payloads.iter().map(Vec::as_slice)).collect();
        let reply = scripts::PUBLISH.call(&self.link, &[&names.hash, &names.stream], &args).await?;
        wire::position(reply).ok_or_else(odd)
    }

    async fn land(
        &self,
        key: &[u8],
        position: Position,
        envelope: &[u8],
        px: u64,
        marks: u64,
    ) -> Result<(), TierError> {
        let (seq, px, marks) = (position.seq.to_string(), px.to_string(), marks.to_string());
        let (epoch, till) = (position.epoch.to_le_bytes(), self.till(envelope));
        let args: [&[u8]; 6] = [seq.as_bytes(), &epoch, envelope, px.as_bytes(), till.as_bytes(), marks.as_bytes()];
        scripts::LAND.call(&self.link, &[&self.name(key)], &args).await.map(|_| ())
    }

    /// Stores what a load brought, unless it is outdated.
    async fn load(&self, record: &Record) -> Result<(), TierError> {
        let position = self.feed.check()?;
        let now = unix_now();
        let fits = record.epoch == position.epoch && record.is_alive(now);
        if !fits || !self.feed.recent(|recent| recent.may_store(record)) {
            return Ok(());
        }
        let envelope = wire::envelope(record)?;
        let (seq, px) = (record.seq.to_string(), wire::left(record.dead_at(), now).to_string());
        let (epoch, till) = (record.epoch.to_le_bytes(), self.till(&envelope));
        let args: [&[u8]; 5] = [seq.as_bytes(), &epoch, &envelope, px.as_bytes(), till.as_bytes()];
        scripts::LOAD.call(&self.link, &[&self.name(&record.key)], &args).await.map(|_| ())
    }

    /// Writes a fact down.
    pub async fn mark(&self, fact: &Fact) -> Result<(), TierError> {
        let (names, before) = (&self.feed.names, self.feed.standing());
        let (at, until) = (fact.at.to_string(), fact.until.to_string());
        let (fact_bytes, field) = (self.feed.payload(fact), wire::field(fact));
        let args: [&[u8]; 5] = [&fresh(), &fact_bytes, &field, at.as_bytes(), until.as_bytes()];
        let reply = scripts::MARK.call(&self.link, &[&names.hash, &names.stream], &args).await?;
        let position = wire::position(reply).ok_or_else(odd)?;
        if let crate::invalidation::target::Target::Key(key) = &fact.target
            && !fact.soft
        {
            self.land(key, position, &[], GUARD_MS, 0).await?;
        }
        self.feed.told(position, before, self.link.timeout()).await
    }

    /// Where the log ends.
    pub async fn head(&self) -> Result<Position, TierError> {
        let mut head = cmd("HMGET");
        head.arg(&self.feed.names.hash).arg("e").arg("n");
        wire::position(self.link.call(&head).await?).ok_or_else(odd)
    }

    /// The next number of a counter.
    pub async fn next(&self, name: &[u8], above: u64) -> Result<u64, TierError> {
        // Lua counts by floating point.
        if above >= 1 << 53 {
            return Err(TierError::new(TierErrorKind::Refused, "a version must be below 2^53"));
        }
        let above = above.to_string();
        let reply = scripts::NEXT.call(&self.link, &[&self.feed.names.counters], &[name, above.as_bytes()]).await?;
        wire::number(&reply).ok_or_else(odd)
    }

    /// The number that a counter gave last; 0 for none.
    pub async fn last(&self, name: &[u8]) -> Result<u64, TierError> {
        let mut get = cmd("HGET");
        get.arg(&self.feed.names.counters).arg(name);
        match self.link.call(&get).await? {
            Value::Nil => Ok(0),
            reply => wire::number(&reply).ok_or_else(odd),
        }
    }
}
