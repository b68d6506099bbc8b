//! SIGINT and SIGTERM: one line that says what to do next, and the exit code of the signal.
//!
//! Nothing is tidied up here: what a kill leaves behind is what the next run finds its way from, so an interruption is
//! treated the same.

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::process;

/// Listens from a thread of its own until the process ends; `next` is what to do after an interruption.
pub fn listen(next: &'static str) {
    // Where they cannot be caught they end the program as they always do.
    // SIGXFSZ is caught so that it does not: a file that may not grow is an error like any other (EFBIG).
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGXFSZ]) else { return };
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().find(|signal| *signal != SIGXFSZ) {
            eprintln!("interrupted: {next}");
            process::end_at_once(u8::try_from(128 + signal).unwrap_or(130));
        }
    });
}
