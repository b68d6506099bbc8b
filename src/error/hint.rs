//! What to do next, beside an error.

use std::path::Path;

use super::{Error, Spent};
use crate::controller::{ControllerError, Outcome, Refusal};
use crate::files::{FileError, FileErrorKind, Unsafe};
use crate::http::{HttpError, HttpErrorKind, ProxyError};
use crate::identity::IdentityError;
use crate::journal::JournalError;
use crate::jwt::{Brings, TokenError};
use crate::key::KeyError;
use crate::text::{Hint, Printable, shell_word};
use crate::trust::TrustError;

impl Error {
    /// What to do next, where there is something to do.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Usage { hint, .. } => hint.clone(),
            Self::Token(source) => token_hint(source),
            Self::Trust { controller, source } => trust_hint(controller, source),
            Self::Network { controller, source } => network_hint(controller, source),
            Self::NotNow { .. } => Some(Hint::say("run the same command again in a while")),
            Self::Key { source, .. } | Self::IdentityKey { source, .. } => match source {
                KeyError::File(source) => file_hint(source, self.spent()),
                source => source.fault().and_then(|fault| fault.hint.as_deref().cloned()),
            },
            Self::Hanging { .. } => {
                Some(Hint::say("see what the device or its service is doing; --device-timeout gives it more time"))
            }
            Self::Refused(refusal) => refusal_hint(&refusal.code),
            Self::Gone { method, source, .. } if method.brings() == Brings::IdpToken => Some(Hint::say(idp_token_hint(source))),
            Self::Gone { subject: None, .. } => Some(Hint::say("ask the administrator for a new token")),
            Self::Gone { subject: Some(subject), .. } => Some(Hint::say(format!(
                "have the administrator look at the authenticators of identity {subject}: if there is one that you do not know, \
                 somebody else has used the token; then ask for a new one"
            ))),
            Self::OutcomeUnknown { .. } => Some(Hint::say(
                "run the same command again: the same request is sent once more, which can enroll the identity at most once",
            )),
            Self::AnswerLost { subject, out } => Some(answer_lost_hint(subject.as_deref(), out)),
            Self::Unkept { out, .. } => Some(Hint::run(
                "put what was printed into a file and repair that; then take it from there",
                format!("ziti-enroller resume {} --certificate FILE", shell_word(&out.to_string_lossy())),
            )),
            Self::Issued { .. } => {
                Some(Hint::say("the key and the answer are kept; ask the controller's administrator what it has issued"))
            }
            Self::Local { source, spent } => file_hint(source, *spent),
            Self::Output(source) => file_hint(source, Spent::No),
            Self::Memory(source) => memory_hint(source),
            Self::Journal { source: JournalError::File(source), spent } => file_hint(source, *spent),
            // Of a renewal: the token was spent long ago.
            Self::Journal { source: JournalError::Damaged { .. }, spent: Spent::Yes } => Some(Hint::say(
                "see with `ziti-enroller verify` whether the identity still logs in; if not, its folder holds the new one as `next`",
            )),
            Self::Journal { source: JournalError::Damaged { .. }, .. } => {
                Some(Hint::say("move its folder away to begin anew; the token may be spent"))
            }
            Self::OtherToken { folder } => Some(Hint::say(format!(
                "finish it with its own token, or give --force to set {} aside and begin anew",
                folder.display()
            ))),
            Self::Identity { source: IdentityError::Missing("cert"), .. } => {
                Some(Hint::say("nobody can log in with it: enroll with the token of an identity"))
            }
            Self::Identity { .. } | Self::Read(_) => None,
            Self::Login { source, .. } => login_hint(source),
            Self::LoginNeedsMore => None,
            Self::OnlyOidc { .. } => {
                Some(Hint::say("nothing is wrong with the identity as far as this can be told; its certificate was not judged"))
            }
            Self::NotRenewable { .. } => Some(Hint::say(
                "get a new certificate from the CA that has issued this one; the administrator re-enrolls the identity with it, \
                 or the CA names identities by a claim, and then nothing is to be done here",
            )),
            Self::RenewalRefused(refusal) => renewal_refusal_hint(refusal),
            Self::RenewalUnusable(_) => Some(Hint::say("ask the controller's administrator what it issues")),
            Self::RenewalUnknown { identity, .. } => Some(Hint::run(
                "both certificates are kept, and the same command finds out which one logs in; where neither ever does, have the \
                 administrator look at the identity",
                format!("ziti-enroller renew {}", shell_word(&identity.to_string_lossy())),
            )),
            Self::Interrupted { .. } => Some(Hint::say("run the same command again: it goes on from where it stopped")),
            Self::Unexpected(_) => Some(Hint::say("this is a mistake in ziti-enroller: please report it")),
        }
    }
}

fn token_hint(error: &TokenError) -> Option<Hint> {
    match error {
        TokenError::Expired(_) => Some(Hint::say("ask the administrator to refresh the enrollment, which makes a new token")),
        TokenError::IdpExpired(_) => Some(Hint::say("get a new one from the identity provider")),
        TokenError::Missing(_) => Some(Hint::say("give the token's file with --jwt, or `-` for standard input")),
        TokenError::Empty | TokenError::Malformed(_) | TokenError::TooLarge => {
            Some(Hint::say("copy the token again, whole: three parts with dots between them, beginning with `ey`"))
        }
        TokenError::Algorithm(_) | TokenError::Method(_) | TokenError::Issuer { .. } | TokenError::NoIssuer | TokenError::Id => {
            None
        }
        TokenError::NotSigned { .. } => None,
    }
}

fn trust_hint(controller: &str, error: &TrustError) -> Option<Hint> {
    match error {
        TrustError::NotSigner => Some(Hint::say(format!(
            "another certificate answers at {controller}: renewed since the token was made, another listener, a TLS proxy, \
             or an impostor; ask the administrator for a refreshed token, or give with --ca the CA certificate that you trust it by"
        ))),
        TrustError::TokenDamaged => Some(Hint::say("copy the token again, whole and without changes")),
        TrustError::NotKeyOwner => {
            Some(Hint::say(format!("something between here and {controller} pretends to be the controller")))
        }
        TrustError::Chain { clock: Some(clock), .. } | TrustError::GivenChain { clock: Some(clock), .. } => Some(Hint::say(
            format!("the clock of this machine says {clock}; if that is right, the controller's certificate must be renewed"),
        )),
        TrustError::Chain { clock: None, .. } => Some(Hint::say(
            "the controller must hand out the CA that issued its own certificate; its administrator can add it to the listener's `ca`",
        )),
        TrustError::GivenChain { clock: None, .. } => {
            Some(Hint::say(format!("give with --ca the CA certificate that issued the one of {controller}")))
        }
        TrustError::Name => {
            Some(Hint::say(format!("the controller's certificate must name {controller}, which is what its tokens say")))
        }
        TrustError::Cacerts(_) | TrustError::CacertsStatus(_) | TrustError::Redirect(_) => {
            Some(Hint::say(format!("what answers at {controller} does not behave like an OpenZiti controller")))
        }
        TrustError::Client(_) | TrustError::Network(_) => None,
    }
}

fn network_hint(controller: &str, error: &HttpError) -> Option<Hint> {
    match &error.kind {
        HttpErrorKind::Unresolved => {
            Some(Hint::say("check the name and this machine's resolver; then run the same command again"))
        }
        HttpErrorKind::Connect(_) | HttpErrorKind::Timeout(_) | HttpErrorKind::Closed => {
            Some(Hint::say("run the same command again when the controller can be reached"))
        }
        HttpErrorKind::Tls(_) | HttpErrorKind::TooLarge(_) | HttpErrorKind::Protocol(_) => None,
        HttpErrorKind::Proxy { why, .. } => Some(proxy_hint(controller, why)),
    }
}

fn proxy_hint(controller: &str, why: &ProxyError) -> Hint {
    let host = controller.trim_start_matches("https://");
    match why {
        ProxyError::Refused(407) => Hint::say(
            "put them into the proxy's address, percent-encoded: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT \
             (`ps` shows what is given with --proxy)",
        ),
        ProxyError::Refused(500..) => {
            Hint::say("see whether the controller can be reached from the proxy; then run the same command again")
        }
        ProxyError::Refused(_) => {
            Hint::say(format!("have its administrator allow CONNECT to {host}, or give --no-proxy {host} to go there directly"))
        }
        ProxyError::Unresolved | ProxyError::Connect(_) | ProxyError::Timeout | ProxyError::Closed | ProxyError::Protocol => {
            Hint::say(format!("check the proxy's address (--proxy, HTTPS_PROXY), or give --no-proxy {host} to go there directly"))
        }
    }
}

/// The controller has not taken the token of an identity provider.
fn idp_token_hint(why: &Refusal) -> &'static str {
    if Outcome::is_about_idp_token(why) {
        "get a new token from the identity provider; `ziti-enroller list signers` shows whose tokens the controller takes, and \
         for which audience"
    } else {
        "an identity is enrolled for whom this token means: use its identity file, or have the administrator delete the identity"
    }
}

fn refusal_hint(code: &Printable) -> Option<Hint> {
    let say = match code.as_str() {
        "ENROLLMENT_EXPIRED" => "ask the administrator to refresh the enrollment, which makes a new token",
        "COULD_NOT_PROCESS_CSR" | "MISSING_OR_INVALID_CSR" => "the token can be used again; another --key-alg may be accepted",
        "INVALID_ENROLL_METHOD" => "the token says another method than the controller knows for it: ask for a new one",
        "CERTIFICATE_FAILED_VALIDATION" | "CERT_FAILED_VALIDATION" => {
            "the certificate and its intermediates in --cert must lead to a CA that the controller has verified and lets enroll, and \
             be for TLS clients; the token can be used again"
        }
        "CERT_IN_USE" => {
            "an identity has this certificate already: with a token of method `ca`, --force writes its identity file; else \
             have another certificate issued"
        }
        "ENROLLMENT_CA_NOT_VALID" => {
            "have the administrator allow enrollment with tokens for that CA (`ziti edge update ca NAME --ottca`)"
        }
        "ENROLLMENT_NO_VALID_CAS" => {
            "have the administrator add your CA, verify it and allow it to enroll (`ziti edge create ca`, `ziti edge verify ca`)"
        }
        "MISSING_CERT_CLAIM" => {
            "have the CA put what the controller looks for into the certificate, or the administrator change the claim of the CA"
        }
        "INVALID_ENROLLMENT_NOT_ALLOWED" => {
            "have the administrator allow this way to enroll, at the signer of the token or in the authentication policy of the \
             identity; `ziti-enroller list signers` shows what is allowed now"
        }
        "NOT_FOUND" | "NOT_IMPLEMENTED" => {
            "this controller takes no tokens of identity providers: that needs OpenZiti 2.0 or later"
        }
        "UNAUTHORIZED" => "the token can be used again; have the administrator look at the log of the controller",
        "REQUEST_ENTITY_TOO_LARGE" => {
            "the token can be used again; something before the controller may limit requests more than it does: see --no-proxy"
        }
        _other => return None,
    };
    Some(Hint::say(say))
}

fn renewal_refusal_hint(refusal: &Refusal) -> Option<Hint> {
    match (refusal.code.as_str(), refusal.status) {
        ("COULD_NOT_PROCESS_CSR", _) => Some(Hint::say("another --key-alg may be accepted, with --rotate")),
        (_, 401) => Some(Hint::say("another program may have renewed the identity at the same time: run the same command again")),
        _other => None,
    }
}

/// The controller keeps what it has issued: the certificate can be had from it, or the identity be enrolled anew.
fn answer_lost_hint(subject: Option<&str>, out: &Path) -> Hint {
    let Some(subject) = subject else {
        let say = "the administrator can give you the controller's copy of the certificate";
        return Hint::run(say, take_back_command(None, out));
    };
    Hint::run(
        format!(
            "the administrator can give you the controller's copy of the certificate, or re-enroll the identity \
             (`ziti edge update authenticator cert --re-enroll -- ID`; then enroll with the new token: the same key is found). \
             The copy is `certPem` of GET /edge/management/v1/authenticators?filter={}",
            crate::text::percent_encode(query_of(subject).as_bytes())
        ),
        take_back_command(Some(subject), out),
    )
}

fn query_of(subject: &str) -> String {
    format!("identity=\"{subject}\" and method=\"cert\"")
}

/// Has the controller give its own copy of the certificate of identity `subject`, and goes on with the enrollment to `out`.
/// Without a subject nobody but the administrator knows which one it is.
pub(crate) fn take_back_command(subject: Option<&str>, out: &Path) -> String {
    let out = shell_word(&out.to_string_lossy());
    let Some(subject) = subject else { return format!("ziti-enroller resume {out} --certificate FILE") };
    let listed = format!("ziti edge list authenticators {} -j", shell_word(&query_of(subject)));
    let file = shell_word(&format!("{subject}.pem"));
    format!("{listed} | jq -r '.data[0].certPem' > {file} && ziti-enroller resume {out} --certificate {file}")
}

fn file_hint(error: &FileError, spent: Spent) -> Option<Hint> {
    let again = match spent {
        Spent::No => "then run the same command again",
        Spent::Yes => "then run the same command again: it goes on from the answer that is kept",
        Spent::Unknown => "then run the same command again: it goes on from where it stopped",
    };
    let path = error.path.to_string_lossy();
    match error.kind {
        // Another name would leave what the token has bought behind.
        FileErrorKind::Exists | FileErrorKind::Symlink | FileErrorKind::NotAFile if spent != Spent::No => {
            Some(Hint::say(format!("move it away, {again}")))
        }
        FileErrorKind::Symlink if error.action == "replace" => Some(Hint::say("name the file that it leads to")),
        FileErrorKind::Exists => Some(Hint::say("give --force to replace it, or another name with --out")),
        FileErrorKind::Symlink | FileErrorKind::NotAFile => Some(Hint::say("give another name with --out")),
        FileErrorKind::FolderMissing => Some(Hint::run("make the folder", format!("mkdir -p {}", shell_word(&path)))),
        FileErrorKind::FolderNotWritable(_) => {
            Some(Hint::say(format!("run this as a user who may write there, or give another place; {again}")))
        }
        FileErrorKind::FolderUnsafe(Unsafe::OpenToAll) => Some(Hint::run(
            "anybody who may swap files there could read or replace the identity",
            format!("chmod o-w {}", shell_word(&path)),
        )),
        FileErrorKind::FolderUnsafe(Unsafe::OfAnother | Unsafe::NoFolder | Unsafe::Shared | Unsafe::Planted) => {
            Some(Hint::say("give another place with --out, or see who has put it there and move it away"))
        }
        FileErrorKind::Full(rustix::io::Errno::FBIG) => {
            Some(Hint::say(format!("raise the limit on the size of files (`ulimit -f`), {again}")))
        }
        FileErrorKind::Full(_) => Some(Hint::say(format!("make room on that file system, {again}"))),
        FileErrorKind::InUse => Some(Hint::say("wait until the other run has ended")),
        FileErrorKind::System(_) => Some(Hint::say(format!("repair that, {again}"))),
        FileErrorKind::TooLarge(_) | FileErrorKind::Content(_) => None,
    }
}

fn memory_hint(error: &FileError) -> Option<Hint> {
    let no_other_disk = "a PIN is written to no disk: start this where a tmpfs can be written to, such as the one that a unit of \
        systemd gets with RuntimeDirectory=";
    match &error.kind {
        FileErrorKind::Content(_) => Some(Hint::say(no_other_disk)),
        _other => file_hint(error, Spent::No),
    }
}

fn login_hint(error: &ControllerError) -> Option<Hint> {
    match error {
        ControllerError::Refused(_) => Some(Hint::say(
            "have the administrator look at the identity: it may be disabled or deleted, enrolled anew, or its certificate expired",
        )),
        ControllerError::OtherCertificate => Some(Hint::say(
            "have the administrator look at the authenticators of the identity: it may have been enrolled anew elsewhere",
        )),
        ControllerError::Trust(_) | ControllerError::Form(_) => None,
    }
}
