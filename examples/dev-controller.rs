//! A controller to test your own software against: strict, on loopback, with tokens ready to be used.
//!
//! ```text
//! cargo run --example dev-controller -- DIR [--tokens N] [--listen HOST:PORT] [--like 1.4|2.1] [--fault NAME]...
//!                                           [--key p256|p384|p521|rsa2048] [--tls 1.2|1.3|both]
//!                                           [--third-party-ca FILE]
//! ```
//!
//! It writes `DIR/url`, `DIR/ca.pem` and `DIR/1.jwt` to `DIR/N.jwt` (1 unless told otherwise), and last `DIR/ready`: wait
//! for that one. On SIGTERM or SIGINT it prints what it saw as one JSON object on stdout and ends: with 0, or with 1 if a
//! client sent what a correct client never sends (`violations`, a sentence each).
//!
//! With `--third-party-ca` it knows that CA (PEM) as one that may enroll and log in: then the tokens are of method `ottca`,
//! for whoever shows a certificate that leads to it, and `DIR/ca.jwt` is the one of method `ca`.
//!
//! What it checks is what a controller checks: each token once, the request's signature, content types, the login's
//! certificate. `--fault` makes it misbehave, so that you see what your software does then; a wrong name lists them all.
//!
//! ```console
//! $ cargo run --example dev-controller -- /tmp/ctrl --fault drop-post-after > seen.json &
//! $ until [ -e /tmp/ctrl/ready ]; do sleep 0.1; done
//! $ your-software enroll /tmp/ctrl/1.jwt
//! $ kill %1; wait %1; jq .enrolled seen.json
//! ```

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use ziti_enroller_support::{Controller, Options, StopSignal, ThirdPartyCa};

const USAGE: &str = "usage: dev-controller DIR [--tokens N] [--listen HOST:PORT] [--like 1.4|2.1] [--fault NAME]...
                          [--key p256|p384|p521|rsa2048] [--tls 1.2|1.3|both] [--third-party-ca FILE]";

fn main() -> ExitCode {
    let asked = match Asked::read(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let stop = StopSignal::listen();
    let controller = Controller::start(asked.options.clone());
    if let Err(error) = lay_out(&controller, &asked) {
        eprintln!("{}: {error}", asked.folder.display());
        return ExitCode::from(2);
    }
    eprintln!("{} until SIGTERM or SIGINT; tokens in {}", controller.url(), asked.folder.display());
    stop.wait();
    println!("{}", controller.report());
    let violations = controller.violations();
    violations.iter().for_each(|sentence| eprintln!("violation: {sentence}"));
    ExitCode::from(u8::from(!violations.is_empty()))
}

struct Asked {
    folder: PathBuf,
    tokens: usize,
    options: Options,
    third_party: Option<ThirdPartyCa>,
}

impl Asked {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut folder, mut tokens, mut options, mut third_party) = (None, 1, Options::default(), None);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
            match word.as_str() {
                "--tokens" => tokens = parse(&value()?)?,
                "--listen" => options.listen = value()?,
                "--like" => options.like = parse(&value()?)?,
                "--fault" => options.faults.push(parse(&value()?)?),
                "--key" => options.key = parse(&value()?)?,
                "--third-party-ca" => third_party = Some(ca_of(Path::new(&value()?))?),
                "--tls" => options.tls = parse(&value()?)?,
                "--help" | "-h" => return Err("A strict OpenZiti controller for tests.".into()),
                _ if word.starts_with('-') || folder.is_some() => return Err(format!("what is `{word}`?")),
                _ => folder = Some(PathBuf::from(word)),
            }
        }
        Ok(Self { folder: folder.ok_or("where to? DIR is missing")?, tokens, options, third_party })
    }
}

fn parse<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| format!("`{text}`: {}", error.to_string()))
}

fn ca_of(file: &Path) -> Result<ThirdPartyCa, String> {
    let pem = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let certificate = CertificateDer::from_pem_slice(&pem).map_err(|error| format!("{}: {error}", file.display()))?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    Ok(ThirdPartyCa::of_certificate(&name, &certificate))
}

/// `ready` comes last: who sees it sees all the rest whole.
fn lay_out(controller: &Controller, asked: &Asked) -> io::Result<()> {
    let folder = &asked.folder;
    fs::create_dir_all(folder)?;
    if folder.join("ready").exists() {
        fs::remove_file(folder.join("ready"))?; // of an earlier run
    }
    fs::write(folder.join("url"), controller.url())?;
    fs::write(folder.join("ca.pem"), controller.ca_pem())?;
    if let Some(ca) = &asked.third_party {
        controller.set_ca(ca);
        fs::write(folder.join("ca.jwt"), controller.ca_token(ca).issue().compact())?;
    }
    for number in 1..=asked.tokens {
        let token = controller.token(&number.to_string());
        let token = asked.third_party.iter().fold(token, |token, ca| token.of_ca(ca));
        token.issue().write(folder);
    }
    fs::write(folder.join("ready"), "")
}
