//! The engine's background thread: writes hint files and merges when there is work.

use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::now_ms;
use crate::core::Core;
use crate::error::OpenError;
use crate::merge::{look_at_space, run_once};
use crate::mutation;

/// Name of the thread.
const THREAD: &str = "cask-background";

/// Interval between two looks for work.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Limit of the looks skipped after a failure, such as a full disk: 1 after the first failure, and after each
/// further failure twice as many and one more.
const LOOKS_SKIPPED_MAX: u32 = 31;

/// Handle of the background thread; ends the thread when it is dropped.
pub(crate) struct Background {
    core: Arc<Core>,
    signal: Arc<Signal>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Thread of the log. The last engine may be dropped in a callback on this thread. It must then not wait
    /// for the background thread, which may itself wait for the log.
    log_thread: Option<ThreadId>,
}

#[derive(Default)]
struct Signal {
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Background {
    /// Starts the thread, if the options request it.
    pub(crate) fn start(core: &Arc<Core>) -> Result<Self, OpenError> {
        let signal = Arc::new(Signal::default());
        let mut thread = None;
        if core.options.background {
            let (core, signal) = (core.clone(), signal.clone());
            let builder = thread::Builder::new().name(THREAD.to_owned());
            let run = move || {
                let _guard = core.options.on_failure.guard(THREAD);
                run(&core, &signal);
            };
            thread = Some(builder.spawn(run).map_err(|e| OpenError::Thread(Arc::new(e)))?);
        }
        let log_thread = core.log.thread_id();
        Ok(Self { core: core.clone(), signal, thread: Mutex::new(thread), log_thread })
    }

    /// Stops the thread's work and waits for its end.
    pub(crate) fn stop(&self) {
        self.core.merges.stop_for_good();
        *self.signal.stopped.lock() = true;
        self.signal.wake.notify_all();
        if self.log_thread == Some(thread::current().id()) {
            return;
        }
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!(
                "the thread that merges panicked; the data is unchanged; reopen the store to merge again"
            );
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(core: &Core, signal: &Signal) {
    let (mut skip, mut skipped) = (0, 0);
    loop {
        {
            let mut stopped = signal.stopped.lock();
            if !*stopped {
                signal.wake.wait_for(&mut stopped, LOOK_EVERY);
            }
            if *stopped {
                return;
            }
        }
        mutation::end_if_told(THREAD);
        if skip > 0 {
            skip -= 1;
            continue;
        }
        let looked = look_at_space(core);
        let merges = core.merges.is_space_low() || core.options.merge_window.contains(now_ms());
        if let Err(error) = looked.and_then(|()| run_once(core, merges)) {
            tracing::warn!(%error, "hint files or merges are postponed");
            skipped = (2 * skipped + 1).min(LOOKS_SKIPPED_MAX);
            skip = skipped;
        } else {
            skipped = 0;
        }
    }
}
