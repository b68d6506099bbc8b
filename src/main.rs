//! The front door: parse, run, report, exit code.

mod cli;

use std::process::ExitCode;

use cli::{Args, process, report};
use ziti_enroller::error::Error;

fn main() -> ExitCode {
    let inherited = process::leave_nothing_behind();
    let args = match Args::parse() {
        Ok(args) => args,
        Err(mistyped) => {
            let error = mistyped.for_a_script();
            return report::failure(&error, report::Format::Json, process::keep_stdout_for_the_result());
        }
    };
    let stdout = process::keep_stdout_for_the_result();
    cli::start_logging(args.verbose);
    let format = args.format;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cli::run(args, inherited, stdout.as_ref())));
    match result {
        Ok(Ok(done)) => report::success(&done, format, stdout),
        Ok(Err(error)) => report::failure(&error, format, stdout),
        Err(_) => report::failure(&Error::Unexpected("the program panicked".into()), format, stdout),
    }
}
