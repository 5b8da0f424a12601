//! The named caches of the process: whoever opens a name that is open gets the same engine, in whichever thread.
//!
//! Promises: a name stands for at most one engine at a time; the engine lives as long as somebody has it open; who opens it
//! with a setting that is not the one it was opened with is told which.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use kvcache_engine::engine::{Config, Doorkeeper, Engine, ThreadId};
use kvcache_engine::scheduler::Scheduled;
use kvcache_engine::tier::Tiers;
use parking_lot::Mutex;

use crate::mailbox::Slot;
use crate::tiers::{self, TierIn, TierTrouble};

static NAMED: LazyLock<Mutex<HashMap<String, Weak<Named>>>> = LazyLock::new(Mutex::default);

/// What a cache was opened with, as text to be compared and shown.
#[derive(Debug, Clone)]
pub struct Setting {
    pub option: String,
    pub value: String,
    /// Whether it was asked for, and is not only the default.
    pub given: bool,
}

/// A setting that is not the one that the cache is open with.
#[derive(Debug)]
pub struct Mismatch {
    pub option: String,
    pub open: String,
    pub given: String,
}

/// A cache with a name.
pub struct Named {
    name: String,
    settings: Vec<Setting>,
    // Before the engine, which stays as long as they need it.
    tiers: Option<Arc<Tiers>>,
    scheduled: Scheduled,
}

/// A cache as one evaluation of the package in one thread has opened it. Dropping it ends that: see [`Engine::detach`].
pub struct Opened {
    cache: Cache,
    pub thread: ThreadId,
    /// Of the near cache, once there is one.
    pub doorkeeper: OnceCell<Doorkeeper>,
}

/// Why a cache cannot be opened.
pub enum Refusal {
    Mismatch(Mismatch),
    Tier(TierTrouble),
}

enum Cache {
    Private(Option<Arc<Tiers>>, Scheduled),
    Named(Arc<Named>),
}

impl Opened {
    /// Opens a cache of its own.
    pub fn private(config: Config, specs: &[TierIn], slot: Slot) -> Result<Self, Refusal> {
        let made = tiers::layers(specs).map_err(Refusal::Tier)?;
        let scheduled = Scheduled::open(config);
        let tiers = tiers::open(scheduled.engine(), made);
        Ok(Self::attach(Cache::Private(tiers, scheduled), slot))
    }

    /// Opens the cache of that name, which is made if it is not open.
    pub fn named(
        name: &str,
        settings: Vec<Setting>,
        config: Config,
        specs: &[TierIn],
        slot: Slot,
    ) -> Result<Self, Refusal> {
        let named = {
            let mut all = NAMED.lock();
            // One that is closing at this moment cannot be had any more.
            if let Some(named) = all.get(name).and_then(Weak::upgrade) {
                named
            } else {
                let made = tiers::layers(specs).map_err(Refusal::Tier)?;
                let scheduled = Scheduled::open(config);
                let tiers = tiers::open(scheduled.engine(), made);
                let named = Arc::new(Named { name: name.to_owned(), settings: settings.clone(), tiers, scheduled });
                all.insert(name.to_owned(), Arc::downgrade(&named));
                named
            }
        };
        named.check(settings).map_err(Refusal::Mismatch)?;
        Ok(Self::attach(Cache::Named(named), slot))
    }

    fn attach(cache: Cache, slot: Slot) -> Self {
        let thread = cache.engine().attach(Arc::new(slot));
        Self { cache, thread, doorkeeper: OnceCell::new() }
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        self.cache.engine()
    }

    /// What is behind its memory, if anything is.
    pub fn tiers(&self) -> Option<&Arc<Tiers>> {
        match &self.cache {
            Cache::Private(tiers, _) => tiers.as_ref(),
            Cache::Named(named) => named.tiers.as_ref(),
        }
    }

    /// Whether the key of that hash, which the near cache did not answer, was asked for not long ago; from now on it was.
    pub fn asked_again(&self, hash: u64) -> bool {
        self.doorkeeper.get().is_some_and(|doorkeeper| doorkeeper.knows(hash))
    }

    /// Its name, if it has one.
    pub fn name(&self) -> Option<&str> {
        match &self.cache {
            Cache::Private(..) => None,
            Cache::Named(named) => Some(&named.name),
        }
    }

    /// What a named cache was opened with first.
    pub fn setting(&self, option: &str) -> Option<&str> {
        match &self.cache {
            Cache::Private(..) => None,
            Cache::Named(named) => named.setting(option),
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.engine().detach(self.thread);
    }
}

impl Cache {
    fn engine(&self) -> &Arc<Engine> {
        match self {
            Self::Private(_, scheduled) => scheduled.engine(),
            Self::Named(named) => named.scheduled.engine(),
        }
    }
}

impl Named {
    fn setting(&self, option: &str) -> Option<&str> {
        self.settings.iter().find(|setting| setting.option == option).map(|setting| &*setting.value)
    }

    /// What was not asked for is as it is.
    fn check(&self, settings: Vec<Setting>) -> Result<(), Mismatch> {
        for Setting { option, value, given } in settings {
            let open = self.setting(&option).unwrap_or_default();
            if given && open != value {
                return Err(Mismatch { open: open.to_owned(), given: value, option });
            }
        }
        Ok(())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let mut all = NAMED.lock();
        // It may have been opened anew.
        if all.get(&self.name).is_some_and(|named| named.strong_count() == 0) {
            all.remove(&self.name);
        }
    }
}
