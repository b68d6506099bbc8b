//! `judge-logins [--some]`: judges the logins that a run of the suite has left a record of, and adds its figure.
//!
//! Fails where something must not be, and where there is no record at all; with `--some` of a part of the suite there may be
//! none.

use std::process::ExitCode;

use ziti_enroller_support::{figures, logins};

const PROMISE: &str = "runs with a token whose logins were careful";

fn main() -> ExitCode {
    let some = std::env::args().any(|word| word == "--some");
    let verdict = logins::judge(&logins::folder());
    println!("{} runs, {} logins, {} of them refused", verdict.runs, verdict.logins, verdict.refused);
    if verdict.runs == 0 && some {
        return ExitCode::SUCCESS;
    }
    // A suite that leaves no record shows nothing.
    figures::record(PROMISE, verdict.runs.max(1), verdict.runs - verdict.wrong_runs, "");
    verdict.wrong.iter().for_each(|what| eprintln!("{what}"));
    if verdict.wrong.is_empty() && verdict.runs > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
