//! What Redis does in one step: Lua, called by its hash.
//!
//! Keys: `H` is the hash with the log's epoch (`e`), its newest number (`n`) and the markers; they are lost together or not at all.
//! `s` is the stream of facts. Both lie in one slot. `v` is a value, with its [stamp](super::wire) of 32 bytes.

use std::sync::LazyLock;

use redis::{Cmd, ErrorKind, ServerErrorKind, Value, cmd};

use super::link::{Link, told};
use crate::tier::TierError;

/// A script, and its hash.
pub struct Script {
    code: String,
    hash: String,
}

impl Script {
    pub fn new(code: impl Into<String>) -> Self {
        let code = code.into();
        let hash = redis::Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }

    fn cmd(&self, whole: bool, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
        let mut cmd = if whole { cmd("EVAL") } else { cmd("EVALSHA") };
        cmd.arg(if whole { &self.code } else { &self.hash }).arg(keys.len());
        keys.iter().chain(args).for_each(|arg| {
            cmd.arg(*arg);
        });
        cmd
    }

    /// Calls it; with its code where that Redis does not know it yet.
    pub async fn call(&self, link: &Link, keys: &[&[u8]], args: &[&[u8]]) -> Result<Value, TierError> {
        let is_new = |error: &redis::RedisError| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript);
        match link.raw(&self.cmd(false, keys, args)).await? {
            Err(error) if is_new(&error) => link.call(&self.cmd(true, keys, args)).await,
            Err(error) => Err(told(&error)),
            Ok(value) => Ok(value),
        }
    }
}

/// Facts that the stream keeps, about: who was away for more has missed some.
pub const MOST_KEPT: usize = 100_000;

/// How long a value hides nothing but still keeps older loads out, and a mark of a write lasts whose writer died, in
/// milliseconds. Longer than a process can be behind the log without knowing, and a command under way, together.
pub const GUARD_MS: u64 = 15_000;

/// The log: `epoch` makes sure there is one; `fact` numbers one and appends it.
fn log() -> String {
    format!(
        "local function epoch(H, fresh)\n\
           local e = redis.call('HGET', H, 'e')\n\
           if not e then e = fresh redis.call('HSET', H, 'e', e) end\n\
           return e\n\
         end\n\
         local function fact(H, s, e, f)\n\
           local n = redis.call('HINCRBY', H, 'n', 1)\n\
           redis.call('XADD', s, 'MAXLEN', '~', {MOST_KEPT}, '*', 'n', n, 'e', e, 'f', f)\n\
           return n\n\
         end\n"
    )
}

/// Redis's clock: `late` tells whether a moment is over. What nobody waits for any more must not be stored: it may have lain in a
/// socket of a Redis that stood still, for longer than what would keep it out.
const CLOCK: &str = "\
    local function now()\n\
      local t = redis.call('TIME')\n\
      return t[1] * 1000 + math.floor(t[2] / 1000)\n\
    end\n\
    local function late(till)\n\
      return till ~= '0' and now() > tonumber(till)\n\
    end\n\
    local LATE = redis.error_reply('LATE nobody waits for it any more')\n";

/// Stamps: `read` gives marks of writes under way, until when they hold, number and epoch of what is there; `stamp` makes one.
const STAMPS: &str = "\
    local function read(v)\n\
      local s = redis.call('GETRANGE', v, 0, 31)\n\
      if #s < 32 or string.sub(s, 1, 4) ~= 'KVR\\1' then return nil end\n\
      local marks, till, n = struct.unpack('<I4I8I8', string.sub(s, 5, 24))\n\
      if marks > 0 and till < now() then marks = 0 end\n\
      return marks, till, n, string.sub(s, 25, 32)\n\
    end\n\
    local function stamp(marks, till, n, e)\n\
      return 'KVR\\1' .. struct.pack('<I4I8I8', marks, till, n) .. e\n\
    end\n\
    local function store(v, bytes, px)\n\
      if px == '0' then redis.call('SET', v, bytes) else redis.call('SET', v, bytes, 'PX', px) end\n\
    end\n";

/// `v; number, epoch, envelope, px, till, ...`: what stores a value under a number that it has been given, or began at, begins with.
const NUMBERED: &str = "\
    if late(ARGV[5]) then return LATE end\n\
    local v, n, e, px = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[4]\n\
    local marks, till, there, of = read(v)\n\
    local is_older = marks and of == e and there > n\n";

macro_rules! script {
    ($(#[$doc:meta])* $name:ident, $parts:expr) => {
        $(#[$doc])*
        pub static $name: LazyLock<Script> = LazyLock::new(|| Script::new($parts.concat()));
    };
}

script!(
    /// `H s; fresh` gives epoch, newest number, the stream's last id and the time. It writes, so that a replica says it is one.
    SYNC,
    [
        CLOCK,
        "local H, s = KEYS[1], KEYS[2]\n\
         redis.call('HSETNX', H, 'e', ARGV[1])\n\
         local last = redis.call('XREVRANGE', s, '+', '-', 'COUNT', 1)\n\
         return {redis.call('HGET', H, 'e'), tonumber(redis.call('HGET', H, 'n') or '0'), last[1] and last[1][1] or '0-0', now()}"
    ]
);

script!(
    /// `H; old, fresh, floor`: begins another log, if it is still that one. Its numbers go on above `floor`.
    RENEW,
    [
        "local H = KEYS[1]\n\
         if redis.call('HGET', H, 'e') == ARGV[1] then\n\
           local n = tonumber(redis.call('HGET', H, 'n') or '0')\n\
           redis.call('HSET', H, 'e', ARGV[2], 'n', math.max(n, tonumber(ARGV[3])))\n\
         end\n\
         return 1"
    ]
);

script!(
    /// `H s; fresh, fact...` appends facts, numbered one after the other: epoch and the last number.
    PUBLISH,
    [
        &log()[..],
        "local H, s = KEYS[1], KEYS[2]\n\
         local e, n = epoch(H, ARGV[1]), 0\n\
         for i = 2, #ARGV do n = fact(H, s, e, ARGV[i]) end\n\
         return {e, n}"
    ]
);

script!(
    /// `H s; fresh, fact, field, at, until` appends a fact and merges it into its marker: epoch and number.
    MARK,
    [
        &log()[..],
        "local H, s = KEYS[1], KEYS[2]\n\
         local e = epoch(H, ARGV[1])\n\
         local n = fact(H, s, e, ARGV[2])\n\
         local at, till = ARGV[4], ARGV[5]\n\
         local old = redis.call('HGET', H, ARGV[3])\n\
         if old then\n\
           local a, u = string.match(old, '^%d+ (%d+) (%d+) ')\n\
           if a and tonumber(a) > tonumber(at) then at = a end\n\
           if u and tonumber(u) > tonumber(till) then till = u end\n\
         end\n\
         redis.call('HSET', H, ARGV[3], string.format('%d', n) .. ' ' .. at .. ' ' .. till .. ' ' .. e)\n\
         return {e, n}"
    ]
);

script!(
    /// `H; field, value, ...` drops markers that are still what they were.
    UNMARK,
    [
        "for i = 1, #ARGV, 2 do\n\
           if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end\n\
         end\n\
         return 1"
    ]
);

script!(
    /// `H s v; fresh, fact, envelope, px, till` writes a value, or without an envelope deletes it, and says so: epoch and number. Where
    /// all keys are on one node.
    WRITE,
    [
        &log()[..],
        CLOCK,
        STAMPS,
        "if late(ARGV[5]) then return LATE end\n\
         local e = epoch(KEYS[1], ARGV[1])\n\
         local n = fact(KEYS[1], KEYS[2], e, ARGV[2])\n\
         store(KEYS[3], stamp(0, 0, n, e) .. ARGV[3], ARGV[4])\n\
         return {e, n}"
    ]
);

script!(
    /// `v; guard` marks that a write is under way: until it has landed no load is stored.
    BEGIN,
    [
        CLOCK,
        STAMPS,
        "local v, guard = KEYS[1], tonumber(ARGV[1])\n\
         local till = now() + guard\n\
         local marks = read(v)\n\
         if marks then\n\
           redis.call('SETRANGE', v, 4, struct.pack('<I4I8', marks + 1, till))\n\
           local left = redis.call('PTTL', v)\n\
           if left >= 0 and left < guard then redis.call('PEXPIRE', v, guard) end\n\
         else\n\
           redis.call('SET', v, stamp(1, till, 0, string.rep('\\0', 8)), 'PX', guard)\n\
         end\n\
         return 1"
    ]
);

script!(
    /// `v; number, epoch, envelope, px, till, ended` lands what was published under that number, unless there is something newer already, and
    /// takes back `ended` marks.
    LAND,
    [
        CLOCK,
        STAMPS,
        NUMBERED,
        "if marks then marks = math.max(0, marks - tonumber(ARGV[6])) end\n\
         if is_older then\n\
           redis.call('SETRANGE', v, 4, struct.pack('<I4I8', marks, till))\n\
           return 0\n\
         end\n\
         store(v, stamp(marks or 0, till or 0, n, e) .. ARGV[3], px)\n\
         return 1"
    ]
);

script!(
    /// `v; number, epoch, envelope, px, till` stores what a load brought that began at that number, unless something newer is there or under way.
    LOAD,
    [
        CLOCK,
        STAMPS,
        NUMBERED,
        "if marks and (marks > 0 or is_older or of ~= e and redis.call('STRLEN', v) <= 32) then return 0 end\n\
         store(v, stamp(0, 0, n, e) .. ARGV[3], px)\n\
         return 1"
    ]
);

script!(
    /// `N; name, above` gives the next number of a counter.
    NEXT,
    [
        "local now = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')\n\
         local next = math.max(now, tonumber(ARGV[2])) + 1\n\
         redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', next))\n\
         return next"
    ]
);
