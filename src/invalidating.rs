//! Calls that invalidate, and that tell what depends on what.

use kvcache_engine::engine::Invalidation;
use kvcache_engine::invalidation::target::Target;
use kvcache_engine::key;
use napi::{Env, Result};
use napi_derive::napi;

use crate::header::Status;
use crate::raw::{Raw, append_text, with_key};
use crate::thread::with_local;
use crate::writing::read_links;

/// What a text names, by the number that JavaScript gives it.
fn target(kind: u8, text: &str) -> Option<Target> {
    let target = match kind {
        0 => Target::Key(text.as_bytes().into()),
        1 => Target::prefix(text.as_bytes()),
        2 => Target::parse(text).ok()?,
        3 => Target::Tag(text.into()),
        4 => Target::All,
        _ => return None,
    };
    match &target {
        Target::Key(name) => key::check(name).is_ok(),
        Target::Tag(tag) => !tag.is_empty(),
        _ => true,
    }
    .then_some(target)
}

/// Invalidates a target: `kind` is 0 for a key, 1 for a prefix, 2 for a pattern, 3 for a tag, 4 for all. `label` comes back with
/// the event. Status `Done` or `InvalidData`.
#[napi(catch_unwind)]
pub fn invalidate(env: Env, cache: u32, kind: u8, text: Raw, label: String, soft: bool) -> Result<()> {
    with_local(cache, |local| {
        let mut bytes = Vec::new();
        let read = append_text(env.raw(), text, &mut bytes);
        let target = std::str::from_utf8(&bytes).ok().filter(|_| read).and_then(|text| target(kind, text));
        let Some(target) = target else {
            local.header.status(Status::InvalidData);
            return;
        };
        if let Some(opened) = local.cache(cache) {
            opened.engine().invalidate(&Invalidation::new(&target, &label, soft));
            local.header.status(Status::Done);
        }
    })
}

/// Says what tags and parents a load that has begun will have at least. Status `Done` or `InvalidData`.
#[napi(catch_unwind)]
pub fn declare(env: Env, cache: u32, token: f64, links: Raw) -> Result<()> {
    with_local(cache, |local| {
        if read_links(local, env.raw(), links).is_some()
            && let Some(opened) = local.cache(cache)
        {
            opened.engine().declare(token as u64, &local.scratch_links);
            local.header.status(Status::Done);
        }
    })
}

/// `child` is invalidated whenever `parent` is. Status `Done` or `InvalidKey`.
#[napi(catch_unwind)]
pub fn add_dependency(env: Env, cache: u32, parent: Raw, child: Raw) -> Result<()> {
    with_local(cache, |local| {
        let Some(opened) = local.cache(cache) else { return };
        let done = with_key(env.raw(), parent, |parent| {
            with_key(env.raw(), child, |child| opened.engine().add_dependency(parent, child))
        });
        local.header.status(if done.flatten().is_some() { Status::Done } else { Status::InvalidKey });
    })
}

/// Takes a dependency back, or all of a parent where `child` is no string. Status `Done` or `InvalidKey`.
#[napi(catch_unwind)]
pub fn remove_dependency(env: Env, cache: u32, parent: Raw, child: Option<Raw>) -> Result<()> {
    with_local(cache, |local| {
        let Some(opened) = local.cache(cache) else { return };
        let done = with_key(env.raw(), parent, |parent| match child {
            None => {
                opened.engine().remove_dependency(parent, None);
                Some(())
            }
            Some(child) => with_key(env.raw(), child, |child| opened.engine().remove_dependency(parent, Some(child))),
        });
        local.header.status(if done.flatten().is_some() { Status::Done } else { Status::InvalidKey });
    })
}
