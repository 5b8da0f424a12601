//! The Workers KV tier against workerd, Cloudflare's runtime: a Worker of the JavaScript tests speaks the REST API over a real
//! binding (`__test__/helpers/kv-rest.mjs`). Without Node.js or the npm packages there is nothing to test against; in CI that fails.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kvcache_engine::codec::{Algorithm, Compressor};
use kvcache_engine::entry::Kind;
use kvcache_engine::tier::cloudflare::{CloudflareTier, Settings};
use kvcache_engine::tier::conformance::{conformance, get, puts, record, under_chaos};
use kvcache_engine::tier::{Key, Record, Tier, TierErrorKind};
use tokio::runtime::Handle;

/// workerd, with an empty namespace.
struct Rest {
    child: Child,
    origin: String,
    http: reqwest::Client,
}

impl Drop for Rest {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Rest {
    fn start() -> Option<Self> {
        let helpers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/helpers/kv-rest.mjs");
        let started = Command::new("node")
            .arg(helpers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut origin = String::new();
        let mut child = started.ok();
        if let Some(out) = child.as_mut().and_then(|child| child.stdout.take()) {
            BufReader::new(out).read_line(&mut origin).unwrap();
        }
        if origin.is_empty() {
            assert!(std::env::var_os("CI").is_none(), "workerd does not start");
            eprintln!("skipped: Node.js or its packages are missing");
            return None;
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Some(Self { child: child?, origin: origin.trim().to_owned(), http })
    }

    fn settings(&self) -> Settings {
        Settings {
            account_id: "acc".into(),
            namespace_id: "ns".into(),
            api_token: "test-token".into(),
            base_url: Some(format!("{}/client/v4", self.origin)),
            timeout: Duration::from_secs(10),
        }
    }

    fn tier(&self) -> CloudflareTier {
        CloudflareTier::new(&self.settings(), &Handle::current()).unwrap()
    }

    async fn control(&self, control: &str) {
        self.http.put(format!("{}/control", self.origin)).body(control.to_owned()).send().await.unwrap();
    }

    async fn seen(&self) -> (Vec<String>, u64) {
        let text = self.http.get(format!("{}/control", self.origin)).send().await.unwrap().text().await.unwrap();
        let seen: serde_json::Value = serde_json::from_str(&text).unwrap();
        let calls = seen["calls"].as_array().unwrap().iter().map(|call| call.as_str().unwrap().to_owned());
        (calls.collect(), seen["tooOften"].as_u64().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let Some(rest) = Rest::start() else { return };
    conformance(&|| Box::pin(async { Arc::new(rest.tier()) as Arc<dyn Tier> })).await;
    assert_eq!(rest.seen().await.1, 0, "no key is written twice within a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_it_under_chaos() {
    let Some(rest) = Rest::start() else { return };
    under_chaos(Arc::new(rest.tier()), 7, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_gets_and_puts_take_few_calls() {
    let Some(rest) = Rest::start() else { return };
    let tier = Arc::new(rest.tier());
    // workerd takes some milliseconds for each, and a call of all must end in a minute on the busiest machine.
    for n in 0..2000 {
        let key = format!("count:{n}");
        assert_eq!(tier.put_many(puts(vec![record(&key, &key, 1)])).await, vec![Ok(())]);
    }
    tier.flush().await.unwrap();
    let (calls, _) = rest.seen().await;
    assert!(calls.len() <= 10, "{} calls: {calls:?}", calls.len());

    let tier = Arc::new(rest.tier());
    rest.control("{}").await;
    let tasks: Vec<_> = (0..10_000)
        .map(|n| {
            let (tier, key) = (Arc::clone(&tier), format!("count:{}", n % 1000));
            tokio::spawn(async move {
                assert_eq!(*get(&*tier, &key).await.unwrap().unwrap().value, *key.as_bytes());
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (calls, _) = rest.seen().await;
    assert!(calls.len() <= 30, "{} calls", calls.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_again_what_failed_and_waits_as_long_as_it_is_told() {
    let Some(rest) = Rest::start() else { return };
    let tier = rest.tier();
    rest.control(r#"{"fail":[{"status":500},{"status":503,"after":true},{"status":429,"retryAfter":"1"}]}"#).await;
    tier.put_many(puts(vec![record("again", "x", 1)])).await;
    tier.flush().await.unwrap();
    assert!(rest.seen().await.0.len() == 4, "three that failed and one that did not");
    let other = rest.tier();
    assert_eq!(get(&other, "again").await.unwrap().unwrap().seq, 1);
    rest.control(r#"{"fail":[{"status":429,"retryAfter":"30"}]}"#).await;
    assert_eq!(get(&other, "again").await.unwrap_err().kind, TierErrorKind::Unavailable);
    let error = get(&other, "again").await.unwrap_err();
    assert!(error.message.contains("may not be called for another"), "{error}");
    assert_eq!(rest.seen().await.0.len(), 1, "while it is to wait nothing is sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn says_what_was_lost_and_never_the_token() {
    let Some(rest) = Rest::start() else { return };
    let settings = Settings { api_token: "wrong-token-s3cret".into(), ..rest.settings() };
    let tier = CloudflareTier::new(&settings, &Handle::current()).unwrap();
    tier.put_many(puts(vec![record("a", "x", 1), record("b", "x", 1)])).await;
    let lost = tier.flush().await.unwrap_err();
    assert_eq!(lost.kind, TierErrorKind::Auth);
    assert!(lost.message.starts_with("2 writes are lost"), "{lost}");
    assert_eq!(tier.flush().await, Ok(()), "it is said once");
    let read = get(&tier, "c").await.unwrap_err();
    assert_eq!(read.kind, TierErrorKind::Auth);
    assert!(!format!("{lost:?} {read:?}").contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_older_than_what_was_written_here_is_not_taken() {
    let Some(rest) = Rest::start() else { return };
    let (tier, other) = (rest.tier(), rest.tier());
    other.put_many(puts(vec![record("old", "old", 1), record("gone", "old", 1)])).await;
    other.flush().await.unwrap();
    tier.put_many(puts(vec![record("old", "new", 5)])).await;
    let gone: Key = b"gone"[..].into();
    let before = record("gone", "old", 1);
    assert_eq!(tier.delete_many(vec![gone]).await, vec![Ok(())]);
    tier.flush().await.unwrap();
    // As if KV showed its older state again.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let third = rest.tier();
    third.put_many(puts(vec![record("old", "old", 2), before])).await;
    third.flush().await.unwrap();
    assert_eq!(get(&tier, "old").await, Ok(None));
    assert_eq!(get(&tier, "gone").await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_reads_what_was_put() {
    let Some(rest) = Rest::start() else { return };
    let tier = rest.tier();
    let text = format!("[\"{}\"]", "é".repeat(3000));
    let mut packed = Vec::new();
    assert!(Compressor::new().compress(Algorithm::Gzip, 2, text.as_bytes(), &mut packed));
    let plain = Record { kind: Kind::Json, ..record("plain", &text, 1) };
    let gzip = Record { value: packed.into(), codec: Some(Algorithm::Gzip), ..record("gzip", &text, 1) };
    let gzip = Record { kind: Kind::Json, raw_len: text.len() as u32, ..gzip };
    tier.put_many(puts(vec![plain, gzip.clone()])).await;
    tier.flush().await.unwrap();
    for key in ["plain", "gzip"] {
        let url = format!("{}/as-a-worker?key={key}", rest.origin);
        let seen = rest.http.get(url).send().await.unwrap().text().await.unwrap();
        assert_eq!(seen, format!("{{\"value\":{text}}}"), "{key}");
    }
    rest.control("{}").await;
    let other = rest.tier();
    assert_eq!(get(&other, "gzip").await, Ok(Some(gzip)));
    assert_eq!(rest.seen().await.0, ["POST bulk/get", "GET values/gzip"], "a compressed value is a call more");
}
