//! Waiting for work, for hosts that step in a loop of their own.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use super::edge::{Edge, Inbox};
use super::sync::Ordering;
use crate::error::Result;

impl Edge {
    /// Whether a step would have something to do or to tell.
    pub fn has_work(&self) -> bool {
        self.has_events.load(Ordering::Acquire) || self.lock().has_live()
    }

    /// Sleeps until [`has_work`](Self::has_work) or for `timeout`, and returns whether there is. Any thread.
    pub fn wait(&self, timeout: Duration) -> bool {
        let idle = |inbox: &Inbox| !inbox.has_live() && !self.has_events.load(Ordering::Acquire);
        self.work.wait_while(&self.inbox, timeout, idle)
    }

    /// The edge's eventfd, which `make` makes (non-blocking) when there is none yet. Every submit and cancel adds 1 to
    /// it, and the beginning of a step reads it empty. A host that waits for it steps until there is no more work,
    /// then waits again.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn signal_through(&self, make: impl FnOnce() -> Result<File>) -> Result<&File> {
        let lock = self.lock();
        if let Some(file) = self.signal.get() {
            return Ok(file);
        }
        let made = make()?;
        let file = self.signal.get_or_init(|| made);
        let has_work = lock.has_live() || self.has_events.load(Ordering::Acquire);
        drop(lock);
        if has_work {
            self.tell();
        }
        Ok(file)
    }

    /// Ends every wait, now and later: no step will come.
    pub fn wake_all(&self) {
        self.set_has_events(true);
        self.tell();
    }

    /// Tells those who wait that there is work.
    pub(super) fn tell(&self) {
        self.work.ring();
        if let Some(mut file) = self.signal.get() {
            // A full counter has told already.
            let _ = file.write(&1_u64.to_ne_bytes());
        }
    }

    /// A step begins: what was told so far is being seen to.
    pub(super) fn forget_signal(&self) {
        if let Some(mut file) = self.signal.get() {
            let _ = file.read(&mut [0; 8]);
        }
    }

    /// Notes whether events wait to be drained.
    pub(super) fn set_has_events(&self, has_events: bool) {
        let had = self.has_events.swap(has_events, Ordering::AcqRel);
        if has_events && !had {
            // Whoever is about to sleep has the lock, and sees it.
            drop(self.lock());
            self.work.ring();
        }
    }
}
