//! What was typed, turned once into the library's own types. Past this file there is no clap.

pub mod enroll;
mod keys;
mod limits;
mod proxy;
pub mod renew;
mod request;
mod resume;
mod secret;
mod signers;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{FalseyValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};
use ziti_enroller::error::Error;
use ziti_enroller::flow::Patience;
use ziti_enroller::http::Reach;
use ziti_enroller::key::Providers;
use ziti_enroller::text::Hint;

use super::exec::Exec;
use super::report::Format;
use enroll::{Enroll, EnrollArgs, options_of};
use keys::KeyArgs;
pub use keys::OfKeys;
use limits::LimitArgs;
pub use limits::Limits;
use limits::duration;
pub use proxy::ProxyArgs;
use renew::{Renew, RenewArgs};
use request::{CsrArgs, Request};
use resume::ResumeArgs;
pub use signers::SignersArgs;

/// A command line, read.
#[derive(Debug)]
pub struct Args {
    /// What to do.
    pub command: Command,
    /// Where PINs come from.
    pub pins: PinArgs,
    /// How to report.
    pub format: Format,
    /// `-v`, `-vv`.
    pub verbose: u8,
    /// How the network is reached, but for a proxy.
    pub reach: Reach,
    /// The proxy; `None` for commands that connect to nobody.
    pub proxy: Option<ProxyArgs>,
    /// Whether it stands on the command line, for everyone who lists processes.
    pub proxy_is_typed: bool,
    /// How often, and for how long, something is tried again.
    pub patience: Patience,
    /// How long a device may take.
    pub limits: Limits,
}

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// `enroll`, the default.
    Enroll(Box<Enroll>),
    /// `resume`.
    Resume(Box<ResumeArgs>),
    /// `renew`.
    Renew(Box<Renew>),
    /// `status`.
    Status {
        /// Identity files, there or not.
        paths: Vec<PathBuf>,
        /// How long before its end a certificate is due.
        within: Duration,
    },
    /// `doctor`, and `enroll --dry-run`.
    Doctor(Box<Enroll>),
    /// `list tokens`.
    ListTokens(OfKeys),
    /// `list keys`.
    ListKeys(OfKeys),
    /// `list signers`.
    ListSigners(Box<SignersArgs>),
    /// `key create`.
    CreateKey(OfKeys),
    /// `key delete`.
    DeleteKey(OfKeys),
    /// `csr`.
    Csr(Box<Request>),
    /// `verify`.
    Verify {
        /// The identity file.
        identity: PathBuf,
    },
    /// `exec`.
    Exec(Box<Exec>),
    /// `inspect`.
    Inspect {
        /// A token, an identity, a certificate.
        file: PathBuf,
    },
    /// `version`.
    Version,
}

impl Command {
    /// What to do when it was interrupted.
    pub fn after_an_interruption(&self) -> &'static str {
        match self {
            Self::Enroll(_) | Self::Resume(_) | Self::Renew(_) => "run the same command again: it goes on from where it stopped",
            Self::CreateKey(_) | Self::DeleteKey(_) | Self::Csr(_) => "look with `ziti-enroller list keys` at what is there now",
            Self::Doctor(_)
            | Self::ListTokens(_)
            | Self::ListKeys(_)
            | Self::ListSigners(_)
            | Self::Verify { .. }
            | Self::Inspect { .. }
            | Self::Status { .. }
            | Self::Exec(_)
            | Self::Version => "run the same command again",
        }
    }
}

/// Enrolls an OpenZiti identity with a key that is made in hardware and stays there.
#[derive(Debug, Parser)]
#[command(name = "ziti-enroller", version, subcommand_required = true, arg_required_else_help = true)]
#[command(
    after_help = "`enroll` is the default command: `ziti-enroller --jwt device.jwt` enrolls with a key file inside the identity.\n\
    Every option can be given as ZITI_ENROLLER_<OPTION>; the command line goes first."
)]
struct Typed {
    #[command(subcommand)]
    command: TypedCommand,
    /// How results and errors are written
    #[arg(
        long,
        global = true,
        display_order = 100,
        value_enum,
        default_value = "text",
        env = "ZITI_ENROLLER_FORMAT",
        hide_env = true
    )]
    format: Format,
    /// Say more; twice: phases with their times
    #[arg(short, long, global = true, display_order = 101, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum TypedCommand {
    /// Turn a one-time token into an identity file
    Enroll(EnrollArgs),
    /// Finish an enrollment that was interrupted
    Resume(ResumeArgs),
    /// Say where enrollments and identities stand, and the next command; offline
    Status(StatusArgs),
    /// Prove all that an enrollment needs, and change nothing
    Doctor(EnrollArgs),
    /// Log in to the controller with the key that an identity names
    Verify(VerifyArgs),
    /// Renew the certificate of an identity where that is due; with a new key too
    Renew(RenewArgs),
    /// Start an SDK program with a copy of an identity in memory, PIN included
    Exec(ExecArgs),
    /// List what a module or device holds, as references ready to paste
    List {
        /// What to list
        #[command(subcommand)]
        what: ListWhat,
    },
    /// Make or destroy a key outside an enrollment
    Key {
        /// What to do
        #[command(subcommand)]
        what: KeyWhat,
    },
    /// Write a request for the certificate of another CA, signed by a key wherever it lives
    Csr(CsrArgs),
    /// Say what a token, an identity or a certificate says; offline
    Inspect(InspectArgs),
    /// Print the version
    Version,
}

#[derive(Debug, Subcommand)]
enum ListWhat {
    /// Tokens or devices, with what rules each out; no login is made
    Tokens(KeyArgs),
    /// Private keys of a token or device, with what rules each out
    Keys(KeyArgs),
    /// Identity providers whose tokens the controller takes; no login is made
    Signers(SignersArgs),
}

#[derive(Debug, Subcommand)]
enum KeyWhat {
    /// Make a key
    Create(KeyArgs),
    /// Destroy a key; there is no way back
    Delete(KeyArgs),
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The identity file
    #[arg(value_name = "IDENTITY")]
    identity: PathBuf,
    #[command(flatten)]
    pins: PinArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    proxy: ProxyArgs,
}

#[derive(Debug, clap::Args)]
struct ExecArgs {
    /// The identity file; a certificate that the program renews is taken over into it
    #[arg(value_name = "IDENTITY")]
    identity: PathBuf,
    /// The program and its arguments; {} stands for the path of the copy
    #[arg(value_name = "CMD", last = true, required = true)]
    command: Vec<OsString>,
    #[command(flatten)]
    pins: PinArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, clap::Args)]
struct StatusArgs {
    /// Identity files, there or not
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How long before its end a certificate is due for renewal
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "20d", env = "ZITI_ENROLLER_WITHIN", hide_env = true)]
    within: Duration,
}

#[derive(Debug, clap::Args)]
struct InspectArgs {
    /// A token, an identity, a certificate
    file: PathBuf,
}

/// The number of an open descriptor. clap repeats what it cannot read, and who looks for an option for the secret itself may
/// have put it here.
#[derive(Clone, Copy, Debug)]
struct Descriptor;

impl TypedValueParser for Descriptor {
    type Value = i32;

    fn parse_ref(&self, command: &clap::Command, option: Option<&Arg>, value: &OsStr) -> Result<i32, clap::Error> {
        let number = value.to_str().and_then(|text| text.parse().ok()).filter(|number| *number >= 0);
        let flag = option.and_then(Arg::get_long).unwrap_or_default();
        let wanted = format!("--{flag} wants the number of an open descriptor\n");
        number.ok_or_else(|| clap::Error::raw(ErrorKind::ValueValidation, wanted).with_cmd(command))
    }
}

/// Where PINs come from, and how they may be used; the order is in `ask.rs`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PinArgs {
    /// Read the PIN from this open descriptor
    #[arg(long, value_name = "N", env = "ZITI_ENROLLER_PIN_FD", hide_env = true, value_parser = Descriptor)]
    pub pin_fd: Option<i32>,
    /// Read the PIN from this file
    #[arg(long, value_name = "FILE", env = "ZITI_ENROLLER_PIN_FILE", hide_env = true)]
    pub pin_file: Option<PathBuf>,
    /// Read the auth value of a TPM's owner hierarchy from this file, where it has one
    #[arg(long, value_name = "FILE", env = "ZITI_ENROLLER_OWNER_PIN_FILE", hide_env = true)]
    pub owner_pin_file: Option<PathBuf>,
    /// Use the last try before the token locks
    #[arg(long, env = "ZITI_ENROLLER_ALLOW_FINAL_TRY", hide_env = true, value_parser = FalseyValueParser::new())]
    pub allow_final_try: bool,
    /// Try a PIN once more that was refused before and has not changed
    #[arg(long, env = "ZITI_ENROLLER_RETRY_PIN", hide_env = true, value_parser = FalseyValueParser::new())]
    pub retry_pin: bool,
    /// Use an existing key that can leave its device
    #[arg(long, env = "ZITI_ENROLLER_ALLOW_EXTRACTABLE", hide_env = true, value_parser = FalseyValueParser::new())]
    pub allow_extractable: bool,
}

impl Args {
    /// Reads the command line of this process.
    ///
    /// # Errors
    /// What clap says of it: help and version too.
    pub fn parse() -> Result<Self, Mistyped> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let format = format_of(&arguments);
        Self::from(arguments).map_err(|error| Mistyped { error, format })
    }

    fn from(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let providers = Providers::compiled_in();
        let matches = command(&providers).try_get_matches_from(with_default_command(arguments))?;
        let typed = Typed::from_arg_matches(&matches)?;
        // The options of providers stand with the innermost command.
        let mut innermost = &matches;
        while let Some((_, inner)) = innermost.subcommand() {
            innermost = inner;
        }
        let options = options_of(&providers, innermost);
        let proxy_is_typed = proxy::is_typed(innermost);
        let (mut patience, mut proxy) = (Patience::default(), None);
        let (pins, limits, command) = match typed.command {
            TypedCommand::Enroll(typed) | TypedCommand::Doctor(typed) if typed.dry_run => {
                proxy = Some(typed.proxy.clone());
                (typed.pins.clone(), typed.limits.clone(), Command::Doctor(Box::new(Enroll { typed, options })))
            }
            TypedCommand::Doctor(typed) => {
                proxy = Some(typed.proxy.clone());
                (typed.pins.clone(), typed.limits.clone(), Command::Doctor(Box::new(Enroll { typed, options })))
            }
            TypedCommand::Enroll(typed) => {
                patience = typed.patience.patience();
                proxy = Some(typed.proxy.clone());
                (typed.pins.clone(), typed.limits.clone(), Command::Enroll(Box::new(Enroll { typed, options })))
            }
            TypedCommand::Resume(typed) => {
                patience = typed.patience.patience();
                proxy = Some(typed.proxy.clone());
                (typed.pins.clone(), typed.limits.clone(), Command::Resume(Box::new(typed)))
            }
            TypedCommand::Renew(typed) => {
                patience = typed.patience.patience();
                (typed.pins.clone(), typed.limits.clone(), Command::Renew(Box::new(Renew { typed, options })))
            }
            TypedCommand::Status(typed) => {
                let StatusArgs { paths, within } = typed;
                (PinArgs::default(), LimitArgs::default(), Command::Status { paths, within })
            }
            TypedCommand::List { what: ListWhat::Tokens(typed) } => {
                (typed.pins.clone(), typed.limits.clone(), Command::ListTokens(OfKeys { typed, options }))
            }
            TypedCommand::List { what: ListWhat::Keys(typed) } => {
                (typed.pins.clone(), typed.limits.clone(), Command::ListKeys(OfKeys { typed, options }))
            }
            TypedCommand::List { what: ListWhat::Signers(typed) } => {
                proxy = Some(typed.proxy.clone());
                (PinArgs::default(), typed.limits.clone(), Command::ListSigners(Box::new(typed)))
            }
            TypedCommand::Key { what: KeyWhat::Create(typed) } => {
                (typed.pins.clone(), typed.limits.clone(), Command::CreateKey(OfKeys { typed, options }))
            }
            TypedCommand::Key { what: KeyWhat::Delete(typed) } => {
                (typed.pins.clone(), typed.limits.clone(), Command::DeleteKey(OfKeys { typed, options }))
            }
            TypedCommand::Csr(typed) => {
                (typed.pins.clone(), typed.limits.clone(), Command::Csr(Box::new(Request { typed, options })))
            }
            TypedCommand::Verify(typed) => {
                proxy = Some(typed.proxy);
                (typed.pins, typed.limits, Command::Verify { identity: typed.identity })
            }
            TypedCommand::Exec(ExecArgs { identity, command, pins, limits }) => {
                (pins, limits, Command::Exec(Box::new(Exec { identity, command })))
            }
            TypedCommand::Inspect(typed) => (PinArgs::default(), LimitArgs::default(), Command::Inspect { file: typed.file }),
            TypedCommand::Version => (PinArgs::default(), LimitArgs::default(), Command::Version),
        };
        let (reach, limits) = (limits.reach(), limits.limits());
        let (format, verbose) = (typed.format, typed.verbose);
        Ok(Self { command, pins, format, verbose, reach, proxy, proxy_is_typed, patience, limits })
    }
}

/// A command line that clap does not take, or that asks for help.
#[derive(Debug)]
pub struct Mistyped {
    error: clap::Error,
    format: Format,
}

impl Mistyped {
    /// The mistake, for a script that reads JSON; everything else is printed as clap does it, and the program ends.
    pub fn for_a_script(self) -> Error {
        if self.format == Format::Text || !self.error.use_stderr() {
            self.error.exit();
        }
        let said = self.error.to_string();
        let message = said.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Error::Usage { message, hint: Some(Hint::say("see what there is with --help")) }
    }
}

/// The format that is asked for, as far as it can be told before the rest is understood.
fn format_of(arguments: &[OsString]) -> Format {
    let json = |value: &OsString| value == "json";
    let typed = arguments.iter().position(|a| a == "--format").map(|at| arguments.get(at + 1).is_some_and(json));
    let typed = typed.or_else(|| arguments.iter().any(|a| a == "--format=json").then_some(true));
    let asked = typed.unwrap_or_else(|| std::env::var_os("ZITI_ENROLLER_FORMAT").is_some_and(|value| json(&value)));
    if asked { Format::Json } else { Format::Text }
}

/// The command line, with the options that providers declare.
fn command(providers: &Providers) -> clap::Command {
    let with_options = |command: clap::Command| with_options_of(command, providers);
    Typed::command()
        .mut_subcommand("enroll", with_options)
        .mut_subcommand("doctor", with_options)
        .mut_subcommand("renew", with_options)
        .mut_subcommand("csr", with_options)
        .mut_subcommand("list", |list| list.mut_subcommand("tokens", with_options).mut_subcommand("keys", with_options))
        .mut_subcommand("key", |key| key.mut_subcommand("create", with_options).mut_subcommand("delete", with_options))
}

fn with_options_of(command: clap::Command, providers: &Providers) -> clap::Command {
    providers.iter().flat_map(|p| p.options().iter().map(move |o| (p, o))).fold(command, |command, (provider, option)| {
        let variable = format!("ZITI_ENROLLER_{}", option.flag.replace('-', "_").to_uppercase());
        let heading = format!("Options of provider {}", provider.name());
        let argument = Arg::new(option.flag).long(option.flag).value_name(option.value).help(option.help);
        command.arg(argument.env(leak(variable)).hide_env(true).help_heading(leak(heading)))
    })
}

/// clap wants names that live as long as the program; there are a handful.
fn leak(text: String) -> &'static str {
    text.leak()
}

/// `ziti-enroller --jwt device.jwt` means `ziti-enroller enroll --jwt device.jwt`; global options may stand before a command.
fn with_default_command(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut rest = arguments.iter().skip(1).map(|a| a.to_string_lossy());
    let first = loop {
        match rest.next() {
            Some(global) if ["-v", "-vv", "--verbose"].contains(&&*global) || global.starts_with("--format=") => {}
            Some(global) if global == "--format" => drop(rest.next()),
            other => break other,
        }
    };
    if first.is_some_and(|a| a.starts_with('-') && !["-h", "--help", "-V", "--version"].contains(&&*a)) {
        arguments.insert(1, "enroll".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use ziti_enroller::flow::enroll::stage::KeyWish;

    use super::*;

    fn parse(line: &str) -> Args {
        Args::from(line.split(' ').map(OsString::from)).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    fn wish(line: &str) -> Result<KeyWish, Error> {
        match parse(line).command {
            Command::Enroll(enroll) => enroll.key_wish(&Providers::compiled_in()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        command(&Providers::compiled_in()).debug_assert();
    }

    #[test]
    fn enroll_is_the_default_command() {
        for line in [
            "ziti-enroller --jwt a.jwt",
            "ziti-enroller -j a.jwt",
            "ziti-enroller -v -j a.jwt",
            "ziti-enroller --format json -j a.jwt",
        ] {
            assert!(matches!(parse(line).command, Command::Enroll(_)), "{line}");
        }
        assert!(matches!(parse("ziti-enroller -v verify a.json").command, Command::Verify { .. }));
        assert!(matches!(parse("ziti-enroller verify -v a.json").command, Command::Verify { .. }));
        assert!(matches!(parse("ziti-enroller --format json inspect a").command, Command::Inspect { .. }));
        assert!(matches!(parse("ziti-enroller --format=json inspect a").command, Command::Inspect { .. }));
        assert_eq!(parse("ziti-enroller -vv -j a.jwt").verbose, 2);
    }

    #[test]
    fn every_option_has_its_variable() {
        let command = command(&Providers::compiled_in());
        let enroll = command.find_subcommand("enroll").expect("there is one");
        for option in enroll.get_arguments().filter_map(|a| Some((a.get_long()?, a.get_env()))) {
            let (flag, variable) = option;
            if ["help", "verbose", "version"].contains(&flag) {
                continue;
            }
            let expected = format!("ZITI_ENROLLER_{}", flag.replace('-', "_").to_uppercase());
            assert_eq!(variable.and_then(|v| v.to_str()), Some(expected.as_str()), "--{flag}");
        }
    }

    #[test]
    fn tells_a_new_key_from_an_existing_one() {
        assert!(matches!(wish("ziti-enroller -j a").unwrap(), KeyWish::New { reuse: true, .. }));
        assert!(matches!(wish("ziti-enroller -j a --key auto").unwrap(), KeyWish::New { reuse: true, .. }));
        assert!(matches!(wish("ziti-enroller -j a --key /k.pem --create").unwrap(), KeyWish::New { reuse: false, .. }));
        assert!(matches!(wish("ziti-enroller -j a --key /k.pem").unwrap(), KeyWish::Existing(_)));
        for line in [
            "--provider pkcs11 --key /k.pem",
            "--create",
            "--key /k.pem --key-alg p384",
            "--provider nosuch",
            "--key pkcs11:id=%01?pin-value=1",
        ] {
            assert_eq!(wish(&format!("ziti-enroller -j a {line}")).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
