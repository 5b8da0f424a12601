//! What stands in for locks, atomics and the concurrent map while shuttle decides who runs.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::PoisonError;

pub(crate) use shuttle::sync::MutexGuard;
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};
use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};

/// As `parking_lot::Mutex`: a panic elsewhere has ended the run already.
#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As `parking_lot::RwLock`.
#[derive(Debug, Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As much of `dashmap::DashMap` as is used, over values that are cheap to clone.
#[derive(Debug)]
pub struct ConcurrentMap<K, V, S>(Mutex<HashMap<K, V, S>>);

impl<K: Eq + Hash + Copy, V: Clone, S: BuildHasher> ConcurrentMap<K, V, S> {
    pub fn with_hasher(hasher: S) -> Self {
        Self(Mutex::new(HashMap::with_hasher(hasher)))
    }

    pub fn insert(&self, key: K, value: V) -> Option<V> {
        self.0.lock().insert(key, value)
    }

    pub fn remove(&self, key: &K) -> Option<(K, V)> {
        self.0.lock().remove_entry(key)
    }

    pub fn get(&self, key: &K) -> Option<V> {
        self.0.lock().get(key).cloned()
    }

    pub fn contains_key(&self, key: &K) -> bool {
        self.0.lock().contains_key(key)
    }

    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = V> {
        self.0.lock().values().cloned().collect::<Vec<_>>().into_iter()
    }
}

/// Lets another thread run: whoever holds the lock must get on.
pub(crate) fn pause(_round: u32) {
    shuttle::thread::yield_now();
}

/// Statics made anew in each run.
macro_rules! per_process {
    ($(static $name:ident: $type:ty = $value:expr;)*) => {
        shuttle::lazy_static! { $(static ref $name: $type = $value;)* }
    };
}
pub(crate) use per_process;
