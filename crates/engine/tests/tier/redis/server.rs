//! redis-server, as tests need it: started on a free port in a directory of its own, stopped in the end.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ::redis::{Client, ConnectionLike, Value};
use kvcache_engine::tier::redis::{RedisTier, Settings};
use tokio::runtime::Handle;

/// How long something may take that is waited for.
pub const LONG: Duration = Duration::from_secs(30);

/// The server's program: `KVCACHE_TEST_REDIS` names another than redis-server, as Valkey's.
pub fn program() -> String {
    std::env::var("KVCACHE_TEST_REDIS").unwrap_or_else(|_| "redis-server".into())
}

/// Whether there is a redis-server; without one there is nothing to test against, which fails in CI.
pub fn is_there() -> bool {
    let there = Command::new(program()).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there {
        assert!(std::env::var_os("CI").is_none(), "redis-server is missing");
        eprintln!("skipped: redis-server is missing");
    }
    there
}

/// A directory that is removed in the end.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        let name = format!("kvcache-redis-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn free_port() -> u16 {
    // A cluster's node takes another, 10,000 above.
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < 55_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

/// One server.
pub struct Server {
    child: Option<Child>,
    pub port: u16,
    dir: Dir,
    args: Vec<String>,
}

impl Server {
    /// Starts one that keeps nothing on disk unless told to.
    pub fn start(args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let mut server = Self { child: None, port: free_port(), dir: Dir::new(), args };
        server.run();
        server
    }

    /// Starts it again.
    pub fn run(&mut self) {
        let child = Command::new(program())
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// Waits until it answers, by that URL.
    pub fn wait(&self, url: &str) {
        let client = Client::open(url).unwrap();
        for _ in 0..1000 {
            if client.get_connection().is_ok_and(|mut conn| conn.check_connection()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not answer");
    }

    /// Started, and answering.
    pub fn ready(args: &[&str]) -> Self {
        let server = Self::start(args);
        server.wait(&server.url());
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn settings(&self) -> Settings {
        Settings { urls: vec![self.url()], ..Settings::default() }
    }

    pub fn tier(&self) -> RedisTier {
        RedisTier::new(&self.settings(), &Handle::current()).unwrap()
    }

    /// What it answers to a command.
    pub fn ask(&self, words: &[&str]) -> Value {
        let mut conn = Client::open(self.url()).unwrap().get_connection().unwrap();
        let mut cmd = ::redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            cmd.arg(*word);
        });
        conn.req_command(&cmd).unwrap()
    }

    /// The number of calls of a command so far.
    pub fn calls(&self, command: &str) -> u64 {
        let Value::BulkString(text) = self.ask(&["INFO", "commandstats"]) else { panic!() };
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    /// Sends it a signal: `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, wait).await.is_ok(), "{what}");
}
