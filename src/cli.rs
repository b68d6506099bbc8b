//! The hall: one arm per command. Only `main.rs` declares this module; the library is blind to it.

pub mod args;
pub mod ask;
#[cfg(feature = "crash-points")]
pub mod crash;
pub mod exec;
pub mod process;
pub mod remember;
pub mod renew;
pub mod report;
pub mod signals;
pub mod tell;
pub mod watchdog;

use std::fs::File;
use std::path::Path;

use ziti_enroller::error::Error;
use ziti_enroller::flow::{self, World};

use ziti_enroller::key::{Access, Providers};
use ziti_enroller::text::Hint;

pub use args::Args;
use args::Command;
use args::renew::Which;

use self::ask::Ask;
use self::process::Inherited;
use self::remember::Remember;
use self::tell::Tell;

/// What a command gave.
#[derive(Debug, serde::Serialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Done {
    /// `enroll`.
    Enroll(flow::enroll::Enrolled),
    /// `resume`.
    Resume(flow::enroll::Enrolled),
    /// `renew IDENTITY`.
    Renew(renew::One),
    /// `renew --all`.
    #[serde(rename = "renew")]
    RenewAll(renew::All),
    /// `status`.
    Status(flow::status::Status),
    /// `doctor`.
    Doctor(flow::doctor::Diagnosis),
    /// `list tokens`.
    #[serde(rename = "list tokens")]
    ListTokens(flow::keys::Tokens),
    /// `list keys`.
    #[serde(rename = "list keys")]
    ListKeys(flow::keys::Keys),
    /// `list signers`.
    #[serde(rename = "list signers")]
    ListSigners(flow::signers::Signers),
    /// `key create`.
    #[serde(rename = "key create")]
    CreateKey(flow::keys::Created),
    /// `key delete`.
    #[serde(rename = "key delete")]
    DeleteKey(flow::keys::Deleted),
    /// `csr`.
    Csr(flow::request::Requested),
    /// `verify`.
    Verify(flow::verify::Verified),
    /// `inspect`.
    Inspect(flow::inspect::Inspected),
    /// `exec`.
    Exec(exec::Ended),
    /// `version`.
    Version {
        /// Of this program.
        version: &'static str,
    },
}

impl Done {
    /// A diagnosis ends with the code that an enrollment would end with; everything else that is done ends with 0.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Doctor(diagnosis) => diagnosis.exit_code(),
            Self::Status(status) => u8::from(status.is_unfinished()),
            Self::Renew(one) => one.exit_code(),
            Self::RenewAll(all) => all.exit_code(),
            Self::Exec(ended) => ended.exit,
            Self::Enroll(_)
            | Self::Resume(_)
            | Self::ListTokens(_)
            | Self::ListKeys(_)
            | Self::ListSigners(_)
            | Self::CreateKey(_)
            | Self::DeleteKey(_)
            | Self::Csr(_)
            | Self::Verify(_)
            | Self::Inspect(_)
            | Self::Version { .. } => 0,
        }
    }
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
    // That one has its own way with signals.
    if !matches!(args.command, Command::Exec(_)) {
        signals::listen(args.command.after_an_interruption());
    }
    let reach = match &args.proxy {
        Some(proxy) => proxy.on_the_way(args.reach, args.proxy_is_typed, &tell)?,
        None => args.reach,
    };
    let memory = Remember::new(args.pins.retry_pin);
    let world = World {
        providers: Providers::compiled_in(),
        access: Access::new(&ask)
            .remembering(&memory)
            .allow_final_try(args.pins.allow_final_try)
            .allow_extractable(args.pins.allow_extractable),
        watch: &tell,
        reach,
        patience: args.patience,
    };
    match args.command {
        Command::Version => Ok(Done::Version { version: env!("CARGO_PKG_VERSION") }),
        Command::Enroll(enroll) => {
            let request = enroll.into_request(&world.providers, &inherited, world.watch)?;
            flow::enroll::enroll(request, &world).map(Done::Enroll)
        }
        Command::Resume(typed) => {
            let standing = flow::enroll::standing(&typed.identity)?.ok_or_else(|| nothing_to_resume(&typed.identity))?;
            let request = typed.into_request(standing, &inherited, world.watch)?;
            flow::enroll::enroll(request, &world).map(Done::Resume)
        }
        Command::Renew(typed) => {
            let (which, request, hook) = typed.into_request(&world.providers)?;
            match which {
                Which::One(_) => renew::one(&request, hook.as_deref(), &world).map(Done::Renew),
                Which::All(folder) => renew::all(&folder, &request, hook.as_deref(), &world).map(Done::RenewAll),
            }
        }
        Command::Status { paths, within } => flow::status::status(&paths, within, &world).map(Done::Status),
        Command::Doctor(enroll) => {
            let request = enroll.into_request(&world.providers, &inherited, world.watch)?;
            Ok(Done::Doctor(flow::doctor::doctor(&request, &world)))
        }
        Command::ListTokens(asked) => flow::keys::tokens(&asked.within(&world.providers)?, &world).map(Done::ListTokens),
        Command::ListKeys(asked) => flow::keys::list(&asked.within(&world.providers)?, &world).map(Done::ListKeys),
        Command::ListSigners(asked) => {
            let whence = asked.whence(&inherited, world.watch)?;
            flow::signers::signers(&whence, &world).map(Done::ListSigners)
        }
        Command::CreateKey(asked) => {
            let (uri, algorithm) = asked.new_key(&world.providers)?;
            flow::keys::create(&uri, algorithm, &world).map(Done::CreateKey)
        }
        Command::DeleteKey(asked) => {
            let doomed = asked.doomed(&world)?;
            if !asked.forced() {
                ask::must_agree(&format!("destroy {doomed}"))?;
            }
            flow::keys::delete(doomed, &world).map(Done::DeleteKey)
        }
        Command::Csr(asked) => {
            let (signer, wanted) = (asked.signer(&world.providers)?, asked.wanted()?);
            flow::request::request(&signer, &wanted, asked.typed.out.as_deref(), asked.typed.force, &world).map(Done::Csr)
        }
        Command::Verify { identity } => {
            flow::verify::verify(&identity, &world).inspect_err(|_| renew::mention(&identity, &world)).map(Done::Verify)
        }
        Command::Exec(typed) => exec::exec(&typed, args.pins.pin_fd, world, stdout).map(Done::Exec),
        Command::Inspect { file } => flow::inspect::inspect(&file, &world).map(Done::Inspect),
    }
}

fn nothing_to_resume(identity: &Path) -> Error {
    let message = format!("there is no unfinished enrollment for {}", identity.display());
    let hint = identity.exists().then(|| Hint::say("an identity is there: nothing is left to do"));
    Error::Usage { message, hint }
}
