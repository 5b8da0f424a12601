//! The guard: timeouts, rests, trials and figures, on tokio's paused clock.

use std::sync::Arc;
use std::time::Duration;

use kvcache_engine::tier::chaos::{Chaos, Ills};
use kvcache_engine::tier::conformance::{get, puts, record};
use kvcache_engine::tier::memory::MemoryTier;
use kvcache_engine::tier::{Guarded, Rest, Tier, TierErrorKind};
use tokio::time::{Instant, sleep};

const SILENT: Ills = Ills { delay: Duration::ZERO, refused: 0.0, failed_after: 0.0, lost: 1.0 };
const FAILING: Ills = Ills { delay: Duration::ZERO, refused: 1.0, failed_after: 0.0, lost: 0.0 };

fn guarded(ills: Ills) -> (Arc<Chaos>, Guarded) {
    let chaos = Arc::new(Chaos::new(Arc::new(MemoryTier::default()), ills, 1));
    (Arc::clone(&chaos), Guarded::new(chaos, Duration::from_millis(1000)))
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_does_not_answer_fails_after_its_timeout() {
    let (_, guarded) = guarded(SILENT);
    let start = Instant::now();
    let error = get(&guarded, "a").await.unwrap_err();
    assert_eq!(error.kind, TierErrorKind::Timeout);
    assert!(error.message.contains("'memory'") && error.message.contains("1000 ms"), "{error}");
    assert_eq!(start.elapsed().as_millis() / 10, 100);
}

#[tokio::test(start_paused = true)]
async fn a_failing_tier_rests_longer_and_longer_and_is_tried_once() {
    let (chaos, guarded) = guarded(FAILING);
    get(&guarded, "a").await.unwrap_err();
    for rest in [1, 2, 4, 8, 16, 30, 30] {
        assert_eq!(guarded.rest(), Rest::Open);
        let errors = guarded.figures().errors;
        sleep(Duration::from_millis(rest * 1000 - 10)).await;
        assert!(get(&guarded, "a").await.unwrap_err().message.contains("rests"), "after less than {rest} s");
        assert_eq!(guarded.figures().errors, errors, "a call that is not made is no error of the tier");
        sleep(Duration::from_millis(20)).await;
        assert_eq!(guarded.rest(), Rest::HalfOpen);
        assert_eq!(&*get(&guarded, "a").await.unwrap_err().message, "chaos", "one trial after {rest} s");
    }
    sleep(Duration::from_millis(30_010)).await;
    chaos.set(Ills::default());
    assert_eq!(get(&guarded, "a").await, Ok(None));
    assert_eq!(guarded.rest(), Rest::Closed);
    chaos.set(FAILING);
    get(&guarded, "a").await.unwrap_err();
    sleep(Duration::from_millis(1010)).await;
    assert_eq!(guarded.rest(), Rest::HalfOpen, "after a success the first rest is short again");
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_is_let_go_of_decides_nothing() {
    let (chaos, guarded) = guarded(FAILING);
    get(&guarded, "a").await.unwrap_err();
    sleep(Duration::from_millis(1010)).await;
    chaos.set(SILENT);
    tokio::time::timeout(Duration::from_millis(10), get(&guarded, "a")).await.unwrap_err();
    chaos.set(Ills::default());
    assert_eq!(get(&guarded, "a").await, Ok(None));
}

#[tokio::test]
async fn counts_what_is_done() {
    let (_, guarded) = guarded(Ills::default());
    guarded.put_many(puts(vec![record("a", "x", 1), record("b", "x", 1)])).await;
    guarded.get_many(vec![b"a"[..].into(), b"c"[..].into()]).await;
    guarded.delete_many(vec![b"a"[..].into()]).await;
    let figures = guarded.figures();
    assert_eq!((figures.reads, figures.hits, figures.writes, figures.errors), (2, 1, 3, 0));
    assert_eq!((figures.pending, figures.breaker.as_str()), (0, "closed"));
}
