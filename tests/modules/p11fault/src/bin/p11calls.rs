//! Loads a PKCS#11 module as the product does, through cryptoki, and makes the calls that its arguments name, for the
//! tests of this crate: `p11calls MODULE PIN CALL…`. One line on stdout for each: `<call> ok …` or `<call> <error>`.
//! The slot, the session, the login and the key stay for the calls that follow. It ends with 0 whatever they answered.

use std::fmt::Debug;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

/// The curve secp256r1, as CKA_EC_PARAMS wants it: a DER OBJECT IDENTIFIER.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

struct Caller {
    module: Pkcs11,
    pin: AuthPin,
    slots: Vec<Slot>,
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
    let mut caller = Caller { module, pin, slots: Vec::new(), slot: None, session: None, private_key: None, public_key: None };
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
                self.slots = slots;
                Ok(said(self.slots.len()))
            }
            "second-slot" => {
                self.slot = self.slots.get(1).copied();
                Ok(String::new())
            }
            "slot-numbers" => Ok(said(self.slots.iter().map(|slot| slot.id()).collect::<Vec<_>>())),
            "slot-of-session" => Ok(said(self.session().get_session_info()?.slot_id().id())),
            "names-of-tokens" => {
                let name = |slot: &Slot| {
                    let info = self.module.get_token_info(*slot)?;
                    let [label, serial, model] = [info.label(), info.serial_number(), info.model()].map(str::to_owned);
                    Ok::<_, Error>((label, serial, model))
                };
                self.slots.iter().map(name).collect::<Result<Vec<_>, _>>().map(said)
            }
            "flags" => {
                let info = self.module.get_token_info(self.slot.expect("slots"))?;
                let flags = [
                    (info.login_required(), "login"),
                    (info.protected_authentication_path(), "keypad"),
                    (info.write_protected(), "protected"),
                    (info.token_initialized(), "initialised"),
                    (info.user_pin_count_low(), "low"),
                    (info.user_pin_final_try(), "final"),
                    (info.user_pin_locked(), "locked"),
                    (info.user_pin_to_be_changed(), "change"),
                ];
                Ok(flags.iter().filter(|(set, _)| *set).map(|(_, name)| format!(" {name}")).collect())
            }
            "mechanisms" => {
                let listed = self.module.get_mechanism_list(self.slot.expect("slots"))?;
                let wanted = [MechanismType::ECDSA, MechanismType::RSA_PKCS_PSS, MechanismType::ECC_KEY_PAIR_GEN];
                Ok(said(wanted.map(|mechanism| listed.contains(&mechanism))))
            }
            "mechanism-info" => {
                self.module.get_mechanism_info(self.slot.expect("slots"), MechanismType::ECDSA).map(|_| String::new())
            }
            "session" => {
                self.session = Some(self.module.open_rw_session(self.slot.expect("slots"))?);
                Ok(String::new())
            }
            "session-ro" => {
                self.session = Some(self.module.open_ro_session(self.slot.expect("slots"))?);
                Ok(String::new())
            }
            "login" => self.session().login(UserType::User, Some(&self.pin)).map(silent),
            "login-null" => self.session().login(UserType::User, None).map(silent),
            "login-wrong" => self.session().login(UserType::User, Some(&AuthPin::from("not the PIN".to_owned()))).map(silent),
            "logout" => self.session().logout().map(silent),
            generate if generate.split('+').next() == Some("generate") => self.generate(generate),
            "destroy" => self.session().destroy_object(self.private_key()).map(silent),
            "sign-init" => self.session().sign_init(&Mechanism::Ecdsa, self.private_key()).map(silent),
            "login-context" => self.session().login(UserType::ContextSpecific, Some(&self.pin)).map(silent),
            "login-context-null" => self.session().login(UserType::ContextSpecific, None).map(silent),
            "login-context-wrong" => {
                self.session().login(UserType::ContextSpecific, Some(&AuthPin::from("not the PIN".to_owned()))).map(silent)
            }
            "sign-update" => self.session().sign_update(&[7; 32]).map(silent),
            "sign-final" => {
                let signature = self.session().sign_final()?;
                self.session().verify(&Mechanism::Ecdsa, self.public_key.expect("generate"), &[7; 32], &signature).map(silent)
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
            "modulus" => {
                let public_key = self.public_key.expect("generate");
                self.session().get_attributes(public_key, &[AttributeType::Modulus]).map(said)
            }
            // Id and label of the public key, then of the private one.
            "names" => {
                let names = |key| self.session().get_attributes(key, &[AttributeType::Id, AttributeType::Label]);
                Ok(said((names(self.public_key.expect("generate"))?, names(self.private_key())?)))
            }
            // As above: where the key is for, whether it was made here.
            "flags-of-keys" => {
                let flags = |key| self.session().get_attributes(key, &[AttributeType::Private, AttributeType::Local]);
                Ok(said((flags(self.public_key.expect("generate"))?, flags(self.private_key())?)))
            }
            "length-of-local" => self.session().get_attribute_info(self.private_key(), &[AttributeType::Local]).map(said),
            "always-authenticate" => {
                self.session().get_attributes(self.private_key(), &[AttributeType::AlwaysAuthenticate]).map(said)
            }
            other => panic!("no such call: {other}"),
        }
    }

    /// `generate`, and after it what is to be otherwise: `+named` (an id and a label), `+rsa`, `+session` (no token
    /// objects), `+private` (the public key as well).
    fn generate(&mut self, call: &str) -> Result<String, Error> {
        let asked = |what| call.split('+').any(|word| word == what);
        let token = !asked("session");
        let mut public = vec![Attribute::Token(token), Attribute::Verify(true), Attribute::Private(asked("private"))];
        let mut private = vec![
            Attribute::Token(token),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ];
        if asked("named") {
            for template in [&mut public, &mut private] {
                template.extend([Attribute::Id(vec![0xa1, 0xb2, 0xc3]), Attribute::Label(b"asked for".to_vec())]);
            }
        }
        let mechanism = if asked("rsa") {
            public.extend([Attribute::ModulusBits(2048.into()), Attribute::PublicExponent(vec![1, 0, 1])]);
            Mechanism::RsaPkcsKeyPairGen
        } else {
            public.push(Attribute::EcParams(P256.to_vec()));
            Mechanism::EccKeyPairGen
        };
        let (public, private) = self.session().generate_key_pair(&mechanism, &public, &private)?;
        (self.public_key, self.private_key) = (Some(public), Some(private));
        Ok(String::new())
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
