//! The top error: which step failed, whether the token is spent, what to do, and the exit code.
//!
//! Each room has an error of its own, which knows nothing of exit codes. The tens of a code name the room.

mod hint;

pub(crate) use hint::take_back_command;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::certificate::CertificateError;
use crate::controller::{ControllerError, Refusal};
use crate::files::{FileError, FileErrorKind};
use crate::http::{HttpError, HttpErrorKind};
use crate::identity::IdentityError;
use crate::journal::JournalError;
use crate::jwt::{Brings, Method, TokenError};
use crate::key::{KeyError, KeyUri};
use crate::text::Hint;
use crate::trust::TrustError;

/// Whether the one-time token was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spent {
    /// It can be used again.
    No,
    /// It is gone.
    Yes,
    /// Nobody can tell yet.
    Unknown,
}

/// Somebody who watches a run has ended it.
#[derive(Debug, thiserror::Error)]
#[error("the run was ended at `{0}`")]
pub struct Interrupted(pub String);

/// A command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was typed does not make sense.
    #[error("{message}")]
    Usage {
        /// What is wrong with it.
        message: String,
        /// What to type instead.
        hint: Option<Hint>,
    },
    /// Room 1.
    #[error("cannot use enrollment token")]
    Token(#[source] TokenError),
    /// Room 2.
    #[error("cannot trust controller {controller}")]
    Trust {
        /// Whom.
        controller: String,
        /// Why.
        #[source]
        source: TrustError,
    },
    /// The controller was not reached.
    #[error("cannot reach controller {controller}")]
    Network {
        /// Whom.
        controller: String,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// The controller does not serve us now.
    #[error("controller {controller} does not serve us now: {why}")]
    NotNow {
        /// Whom.
        controller: String,
        /// Its words.
        why: String,
    },
    /// Room 3.
    #[error("cannot use key {uri}")]
    Key {
        /// Which.
        uri: Box<KeyUri>,
        /// Why.
        #[source]
        source: KeyError,
        /// The token.
        spent: Spent,
    },
    /// Room 3, of a key that an identity names.
    #[error("cannot use the key of {}", .identity.display())]
    IdentityKey {
        /// The identity's file.
        identity: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// A definite no to the enrollment.
    #[error("controller refused the enrollment")]
    Refused(#[source] Refusal),
    /// The very first request was answered with "no such token".
    #[error("{}", gone(*.method))]
    Gone {
        /// How it enrolls.
        method: Method,
        /// The identity, where the token names one.
        subject: Option<String>,
        /// The controller's words.
        #[source]
        source: Refusal,
    },
    /// A request was sent and nobody knows what became of it.
    #[error("the controller may have enrolled the identity, and its answer did not arrive: {why}")]
    OutcomeUnknown {
        /// What happened last.
        why: String,
    },
    /// The controller has issued a certificate that never arrived.
    #[error("the controller has enrolled the identity, and its answer is lost")]
    AnswerLost {
        /// The identity, where the token names one.
        subject: Option<String>,
        /// Where it was to be.
        out: PathBuf,
    },
    /// What was issued cannot be used.
    #[error("what the controller has issued cannot be used{}", .kept.as_ref().map(|k| format!("; it is kept in {}", k.display())).unwrap_or_default())]
    Issued {
        /// What is wrong with it.
        #[source]
        source: IssuedError,
        /// Where it is; `None` where it came in a file of its own.
        kept: Option<PathBuf>,
    },
    /// The answer arrived and cannot be kept: the certificates in it go to standard output.
    #[error("the controller has issued a certificate, and it cannot be kept here: it is printed instead")]
    Unkept {
        /// Where the identity was to be.
        out: PathBuf,
        /// Why.
        #[source]
        source: FileError,
        /// PEM.
        certificates: String,
    },
    /// A file or folder of ours.
    #[error("cannot write the identity")]
    Local {
        /// Which, and why.
        #[source]
        source: FileError,
        /// The token.
        spent: Spent,
    },
    /// A copy of an identity, for a program that wants the PIN inside.
    #[error("cannot keep a copy of the identity in memory")]
    Memory(#[source] FileError),
    /// A file that was asked for, beside identities.
    #[error("cannot write the request")]
    Output(#[source] FileError),
    /// The journal of the work folder.
    #[error("cannot keep the journal")]
    Journal {
        /// Why.
        #[source]
        source: JournalError,
        /// The token.
        spent: Spent,
    },
    /// The work folder belongs to an enrollment with another token, whose outcome matters.
    #[error("an enrollment with another token has not ended: {}", .folder.display())]
    OtherToken {
        /// The work folder.
        folder: PathBuf,
    },
    /// An identity, token or certificate file that is to be read.
    #[error("cannot use {}", .path.display())]
    Identity {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: IdentityError,
    },
    /// A file that is to be read.
    #[error("cannot read what was asked for")]
    Read(#[source] FileError),
    /// The controller did not accept the login.
    #[error("controller {controller} did not accept the login")]
    Login {
        /// Whom.
        controller: String,
        /// Its words.
        #[source]
        source: ControllerError,
    },
    /// The certificate was accepted, and a second factor is due.
    #[error("the certificate was accepted, and a second factor is due")]
    LoginNeedsMore,
    /// The controller serves no login that this program speaks.
    #[error("controller {controller} takes logins by OpenID Connect only, which this program does not speak yet")]
    OnlyOidc {
        /// Whom.
        controller: String,
    },
    /// The controller cannot renew a certificate that another CA has issued.
    #[error("the network has not issued the certificate of this identity, so controller {controller} cannot renew it")]
    NotRenewable {
        /// Whom.
        controller: String,
    },
    /// A definite no to a renewal.
    #[error("controller refused the renewal; the identity is as before")]
    RenewalRefused(#[source] Refusal),
    /// The certificate that the controller has issued for a renewal cannot be used.
    #[error("what the controller has issued cannot be used; the identity is as before")]
    RenewalUnusable(#[source] IssuedError),
    /// The controller was told that the new certificate has arrived, and nobody knows whether it has heard it.
    #[error("nobody can tell which certificate is in force, the old or the new one: {why}")]
    RenewalUnknown {
        /// What happened last.
        why: String,
        /// The identity's file.
        identity: PathBuf,
    },
    /// A device does not come back from a call.
    #[error("the device has not answered {call} for {} s", .limit.as_secs_f64())]
    Hanging {
        /// Its own name for it.
        call: &'static str,
        /// How long it was waited for.
        limit: Duration,
        /// The token.
        spent: Spent,
    },
    /// Somebody who watches the run has ended it.
    #[error("the run was stopped")]
    Interrupted {
        /// Where.
        #[source]
        source: Interrupted,
        /// The token.
        spent: Spent,
    },
    /// What should never happen.
    #[error("unexpected: {0}")]
    Unexpected(String),
}

/// What is wrong with an issued certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssuedError {
    /// The answer is none.
    #[error("{0}")]
    Answer(&'static str),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The identity would not be one.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Error {
    /// A failure of `trust` at `controller`: not reached is another matter than not trusted.
    pub fn trust(controller: impl Into<String>, source: TrustError) -> Self {
        let controller = controller.into();
        match source {
            TrustError::Network(source) => Self::Network { controller, source },
            TrustError::CacertsStatus(status @ (429 | 500..=599)) => {
                Self::NotNow { controller, why: format!("it answered with status {status}") }
            }
            source => Self::Trust { controller, source },
        }
    }

    /// The exit code of the program.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Token(TokenError::Expired(_) | TokenError::IdpExpired(_)) => 11,
            Self::Token(_) => 10,
            Self::Trust { .. } => 12,
            Self::Network { .. } | Self::NotNow { .. } => 30,
            Self::Key { source, .. } | Self::IdentityKey { source, .. } => key_exit_code(source, self.spent()),
            Self::Hanging { .. } => 25,
            Self::Refused(_) => 31,
            Self::Gone { .. } => 32,
            Self::OutcomeUnknown { .. } | Self::AnswerLost { .. } => 33,
            Self::Issued { .. } => 40,
            Self::Local { source, spent } => file_exit_code(source, *spent),
            Self::Output(source) | Self::Memory(source) => file_exit_code(source, Spent::No),
            Self::Unkept { .. } => 51,
            Self::Journal { source: JournalError::File(source), spent } => file_exit_code(source, *spent),
            Self::Journal { source: JournalError::Damaged { .. }, .. } => 51,
            Self::OtherToken { .. } => 75,
            Self::Identity { .. } | Self::Read(_) => 50,
            Self::Login { .. } => 60,
            Self::LoginNeedsMore | Self::OnlyOidc { .. } => 61,
            Self::NotRenewable { .. } | Self::RenewalRefused(_) => 31,
            Self::RenewalUnusable(_) => 40,
            Self::RenewalUnknown { .. } => 33,
            Self::Interrupted { .. } | Self::Unexpected(_) => 70,
        }
    }

    /// The stable name, for `--format json`.
    pub fn code(&self) -> String {
        match self {
            Self::Usage { .. } => "usage".into(),
            Self::Token(source) => token_code(source).into(),
            Self::Trust { source, .. } => trust_code(source).into(),
            Self::Network { source, .. } => network_code(source).into(),
            Self::NotNow { .. } => "unreachable".into(),
            Self::Key { source, .. } | Self::IdentityKey { source, .. } => match source {
                KeyError::File(source) => file_code(source).into(),
                source => source.fault().map_or("device_error", |fault| fault.code).into(),
            },
            Self::Hanging { .. } => "device_timeout".into(),
            Self::Refused(refusal) => format!("refused_{}", refusal.code.as_str().to_ascii_lowercase()),
            Self::Gone { .. } => "token_gone".into(),
            Self::OutcomeUnknown { .. } => "outcome_unknown".into(),
            Self::AnswerLost { .. } => "answer_lost".into(),
            Self::Issued { source, .. } => issued_code(source).into(),
            Self::Unkept { source, .. }
            | Self::Local { source, .. }
            | Self::Read(source)
            | Self::Output(source)
            | Self::Memory(source)
            | Self::Journal { source: JournalError::File(source), .. } => file_code(source).into(),
            Self::Journal { source: JournalError::Damaged { .. }, .. } => "journal_damaged".into(),
            Self::OtherToken { .. } => "output_in_use".into(),
            Self::Identity { .. } => "file_error".into(),
            Self::Login { .. } => "login_refused".into(),
            Self::LoginNeedsMore | Self::OnlyOidc { .. } => "login_needs_more".into(),
            // What it would answer: it is not asked.
            Self::NotRenewable { .. } => format!("refused_{}", "CAN_NOT_UPDATE_AUTHENTICATOR".to_ascii_lowercase()),
            Self::RenewalRefused(refusal) => format!("refused_{}", refusal.code.as_str().to_ascii_lowercase()),
            Self::RenewalUnusable(source) => issued_code(source).into(),
            Self::RenewalUnknown { .. } => "outcome_unknown".into(),
            Self::Interrupted { .. } | Self::Unexpected(_) => "unexpected".into(),
        }
    }

    /// Whether the token is spent; for a renewal, whether the new certificate may be in force.
    pub fn spent(&self) -> Spent {
        match self {
            Self::Key { spent, .. }
            | Self::Hanging { spent, .. }
            | Self::Local { spent, .. }
            | Self::Journal { spent, .. }
            | Self::Interrupted { spent, .. } => *spent,
            Self::Unkept { .. }
            | Self::Gone { .. }
            | Self::AnswerLost { .. }
            | Self::Issued { .. }
            | Self::IdentityKey { .. }
            | Self::Login { .. }
            | Self::LoginNeedsMore
            | Self::OnlyOidc { .. }
            | Self::RenewalUnusable(_) => Spent::Yes,
            Self::OutcomeUnknown { .. } | Self::RenewalUnknown { .. } => Spent::Unknown,
            Self::Usage { .. }
            | Self::Token(_)
            | Self::Trust { .. }
            | Self::Network { .. }
            | Self::NotNow { .. }
            | Self::Refused(_)
            | Self::NotRenewable { .. }
            | Self::RenewalRefused(_)
            | Self::OtherToken { .. }
            | Self::Identity { .. }
            | Self::Read(_)
            | Self::Output(_)
            | Self::Memory(_)
            | Self::Unexpected(_) => Spent::No,
        }
    }

    /// Whether the same may work later without anybody's doing: `--wait` repeats it.
    pub fn may_heal(&self, clock_is_wrong: bool) -> bool {
        match self {
            Self::Network { source, .. } => source.kind.may_heal(),
            Self::NotNow { .. } | Self::OutcomeUnknown { .. } | Self::RenewalUnknown { .. } => true,
            Self::Key { source, .. } | Self::IdentityKey { source, .. } => source.may_heal(),
            // A device without a battery learns the time after it has started.
            Self::Trust {
                source: TrustError::Chain { clock: Some(_), .. } | TrustError::GivenChain { clock: Some(_), .. },
                ..
            } => clock_is_wrong,
            Self::Usage { .. }
            | Self::Token(_)
            | Self::Trust { .. }
            | Self::Hanging { .. }
            | Self::Refused(_)
            | Self::Gone { .. }
            | Self::AnswerLost { .. }
            | Self::Issued { .. }
            | Self::Unkept { .. }
            | Self::Local { .. }
            | Self::Journal { .. }
            | Self::OtherToken { .. }
            | Self::Identity { .. }
            | Self::Read(_)
            | Self::Output(_)
            | Self::Memory(_)
            | Self::Login { .. }
            | Self::LoginNeedsMore
            | Self::OnlyOidc { .. }
            | Self::NotRenewable { .. }
            | Self::RenewalRefused(_)
            | Self::RenewalUnusable(_)
            | Self::Interrupted { .. }
            | Self::Unexpected(_) => false,
        }
    }
}

fn gone(method: Method) -> &'static str {
    match method.brings() {
        Brings::IdpToken => "the controller does not take the token of the identity provider",
        Brings::Csr | Brings::Certificate | Brings::Password | Brings::Nothing => {
            "the token is not valid at the controller: it was used by someone else, refreshed, or never valid there"
        }
    }
}

fn key_exit_code(error: &KeyError, spent: Spent) -> u8 {
    match error {
        KeyError::Reference(fault) if fault.code == "usage" => 2,
        KeyError::Reference(_) | KeyError::Unavailable(_) => 20,
        KeyError::Pin(_) => 21,
        KeyError::Locked(_) => 22,
        KeyError::NotAsPromised(_) => 23,
        KeyError::Selection(_) => 24,
        KeyError::Device(_) | KeyError::Other(_) => 25,
        KeyError::File(source) => file_exit_code(source, spent),
    }
}

fn token_code(error: &TokenError) -> &'static str {
    match error {
        TokenError::Missing(_) => "token_missing",
        TokenError::Empty => "token_empty",
        TokenError::TooLarge => "token_too_large",
        TokenError::Malformed(_) => "token_malformed",
        TokenError::Algorithm(_) => "token_alg",
        TokenError::Method(_) => "token_method",
        TokenError::Issuer { .. } | TokenError::NoIssuer => "token_issuer",
        TokenError::Id => "token_jti",
        TokenError::Expired(_) | TokenError::IdpExpired(_) => "token_expired",
        TokenError::NotSigned { .. } => "token_damaged",
    }
}

fn trust_code(error: &TrustError) -> &'static str {
    match error {
        TrustError::NotSigner => "controller_not_signer",
        TrustError::TokenDamaged => "token_damaged",
        TrustError::NotKeyOwner => "controller_not_key_owner",
        TrustError::Chain { .. } | TrustError::GivenChain { .. } => "controller_chain",
        TrustError::Name => "controller_name",
        TrustError::Cacerts(_) | TrustError::CacertsStatus(_) => "cacerts_unusable",
        TrustError::Redirect(_) => "redirect",
        TrustError::Client(_) => "controller_chain",
        TrustError::Network(_) => "unreachable",
    }
}

fn network_code(error: &HttpError) -> &'static str {
    match error.kind {
        HttpErrorKind::Timeout(_) => "timeout",
        HttpErrorKind::Proxy { .. } => "proxy",
        HttpErrorKind::Unresolved
        | HttpErrorKind::Connect(_)
        | HttpErrorKind::Tls(_)
        | HttpErrorKind::Closed
        | HttpErrorKind::TooLarge(_)
        | HttpErrorKind::Protocol(_) => "unreachable",
    }
}

fn issued_code(error: &IssuedError) -> &'static str {
    match error {
        IssuedError::Answer(_) | IssuedError::Identity(_) => "answer_unusable",
        IssuedError::Certificate(error) => match error {
            CertificateError::OtherKey => "certificate_other_key",
            CertificateError::Path(_) | CertificateError::NoAnchor => "certificate_chain",
            CertificateError::Usage => "certificate_usage",
            CertificateError::Expired(_) => "certificate_expired",
            CertificateError::Form(_)
            | CertificateError::TooMany(_)
            | CertificateError::TooLarge(_)
            | CertificateError::Empty
            | CertificateError::OtherIdentity(_) => "answer_unusable",
        },
    }
}

fn file_exit_code(error: &FileError, spent: Spent) -> u8 {
    match (&error.kind, spent) {
        (FileErrorKind::InUse, _) => 75,
        (_, Spent::No) => 50,
        (_, Spent::Yes | Spent::Unknown) => 51,
    }
}

fn file_code(error: &FileError) -> &'static str {
    match error.kind {
        FileErrorKind::Exists => "output_exists",
        FileErrorKind::Symlink => "output_is_symlink",
        FileErrorKind::NotAFile => "output_not_a_file",
        FileErrorKind::FolderMissing => "folder_missing",
        FileErrorKind::FolderNotWritable(_) => "folder_not_writable",
        FileErrorKind::FolderUnsafe(_) => "folder_unsafe",
        FileErrorKind::Full(_) => "disk_full",
        FileErrorKind::InUse => "output_in_use",
        FileErrorKind::System(_) | FileErrorKind::TooLarge(_) | FileErrorKind::Content(_) => "file_error",
    }
}
