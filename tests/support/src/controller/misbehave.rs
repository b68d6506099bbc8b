//! What the controller can be told to do wrong. Each fault has one name for ever; tests and `dev-controller --fault`
//! use the same.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

macro_rules! faults {
    (
        plain { $($(#[doc = $doc:literal])* $variant:ident = $name:literal,)* }
        number { $($(#[doc = $number_doc:literal])* $number:ident = $number_name:literal, $sample:literal;)* }
        refusal { $($(#[doc = $refusal_doc:literal])* $refusal:ident = $refusal_name:literal,)* }
    ) => {
        /// One way to misbehave. The text form is the kebab-case name, with `=ARGUMENT` where there is one.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Fault {
            $($(#[doc = $doc])* $variant,)*
            $($(#[doc = $number_doc])* $number(u64),)*
            $($(#[doc = $refusal_doc])* $refusal(String, u16),)*
        }

        impl Fault {
            /// One of each, with a typical argument.
            pub fn all() -> Vec<Self> {
                vec![
                    $(Self::$variant,)*
                    $(Self::$number($sample),)*
                    $(Self::$refusal("ENROLLMENT_EXPIRED".into(), 400),)*
                ]
            }
        }

        impl fmt::Display for Fault {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($name),)*
                    $(Self::$number(number) => write!(f, "{}={number}", $number_name),)*
                    $(Self::$refusal(code, status) => write!(f, "{}={code}:{status}", $refusal_name),)*
                }
            }
        }

        impl FromStr for Fault {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let (name, argument) = text.split_once('=').map_or((text, None), |(name, rest)| (name, Some(rest)));
                let wrong = || format!("no fault `{text}`; there are {}", names());
                match name {
                    $($name if argument.is_none() => Ok(Self::$variant),)*
                    $($number_name => argument.and_then(|text| text.parse().ok()).map(Self::$number).ok_or_else(wrong),)*
                    $($refusal_name => argument
                        .and_then(|text| text.split_once(':'))
                        .and_then(|(code, status)| Some(Self::$refusal(code.into(), status.parse().ok()?)))
                        .ok_or_else(wrong),)*
                    _ => Err(wrong()),
                }
            }
        }
    };
}

faults! {
    plain {
        /// cacerts answers with the CAs of another network.
        OtherCacerts = "other-cacerts",
        /// The server sends its leaf alone, and cacerts has the root alone.
        MissingIntermediate = "missing-intermediate",
        /// The server's chain ends with the root: legal, as quickstart controllers do.
        RootInChain = "root-in-chain",
        /// cacerts is a well-formed PKCS#7 without a certificate.
        CacertsEmpty = "cacerts-empty",
        /// cacerts answers 200 with a web page.
        CacertsHtml = "cacerts-html",
        /// cacerts answers with PEM instead of PKCS#7.
        CacertsPem = "cacerts-pem",
        /// cacerts answers with 10 MiB.
        CacertsLarge = "cacerts-large",
        /// cacerts has 65 certificates, ours among them.
        Cacerts65 = "cacerts-65",
        /// cacerts also has the server's leaf and every certificate twice: legal, if unusual.
        CacertsMixed = "cacerts-mixed",
        /// cacerts answers 500 UNHANDLED.
        Cacerts500 = "cacerts-500",
        /// cacerts answers 302 to another path of this server.
        Redirect = "redirect",
        /// Accepts the TCP connection and never answers the ClientHello.
        SilentAccept = "silent-accept",
        /// Reads the request for cacerts and never answers.
        SilentCacerts = "silent-cacerts",
        /// Reads the POST to enroll and never answers; the token is kept.
        SilentPost = "silent-post",
        /// Closes the connection after the answer to cacerts without having said so.
        CloseAfterCacerts = "close-after-cacerts",
        /// Says `Connection: close` in the answer to cacerts, and closes.
        CloseHeader = "close-header",
        /// Closes the connection on every POST to enroll; the token is kept.
        DropPostBefore = "drop-post-before",
        /// The same, once.
        DropPostBeforeOnce = "drop-post-before-once",
        /// Spends the token, then closes without an answer.
        DropPostAfter = "drop-post-after",
        /// Issues for another public key than the request's.
        OtherKey = "other-key",
        /// Issues by a CA that is not of the network.
        OtherCa = "other-ca",
        /// Issues a certificate that ended yesterday.
        ExpiredCert = "expired-cert",
        /// Issues a certificate for serverAuth alone.
        NoClientAuth = "no-client-auth",
        /// Issues a certificate with CA:TRUE.
        CaCert = "ca-cert",
        /// Issues with the SPIFFE id of another identity.
        OtherSub = "other-sub",
        /// Spends the token and answers 200 without `data.cert`.
        NoCert = "no-cert",
        /// Answers with the leaf alone where the chain is due.
        LeafOnly = "leaf-only",
        /// `data.cert` ends in the middle of the leaf.
        TruncatedPem = "truncated-pem",
        /// Spends the token and answers 200 with a web page.
        Html200 = "html-200",
        /// Spends the token and answers 200 with no body.
        Empty200 = "empty-200",
        /// Answers as 1.4 does to a client that does not accept JSON: the leaf alone, as PEM.
        NoAcceptJson = "no-accept-json",
        /// Refuses every POST with INVALID_ENROLLMENT_TOKEN.
        Gone = "gone",
        /// Refuses every POST with 413 and no envelope, as its limit of the body does; the token is kept.
        EntityTooLarge = "entity-too-large",
        /// Answers every POST with 500 and no body, as a panic does; the token is kept.
        Panic = "panic",
        /// Spends the token, then answers 500 UNHANDLED.
        ConsumeThen500 = "consume-then-500",
        /// Spends the token, then answers 503 TIMEOUT.
        ConsumeThen503 = "consume-then-503",
        /// Has no tokens of identity providers, as 1.6 answers: 501, and a string of its library.
        NoProviders = "no-providers",
        /// The first POST is answered 503 CLUSTER_NO_LEADER; the token is kept.
        UnavailableOnce = "unavailable-once",
        /// The first POST is answered 429 with `Retry-After: 1`; the token is kept.
        TooManyOnce = "too-many-once",
        /// Logins are refused with 401 INVALID_AUTH.
        Login401 = "login-401",
        /// Logins succeed but want a second factor.
        LoginMfa = "login-mfa",
        /// The first login is answered 429 with `Retry-After: 1`.
        LoginTooManyOnce = "login-429-once",
        /// Says at a login that the chain lacks an intermediate.
        ImproperChain = "improper-chain",
        /// Knows another certificate for the identity than the one that logs in.
        OtherFingerprint = "other-fingerprint",
        /// Serves no login by certificate but OpenID Connect, which it announces.
        OidcOnly = "oidc-only",
        /// Refuses a login with a certificate that has ended, as an authentication policy can.
        RefuseExpired = "refuse-expired",
        /// Issues a renewed certificate, then closes without an answer, once.
        DropExtendOnce = "drop-extend-once",
        /// The same, always.
        DropExtend = "drop-extend",
        /// Answers a renewal with the leaf alone, as before 1.6.
        ExtendLeafOnly = "extend-leaf-only",
        /// Closes on the news that a renewed certificate has arrived, once; the old one stays in force.
        DropVerifyBeforeOnce = "drop-verify-before-once",
        /// The same, always.
        DropVerifyBefore = "drop-verify-before",
        /// Puts the renewed certificate in force, then closes without an answer.
        DropVerifyAfter = "drop-verify-after",
        /// Puts the renewed certificate in force, then answers 500: its second transaction fails.
        VerifyThen500 = "verify-then-500",
        /// Answers the news that a renewed certificate has arrived with 503 and changes nothing, once.
        VerifyUnavailableOnce = "verify-unavailable-once",
        /// Forgets what it has issued before it hears that it has arrived, once: another renewal came in between.
        ForgetPendingOnce = "forget-pending-once",
        /// Every body is gzip, asked for or not.
        Gzip = "gzip",
        /// Every body comes in chunks: legal, as Go's server does with longer ones.
        Chunked = "chunked",
        /// The answer to enroll ends before its Content-Length.
        WrongLength = "wrong-length",
    }
    number {
        /// Spends the token, sends so many bytes of the answer and closes.
        AnswerCut = "answer-cut", 700;
        /// Issues certificates that live so many seconds.
        CertLifetime = "cert-lifetime", 864_000;
        /// Waits so many milliseconds before each answer.
        Slow = "slow", 300;
        /// Closes connections that were idle for so many milliseconds.
        IdleClose = "idle-close", 50;
        /// Sends so many bytes a second.
        Drip = "drip", 4000;
    }
    refusal {
        /// Refuses every POST with this code and status; the token is kept.
        Refuse = "refuse",
        /// Refuses the first POST with this code and status; the token is kept.
        RefuseOnce = "refuse-once",
        /// Refuses every renewal with this code and status.
        RefuseExtend = "refuse-extend",
    }
}

fn names() -> String {
    Fault::all().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The faults in force now.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    pub(crate) fn set(&self, faults: Vec<Fault>) {
        *self.lock() = faults;
    }

    pub(crate) fn list(&self) -> Vec<Fault> {
        self.lock().clone()
    }

    pub(crate) fn has(&self, fault: &Fault) -> bool {
        self.lock().contains(fault)
    }

    /// Whether the fault was there; it is not any more.
    pub(crate) fn take(&self, fault: &Fault) -> bool {
        let mut faults = self.lock();
        faults.iter().position(|other| other == fault).map(|at| faults.remove(at)).is_some()
    }

    pub(crate) fn number(&self, of: impl Fn(&Fault) -> Option<u64>) -> Option<u64> {
        self.lock().iter().find_map(of)
    }

    /// Code and status of a refusal in force; one that is meant once is taken.
    pub(crate) fn refusal(&self) -> Option<(String, u16)> {
        let mut faults = self.lock();
        if let Some(at) = faults.iter().position(|fault| matches!(fault, Fault::RefuseOnce(..))) {
            let Fault::RefuseOnce(code, status) = faults.remove(at) else { unreachable!("it was one a line ago") };
            return Some((code, status));
        }
        faults.iter().find_map(|fault| match fault {
            Fault::Refuse(code, status) => Some((code.clone(), *status)),
            _ => None,
        })
    }

    /// Code and status of a refusal of renewals in force.
    pub(crate) fn refusal_of_renewals(&self) -> Option<(String, u16)> {
        self.lock().iter().find_map(|fault| match fault {
            Fault::RefuseExtend(code, status) => Some((code.clone(), *status)),
            _ => None,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for fault in Fault::all() {
            assert_eq!(fault.to_string().parse::<Fault>(), Ok(fault));
        }
    }

    #[test]
    fn names_what_there_is_when_a_name_is_wrong() {
        let error = "cacert-html".parse::<Fault>().expect_err("no such fault");
        assert!(error.contains("cacerts-html"), "{error}");
        for text in ["slow", "slow=fast", "gone=1", "refuse=X", "refuse=X:y"] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }
}
