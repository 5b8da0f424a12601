//! Listing and markers: what walks through many keys or fields.
//!
//! Redis has no order of keys. A page is found by a walk through all keys of the database (`SCAN`), of which the least after the
//! cursor are kept: memory as for one page, time as for the whole database. An index would be paid for by every write, and in a
//! cluster by another step of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::{Cmd, Value, cmd};

use super::feed::Feed;
use super::link::{Conn, Link, told};
use super::reads::Reads;
use super::scripts;
use super::wire::{self, odd};
use crate::clock::FOREVER;
use crate::tier::{Fact, Found, Key, Listed, Page, TierError, Told, unix_now};

/// Keys that one step of a walk looks at.
const STEP: usize = 1000;

/// Values that are read at once.
const MOST_READ: usize = 100;

/// Entries of the log that are read at once.
const MOST_FACTS: usize = 1000;

/// A page of the keys that begin with `prefix`, after `cursor`; `judge` says what of what was read is to be given.
pub async fn list(
    reads: &Reads,
    link: &Link,
    names_begin: &[u8],
    (prefix, limit, cursor): (Vec<u8>, usize, Option<String>),
    judge: impl Fn(&Key, Bytes) -> Found,
) -> Result<Page, TierError> {
    let limit = limit.max(1);
    let mut after: Option<Vec<u8>> = cursor.map(String::into_bytes);
    let pattern = [escape(names_begin), escape(&prefix), b"*".to_vec()].concat();
    let mut least = BTreeSet::new();
    for node in nodes(link).await? {
        let mut at = b"0".to_vec();
        loop {
            let mut cmd = cmd("SCAN");
            cmd.arg(&at).arg("MATCH").arg(&pattern).arg("COUNT").arg(STEP);
            let mut reply = wire::items(on(link, node.as_ref(), cmd).await?).ok_or_else(odd)?.into_iter();
            at = reply.next().and_then(wire::bytes).ok_or_else(odd)?;
            for name in reply.next().and_then(wire::items).ok_or_else(odd)? {
                let name = wire::bytes(name).ok_or_else(odd)?;
                let Some(key) = name.strip_prefix(names_begin) else { continue };
                if key.starts_with(&prefix) && after.as_deref().is_none_or(|after| key > after) {
                    least.insert(Key::from(key));
                    // One more than a page says that there is another.
                    if least.len() > limit + 1 {
                        least.pop_last();
                    }
                }
            }
            if at == b"0" {
                break;
            }
        }
    }
    let more = least.len() > limit;
    let keys: Vec<Key> = least.into_iter().take(limit).collect();
    let mut page = Page::default();
    for some in keys.chunks(MOST_READ) {
        let found = reads.get(some.to_vec()).await.ok_or_else(TierError::closed)?;
        for (key, found) in some.iter().zip(found) {
            // What cannot be read is as good as not there.
            if let Ok(Some(record)) = found.and_then(|found| found.map_or(Ok(None), |found| judge(key, found))) {
                let expiration = Some(record.dead_at()).filter(|at| *at != FOREVER).map(|at| at.div_ceil(1000));
                page.keys.push(Listed { key: key.clone(), expiration, metadata: (&*record.metadata).into() });
            }
        }
        after = some.last().map(|key| key.to_vec());
    }
    page.cursor = after.filter(|_| more).map(|key| String::from_utf8_lossy(&key).into_owned());
    Ok(page)
}

/// What a glob takes for itself, escaped.
fn escape(text: &[u8]) -> Vec<u8> {
    let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'^' | b'-');
    text.iter().flat_map(|byte| special(byte).then_some(b'\\').into_iter().chain([*byte])).collect()
}

/// The masters of a cluster; one of none where there is none.
async fn nodes(link: &Link) -> Result<Vec<Option<(String, u16)>>, TierError> {
    if !link.is_cluster() {
        return Ok(vec![None]);
    }
    let mut cmd = cmd("CLUSTER");
    cmd.arg("SLOTS");
    let mut nodes = BTreeSet::new();
    for range in wire::items(link.call(&cmd).await?).ok_or_else(odd)? {
        let master = wire::items(range).and_then(|range| wire::items(range.into_iter().nth(2)?)).ok_or_else(odd)?;
        let mut master = master.into_iter();
        let host = master.next().and_then(wire::bytes).and_then(|host| String::from_utf8(host).ok());
        let port = master.next().as_ref().and_then(wire::number).and_then(|port| u16::try_from(port).ok());
        nodes.insert(host.zip(port).ok_or_else(odd)?);
    }
    Ok(nodes.into_iter().map(Some).collect())
}

async fn on(link: &Link, node: Option<&(String, u16)>, cmd: Cmd) -> Result<Value, TierError> {
    let Some((host, port)) = node else { return link.call(&cmd).await };
    let (number, conn) = link.get().await?;
    let Conn::Cluster(mut cluster) = conn else { return link.call(&cmd).await };
    let address = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
    let answer = tokio::time::timeout(link.timeout(), cluster.route_command(cmd, RoutingInfo::SingleNode(address)));
    match answer.await {
        Ok(answer) => answer.map_err(|error| told(&error)),
        Err(_) => {
            link.failed(number);
            Err(super::link::late())
        }
    }
}

/// The facts that were written down since then; those that are over are dropped.
pub async fn markers(link: &Link, feed: &Arc<Feed>, since: u64) -> Result<Vec<Fact>, TierError> {
    let (hash, now) = (&feed.names.hash, unix_now());
    let (mut facts, mut over) = (Vec::new(), Vec::new());
    let mut at = b"0".to_vec();
    loop {
        let mut cmd = cmd("HSCAN");
        cmd.arg(hash).arg(&at).arg("COUNT").arg(STEP);
        let mut reply = wire::items(link.call(&cmd).await?).ok_or_else(odd)?.into_iter();
        at = reply.next().and_then(wire::bytes).ok_or_else(odd)?;
        let mut fields = reply.next().and_then(wire::items).ok_or_else(odd)?.into_iter();
        while let (Some(field), Some(value)) = (fields.next(), fields.next()) {
            let (Some(field), Some(value)) = (wire::bytes(field), wire::bytes(value)) else { continue };
            match wire::marker(&field, &value) {
                Some(fact) if fact.is_alive(now) => facts.push(fact),
                Some(_) => over.push((field, value)),
                None => {}
            }
        }
        if at == b"0" {
            break;
        }
    }
    for some in over.chunks(MOST_READ) {
        let args: Vec<&[u8]> = some.iter().flat_map(|(field, value)| [&field[..], &value[..]]).collect();
        // They are dropped the next time, if not now.
        let _ = scripts::UNMARK.call(link, &[hash], &args).await;
    }
    facts.retain(|fact| fact.at >= since);
    Ok(facts)
}

/// What the log has after that number, in order; none where some of it is missing.
pub async fn since(link: &Link, feed: &Feed, seq: u64) -> Result<Option<Vec<Told>>, TierError> {
    let position = feed.position();
    let (mut facts, mut first, mut end) = (Vec::new(), position.seq + 1, b"+".to_vec());
    loop {
        let mut range = cmd("XREVRANGE");
        range.arg(&feed.names.stream).arg(&end).arg("-").arg("COUNT").arg(MOST_FACTS);
        let entries = wire::range(link.call(&range).await?).ok_or_else(odd)?;
        let mut over = entries.len() < MOST_FACTS;
        for (id, entry) in entries {
            // The last of the read before is the first of this.
            if id == end {
                continue;
            }
            end = id;
            let told = match entry {
                wire::Entry::Released(_) => continue,
                wire::Entry::Fact { writer, too, fact } if fact.epoch == position.epoch => {
                    Told { own: writer == feed.writer, too, fact }
                }
                wire::Entry::Unknown { epoch, .. } if epoch == position.epoch => return Ok(None),
                // Of the log before this one.
                _ => {
                    over = true;
                    break;
                }
            };
            // What has come meanwhile is told by itself.
            if told.fact.seq > position.seq {
                continue;
            }
            if told.fact.seq <= seq || told.fact.seq + 1 != first {
                over = true;
                break;
            }
            first = told.fact.seq;
            facts.push(told);
        }
        if over {
            facts.reverse();
            return Ok(Some(facts).filter(|_| first <= seq + 1));
        }
    }
}

/// All that the log has, and the number after which that is whole.
pub async fn past(link: &Link, feed: &Feed) -> Result<(u64, Vec<Fact>), TierError> {
    let position = feed.position();
    let mut range = cmd("XRANGE");
    range.arg(&feed.names.stream).arg("-").arg("+");
    let entries = wire::range(link.call(&range).await?).ok_or_else(odd)?;
    let (mut whole, mut facts) = (None, Vec::new());
    for (_, entry) in entries {
        match entry {
            wire::Entry::Fact { fact, .. } if fact.epoch == position.epoch => {
                whole.get_or_insert(fact.seq - 1);
                facts.push(fact);
            }
            // What cannot be read may have been anything.
            wire::Entry::Unknown { seq, epoch } if epoch == position.epoch => whole = Some(seq),
            _ => {}
        }
    }
    Ok((whole.unwrap_or(position.seq), facts))
}
