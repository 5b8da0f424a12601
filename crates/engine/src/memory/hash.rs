//! The hash of a key, one for the whole tier: computed once a call, it chooses the shard, the bucket and the tag, and
//! stands for the key in reports of uses.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use rapidhash::v3::{RapidSecrets, rapidhash_v3_micro_inline};

/// Secrets drawn once a process, so that nobody outside can choose keys that collide.
static SECRETS: LazyLock<RapidSecrets> = LazyLock::new(|| RapidSecrets::seed(RandomState::new().hash_one(0x6b76_u64)));

/// The hash of a key. Differs from process to process: never store it.
#[inline]
pub fn hash_key(key: &[u8]) -> u64 {
    rapidhash_v3_micro_inline::<true, false>(key, &SECRETS)
}
