//! The point of no return, and what is in doubt around it.
//!
//! From the moment at which the controller is told that the new certificate has arrived, only it knows which one is in force:
//! its answer can be lost, and it can fail after it has made the change. So it is asked by logging in over a new connection,
//! first as the new identity, then as the old one; and it is told again only where the old one is still taken.

use super::live::{Learnt, Live};
use super::stage::{Extended, Record};
use crate::controller::{ControllerError, Refusal};
use crate::error::{Error, Spent};
use crate::flow::login::{self, Entrance, is_refusal};
use crate::flow::{Next, pause};
use crate::identity::Identity;

/// How often a new certificate is asked for in one run because the controller has forgotten the last one.
const MOST_VOID: usize = 2;

impl Live<'_> {
    /// The `n`th telling, over all runs.
    pub(super) fn confirm(&mut self, stage: &Extended, n: u32) -> Learnt {
        let identity = self.next_on_disk(stage)?;
        // An earlier run that was killed here may have told it.
        let told = if self.announced {
            self.announced = false;
            self.told += 1;
            Some(self.tell(stage, &identity.chain)?)
        } else {
            None
        };
        let Some(new_is_refused) = self.new_is_refused(identity)? else { return Ok(Next::Learnt(Record::Renewed)) };
        let path = self.work.place().path();
        let unknown = |why: String| Error::RenewalUnknown { why, identity: path.clone() };
        if self.file_fingerprint()? != stage.keyed.renewing.fingerprint {
            return Err(self.void_by_another(new_is_refused));
        }
        if let Some(old_is_refused) = self.old_is_refused().map_err(|e| unknown(crate::flow::enroll::sentence(&e)))? {
            return Err(unknown(format!("the controller refuses both: {old_is_refused}")));
        }
        let why = match told {
            // Whatever it has said before: nothing has come of it.
            None => None,
            Some(Ok(())) => Some("the controller has taken note of the new certificate, and does not take it yet".to_owned()),
            Some(Err(ControllerError::Refused(why))) if matches!(why.status, 400 | 404 | 409) => {
                // What it has issued was overwritten by another renewal.
                self.void += 1;
                if self.void > MOST_VOID {
                    return Err(Error::RenewalRefused(why));
                }
                self.world
                    .note(&format!("the controller does not know the new certificate any more ({why}): asking for another"));
                return Ok(Next::Learnt(Record::Key(stage.keyed.key.clone())));
            }
            Some(Err(error)) => Some(error.to_string()),
        };
        if let Some(why) = why {
            let Some(length) = self.world.patience.repeats.get(self.told - 1).copied() else { return Err(unknown(why)) };
            pause(self.world.watch, &why, length);
        }
        self.announced = true;
        Ok(Next::Learnt(Record::Confirming(n + 1)))
    }

    /// Another identity stands in the file than the one that is renewed, and ours was in force before: is it still?
    pub(super) fn must_still_be_in_force(&self, stage: &Extended) -> Result<(), Error> {
        match self.new_is_refused(self.next_on_disk(stage)?)? {
            None => Ok(()),
            Some(why) => Err(self.void_by_another(why)),
        }
    }

    fn void_by_another(&self, why: Refusal) -> Error {
        self.world.note("another program has replaced the identity meanwhile: this renewal is void");
        Error::RenewalRefused(why)
    }

    /// The new identity, as it was made durable.
    fn next_on_disk(&self, stage: &Extended) -> Result<Identity, Error> {
        let text = self.work.next().map_err(|source| Error::Local { source, spent: Spent::Yes })?;
        let text = text.ok_or_else(|| Error::Unexpected("the new identity is not where it was put".into()))?;
        let identity = login::parse(&self.work.place().path(), &text)?;
        if identity.chain.fingerprint_sha1() != stage.next.fingerprint {
            return Err(Error::Unexpected("the new identity is another one than was put there".into()));
        }
        Ok(identity)
    }

    fn file_fingerprint(&self) -> Result<String, Error> {
        let text = self.work.place().read()?;
        Ok(login::parse(&self.work.place().path(), &text)?.chain.fingerprint_sha1())
    }

    /// Logs in as the new identity over a connection of its own; `None` where it is taken.
    fn new_is_refused(&self, identity: Identity) -> Result<Option<Refusal>, Error> {
        let path = self.work.place().path();
        let entrance = Entrance::open(&path, identity, self.world)?;
        let mut repeats = self.world.patience.repeats.clone().into_iter();
        loop {
            let error = match entrance.log_in() {
                // A second factor is asked for once the certificate is taken.
                Ok(_) | Err(Error::LoginNeedsMore) => return Ok(None),
                Err(error) if is_refusal(&error) => match error {
                    Error::Login { source: ControllerError::Refused(why), .. } => return Ok(Some(why)),
                    error => return Err(error),
                },
                Err(error) => error,
            };
            let why = crate::flow::enroll::sentence(&error);
            if !matches!(error, Error::Network { .. } | Error::NotNow { .. }) {
                return Err(error);
            }
            let Some(length) = repeats.next() else { return Err(Error::RenewalUnknown { why, identity: path }) };
            pause(self.world.watch, &why, length);
        }
    }
}
