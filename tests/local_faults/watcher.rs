//! Somebody who opens a file all the time.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Looks until it is asked what it has seen.
pub struct Watcher {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<BTreeSet<Vec<u8>>>,
}

impl Watcher {
    pub fn of(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let looking = thread::spawn({
            let stop = stop.clone();
            move || {
                let mut seen = BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    seen.extend(fs::read(&path).ok());
                    thread::sleep(Duration::from_micros(100));
                }
                seen.extend(fs::read(&path).ok());
                seen
            }
        });
        Self { stop, looking }
    }

    /// Every content that the file has had.
    pub fn seen(self) -> BTreeSet<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.join().expect("somebody who looks does not panic")
    }
}
