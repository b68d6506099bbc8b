//! A device that does not answer cannot be interrupted from within: this ends the program instead, and says which call hangs.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ziti_enroller::error::Error;
use ziti_enroller::key::call;

use super::args::Limits;
use super::report::{self, Format};
use super::{process, tell::Standing};

/// How often it looks.
const TICK: Duration = Duration::from_millis(100);

/// Watches the calls of this process from a thread of its own, until the process ends.
pub fn start(limits: Limits, format: Format, stdout: Option<&File>, standing: Arc<Standing>) {
    let stdout = stdout.and_then(|f| f.try_clone().ok());
    std::thread::spawn(move || {
        let mut since: Vec<(call::Call, Instant)> = Vec::new();
        let (hanging, limit) = loop {
            std::thread::park_timeout(TICK);
            let active = call::active();
            since.retain(|(known, _)| active.contains(known));
            for call in active {
                if !since.iter().any(|(known, _)| *known == call) {
                    since.push((call, Instant::now()));
                }
            }
            let limit = |call: &call::Call| if call.makes_a_key { limits.making_a_key } else { limits.call };
            if let Some((call, _)) = since.iter().find(|(call, begun)| begun.elapsed() >= limit(call)) {
                break (*call, limit(call));
            }
        };
        let error = Error::Hanging { call: hanging.name, limit, spent: standing.spent() };
        report::failure(&error, format, stdout);
        process::end_at_once(error.exit_code());
    });
}
