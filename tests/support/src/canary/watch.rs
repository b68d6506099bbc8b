//! What `/proc` shows of a program and its children while they run.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Command line and environment of a process, as they were at one moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shown {
    pub(super) words: Vec<Vec<u8>>,
    pub(super) variables: Vec<Vec<u8>>,
}

/// Looks every millisecond.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<BTreeSet<Shown>>,
}

impl Watch {
    /// At all that descends from the process with this id, but not at that itself.
    pub(super) fn below(process: u32) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let looking = thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                seen.extend(descendants(process).into_iter().filter_map(shown));
                thread::sleep(Duration::from_millis(1));
            }
            seen
        });
        Self { stop, looking }
    }

    pub(super) fn end(self) -> BTreeSet<Shown> {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.join().expect("looking at /proc does not fail")
    }
}

/// Read twice: a process may become another program in the middle, and what was read then be of neither.
fn shown(process: u32) -> Option<Shown> {
    let first = read(process)?;
    read(process).filter(|again| *again == first)
}

fn read(process: u32) -> Option<Shown> {
    let read = |what: &str| fs::read(format!("/proc/{process}/{what}")).ok();
    let list = |bytes: Vec<u8>| -> Vec<Vec<u8>> {
        bytes.strip_suffix(b"\0").unwrap_or(&bytes).split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    };
    // Nobody but root may read the environment of a process that hides itself; then nobody sees a secret in it.
    let shown = Shown { words: list(read("cmdline")?), variables: list(read("environ").unwrap_or_default()) };
    (shown.words != [Vec::<u8>::new()]).then_some(shown)
}

fn descendants(process: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|id| id.parse().ok()) {
            all.push(child);
            all.extend(descendants(child));
        }
    }
    all
}
