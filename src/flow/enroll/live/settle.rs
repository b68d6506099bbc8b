//! A method that shows a certificate has no answer to lose: whether it is enrolled, a login with it tells.

use super::Live;
use crate::controller::{Outcome, Refusal, Submission};
use crate::error::Error;
use crate::flow::enroll::stage::Ready;

impl Live<'_> {
    /// Whether an earlier request of ours has enrolled the certificate.
    pub(super) fn is_settled(&mut self, stage: &Ready) -> Result<bool, Error> {
        match &stage.submission {
            Submission::Certificate { .. } => self.logs_in(stage),
            Submission::Csr(_) | Submission::IdpToken { .. } | Submission::Password | Submission::Nothing => Ok(false),
        }
    }

    /// What the `n`th request has led to. That a token is gone, or a certificate in use, may be our own doing.
    pub(super) fn settle(&mut self, stage: &Ready, n: u32, outcome: Outcome) -> Result<Outcome, Error> {
        let Submission::Certificate { .. } = &stage.submission else { return Ok(outcome) };
        let is_ours = match &outcome {
            Outcome::Gone(_) => n > 1 && !(n == 2 && self.gone_at_first),
            // A token for everybody is refused for nothing else by who is enrolled already.
            Outcome::Refused(why) if Outcome::is_in_use(why) => n > 1 || (stage.intent().subject.is_none() && self.request.force),
            Outcome::Accepted | Outcome::Refused(_) | Outcome::Retry(_) | Outcome::Unknown(_) => false,
        };
        match outcome {
            outcome if !is_ours => Ok(outcome),
            _ if self.logs_in(stage)? => Ok(Outcome::Accepted),
            Outcome::Gone(why) => Err(Error::OutcomeUnknown { why: not_settled(&why) }),
            refused => Ok(refused),
        }
    }

    /// Whether the controller takes a login with the certificate of this connection; it says who that is.
    fn logs_in(&mut self, stage: &Ready) -> Result<bool, Error> {
        let (_, controller) = self.controller(stage)?;
        let who = controller.login().map(|session| session.identity.clone());
        match who {
            Ok(identity) => {
                self.identity = identity.map(|id| id.as_str().to_owned());
                Ok(true)
            }
            Err(error) => {
                log::info!("no login with the certificate: {error}");
                Ok(false)
            }
        }
    }

    /// Finds out which identity the certificate is, where the token does not say it and the connection still stands.
    pub(super) fn learn_identity(&mut self, stage: &Ready) -> Result<(), Error> {
        let shown = matches!(stage.submission, Submission::Certificate { .. });
        if !shown || stage.intent().subject.is_some() || self.identity.is_some() || self.trust.is_none() {
            return Ok(());
        }
        if !self.logs_in(stage)? {
            self.world.note("the controller takes no login with this certificate, so that its identity is not known");
        }
        Ok(())
    }
}

fn not_settled(why: &Refusal) -> String {
    format!("{why}, after a request of ours; and a login with the certificate is refused")
}
