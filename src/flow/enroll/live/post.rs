//! The request: sent once, and again only where nobody can tell what became of it.

use std::path::PathBuf;
use std::time::Duration;

use super::{Learnt, Live, is_missing};
use crate::controller::{Answer, Failure, Outcome, Refusal, Submission};
use crate::error::{Error, Spent};
use crate::files::FileError;
use crate::flow::enroll::stage::{Ready, Record};
use crate::flow::enroll::{sentence, token_of};
use crate::flow::{Next, pause};
use crate::jwt::Brings;
use crate::trust::TrustError;

/// Time for a follower to hear of a new token.
const FOLLOWER: Duration = Duration::from_secs(5);
/// Longest `Retry-After` that is obeyed.
const LONGEST_WISH: Duration = Duration::from_secs(60);

impl Live<'_> {
    /// All is ready, controller and key are there: the next step may spend the token.
    pub(in crate::flow::enroll) fn announce(&mut self, stage: &Ready) -> Learnt {
        if stage.submission == Submission::Nothing {
            return Ok(Next::Learnt(Record::Answered));
        }
        self.controller(stage)?;
        if stage.keyed.key.is_some() {
            match self.key(&stage.keyed, Spent::No) {
                Err(error) if stage.keyed.made().is_some() && is_missing(&error) => return Ok(self.begin_anew(&stage.keyed)),
                key => drop(key?),
            }
        }
        Ok(Next::Learnt(Record::Posting(1)))
    }

    /// Sends the request: once, and again only where nobody can tell what became of it.
    pub(in crate::flow::enroll) fn post(&mut self, stage: &Ready, n: u32) -> Learnt {
        let (world, subject) = (self.world, stage.intent().subject.clone());
        if self.posted == 0 && self.trust.is_none() {
            // A run that was killed here may have sent it: this one counts as another.
            self.controller(stage).map_err(|error| match error {
                Error::Key { uri, source, .. } => Error::Key { uri, source, spent: Spent::Unknown },
                error => Error::OutcomeUnknown { why: sentence(&error) },
            })?;
            if stage.keyed.key.is_some() {
                // A certificate for a key that is gone would be of no use.
                self.key(&stage.keyed, Spent::Unknown)?;
            }
            self.posted += 1;
            return Ok(Next::Learnt(Record::Posting(n + 1)));
        }
        if n > 1 && self.is_settled(stage)? {
            return self.keep(&Answer::settled());
        }
        world.within("before_post", Spent::Unknown)?;
        self.posted = self.posted.max(1);
        let secret = self.request.secret.as_ref();
        let (token, controller) = self.controller(stage)?;
        let answer = match controller.enroll(token, &stage.submission, secret) {
            Ok(answer) => Ok(answer),
            Err(TrustError::Network(error)) => Err(error),
            // A second handshake that is refused: nothing was sent in it.
            Err(error) if n == 1 => {
                let error = Error::trust(stage.intent().origin.to_string(), error);
                return Ok(Next::Stop(Record::Csr(stage.submission.clone()), error));
            }
            Err(error) => return Err(Error::OutcomeUnknown { why: error.to_string() }),
        };
        let outcome = self.settle(stage, n, Outcome::of(&answer))?;
        let by_provider = matches!(stage.submission, Submission::IdpToken { .. });
        world.within("after_post", Spent::Unknown)?;
        match (outcome, answer) {
            (Outcome::Accepted, Ok(answer)) => self.keep(&answer),
            // There is no such path there: a release before 2.0.
            (Outcome::Gone(why), _) if by_provider && why.code.as_str() == "NOT_FOUND" => Ok(Next::Learnt(Record::Refused(why))),
            // The identity provider's token is no good any more: what became of the requests before is as unknown as it was.
            (Outcome::Gone(why), _) if n > 1 && by_provider && Outcome::is_about_idp_token(&why) => {
                Err(Error::OutcomeUnknown { why: why.to_string() })
            }
            (Outcome::Gone(_), _) if n == 1 && token_of(self.request)?.is_of_a_cluster() => {
                // A follower may not have heard yet of a token that was made a moment ago.
                self.gone_at_first = true;
                let why = "this controller does not know the token yet";
                pause(self.world.watch, why, FOLLOWER);
                self.posted += 1;
                Ok(Next::Learnt(Record::Posting(n + 1)))
            }
            (Outcome::Gone(why), _) if n == 2 && self.gone_at_first => Ok(Next::Learnt(Record::Refused(why))),
            // Nothing came with the answer that could be lost: the password is set.
            (Outcome::Gone(_), _) if n > 1 && stage.submission == Submission::Password => {
                world.note("an earlier request has set the password, and its answer is lost; nothing else was in it");
                Ok(Next::Learnt(Record::Answered))
            }
            (Outcome::Gone(_), _) if n > 1 => {
                let out = self.work.out();
                Ok(Next::Stop(Record::Lost, Error::AnswerLost { subject, out }))
            }
            (Outcome::Refused(why) | Outcome::Gone(why), _) => Ok(Next::Learnt(Record::Refused(why))),
            (Outcome::Retry(_), Err(source)) if n == 1 => {
                let error = Error::Network { controller: stage.intent().origin.to_string(), source };
                Ok(Next::Stop(Record::Csr(stage.submission.clone()), error))
            }
            (Outcome::Retry(failure), _) if n == 1 => {
                let error = Error::NotNow { controller: stage.intent().origin.to_string(), why: failure.why };
                Ok(Next::Stop(Record::Csr(stage.submission.clone()), error))
            }
            (Outcome::Retry(failure) | Outcome::Unknown(failure), _) => self.again(n, *failure),
            (Outcome::Accepted, Err(_)) => Err(Error::Unexpected("an answer that is none".into())),
        }
    }

    fn keep(&self, answer: &Answer) -> Learnt {
        self.work.keep(answer).map_err(|source| unkept(source, answer, self.work.out()))?;
        self.world.within("answer_synced", Spent::Yes)?;
        Ok(Next::Learnt(Record::Answered))
    }

    fn again(&mut self, n: u32, failure: Failure) -> Learnt {
        let Some(usual) = self.posted.checked_sub(1).and_then(|i| self.world.patience.repeats.get(i)).copied() else {
            return Err(Error::OutcomeUnknown { why: failure.why });
        };
        let wait = failure.retry_after.map_or(usual, |wish| wish.min(LONGEST_WISH));
        pause(self.world.watch, &failure.why, wait);
        self.posted += 1;
        Ok(Next::Learnt(Record::Posting(n + 1)))
    }

    /// A definite no: a key that we made for this enrollment is deleted, and that is said.
    pub(in crate::flow::enroll) fn clean_up(&mut self, stage: &Ready, why: &Refusal) -> Error {
        let clean = |live: &mut Self, uri| {
            live.discard(uri)?;
            live.work.note_clean().map_err(|source| Error::Local { source, spent: Spent::No })
        };
        if let Some(uri) = stage.keyed.made()
            && let Err(error) = clean(self, uri)
        {
            self.world.note(&format!("{uri} was made for this enrollment and stays: {}", sentence(&error)));
        }
        let intent = stage.intent();
        let no_such_path = intent.method.brings() == Brings::IdpToken && why.code.as_str() == "NOT_FOUND";
        if Outcome::is_gone(why) && !no_such_path {
            Error::Gone { method: intent.method, subject: intent.subject.clone(), source: why.clone() }
        } else {
            Error::Refused(why.clone())
        }
    }
}

/// The last way to save what was issued: past the point of no return, and the disk does not take it.
fn unkept(source: FileError, answer: &Answer, out: PathBuf) -> Error {
    match answer.issued() {
        Ok(issued) => Error::Unkept { out, source, certificates: String::from_utf8_lossy(&issued.cert).into_owned() },
        Err(_) => Error::Local { source, spent: Spent::Yes },
    }
}
