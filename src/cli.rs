//! The hall: one arm per command. Only `main.rs` declares this module; the library is blind to it.

pub mod args;
pub mod ask;
#[cfg(feature = "crash-points")]
pub mod crash;
pub mod process;
pub mod report;
pub mod tell;
pub mod watchdog;

use std::fs::File;

use ziti_enroller::error::Error;
use ziti_enroller::flow::{self, World};

use ziti_enroller::key::{Access, Providers};

pub use args::Args;
use args::Command;

use self::ask::Ask;
use self::process::Inherited;
use self::tell::Tell;

/// What a command gave.
#[derive(Debug, serde::Serialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Done {
    /// `enroll`.
    Enroll(flow::enroll::Enrolled),
    /// `verify`.
    Verify(flow::verify::Verified),
    /// `inspect`.
    Inspect(flow::inspect::Inspected),
    /// `version`.
    Version {
        /// Of this program.
        version: &'static str,
    },
}

/// Warnings always, more with `-v`; only our own: the HTTP library would log the token in the query.
pub fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    let mut builder = env_logger::Builder::new();
    builder.filter_level(log::LevelFilter::Off).filter_module("ziti_enroller", level);
    builder.format(|out, record| {
        use std::io::Write;
        writeln!(out, "{}: {}", record.level().as_str().to_ascii_lowercase().replace("warn", "warning"), record.args())
    });
    builder.init();
}

/// Does what was typed.
pub fn run(args: Args, inherited: Inherited, stdout: Option<&File>) -> Result<Done, Error> {
    let tell = Tell::new(args.verbose);
    watchdog::start(args.limits, args.format, stdout, tell.standing());
    #[cfg(feature = "crash-points")]
    let tell = crash::Crash::around(tell);
    let ask = Ask::new(&args.pins, &inherited);
    let world = World {
        providers: Providers::compiled_in(),
        access: Access::new(&ask).allow_final_try(args.pins.allow_final_try),
        watch: &tell,
        reach: args.reach,
        patience: args.patience,
    };
    match args.command {
        Command::Version => Ok(Done::Version { version: env!("CARGO_PKG_VERSION") }),
        Command::Enroll(enroll) => {
            let request = enroll.into_request(&world.providers, &inherited, world.watch)?;
            flow::enroll::enroll(request, &world).map(Done::Enroll)
        }
        Command::Verify { identity } => flow::verify::verify(&identity, &world).map(Done::Verify),
        Command::Inspect { file } => flow::inspect::inspect(&file, &world).map(Done::Inspect),
    }
}
