//! Loads a PKCS#11 module as the product does, through cryptoki, and makes the calls that its arguments name, for the
//! tests of this crate: `p11calls MODULE PIN CALL…`. One line on stdout for each: `<call> ok …` or `<call> <error>`.
//! The session, the login and the key stay for the calls that follow. It ends with 0 whatever they answered.

use std::fmt::Debug;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

/// The curve secp256r1, as CKA_EC_PARAMS wants it: a DER OBJECT IDENTIFIER.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

struct Caller {
    module: Pkcs11,
    pin: AuthPin,
    slot: Option<Slot>,
    session: Option<Session>,
    private_key: Option<ObjectHandle>,
    public_key: Option<ObjectHandle>,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let module = args.next().expect("MODULE");
    let pin = AuthPin::from(args.next().expect("PIN"));
    let module = match Pkcs11::new(module) {
        Ok(module) => module,
        Err(error) => return println!("load {}", name(&error)),
    };
    let mut caller = Caller { module, pin, slot: None, session: None, private_key: None, public_key: None };
    for call in args {
        match caller.call(&call) {
            Ok(answer) => println!("{call} ok{answer}"),
            Err(error) => println!("{call} {}", name(&error)),
        }
    }
}

/// `SignatureInvalid in Sign`, without cryptoki's paragraph of the standard.
fn name(error: &Error) -> String {
    match error {
        Error::Pkcs11(rv, function) => format!("{rv:?} in {function:?}"),
        other => format!("{other:?}").lines().next().unwrap_or_default().to_owned(),
    }
}

fn said(value: impl Debug) -> String {
    format!(" {value:?}")
}

impl Caller {
    fn call(&mut self, call: &str) -> Result<String, Error> {
        let silent = |()| String::new();
        match call {
            "initialize" => self.module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map(silent),
            "slots" => {
                let slots = self.module.get_slots_with_initialized_token()?;
                self.slot = slots.first().copied();
                Ok(said(slots.len()))
            }
            "final-try" => Ok(said(self.module.get_token_info(self.slot.expect("slots"))?.user_pin_final_try())),
            "login-required" => Ok(said(self.module.get_token_info(self.slot.expect("slots"))?.login_required())),
            "session" => {
                self.session = Some(self.module.open_rw_session(self.slot.expect("slots"))?);
                Ok(String::new())
            }
            "login" => self.session().login(UserType::User, Some(&self.pin)).map(silent),
            "generate" => {
                let public = [Attribute::Token(true), Attribute::Verify(true), Attribute::EcParams(P256.to_vec())];
                let private = [
                    Attribute::Token(true),
                    Attribute::Private(true),
                    Attribute::Sensitive(true),
                    Attribute::Extractable(false),
                    Attribute::Sign(true),
                ];
                let (public, private) = self.session().generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
                (self.public_key, self.private_key) = (Some(public), Some(private));
                Ok(String::new())
            }
            "reopen" => {
                let only = |class| Ok::<_, Error>(self.session().find_objects(&[Attribute::Class(class)])?.first().copied());
                let found = (only(ObjectClass::PUBLIC_KEY)?, only(ObjectClass::PRIVATE_KEY)?);
                (self.public_key, self.private_key) = found;
                Ok(String::new())
            }
            "sign" => self.session().sign(&Mechanism::Ecdsa, self.private_key(), &[7; 32]).map(|s| said(s.len())),
            "verify" => {
                let signature = self.session().sign(&Mechanism::Ecdsa, self.private_key(), &[7; 32])?;
                let public_key = self.public_key.expect("generate");
                self.session().verify(&Mechanism::Ecdsa, public_key, &[7; 32], &signature).map(silent)
            }
            "sign-8x25" => self.sign_on_threads(8, 25).map(said),
            "find" => {
                let count = |class| {
                    let found = self.session().find_objects(&[Attribute::Class(class)])?;
                    Ok::<_, Error>(found.len())
                };
                Ok(said((count(ObjectClass::PUBLIC_KEY)?, count(ObjectClass::PRIVATE_KEY)?)))
            }
            "find-all" => Ok(said(self.session().find_objects(&[])?.len())),
            "private" => {
                let wanted = [AttributeType::Extractable, AttributeType::Sensitive, AttributeType::Value];
                self.session().get_attributes(self.private_key(), &wanted).map(said)
            }
            "point" => {
                let public_key = self.public_key.expect("generate");
                self.session().get_attributes(public_key, &[AttributeType::EcPoint]).map(said)
            }
            other => panic!("no such call: {other}"),
        }
    }

    fn session(&self) -> &Session {
        self.session.as_ref().expect("session")
    }

    fn private_key(&self) -> ObjectHandle {
        self.private_key.expect("generate")
    }

    /// The number of signatures made by `threads` threads with a session each.
    fn sign_on_threads(&self, threads: usize, each: usize) -> Result<usize, Error> {
        let (module, slot, key) = (&self.module, self.slot.expect("slots"), self.private_key());
        let sign = || {
            let session = module.open_ro_session(slot)?;
            (0..each).try_for_each(|_| session.sign(&Mechanism::Ecdsa, key, &[7; 32]).map(drop))
        };
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(sign)).collect();
            running.into_iter().try_for_each(|thread| thread.join().expect("thread"))
        })?;
        Ok(threads * each)
    }
}
