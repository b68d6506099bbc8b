//! What to do next, beside an error.

use std::path::Path;

use super::{Error, Spent};
use crate::controller::{ControllerError, Refusal};
use crate::files::{FileError, FileErrorKind, Unsafe};
use crate::http::{HttpError, HttpErrorKind};
use crate::journal::JournalError;
use crate::jwt::TokenError;
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
            Self::Network { source, .. } => network_hint(source),
            Self::NotNow { .. } => Some(Hint::say("run the same command again in a while")),
            Self::Key { source, .. } | Self::IdentityKey { source, .. } => match source {
                KeyError::File(source) => file_hint(source, self.spent()),
                source => source.fault().and_then(|fault| fault.hint.as_deref().cloned()),
            },
            Self::Hanging { .. } => {
                Some(Hint::say("see what the device or its service is doing; --device-timeout gives it more time"))
            }
            Self::Refused(refusal) => refusal_hint(&refusal.code),
            Self::Gone { subject, .. } => Some(Hint::say(format!(
                "have the administrator look at the authenticators of identity {subject}: if there is one that you do not know, \
                 somebody else has used the token; then ask for a new one"
            ))),
            Self::OutcomeUnknown { .. } => Some(Hint::say(
                "run the same command again: the same request is sent once more, which can enroll the identity at most once",
            )),
            Self::AnswerLost { subject, out } => Some(answer_lost_hint(subject, out)),
            Self::Unkept { .. } => Some(Hint::say(
                "put what was printed into a file, make room, and give it to `ziti-enroller resume IDENTITY --certificate FILE`",
            )),
            Self::Issued { .. } => {
                Some(Hint::say("the key and the answer are kept; ask the controller's administrator what it has issued"))
            }
            Self::Local { source, spent } => file_hint(source, *spent),
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
             or an impostor; ask the administrator for a refreshed token"
        ))),
        TrustError::TokenDamaged => Some(Hint::say("copy the token again, whole and without changes")),
        TrustError::NotKeyOwner => {
            Some(Hint::say(format!("something between here and {controller} pretends to be the controller")))
        }
        TrustError::Chain { clock: Some(clock), .. } => Some(Hint::say(format!(
            "the clock of this machine says {clock}; if that is right, the controller's certificate must be renewed"
        ))),
        TrustError::Chain { clock: None, .. } => Some(Hint::say(
            "the controller must hand out the CA that issued its own certificate; its administrator can add it to the listener's `ca`",
        )),
        TrustError::Name => {
            Some(Hint::say(format!("the controller's certificate must name {controller}, which is what its tokens say")))
        }
        TrustError::Cacerts(_) | TrustError::CacertsStatus(_) | TrustError::Redirect(_) => {
            Some(Hint::say(format!("what answers at {controller} does not behave like an OpenZiti controller")))
        }
        TrustError::Client(_) | TrustError::Network(_) => None,
    }
}

fn network_hint(error: &HttpError) -> Option<Hint> {
    match error.kind {
        HttpErrorKind::Unresolved => {
            Some(Hint::say("check the name and this machine's resolver; then run the same command again"))
        }
        HttpErrorKind::Connect(_) | HttpErrorKind::Timeout(_) | HttpErrorKind::Closed => {
            Some(Hint::say("run the same command again when the controller can be reached"))
        }
        HttpErrorKind::Tls(_) | HttpErrorKind::TooLarge(_) | HttpErrorKind::Protocol(_) => None,
    }
}

fn refusal_hint(code: &Printable) -> Option<Hint> {
    match code.as_str() {
        "ENROLLMENT_EXPIRED" => Some(Hint::say("ask the administrator to refresh the enrollment, which makes a new token")),
        "COULD_NOT_PROCESS_CSR" => Some(Hint::say("the token can be used again; another --key-alg may be accepted")),
        "INVALID_ENROLL_METHOD" => {
            Some(Hint::say("the token says another method than the controller knows for it: ask for a new one"))
        }
        _other => None,
    }
}

fn renewal_refusal_hint(refusal: &Refusal) -> Option<Hint> {
    match (refusal.code.as_str(), refusal.status) {
        ("COULD_NOT_PROCESS_CSR", _) => Some(Hint::say("another --key-alg may be accepted, with --rotate")),
        (_, 401) => Some(Hint::say("another program may have renewed the identity at the same time: run the same command again")),
        _other => None,
    }
}

/// The controller keeps what it has issued: the certificate can be had from it, or the identity be enrolled anew.
fn answer_lost_hint(subject: &str, out: &Path) -> Hint {
    let query = format!("identity=\"{subject}\" and method=\"cert\"");
    let listed = format!("ziti edge list authenticators {} -j", shell_word(&query));
    let file = shell_word(&format!("{subject}.pem"));
    let out = shell_word(&out.to_string_lossy());
    Hint::run(
        format!(
            "the administrator can give you the controller's copy of the certificate, or re-enroll the identity \
             (`ziti edge update authenticator cert ID --re-enroll`; then enroll with the new token: the same key is found). \
             The copy is `certPem` of GET /edge/management/v1/authenticators?filter={}",
            crate::text::percent_encode(query.as_bytes())
        ),
        format!("{listed} | jq -r '.data[0].certPem' > {file} && ziti-enroller resume {out} --certificate {file}"),
    )
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
        FileErrorKind::FolderUnsafe(Unsafe::OfAnother | Unsafe::NoFolder) => {
            Some(Hint::say("give another place with --out, or see who has put it there and move it away"))
        }
        FileErrorKind::Full(_) => Some(Hint::say(format!("make room on that file system, {again}"))),
        FileErrorKind::InUse => Some(Hint::say("wait until the other run has ended")),
        FileErrorKind::System(_) => Some(Hint::say(format!("repair that, {again}"))),
        FileErrorKind::TooLarge(_) | FileErrorKind::Content(_) => None,
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
