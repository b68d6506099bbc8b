//! What was typed, turned once into the library's own types. Past this file there is no clap.

mod limits;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use secrecy::SecretString;
use ziti_enroller::error::Error;
use ziti_enroller::files::{self, FileErrorKind};
use ziti_enroller::flow::enroll::Request;
use ziti_enroller::flow::enroll::stage::KeyWish;
use ziti_enroller::flow::{Event, Patience, Watch};
use ziti_enroller::http::Reach;
use ziti_enroller::jwt::{self, TokenError, UnverifiedToken};
use ziti_enroller::key::{KeyAlgorithm, KeyProvider, KeyUri, Providers};
use ziti_enroller::text::Hint;

use super::process::Inherited;
use super::watchdog::Limits;
use limits::{LimitArgs, PatienceArgs, owner};

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
    /// How the network is reached.
    pub reach: Reach,
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
    /// `verify`.
    Verify {
        /// The identity file.
        identity: PathBuf,
    },
    /// `inspect`.
    Inspect {
        /// A token, an identity, a certificate.
        file: PathBuf,
    },
    /// `version`.
    Version,
}

/// How results and errors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object.
    Json,
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
    #[arg(long, global = true, value_enum, default_value = "text", env = "ZITI_ENROLLER_FORMAT", hide_env = true)]
    format: Format,
    /// Say more; twice: phases with their times
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum TypedCommand {
    /// Turn a one-time token into an identity file
    Enroll(EnrollArgs),
    /// Log in to the controller with the key that an identity names
    Verify(VerifyArgs),
    /// Say what a token, an identity or a certificate says; offline
    Inspect(InspectArgs),
    /// Print the version
    Version,
}

#[derive(Debug, clap::Args)]
struct EnrollArgs {
    /// The enrollment token: a file, `-` for standard input (or in ZITI_ENROLL_TOKEN)
    #[arg(short, long, value_name = "FILE|-", env = "ZITI_ENROLLER_JWT", hide_env = true)]
    jwt: Option<OsString>,
    /// The identity file to write [default: the token's file with .json]
    #[arg(short, long, value_name = "FILE", env = "ZITI_ENROLLER_OUT", hide_env = true)]
    out: Option<PathBuf>,
    /// Where the key lives [default: what --key says, else file]
    #[arg(long, value_name = "NAME", env = "ZITI_ENROLLER_PROVIDER", hide_env = true)]
    provider: Option<String>,
    /// The key: a reference, or `auto` for the one named after the identity, made where it is missing
    #[arg(short, long, value_name = "REF|auto", env = "ZITI_ENROLLER_KEY", hide_env = true)]
    key: Option<String>,
    /// Make the key that --key names; it must not be there
    #[arg(long)]
    create: bool,
    /// Type of a new key: p256, p384, rsa2048, rsa3072, rsa4096 [default: p256]
    #[arg(short = 'a', long, value_name = "TYPE", env = "ZITI_ENROLLER_KEY_ALG", hide_env = true)]
    key_alg: Option<String>,
    /// Replace an identity file that is there
    #[arg(long)]
    force: bool,
    /// Remove the token's file when the identity is in place
    #[arg(long)]
    rm: bool,
    /// Give the identity file to this user (and group), by name or number
    #[arg(long, value_name = "USER[:GROUP]", env = "ZITI_ENROLLER_OWNER", hide_env = true)]
    owner: Option<String>,
    #[command(flatten)]
    patience: PatienceArgs,
    #[command(flatten)]
    pins: PinArgs,
    #[command(flatten)]
    limits: LimitArgs,
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
}

#[derive(Debug, clap::Args)]
struct InspectArgs {
    /// A token, an identity, a certificate
    file: PathBuf,
}

/// Where PINs come from; the order is in `ask.rs`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PinArgs {
    /// Read the PIN from this open descriptor
    #[arg(long, value_name = "N", env = "ZITI_ENROLLER_PIN_FD", hide_env = true)]
    pub pin_fd: Option<i32>,
    /// Read the PIN from this file
    #[arg(long, value_name = "FILE", env = "ZITI_ENROLLER_PIN_FILE", hide_env = true)]
    pub pin_file: Option<PathBuf>,
    /// Use the last try before the token locks
    #[arg(long)]
    pub allow_final_try: bool,
}

/// An enrollment, as it was typed.
#[derive(Debug)]
pub struct Enroll {
    typed: EnrollArgs,
    options: Vec<Given>,
}

/// An option of a provider, as it was given.
#[derive(Clone, Debug)]
struct Given {
    flag: &'static str,
    value: String,
    typed: bool,
}

impl Args {
    /// Reads the command line of this process; prints help and mistakes as clap does, and ends with 0 or 2.
    pub fn parse() -> Self {
        Self::from(std::env::args_os()).unwrap_or_else(|e| e.exit())
    }

    fn from(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let providers = Providers::compiled_in();
        let matches = command(&providers).try_get_matches_from(with_default_command(arguments))?;
        let typed = Typed::from_arg_matches(&matches)?;
        let (pins, limits, command) = match typed.command {
            TypedCommand::Enroll(typed) => {
                let given = matches.subcommand().map(|(_, m)| options_of(&providers, m)).unwrap_or_default();
                (typed.pins.clone(), typed.limits.clone(), Command::Enroll(Box::new(Enroll { typed, options: given })))
            }
            TypedCommand::Verify(typed) => (typed.pins, typed.limits, Command::Verify { identity: typed.identity }),
            TypedCommand::Inspect(typed) => (PinArgs::default(), LimitArgs::default(), Command::Inspect { file: typed.file }),
            TypedCommand::Version => (PinArgs::default(), LimitArgs::default(), Command::Version),
        };
        let patience = match &command {
            Command::Enroll(enroll) => enroll.typed.patience.patience(),
            Command::Verify { .. } | Command::Inspect { .. } | Command::Version => Patience::default(),
        };
        let (reach, limits) = (limits.reach(), limits.limits());
        Ok(Self { command, pins, format: typed.format, verbose: typed.verbose, reach, patience, limits })
    }
}

/// The command line, with the options that providers declare.
fn command(providers: &Providers) -> clap::Command {
    Typed::command().mut_subcommand("enroll", |enroll| {
        providers.iter().flat_map(|p| p.options().iter().map(move |o| (p, o))).fold(enroll, |enroll, (provider, option)| {
            let variable = format!("ZITI_ENROLLER_{}", option.flag.replace('-', "_").to_uppercase());
            let heading = format!("Options of provider {}", provider.name());
            let argument = Arg::new(option.flag).long(option.flag).value_name(option.value).help(option.help);
            enroll.arg(argument.env(leak(variable)).hide_env(true).help_heading(leak(heading)))
        })
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

fn options_of(providers: &Providers, matches: &ArgMatches) -> Vec<Given> {
    let mut given = Vec::new();
    for option in providers.iter().flat_map(|p| p.options()) {
        if let Some(value) = matches.get_one::<String>(option.flag) {
            let typed = matches.value_source(option.flag) == Some(ValueSource::CommandLine);
            given.push(Given { flag: option.flag, value: value.clone(), typed });
        }
    }
    given
}

fn usage(message: impl Into<String>) -> Error {
    Error::Usage { message: message.into(), hint: None }
}

fn usage_with(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::Usage { message: message.into(), hint: Some(Hint::say(hint)) }
}

impl Enroll {
    /// Reads the token and says what is to be done.
    pub fn into_request(self, providers: &Providers, inherited: &Inherited, watch: &dyn Watch) -> Result<Request, Error> {
        let key = self.key_wish(providers)?;
        let (token, token_file) = self.token(inherited, watch)?;
        let token = Arc::new(UnverifiedToken::parse(&token).map_err(Error::Token)?);
        let out = match (&self.typed.out, &token_file) {
            (Some(out), _) => out.clone(),
            (None, Some(file)) => output_of(file)?,
            (None, None) => {
                return Err(usage_with(
                    "a token that is not in a file needs --out",
                    "give the identity file to write with --out",
                ));
            }
        };
        let owner = self.typed.owner.as_deref().map(owner).transpose()?;
        self.mind_the_tunneler(&key, providers, &out, token_file.as_deref(), watch)?;
        if token_file.is_some() && token_file == files::absolute(&out).ok() {
            return Err(usage_with("--out is the token's own file", "give another name with --out"));
        }
        Ok(Request { token, token_file, out, key, force: self.typed.force, remove_token: self.typed.rm, owner })
    }

    fn token(&self, inherited: &Inherited, watch: &dyn Watch) -> Result<(SecretString, Option<PathBuf>), Error> {
        let missing = |what: String| Error::Token(TokenError::Missing(what));
        let Some(jwt) = &self.typed.jwt else {
            let token = inherited.token().ok_or_else(|| missing("none was given".into()))?;
            return Ok((token, None));
        };
        if jwt == "-" {
            let token = files::read_file("/dev/stdin".as_ref(), jwt::LARGEST as u64).map_err(token_file_error)?;
            return Ok((text(token)?, None));
        }
        let path = PathBuf::from(jwt);
        if let Some(token) = jwt.to_str().filter(|t| t.starts_with("ey") && t.split('.').count() == 3 && !path.exists()) {
            // A watcher that wants to end the run does so at the next stage.
            drop(
                watch.event(&Event::Note(
                    "a token on the command line is seen by everyone who lists processes: use a file or `-`",
                )),
            );
            return Ok((SecretString::from(token), None));
        }
        let token = files::read_file(&path, jwt::LARGEST as u64).map_err(token_file_error)?;
        // A later run may start elsewhere.
        let path = files::absolute(&path).map_err(token_file_error)?;
        Ok((text(token)?, Some(path)))
    }

    /// The folder of ziti-edge-tunnel is a place like any other, but for what that program does there.
    fn mind_the_tunneler(
        &self,
        key: &KeyWish,
        providers: &Providers,
        out: &Path,
        token_file: Option<&Path>,
        watch: &dyn Watch,
    ) -> Result<(), Error> {
        let folder =
            std::env::var_os("ZITI_IDENTITY_DIR").map_or_else(|| PathBuf::from("/opt/openziti/etc/identities"), PathBuf::from);
        let is_in = |file: &Path| {
            let parent = std::path::absolute(file).ok().and_then(|f| f.parent().map(Path::to_owned));
            parent.and_then(|p| p.canonicalize().ok()).is_some_and(|p| folder.canonicalize().ok() == Some(p))
        };
        let in_device = providers.of(key.uri()).is_ok_and(KeyProvider::keys_live_in_a_device);
        if in_device && is_in(out) {
            let message = format!(
                "{} is read by ziti-edge-tunnel, which crashes at every start on an identity whose key wants a PIN that is not in it",
                folder.display()
            );
            return Err(usage_with(message, "put the identity into another folder"));
        }
        if !self.typed.rm && token_file.is_some_and(is_in) {
            let text = format!(
                "a token file in {} is enrolled by the service of ziti-edge-tunnel with a software key: keep tokens elsewhere",
                folder.display()
            );
            // A watcher that wants to end the run does so at the next stage.
            drop(watch.event(&Event::Note(&text)));
        }
        Ok(())
    }

    fn key_wish(&self, providers: &Providers) -> Result<KeyWish, Error> {
        let named = match self.typed.key.as_deref() {
            None | Some("auto") => None,
            Some(text) => Some(text.parse::<KeyUri>().map_err(|e| usage(format!("--key: {e}")))?),
        };
        let provider = match (&self.typed.provider, &named) {
            (Some(name), _) => providers.named(name).ok_or_else(|| {
                let known: Vec<&str> = providers.iter().map(KeyProvider::name).collect();
                usage_with(format!("there is no provider `{name}`"), format!("known are {}", known.join(", ")))
            })?,
            (None, Some(uri)) => providers.of(uri).map_err(|e| usage(e.to_string()))?,
            (None, None) => providers.named("file").ok_or_else(|| usage("--provider is missing"))?,
        };
        if let Some(uri) = named.as_ref().filter(|u| u.scheme() != provider.scheme()) {
            return Err(usage(format!("--provider {} does not read `{}:` references", provider.name(), uri.scheme())));
        }
        let algorithm = self.typed.key_alg.as_deref().map(algorithm).transpose()?;
        let within = self.fold(provider, named.clone().unwrap_or_else(|| KeyUri::new(provider.scheme())))?;
        match (named, self.typed.create) {
            (Some(_), false) => {
                if let Some(algorithm) = algorithm {
                    return Err(usage_with(
                        format!("--key-alg {algorithm} is for a new key, and --key names one that is there"),
                        "give --create to make it, or leave --key-alg out",
                    ));
                }
                Ok(KeyWish::Existing(within))
            }
            (None, true) => Err(usage_with("--create needs the name of the key", "give it with --key, or leave --create out")),
            (named, _) => Ok(KeyWish::New { within, algorithm: algorithm.unwrap_or(KeyAlgorithm::P256), reuse: named.is_none() }),
        }
    }

    /// Puts the options of `provider` into a reference, without knowing what they mean.
    fn fold(&self, provider: &dyn KeyProvider, mut uri: KeyUri) -> Result<KeyUri, Error> {
        let own = provider.options();
        if let Some(foreign) = self.options.iter().find(|g| g.typed && !own.iter().any(|o| o.flag == g.flag)) {
            return Err(usage(format!("--{} is not an option of provider {}", foreign.flag, provider.name())));
        }
        for option in own {
            let given = self.options.iter().find(|g| g.flag == option.flag);
            let variable =
                || (!option.variable.is_empty()).then(|| std::env::var(option.variable).ok()).flatten().filter(|v| !v.is_empty());
            let (value, typed) = match given {
                Some(given) => (given.value.clone(), given.typed),
                None => match variable() {
                    Some(value) => (value, false),
                    None => continue,
                },
            };
            match uri.attribute(option.attribute) {
                None => uri.set(option.attribute, value.as_bytes()),
                Some(there) if typed && there != value.as_bytes() => {
                    return Err(usage(format!("--{} and `{}` of --key disagree", option.flag, option.attribute)));
                }
                Some(_) => {}
            }
        }
        Ok(uri)
    }
}

/// As the historical tool took them, `RSA` and `EC`, and by our own names.
fn algorithm(name: &str) -> Result<KeyAlgorithm, Error> {
    match name.to_ascii_uppercase().as_str() {
        "RSA" => Ok(KeyAlgorithm::Rsa4096),
        "EC" => Ok(KeyAlgorithm::P384),
        _ => name.to_ascii_lowercase().parse().map_err(|e| usage(format!("--key-alg {name}: {e}"))),
    }
}

/// `X.jwt` → `X.json`.
fn output_of(token: &std::path::Path) -> Result<PathBuf, Error> {
    if token.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
        return Err(usage_with(
            format!("the token's file {} already ends in .json", token.display()),
            "give the identity file to write with --out",
        ));
    }
    let is_jwt = token.extension().is_some_and(|e| e.eq_ignore_ascii_case("jwt"));
    if is_jwt {
        return Ok(token.with_extension("json"));
    }
    let mut name = token.as_os_str().to_owned();
    name.push(".json");
    Ok(name.into())
}

fn text(token: Vec<u8>) -> Result<SecretString, Error> {
    String::from_utf8(token).map(SecretString::from).map_err(|_| Error::Token(TokenError::Malformed("it is not text".into())))
}

fn token_file_error(error: files::FileError) -> Error {
    match error.kind {
        FileErrorKind::TooLarge(_) => Error::Token(TokenError::TooLarge),
        _ => Error::Token(TokenError::Missing(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
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
    fn reads_the_historical_key_types() {
        let of = |name| algorithm(name).unwrap();
        assert_eq!((of("RSA"), of("ec"), of("P256")), (KeyAlgorithm::Rsa4096, KeyAlgorithm::P384, KeyAlgorithm::P256));
        assert!(algorithm("p521").is_err());
    }

    #[test]
    fn derives_the_output_from_the_token() {
        assert_eq!(output_of("a/X.jwt".as_ref()).unwrap(), PathBuf::from("a/X.json"));
        assert_eq!(output_of("X".as_ref()).unwrap(), PathBuf::from("X.json"));
        assert!(output_of("X.json".as_ref()).is_err());
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
