//! The threads that tiers run on: one runtime for the process, started by the first who wants it, ended with the last.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

/// Threads. With a second one a call is handed to and fro between the two, and each time one of them is woken, which costs
/// more than it gains; what [lasts](lasting) lets another take over.
const THREADS: usize = 1;

/// How long the end waits for what still runs.
const GRACE: Duration = Duration::from_secs(1);

static SHARED: Mutex<Weak<Runtime>> = Mutex::new(Weak::new());

/// Runs what keeps a thread busy for long; on one of the runtime's so that its other tasks go on.
pub fn lasting<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// A tokio runtime of one thread, and of more while something [lasts](lasting). Who drops the last reference to it outside of
/// its own threads waits, a second at most, until they have ended.
#[derive(Debug)]
pub struct Runtime(Option<tokio::runtime::Runtime>);

impl Runtime {
    /// That of the process.
    ///
    /// # Errors
    /// Those of the system, where no thread can be started.
    pub fn shared() -> std::io::Result<Arc<Self>> {
        let mut shared = SHARED.lock();
        if let Some(runtime) = shared.upgrade() {
            return Ok(runtime);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("kvcache-tier")
            .enable_all()
            .build()?;
        let runtime = Arc::new(Self(Some(runtime)));
        *shared = Arc::downgrade(&runtime);
        Ok(runtime)
    }

    /// To spawn on it, and to wait for something from a thread that is not its own.
    ///
    /// # Panics
    /// Never: it is there until the drop.
    pub fn handle(&self) -> &tokio::runtime::Handle {
        match &self.0 {
            Some(runtime) => runtime.handle(),
            None => unreachable!("the runtime is taken in drop only"),
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let Some(runtime) = self.0.take() else { return };
        if tokio::runtime::Handle::try_current().is_ok() {
            // A thread cannot wait for its own end.
            runtime.shutdown_background();
        } else {
            runtime.shutdown_timeout(GRACE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_for_all_and_ends_with_the_last() {
        let (first, second) = (Runtime::shared().unwrap(), Runtime::shared().unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        let running = first.handle().spawn(std::future::pending::<()>());
        drop((first, second));
        assert!(running.is_finished());
        assert_eq!(Runtime::shared().unwrap().handle().block_on(async { 5 }), 5);
    }
}
