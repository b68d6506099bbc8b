//! What `enroll` was asked for, turned into the library's own [`Request`].

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;
use clap::builder::FalseyValueParser;
use clap::parser::ValueSource;
use secrecy::SecretString;
use ziti_enroller::certificate::Anchors;
use ziti_enroller::error::Error;
use ziti_enroller::files::{self, FileErrorKind};
use ziti_enroller::flow::Watch;
use ziti_enroller::flow::enroll::Request;
use ziti_enroller::flow::enroll::stage::{CertificateWish, KeyWish};
use ziti_enroller::identity::{self, IdentityError};
use ziti_enroller::jwt::{self, Brings, Method, TokenError, UnverifiedToken};
use ziti_enroller::key::uri::{UriError, holds_a_pin};
use ziti_enroller::key::{KeyAlgorithm, KeyProvider, KeyReference, KeyUri, Providers};
use ziti_enroller::text::Hint;

use super::limits::{LimitArgs, PatienceArgs, owner};
use super::secret::{SecretArgs, together};
use super::{PinArgs, ProxyArgs};
use crate::cli::process::Inherited;

/// The options of `enroll`, but for those that providers declare.
#[derive(Debug, clap::Args)]
pub struct EnrollArgs {
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
    #[arg(long, env = "ZITI_ENROLLER_CREATE", hide_env = true, value_parser = FalseyValueParser::new())]
    create: bool,
    /// Type of a new key: p256, p384, rsa2048, rsa3072, rsa4096 [default: p256]
    #[arg(short = 'a', long, value_name = "TYPE", env = "ZITI_ENROLLER_KEY_ALG", hide_env = true)]
    key_alg: Option<String>,
    /// Certificate of a third-party CA and its intermediates, for tokens of methods ottca and ca: a file, or `auto` for the
    /// one beside the key [default: auto]
    #[arg(short, long, value_name = "FILE|auto", env = "ZITI_ENROLLER_CERT", hide_env = true)]
    cert: Option<PathBuf>,
    /// Name of the new identity, for tokens of method ca
    #[arg(short = 'n', long, value_name = "NAME", env = "ZITI_ENROLLER_IDNAME", hide_env = true)]
    idname: Option<String>,
    /// Trust the controller by the CA certificates in this file, not by the token's signature
    #[arg(long, value_name = "FILE", env = "ZITI_ENROLLER_CA", hide_env = true)]
    ca: Option<PathBuf>,
    /// The controller's address, for --ca and --idp-token without a network token
    #[arg(long, value_name = "URL", env = "ZITI_ENROLLER_CONTROLLER", hide_env = true)]
    controller: Option<String>,
    /// The controller's id of the identity provider, where its token does not say: see `list signers`
    #[arg(long, value_name = "ID", env = "ZITI_ENROLLER_ISSUER_ID", hide_env = true)]
    issuer_id: Option<String>,
    /// What some methods put into the request.
    #[command(flatten)]
    pub secrets: SecretArgs,
    /// Put the PIN into the identity file, for SDKs that look nowhere else
    #[arg(long, env = "ZITI_ENROLLER_EMBED_PIN", hide_env = true, value_parser = FalseyValueParser::new())]
    embed_pin: bool,
    /// Prove all that is needed and change nothing: the same as `doctor`
    #[arg(long, env = "ZITI_ENROLLER_DRY_RUN", hide_env = true, value_parser = FalseyValueParser::new())]
    pub dry_run: bool,
    /// Replace an identity file that is there
    #[arg(long, env = "ZITI_ENROLLER_FORCE", hide_env = true, value_parser = FalseyValueParser::new())]
    force: bool,
    /// Remove the token's file when the identity is in place
    #[arg(long, env = "ZITI_ENROLLER_RM", hide_env = true, value_parser = FalseyValueParser::new())]
    rm: bool,
    /// Give the identity file to this user (and group), by name or number
    #[arg(long, value_name = "USER[:GROUP]", env = "ZITI_ENROLLER_OWNER", hide_env = true)]
    owner: Option<String>,
    #[command(flatten)]
    pub patience: PatienceArgs,
    #[command(flatten)]
    pub pins: PinArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub proxy: ProxyArgs,
}

/// An enrollment, as it was typed.
#[derive(Debug)]
pub struct Enroll {
    pub typed: EnrollArgs,
    pub options: Vec<Given>,
}

/// An option of a provider, as it was given.
#[derive(Clone, Debug)]
pub struct Given {
    flag: &'static str,
    value: String,
    typed: bool,
}

impl Given {
    /// Whether it stood on the command line, and not in the environment.
    pub fn is_typed(&self) -> bool {
        self.typed
    }
}

/// The options of providers that were given.
pub fn options_of(providers: &Providers, matches: &ArgMatches) -> Vec<Given> {
    let mut given = Vec::new();
    for option in providers.iter().flat_map(|p| p.options()) {
        // Not every command has them.
        if let Some(value) = matches.try_get_one::<String>(option.flag).ok().flatten() {
            let typed = matches.value_source(option.flag) == Some(ValueSource::CommandLine);
            given.push(Given { flag: option.flag, value: value.clone(), typed });
        }
    }
    given
}

pub fn usage(message: impl Into<String>) -> Error {
    Error::Usage { message: message.into(), hint: None }
}

pub fn usage_with(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::Usage { message: message.into(), hint: Some(Hint::say(hint)) }
}

impl Enroll {
    /// Reads the token and says what is to be done.
    pub fn into_request(self, providers: &Providers, inherited: &Inherited, watch: &dyn Watch) -> Result<Request, Error> {
        let key = self.key_wish(providers)?;
        if self.typed.secrets.reads_stdin() && self.typed.jwt.as_ref().is_some_and(|jwt| jwt == "-") {
            return Err(usage_with("two tokens cannot both be on standard input", "put one of them into a file"));
        }
        let idp = self.typed.secrets.idp_token(watch)?;
        let (token, token_file) = self.token(inherited, watch)?;
        let token = Arc::new(together(token, idp.as_ref())?);
        self.check_method(token.method(), &key, providers)?;
        self.mind_the_certificate(&token, &key, providers, watch)?;
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
        let owner =
            self.typed.owner.as_deref().map(|text| owner(text).map_err(|e| usage(format!("--owner {text}: {e}")))).transpose()?;
        self.mind_the_tunneler(&key, providers, &out, token_file.as_deref(), watch)?;
        if token_file.is_some() && token_file == files::absolute(&out).ok() {
            return Err(usage_with("--out is the token's own file", "give another name with --out"));
        }
        let certificate = match &self.typed.cert {
            Some(path) if path.as_os_str() == "auto" => Some(CertificateWish::Beside),
            // A later run may start elsewhere.
            Some(path) => Some(CertificateWish::File(files::absolute(path).map_err(Error::Read)?)),
            None => None,
        };
        let given = self.typed.ca.as_deref().map(anchors).transpose()?;
        // The last, for a person may be asked.
        let secret = self.typed.secrets.for_request(token.method(), idp.as_ref())?;
        Ok(Request {
            token_file,
            certificate,
            name: self.typed.idname,
            issuer: self.typed.issuer_id,
            secret,
            given,
            force: self.typed.force,
            remove_token: self.typed.rm,
            embed_pin: self.typed.embed_pin,
            owner,
            ..Request::new(Some(token), out, key)
        })
    }

    fn token(&self, inherited: &Inherited, watch: &dyn Watch) -> Result<(UnverifiedToken, Option<PathBuf>), Error> {
        let parse = |text: SecretString| UnverifiedToken::parse(&text).map_err(Error::Token);
        match (&self.typed.jwt, inherited.token(), &self.typed.controller) {
            (Some(jwt), ..) => {
                let (text, file) = read_token(jwt, watch)?;
                Ok((parse(text)?, file))
            }
            (None, Some(text), _) => Ok((parse(text)?, None)),
            (None, None, Some(url)) => Ok((controller(url, self.typed.ca.is_some())?, None)),
            (None, None, None) => Err(Error::Token(TokenError::Missing("none was given".into()))),
        }
    }

    /// Whether what was typed fits the method.
    fn check_method(&self, method: Method, key: &KeyWish, providers: &Providers) -> Result<(), Error> {
        let typed = &self.typed;
        if !method.brings().a_key() && (typed.key.is_some() || typed.create || typed.key_alg.is_some()) {
            let message = format!("a token of method {} makes no key, and one is asked for", method.name());
            return Err(usage_with(message, "leave --key, --create and --key-alg out"));
        }
        if let Some(id) = &typed.issuer_id {
            if method.brings() != Brings::IdpToken {
                return Err(usage_with("--issuer-id is for the token of an identity provider", "give that with --idp-token"));
            }
            if id.is_empty() || id.len() > 64 || !id.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c)) {
                return Err(usage_with("--issuer-id is no id of a controller", "see `ziti-enroller list signers`"));
            }
        }
        // Whom the controller will make is not known yet: a key in a device cannot be called after them.
        let is_named = typed.key.as_deref().is_some_and(|k| k != "auto");
        let in_device = providers.of(key.uri()).is_ok_and(KeyProvider::keys_live_in_a_device);
        if method.brings() == Brings::IdpToken && in_device && !is_named {
            return Err(usage_with("this method needs a name for its key", "give it with --key, and --create to make it"));
        }
        Ok(())
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
        must_suit_the_tunneler(key, providers, out, self.typed.embed_pin)?;
        if !self.typed.rm && token_file.is_some_and(is_for_the_tunneler) {
            let text = format!(
                "a token file in {} is enrolled by the service of ziti-edge-tunnel with a software key: keep tokens elsewhere",
                folder_of_the_tunneler().display()
            );
            // A watcher that wants to end the run does so at the next stage.
            watch.note(&text);
        }
        Ok(())
    }

    /// Which key was asked for.
    pub fn key_wish(&self, providers: &Providers) -> Result<KeyWish, Error> {
        let EnrollArgs { provider, key, create, key_alg, .. } = &self.typed;
        let asked = AskedKey { provider: provider.as_deref(), key: key.as_deref(), create: *create, key_alg: key_alg.as_deref() };
        asked.wish(&self.options, providers)
    }

    /// A certificate is for a key that is there, and that is named.
    fn mind_the_certificate(
        &self,
        token: &UnverifiedToken,
        key: &KeyWish,
        providers: &Providers,
        watch: &dyn Watch,
    ) -> Result<(), Error> {
        let method = token.method().name();
        if token.method().brings() != Brings::Certificate {
            if self.typed.cert.is_some() {
                // As the tools before this one did.
                let text = format!("--cert is for tokens of methods ottca and ca, and this one is of method {method}: not used");
                watch.note(&text);
            }
            return Ok(());
        }
        if self.typed.create || self.typed.key_alg.is_some() {
            return Err(usage_with(
                format!("a token of method {method} is for a certificate that is there, and so is its key"),
                "leave --create and --key-alg out; `ziti-enroller csr` makes a key and a request for a certificate",
            ));
        }
        let named_after_the_identity =
            token.identity().is_some() && providers.of(key.uri()).is_ok_and(KeyProvider::keys_live_in_a_device);
        match key {
            KeyWish::New { .. } if !named_after_the_identity => Err(usage_with(
                format!("a token of method {method} needs --key"),
                "give with --cert the certificate, and with --key its key",
            )),
            KeyWish::New { .. } | KeyWish::Existing(_) => Ok(()),
        }
    }
}

/// A key, as it was typed.
#[derive(Clone, Copy, Debug)]
pub struct AskedKey<'a> {
    /// `--provider`.
    pub provider: Option<&'a str>,
    /// `--key`.
    pub key: Option<&'a str>,
    /// `--create`.
    pub create: bool,
    /// `--key-alg`.
    pub key_alg: Option<&'a str>,
}

impl AskedKey<'_> {
    /// What is meant.
    ///
    /// # Errors
    /// Usage.
    pub fn wish(&self, options: &[Given], providers: &Providers) -> Result<KeyWish, Error> {
        let named = match self.key {
            None | Some("auto") => None,
            Some(text) => Some(reference(text, providers).map_err(|e| usage(format!("--key: {e}")))?),
        };
        let provider = match (self.provider, &named) {
            (Some(name), _) => providers.named(name).ok_or_else(|| {
                let known: Vec<&str> = providers.iter().map(KeyProvider::name).collect();
                usage_with(format!("there is no provider `{name}`"), format!("known are {}", known.join(", ")))
            })?,
            (None, Some(uri)) => providers.of(uri).map_err(|e| Error::Usage {
                message: e.to_string(),
                hint: e.fault().and_then(|fault| fault.hint.as_deref().cloned()),
            })?,
            (None, None) => providers.named("file").ok_or_else(|| usage("--provider is missing"))?,
        };
        if let Some(uri) = named.as_ref().filter(|u| u.scheme() != provider.scheme()) {
            return Err(usage(format!("--provider {} does not read `{}:` references", provider.name(), uri.scheme())));
        }
        let algorithm = self.key_alg.map(algorithm).transpose()?;
        let within = fold(options, provider, named.clone().unwrap_or_else(|| KeyUri::new(provider.scheme())))?;
        match (&named, self.create) {
            (Some(uri), false) if !provider.implies_new(uri) => {
                if let Some(algorithm) = algorithm {
                    return Err(usage_with(
                        format!("--key-alg {algorithm} is for a new key, and --key names one that is there"),
                        "give --create to make it, or leave --key-alg out",
                    ));
                }
                Ok(KeyWish::Existing(within))
            }
            (None, true) => Err(usage_with("--create needs the name of the key", "give it with --key, or leave --create out")),
            _ => Ok(KeyWish::New { within, algorithm: algorithm.unwrap_or(KeyAlgorithm::P256), reuse: named.is_none() }),
        }
    }
}

/// The folder whose identities ziti-edge-tunnel reads.
fn folder_of_the_tunneler() -> PathBuf {
    std::env::var_os("ZITI_IDENTITY_DIR").map_or_else(|| PathBuf::from("/opt/openziti/etc/identities"), PathBuf::from)
}

fn is_for_the_tunneler(file: &Path) -> bool {
    let parent = std::path::absolute(file).ok().and_then(|f| f.parent().map(Path::to_owned));
    let folder = folder_of_the_tunneler().canonicalize().ok();
    parent.and_then(|p| p.canonicalize().ok()).is_some_and(|p| folder == Some(p))
}

/// Refuses an identity for ziti-edge-tunnel whose key wants a PIN that is not in it.
pub fn must_suit_the_tunneler(key: &KeyWish, providers: &Providers, out: &Path, embed_pin: bool) -> Result<(), Error> {
    let in_device = providers.of(key.uri()).is_ok_and(KeyProvider::keys_live_in_a_device);
    if !in_device || embed_pin || !is_for_the_tunneler(out) {
        return Ok(());
    }
    let message = format!(
        "{} is read by ziti-edge-tunnel, which crashes at every start on an identity whose key wants a PIN that is not in it",
        folder_of_the_tunneler().display()
    );
    Err(usage_with(message, "give --embed-pin, or put the identity into another folder"))
}

/// A reference as people write it, or what stands in `id.key` of an identity.
pub fn reference(text: &str, providers: &Providers) -> Result<KeyUri, String> {
    // That of an identity may hold one, but not where the process list shows it.
    if holds_a_pin(text) {
        return Err(UriError::PinValue.to_string());
    }
    match providers.locate(&KeyReference::found(text)) {
        Some(located) => located.map_err(|e| text.parse::<KeyUri>().err().map_or_else(|| e.to_string(), |why| why.to_string())),
        None => text.parse().map_err(|e: UriError| e.to_string()),
    }
}

/// Puts the options of `provider` into a reference, without knowing what they mean.
pub fn fold(options: &[Given], provider: &dyn KeyProvider, mut uri: KeyUri) -> Result<KeyUri, Error> {
    let own = provider.options();
    if let Some(foreign) = options.iter().find(|g| g.typed && !own.iter().any(|o| o.flag == g.flag)) {
        return Err(usage(format!("--{} is not an option of provider {}", foreign.flag, provider.name())));
    }
    for option in own {
        let given = options.iter().find(|g| g.flag == option.flag);
        let variable =
            || (!option.variable.is_empty()).then(|| std::env::var(option.variable).ok()).flatten().filter(|v| !v.is_empty());
        let (value, typed) = match given {
            Some(given) => (given.value.clone(), given.typed),
            None => match variable() {
                Some(value) => (value, false),
                None => continue,
            },
        };
        // A URI may stand there as well.
        if holds_a_pin(&value) {
            return Err(usage(format!("--{}: {}", option.flag, UriError::PinValue)));
        }
        // An empty value says nothing: in a reference it would be a name.
        if value.is_empty() {
            continue;
        }
        match uri.attribute(option.attribute) {
            None if !typed && option.instead.iter().any(|name| uri.attribute(name).is_some()) => {}
            None => uri.set(option.attribute, value.as_bytes()),
            Some(there) if typed && there != value.as_bytes() => {
                return Err(usage(format!("--{} and `{}` of --key disagree", option.flag, option.attribute)));
            }
            Some(_) => {}
        }
    }
    Ok(uri)
}

/// Reads a token: from standard input, a file, or the command line itself.
///
/// # Errors
/// What is wrong with it.
pub fn read_token(jwt: &OsStr, watch: &dyn Watch) -> Result<(SecretString, Option<PathBuf>), Error> {
    if jwt == "-" {
        let token = files::read_file("/dev/stdin".as_ref(), jwt::LARGEST as u64).map_err(token_file_error)?;
        return Ok((text(token)?, None));
    }
    let path = PathBuf::from(jwt);
    if let Some(token) = jwt.to_str().filter(|t| t.starts_with("ey") && t.split('.').count() == 3 && !path.exists()) {
        // A watcher that wants to end the run does so at the next stage.
        watch.note("a token on the command line is seen by everyone who lists processes: use a file or `-`");
        return Ok((SecretString::from(token), None));
    }
    let token = files::read_file(&path, jwt::LARGEST as u64).map_err(token_file_error)?;
    // A later run may start elsewhere.
    let path = files::absolute(&path).map_err(token_file_error)?;
    Ok((text(token)?, Some(path)))
}

/// In place of a token, for a controller that is trusted by `--ca`.
pub fn controller(url: &str, is_trusted: bool) -> Result<UnverifiedToken, Error> {
    if !is_trusted {
        return Err(usage_with(
            "--controller says where the controller is, and not why to trust it",
            "give --ca, or a network token",
        ));
    }
    url.parse().map(UnverifiedToken::of_controller).map_err(|e| usage(format!("--controller {url}: {e}")))
}

/// The CA certificates of a file.
pub fn anchors(path: &Path) -> Result<Anchors, Error> {
    let pem = files::read_file(path, identity::LARGEST).map_err(Error::Read)?;
    let unusable = |e| Error::Identity { path: path.to_owned(), source: IdentityError::Certificates("ca", e) };
    Anchors::from_pem(&pem).map_err(unusable)
}

/// As the historical tool took them, `RSA` and `EC`, and by our own names.
pub fn algorithm(name: &str) -> Result<KeyAlgorithm, Error> {
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
}
