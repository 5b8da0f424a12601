//! The contract of a [`Tier`](super::Tier) as a suite, for every tier to run through: [`conformance`], and [`under_chaos`]
//! with calls that are late, fail and overtake one another. A failure panics, and says which promise is not kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::chaos::{Chaos, Ills};
use super::guarded::Guarded;
use super::{Answer, Fact, Key, Put, Record, Rest, Tier, TierErrorKind, unix_now};
use crate::clock::FOREVER;
use crate::codec::{Algorithm, Compressor};
use crate::entry::Kind;
use crate::invalidation::target::Target;

/// Makes a tier for each promise; it may hold what the others have left, under keys of their own.
pub type Make<'a> = &'a (dyn Fn() -> Answer<'a, Arc<dyn Tier>> + Sync);

/// Checks the contract.
///
/// # Panics
/// If it is not kept.
pub async fn conformance(make: Make<'_>) {
    gives_back_what_was_put(&*make().await).await;
    answers_in_the_order_of_the_keys(&*make().await).await;
    the_last_put_counts(&*make().await).await;
    what_was_deleted_is_gone(&*make().await).await;
    what_is_over_is_not_given(&*make().await).await;
    lists_in_order_and_in_pages(&*make().await).await;
    merges_markers(&*make().await).await;
    takes_many_calls_at_once(make().await).await;
    ends_once(&*make().await).await;
}

/// A record of text that never ends, for tests.
pub fn record(key: &str, value: &str, seq: u64) -> Record {
    Record {
        key: key.as_bytes().into(),
        metadata: Arc::default(),
        links: Arc::default(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        kind: Kind::Text,
        codec: None,
        raw_len: value.len() as u32,
        ascii: value.is_ascii(),
        seq,
        epoch: 0x1234_5678_9ABC_DEF0,
        version: 0,
        stored_at: unix_now(),
        fresh_until: FOREVER,
        stale_until: FOREVER,
        error_until: FOREVER,
    }
}

/// Records as somebody writes them.
pub fn puts(records: Vec<Record>) -> Vec<Put> {
    records.into_iter().map(Put::write).collect()
}

/// Looks one key up.
pub async fn get(tier: &dyn Tier, key: &str) -> super::Found {
    let mut answers = tier.get_many(vec![key.as_bytes().into()]).await;
    assert_eq!(answers.len(), 1, "one answer for one key");
    answers.remove(0)
}

async fn put(tier: &dyn Tier, records: Vec<Record>) {
    let n = records.len();
    let answers = tier.put_many(puts(records)).await;
    assert_eq!(answers, vec![Ok(()); n], "records are taken");
}

/// One of each kind of value, with all that a record can carry.
fn samples() -> Vec<Record> {
    let bytes: Vec<u8> = (0..=255).collect();
    let text = "a text long enough to be compressed ".repeat(50);
    let mut packed = Vec::new();
    assert!(Compressor::new().compress(Algorithm::Gzip, 2, text.as_bytes(), &mut packed));
    let links = Arc::from(&b"\x01\x03abc"[..]);
    let base = |key: &str, kind, value: &[u8]| Record {
        kind,
        value: Bytes::copy_from_slice(value),
        raw_len: value.len() as u32,
        ascii: matches!(kind, Kind::Json | Kind::Text) && value.is_ascii(),
        ..record(&format!("conf:sample:{key}"), "", u64::MAX - 7)
    };
    let hour = |n: u64| unix_now() + n * 3_600_000;
    vec![
        base("json", Kind::Json, br#"{"a":[1,null,"\u00e9"]}"#),
        base("text", Kind::Text, "héllo \u{feff}\u{1F600} \0\"\\".as_bytes()),
        base("mark", Kind::Text, "\u{feff}first".as_bytes()),
        base("empty", Kind::Text, b""),
        base("utf16", Kind::Utf16, &[0x00, 0xD8, 0x41, 0x00]),
        base("bytes", Kind::Bytes, &bytes),
        base("buffer", Kind::Buffer, b"plain bytes"),
        base("v8", Kind::V8, &[0xFF, 0x0F, 0x6F, 0x00]),
        base("custom", Kind::Custom, b"mine"),
        Record {
            codec: Some(Algorithm::Gzip),
            raw_len: text.len() as u32,
            ascii: true,
            ..base("gzip", Kind::Text, &packed)
        },
        Record {
            metadata: Arc::from("{\"from\":\"café\",\"n\":[1,null]}".as_bytes()),
            links,
            version: u32::MAX,
            fresh_until: hour(1),
            stale_until: hour(2),
            error_until: hour(3),
            ..base("all é*\\/?#%&+ ..", Kind::Json, b"[1]")
        },
    ]
}

async fn gives_back_what_was_put(tier: &dyn Tier) {
    let samples = samples();
    put(tier, samples.clone()).await;
    for when in ["before it has landed", "after it has landed"] {
        for sample in &samples {
            let found = get(tier, &String::from_utf8_lossy(&sample.key)).await;
            let mut found = found.unwrap_or_else(|error| panic!("{error}"));
            if let (Some(found), Some(_)) = (&mut found, tier.log()) {
                // Which has numbers of its own.
                (found.seq, found.epoch) = (sample.seq, sample.epoch);
            }
            assert_eq!(found.as_ref(), Some(sample), "what was put is given back {when}");
        }
        assert_eq!(tier.flush().await, Ok(()), "what was put lands");
    }
    assert_eq!(tier.pending(), 0, "after a flush nothing is pending");
}

async fn answers_in_the_order_of_the_keys(tier: &dyn Tier) {
    let keys: Vec<String> = (0..250).map(|n| format!("conf:order:{n}")).collect();
    put(tier, keys.iter().step_by(2).map(|key| record(key, key, 1)).collect()).await;
    assert_eq!(tier.flush().await, Ok(()));
    let mut asked: Vec<Key> = keys.iter().rev().map(|key| key.as_bytes().into()).collect();
    asked.extend(["__proto__", "0", "conf:order:0", "conf:order:0"].map(|key| Key::from(key.as_bytes())));
    let answers = tier.get_many(asked.clone()).await;
    assert_eq!(answers.len(), asked.len(), "an answer for each key, those asked for twice too");
    for (key, answer) in asked.iter().zip(answers) {
        let there = keys.iter().step_by(2).any(|k| k.as_bytes() == &**key);
        let found = answer.unwrap_or_else(|error| panic!("a missing key is no error: {error}"));
        assert_eq!(
            found.map(|record| record.value),
            there.then(|| Bytes::copy_from_slice(key)),
            "each key has its own answer"
        );
    }
    assert!(tier.get_many(Vec::new()).await.is_empty() && tier.put_many(Vec::new()).await.is_empty());
}

async fn the_last_put_counts(tier: &dyn Tier) {
    put(tier, vec![record("conf:last", "a", 1), record("conf:last", "b", 2)]).await;
    assert_eq!(get(tier, "conf:last").await, get(tier, "conf:last").await);
    put(tier, vec![record("conf:last", "c", 3)]).await;
    for _ in 0..2 {
        let found = get(tier, "conf:last").await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(found.map(|r| r.value), Some(b"c"[..].into()), "of several puts of a key the last counts");
        assert_eq!(tier.flush().await, Ok(()));
    }
}

async fn what_was_deleted_is_gone(tier: &dyn Tier) {
    let key: Key = b"conf:gone"[..].into();
    put(tier, vec![record("conf:gone", "a", 1)]).await;
    let twice = vec![key.clone(), Key::from(&b"conf:never"[..])];
    assert_eq!(tier.delete_many(twice).await, vec![Ok(()); 2], "deleting what is not there is no error");
    assert_eq!(get(tier, "conf:gone").await, Ok(None), "what was deleted is gone");
    assert_eq!(tier.flush().await, Ok(()));
    assert_eq!(get(tier, "conf:gone").await, Ok(None), "and stays so");
    put(tier, vec![record("conf:gone", "b", 2)]).await;
    assert!(matches!(get(tier, "conf:gone").await, Ok(Some(_))), "until it is put again");
}

async fn what_is_over_is_not_given(tier: &dyn Tier) {
    let at = unix_now() - 1;
    let over = Record { fresh_until: at, stale_until: at, error_until: at, ..record("conf:over", "a", 1) };
    put(tier, vec![record("conf:over", "was", 0)]).await;
    put(tier, vec![over]).await;
    assert_eq!(get(tier, "conf:over").await, Ok(None), "what can no longer be served is not given");
    assert_eq!(tier.flush().await, Ok(()));
    assert_eq!(get(tier, "conf:over").await, Ok(None), "nor what was before");
}

async fn lists_in_order_and_in_pages(tier: &dyn Tier) {
    let mut names: Vec<String> = (0..25).map(|n| format!("conf:list:{n}")).collect();
    names.push("conf:list:é".into());
    let metadata = Arc::from(&b"{\"n\":1}"[..]);
    put(tier, names.iter().map(|name| Record { metadata: Arc::clone(&metadata), ..record(name, "x", 1) }).collect())
        .await;
    put(tier, vec![record("conf:lisu", "x", 1)]).await;
    assert_eq!(tier.flush().await, Ok(()));
    names.sort();
    for limit in [3, 10, 1000] {
        let (mut listed, mut cursor) = (Vec::new(), None);
        for _ in 0..100 {
            let page = tier.list(b"conf:list:".to_vec(), limit, cursor).await.unwrap_or_else(|e| panic!("{e}"));
            assert!(page.keys.len() <= limit, "a page has no more than was asked for");
            listed.extend(page.keys);
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        let found: Vec<_> = listed.iter().map(|l| String::from_utf8_lossy(&l.key).into_owned()).collect();
        assert_eq!(found, names, "all keys of the prefix, each once, in order of bytes, by pages of {limit}");
        assert!(listed.iter().all(|l| *l.metadata == *metadata), "with the user's metadata");
    }
}

async fn merges_markers(tier: &dyn Tier) {
    let now = unix_now();
    let fact = |target: Target, soft, seq| Fact { target, soft, seq, epoch: 7, at: now, until: FOREVER };
    let tag = |name: &str| Target::Tag(name.into());
    let kept = vec![
        fact(tag("conf-a"), false, 5),
        fact(tag("conf-a"), true, 9),
        fact(Target::Prefix(b"conf:p:"[..].into()), false, 6),
        fact(Target::Key(b"conf:k"[..].into()), false, 7),
        fact(Target::parse(r"conf:*:\*:x").unwrap_or(Target::All), false, 8),
    ];
    let over = Fact { until: now - 1, ..fact(tag("conf-over"), false, 4) };
    let older = [fact(tag("conf-a"), false, 3), over];
    for fact in kept.iter().chain(&older) {
        assert_eq!(tier.write_marker(fact.clone()).await, Ok(()), "a marker is written");
    }
    let found = tier.read_markers(0).await.unwrap_or_else(|error| panic!("{error}"));
    let found: Vec<_> = found
        .into_iter()
        .map(|found| match (tier.log(), kept.iter().find(|f| (&f.target, f.soft) == (&found.target, found.soft))) {
            // Which has numbers of its own.
            (Some(_), Some(fact)) => Fact { seq: fact.seq, epoch: fact.epoch, ..found },
            _ => found,
        })
        .collect();
    for fact in &kept {
        assert!(found.contains(fact), "the newest of each target and kind is kept: {fact:?} in {found:?}");
    }
    assert!(older.iter().all(|fact| !found.contains(fact)), "and neither older ones nor what is over");
    assert!(!tier.read_markers(now + 60_000).await.unwrap_or_default().contains(&kept[0]), "nor those before");
    let page = tier.list(Vec::new(), 1000, None).await.unwrap_or_else(|error| panic!("{error}"));
    let of_ours = |key: &[u8]| key.starts_with(b"conf:") || cfg!(not(test));
    assert!(page.keys.iter().all(|listed| of_ours(&listed.key)), "markers are not listed");
}

async fn takes_many_calls_at_once(tier: Arc<dyn Tier>) {
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let tier = Arc::clone(&tier);
            tokio::spawn(async move {
                let key = format!("conf:many:{n}");
                put(&*tier, vec![record(&key, &key, n)]).await;
                let found = get(&*tier, &key).await.map(|r| r.map(|r| r.value));
                assert_eq!(found, Ok(Some(Bytes::from(key))), "own writes are seen");
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap_or_else(|error| panic!("{error}"));
    }
}

async fn ends_once(tier: &dyn Tier) {
    put(tier, vec![record("conf:end", "a", 1)]).await;
    assert_eq!(tier.close().await, Ok(()), "closing lands what is pending");
    assert_eq!(tier.close().await, Ok(()), "closing again does nothing");
    assert_eq!(tier.pending(), 0);
    let kind = |error: Option<super::TierError>| error.map(|error| error.kind);
    let closed = Some(TierErrorKind::Closed);
    assert_eq!(kind(get(tier, "conf:end").await.err()), closed, "a closed tier is not read");
    assert_eq!(kind(tier.put_many(vec![Put::write(record("x", "x", 1))]).await.remove(0).err()), closed, "nor written");
    assert_eq!(kind(tier.delete_many(vec![b"x"[..].into()]).await.remove(0).err()), closed);
    assert_eq!(kind(tier.list(Vec::new(), 10, None).await.err()), closed);
    assert_eq!(kind(tier.read_markers(0).await.err()), closed);
}

/// Puts chaos around a tier and a guard around both, and makes so many calls. Every call ends, what is given is what was put under that key, never what
/// was before an answered write, and once the chaos is over the tier is as good as new.
///
/// # Panics
/// If not.
pub async fn under_chaos(tier: Arc<dyn Tier>, seed: u64, steps: u64) {
    let ills = Ills { delay: Duration::from_millis(5), refused: 0.1, failed_after: 0.1, lost: 0.1 };
    let chaos = Arc::new(Chaos::new(tier, ills, seed));
    let guarded = Guarded::new(Arc::clone(&chaos) as Arc<dyn Tier>, Duration::from_millis(500));
    let mut random = fastrand::Rng::with_seed(seed);
    // By key: the newest write that was answered, and the newest that was tried. One writer: calls for a key are in order.
    let (mut answered, mut tried) = ([0u64; 8], [0u64; 8]);
    for step in 1..=steps {
        let n = random.usize(..8);
        let key = format!("chaos:{n}");
        if random.bool() {
            tried[n] = step;
            let put = guarded.put_many(vec![Put::write(record(&key, &format!("{key}={step}"), step))]).await;
            if put[0].is_ok() {
                answered[n] = step;
            }
        } else if let Ok(found) = get(&guarded, &key).await {
            let seq = found.map(|record| {
                let value = String::from_utf8_lossy(&record.value).into_owned();
                let (of, step) = value.split_once('=').unwrap_or_default();
                assert_eq!(of, key, "seed {seed}: a value of another key");
                step.parse::<u64>().unwrap_or_else(|_| panic!("seed {seed}: {value}"))
            });
            assert!(answered[n] == 0 || seq.is_some_and(|seq| seq >= answered[n]), "seed {seed}: an older value");
            assert!(seq.is_none_or(|seq| seq <= tried[n]), "seed {seed}: a value nobody put");
        } else if guarded.rest() == Rest::Open {
            tokio::time::sleep(Duration::from_millis(1001)).await;
        }
    }
    chaos.set(Ills::default());
    for _ in 0..40 {
        if guarded.rest() == Rest::Closed {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = get(&guarded, "chaos:0").await;
    }
    put(&guarded, vec![record("chaos:end", "x", 1)]).await;
    assert!(matches!(get(&guarded, "chaos:end").await, Ok(Some(_))), "seed {seed}: it recovers");
}
