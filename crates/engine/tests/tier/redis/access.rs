//! How Redis is reached: with credentials, over TLS, by way of sentinels; and that no credential is ever told.

use std::process::{Command, Stdio};

use kvcache_engine::tier::conformance::{get, record};
use kvcache_engine::tier::redis::{RedisTier, Settings};
use kvcache_engine::tier::{Put, Tier, TierErrorKind};
use tokio::runtime::Handle;

use super::log::{Seen, put, value};
use super::server::{Dir, Server, free_port, is_there, program, until};

fn tier(settings: &Settings) -> RedisTier {
    RedisTier::new(settings, &Handle::current()).unwrap()
}

fn at(url: String) -> Settings {
    Settings { urls: vec![url], ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_in_and_tells_nobody_how() {
    if !is_there() {
        return;
    }
    let user = ["--user", "app", "on", ">app-s3cret", "~*", "&*", "+@all"];
    let server = Server::start(&[&["--requirepass", "s3cret%word"], &user[..]].concat());
    let url = |login: &str| format!("redis://{login}127.0.0.1:{}", server.port);
    server.wait(&url(":s3cret%25word@"));
    for login in [":s3cret%25word@", "app:app-s3cret@"] {
        let tier = tier(&at(url(login)));
        put(&tier, Put::write(record("k", login, 0))).await;
        assert_eq!(value(&tier, "k").await.as_deref(), Some(login));
    }
    for login in ["", ":wrong-s3cret@", "app:wrong-s3cret@", "nobody:wrong-s3cret@"] {
        let settings = at(url(login));
        let tier = tier(&settings);
        let seen = Seen::on(&tier);
        let error = get(&tier, "k").await.unwrap_err();
        assert_eq!(error.kind, TierErrorKind::Auth, "{error}");
        until("that the log cannot be read is told", async || !seen.failed().is_empty()).await;
        let shown = format!("{error} {error:?} {settings:?} {:?}", seen.failed());
        assert!(!shown.contains("s3cret") && !shown.contains("nobody"), "{shown}");
        assert_eq!(tier.close().await, Ok(()));
    }
}

/// An authority, and a server's certificate of it.
fn certificates(dir: &Dir) -> bool {
    let run = |args: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl.args(args).current_dir(dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        openssl.status().is_ok_and(|status| status.success())
    };
    let ca = "req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=ca";
    let request = "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost";
    let sign = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out server.pem -extfile san";
    std::fs::write(dir.path().join("san"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
    [ca, request, sign].iter().all(|line| run(&line.split(' ').collect::<Vec<_>>()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speaks_tls_and_verifies_whom_with() {
    if !is_there() {
        return;
    }
    let dir = Dir::new();
    if !certificates(&dir) {
        assert!(std::env::var_os("CI").is_none(), "openssl is missing");
        eprintln!("skipped: openssl is missing");
        return;
    }
    let file = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let port = free_port().to_string();
    let (pem, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let tls = ["--tls-port", &port, "--tls-cert-file", &pem, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let _server = Server::ready(&[&tls[..], &["--tls-auth-clients", "no"]].concat());
    let url = format!("rediss://localhost:{port}");
    let text = std::fs::read_to_string(&ca).unwrap();
    for trusted in [ca, text] {
        let tier = tier(&Settings { tls_ca: Some(trusted), ..at(url.clone()) });
        put(&tier, Put::write(record("k", "v", 0))).await;
        assert_eq!(value(&tier, "k").await.as_deref(), Some("v"));
    }
    let error = get(&tier(&at(url)), "k").await.unwrap_err();
    assert_eq!(error.kind, TierErrorKind::Unavailable, "an authority that is not trusted: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_the_master_that_sentinels_know() {
    if !is_there() {
        return;
    }
    let secret = ["--requirepass", "s3cret", "--masterauth", "s3cret", "--repl-diskless-sync-delay", "0"];
    let mut master = Server::start(&secret);
    let port = master.port.to_string();
    let follower = Server::start(&[&secret[..], &["--replicaof", "127.0.0.1", &port]].concat());
    for server in [&master, &follower] {
        server.wait(&format!("redis://:s3cret@127.0.0.1:{}", server.port));
    }
    let dir = Dir::new();
    let mut sentinels = Vec::new();
    let ports = [free_port(), free_port(), free_port()];
    for (n, port) in ports.iter().enumerate() {
        let file = dir.path().join(format!("{n}.conf"));
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor mine 127.0.0.1 {} 2\nsentinel auth-pass mine s3cret\n\
             sentinel down-after-milliseconds mine 1000\nsentinel failover-timeout mine 5000\n",
            master.port
        );
        std::fs::write(&file, text).unwrap();
        let mut sentinel = Command::new(program());
        sentinel.arg(&file).arg("--sentinel").current_dir(dir.path()).stdout(Stdio::null());
        sentinels.push(Stopped(sentinel.spawn().unwrap()));
    }
    let urls = ports.iter().map(|port| format!("redis://:s3cret@127.0.0.1:{port}")).collect();
    let settings = Settings { urls, sentinel: Some("mine".into()), ..Settings::default() };
    let (a, b) = (tier(&settings), tier(&settings));
    until("the master is found", async || get(&a, "k").await.is_ok() && get(&b, "k").await.is_ok()).await;
    put(&a, Put::write(record("k", "1", 0))).await;
    assert_eq!(value(&b, "k").await.as_deref(), Some("1"));
    let know_all = |port: &u16| {
        let client = ::redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        let Ok(mut conn) = client.get_connection() else { return false };
        let about: Vec<String> = ::redis::cmd("SENTINEL").arg("MASTER").arg("mine").query(&mut conn).unwrap();
        let is = |name: &str, value: &str| about.chunks(2).any(|pair| pair[0] == name && pair[1] == value);
        is("num-other-sentinels", "2") && is("num-slaves", "1")
    };
    until("the sentinels know one another", async || ports.iter().all(know_all)).await;
    master.kill();
    let put_on = async || a.put_many(vec![Put::write(record("k", "2", 0))]).await[0].is_ok();
    until("the replica takes over", put_on).await;
    until("for all", async || get(&b, "k").await.is_ok_and(|found| found.is_some_and(|r| &*r.value == b"2"))).await;
    let wrong = tier(&Settings { sentinel: Some("other".into()), ..settings });
    let error = get(&wrong, "k").await.unwrap_err();
    assert!(error.kind == TierErrorKind::Unavailable && error.message.contains("sentinel"), "{error}");
}

/// A process that ends with this.
struct Stopped(std::process::Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
