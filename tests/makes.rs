//! Tokens of every make: what each way of being unlike SoftHSM leads to, for a new key, for one that is there, in the lists
//! and in a diagnosis. Either the whole enrollment is done and other tools agree about the key, or it ends with the
//! documented exit code, nothing was sent and nothing is left.

mod held;
mod replaced;

use serde_json::{Value, json};
use ziti_enroller_support::{Controller, KeyType, Options, Program, Tokens};

use crate::machine::{Failed, Fixture, InKryoptic, InToken, Machine, report, text};

/// How a run ends.
#[derive(Clone, Copy, Debug)]
enum Ends {
    Enrolled,
    /// With exit code, `error.code`, what is said, what is advised.
    Refused(i32, &'static str, &'static str, &'static str),
}
use Ends::{Enrolled, Refused};

/// One way of being unlike SoftHSM.
struct Make {
    /// Of p11fault.
    rules: &'static str,
    /// `pin` of `list tokens`, and what rules the token out, if anything.
    listed: (&'static str, Option<&'static str>),
    /// The first failure of a diagnosis by exit code and name, else what it says of the key.
    diagnosed: Result<&'static str, (u64, &'static str)>,
    new: Ends,
    existing: Ends,
    /// The PIN is typed at the token.
    keypad: bool,
}

/// A token that does all that is asked of it.
const WILLING: Make =
    Make { rules: "", listed: ("ok", None), diagnosed: Ok("has signed"), new: Enrolled, existing: Enrolled, keypad: false };

const NO_SESSION_KEYS: Result<&str, (u64, &str)> = Ok("not rehearsed: token");
const NO_LOGIN: Ends = Refused(24, "token_not_found", "has no token \"ziti-test\" that can be used", "has no login");

macro_rules! makes {
    ($($(#[$about:meta])* $name:ident: $make:expr;)*) => {
        $(
            $(#[$about])*
            #[test]
            fn $name() {
                held::holds($make);
            }
        )*
    };
}

makes! {
    /// AWS CloudHSM, SDK 5: no read-only sessions.
    cloudhsm: Make { rules: "make:cloudhsm", ..WILLING };
    /// Google's Cloud KMS wants no login, so it is no candidate.
    cloud_kms: Make {
        rules: "make:cloud-kms",
        listed: ("none", Some("has no login")),
        diagnosed: Err((24, "token_not_found")),
        new: NO_LOGIN,
        existing: NO_LOGIN,
        ..WILLING
    };
    /// Everything that is made there is private, the public half too.
    luna_cloud_hsm: Make { rules: "make:luna-cloud", diagnosed: NO_SESSION_KEYS, ..WILLING };
    /// The officer's first password was never changed.
    luna_before_the_first_change_of_the_pin: Make {
        rules: "login:expired",
        listed: ("expired", Some("its PIN must be changed first")),
        diagnosed: Err((22, "pin_expired")),
        new: Refused(22, "pin_expired", "must be changed before it can be used", "with the token's own tool"),
        existing: Refused(22, "pin_expired", "must be changed before it can be used", "with the token's own tool"),
        ..WILLING
    };
    /// The `accelerator` beside the token is never taken for it.
    nshield: Make { rules: "make:nshield", ..WILLING };
    tpm2_pkcs11: Make { rules: "make:tpm2-pkcs11", diagnosed: NO_SESSION_KEYS, ..WILLING };
    yubihsm: Make { rules: "make:yubihsm", diagnosed: NO_SESSION_KEYS, ..WILLING };
    /// Only its security officer makes keys; those that are there are used.
    yubikey_piv: Make {
        rules: "make:yubikey",
        diagnosed: Err((20, "key_type_unsupported")),
        new: Refused(20, "key_type_unsupported", "only its security officer do this: C_GenerateKeyPair", "ykman"),
        ..WILLING
    };
    /// Its slot 9c wants the PIN before every signature, and its module collects what it signs in parts.
    yubikey_piv_9c: Make {
        rules: "make:yubikey;login:context;sign:in-parts",
        diagnosed: Err((20, "key_type_unsupported")),
        new: Refused(20, "key_type_unsupported", "only its security officer do this", "ykman"),
        ..WILLING
    };
    /// The same of a token that cannot sign in parts.
    pin_each_time_and_nothing_in_parts: Make {
        rules: "login:context",
        diagnosed: Err((20, "key_type_unsupported")),
        new: Refused(20, "key_type_unsupported", "wants the PIN before every signature cannot be used", "CKA_ALWAYS_AUTHENTICATE"),
        existing: Refused(20, "key_type_unsupported", "wants the PIN before every signature cannot be used", "CKA_ALWAYS_AUTHENTICATE"),
        ..WILLING
    };
    /// It wants its security officer even to log in.
    security_officer_wanted: Make {
        rules: "C_Login:*:0x103",
        diagnosed: Err((20, "key_type_unsupported")),
        new: Refused(20, "key_type_unsupported", "only its security officer do this: C_Login failed", "own tool"),
        existing: Refused(20, "key_type_unsupported", "only its security officer do this: C_Login failed", "own tool"),
        ..WILLING
    };
    user_pin_never_set: Make {
        rules: "C_Login:*:0x102",
        diagnosed: Err((21, "pin_missing")),
        new: Refused(21, "pin_missing", "has no user PIN yet (CKR_USER_PIN_NOT_INITIALIZED)", "--init-pin"),
        existing: Refused(21, "pin_missing", "has no user PIN yet (CKR_USER_PIN_NOT_INITIALIZED)", "--init-pin"),
        ..WILLING
    };
    keypad: Make {
        rules: "token-flags:+CKF_PROTECTED_AUTHENTICATION_PATH;login:null-pin",
        listed: ("keypad", None),
        keypad: true,
        ..WILLING
    };
    pin_locked: Make {
        rules: "token-flags:+CKF_USER_PIN_LOCKED",
        listed: ("locked", Some("its PIN is locked")),
        diagnosed: Err((22, "pin_locked")),
        new: Refused(22, "pin_locked", "is locked", "security officer"),
        existing: Refused(22, "pin_locked", "is locked", "security officer"),
        ..WILLING
    };
    last_try: Make {
        rules: "token-flags:+CKF_USER_PIN_FINAL_TRY",
        listed: ("final_try", None),
        diagnosed: Err((22, "pin_final_try")),
        new: Refused(22, "pin_final_try", "no try was used", "--allow-final-try"),
        existing: Refused(22, "pin_final_try", "no try was used", "--allow-final-try"),
        ..WILLING
    };
    a_wrong_pin_was_tried: Make { rules: "token-flags:+CKF_USER_PIN_COUNT_LOW", listed: ("count_low", None), ..WILLING };
    write_protected: Make {
        rules: "token-flags:+CKF_WRITE_PROTECTED",
        listed: ("ok", Some("write-protected")),
        diagnosed: Err((24, "token_not_found")),
        new: Refused(24, "token_not_found", "that can be used", "write-protected"),
        ..WILLING
    };
    no_read_write_sessions: Make {
        rules: "sessions:no-read-write=0xe2",
        diagnosed: Err((25, "device_error")),
        new: Refused(25, "device_error", "cannot be written: C_OpenSession failed (CKR_TOKEN_WRITE_PROTECTED)", "--key"),
        ..WILLING
    };
    not_initialised: Make {
        rules: "token-flags:-CKF_TOKEN_INITIALIZED",
        listed: ("none", Some("not initialised: make a token of it")),
        diagnosed: Err((24, "token_not_found")),
        new: Refused(24, "token_not_found", "that can be used", "not initialised"),
        existing: Refused(24, "token_not_found", "that can be used", "not initialised"),
        ..WILLING
    };
    renumbered_slots: Make { rules: "slots:renumber", ..WILLING };
    several_slots_of_one_token: Make { rules: "slots:twice", ..WILLING };
    no_ecdsa: Make {
        rules: "mechanism:-CKM_ECDSA",
        diagnosed: Err((20, "key_type_unsupported")),
        new: Refused(20, "key_type_unsupported", "it has no CKM_ECDSA", "--key-alg"),
        existing: Refused(20, "key_type_unsupported", "C_SignInit failed (CKR_MECHANISM_INVALID)", "--key-alg"),
        ..WILLING
    };
    /// Id and label are its own affair.
    refuses_names_and_gives_its_own: Make {
        rules: "generate:refuse:CKA_ID:0x13;generate:refuse:CKA_LABEL:0x13;generate:replace:CKA_ID=0x0042;generate:replace:CKA_LABEL=Key 42",
        ..WILLING
    };
    refuses_an_id_and_gives_its_own: Make { rules: "generate:refuse:CKA_ID:0x12;generate:replace:CKA_ID=0x0042", ..WILLING };
    refuses_a_label_and_gives_its_own: Make { rules: "generate:refuse:CKA_LABEL:0x10;generate:replace:CKA_LABEL=Key 42", ..WILLING };
    /// Nothing could find that key again.
    refuses_names_and_gives_none: Make {
        rules: "generate:refuse:CKA_ID:0x13;generate:refuse:CKA_LABEL:0x13",
        new: Refused(23, "key_not_as_promised", "it has neither id nor label", "use another"),
        ..WILLING
    };
    /// YKCS11 looks at the first byte of an id.
    keeps_the_first_byte_of_an_id: Make { rules: "generate:replace:CKA_ID=first-byte", ..WILLING };
    replaces_the_label: Make { rules: "generate:replace:CKA_LABEL=Private key 1", ..WILLING };
    drops_the_label: Make { rules: "generate:replace:CKA_LABEL=nothing", ..WILLING };
    replaces_id_and_label: Make {
        rules: "generate:replace:CKA_ID=0x00ff25;generate:replace:CKA_LABEL=50% of a/key",
        ..WILLING
    };
    refuses_every_template: Make {
        rules: "generate:refuse:CKA_TOKEN:0xd1",
        diagnosed: NO_SESSION_KEYS,
        new: Refused(20, "key_type_unsupported", "does not make a key that stays inside it: C_GenerateKeyPair failed (CKR_TEMPLATE_INCONSISTENT)", "own tool"),
        ..WILLING
    };
    /// pkcs11-logger prints every call.
    talks: Make {
        rules: "C_Initialize:1:print;C_GetSlotList:*:print;C_Login:*:print;C_GenerateKeyPair:*:print;C_SignInit:*:print;C_Sign:*:print",
        ..WILLING
    };
    says_little_of_its_keys: Make {
        rules: "attribute:private:CKA_SENSITIVE=untouched;attribute:private:CKA_EXTRACTABLE=unknown;\
                attribute:private:CKA_ALWAYS_SENSITIVE=unreadable;attribute:private:CKA_NEVER_EXTRACTABLE=unknown;\
                attribute:CKA_PUBLIC_KEY_INFO=unknown",
        ..WILLING
    };
    calls_keys_extractable: Make {
        rules: "lie:extractable",
        diagnosed: Err((23, "key_not_as_promised")),
        new: Refused(23, "key_not_as_promised", "CKA_EXTRACTABLE is true", "use another"),
        existing: Refused(23, "key_not_as_promised", "CKA_EXTRACTABLE is true", "--allow-extractable"),
        ..WILLING
    };
    calls_keys_readable: Make {
        rules: "lie:sensitive",
        diagnosed: Err((23, "key_not_as_promised")),
        new: Refused(23, "key_not_as_promised", "CKA_SENSITIVE is false", "use another"),
        existing: Refused(23, "key_not_as_promised", "CKA_SENSITIVE is false", "--allow-extractable"),
        ..WILLING
    };
    shows_another_public_key: Make {
        rules: "lie:ec-point",
        diagnosed: Err((23, "signature_wrong")),
        new: Refused(23, "signature_wrong", "does not fit its public key", "different keys"),
        existing: Refused(23, "signature_wrong", "does not fit its public key", "different keys"),
        ..WILLING
    };
    /// A key that was made here is known by what the making gave, and later by the certificate of its identity.
    hides_public_objects: Make {
        rules: "hide:public",
        existing: Refused(24, "key_half", "shows its public half", "write the public key or a certificate"),
        ..WILLING
    };
}

/// What the first device check of `no_ecdsa` advises works.
#[test]
fn without_ecdsa_rsa_is_taken() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    let manners = |program: Program| program.env("P11FAULT", "mechanism:-CKM_ECDSA");
    report(&manners(machine.enroll(&token)).args(["--key-alg", "rsa2048"]).run());
    report(&manners(machine.verify(&token)).run());
}

/// Of another key of its kind: a token that mixes up its objects.
#[test]
fn a_token_that_mixes_up_its_keys_is_found_out() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    for (name, id) in [("mine", "01"), ("other", "02")] {
        machine.keys.make_pair(name, id, KeyType::P256);
    }
    let enroll = machine.enroll_with(&controller.issue("gate-7")).args(["--key", &machine.keys.reference("mine")]);
    Failed::with(enroll.env("P11FAULT", "lie:other-key").run(), 23, "signature_wrong").says("does not fit").spent("no");
    assert_eq!(controller.enroll_posts(), 0);
}

/// A module that hangs is left, and said to be what hung; nothing was sent.
#[test]
fn a_module_that_hangs_is_named() {
    for (rule, call) in
        [("C_Login:1:hang", "C_Login"), ("C_GetSlotList:1:hang", "C_GetSlotList"), ("C_FindObjects:1:hang", "C_FindObjects")]
    {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let enroll = machine.enroll(&controller.issue("gate-7")).args(["--device-timeout", "1s"]).env("P11FAULT", rule);
        Failed::with(enroll.run(), 25, "device_timeout").says(call).hints("--device-timeout").spent("no");
        assert_eq!((machine.keys.private_keys(), controller.enroll_posts()), (0, 0));
    }
}

/// kryoptic counts for real: what it shows on the way to its lock, and what is done about it before any try.
#[test]
fn kryoptic_shows_how_near_its_lock_is() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InKryoptic>::new();
    let token = controller.issue("gate-7");
    let hsm = &machine.keys.hsm;
    let listed = || {
        let list =
            |format: &str| machine.program().args(["list", "tokens", "--format", format, "--module", &text(&hsm.module())]).run();
        let said = report(&list("json"));
        let [token] = said["tokens"].as_array().expect("a list").as_slice() else { panic!("one token: {said}") };
        let lines = list("text").success().stdout;
        for shown in ["label", "serial", "model", "manufacturer"].map(|name| token[name].as_str().expect("text")) {
            assert!(!shown.is_empty() && lines.contains(shown), "{shown}: {lines}");
        }
        assert_eq!(
            (&token["label"], &token["serial"], &token["software"]),
            (&json!("ziti-test"), &json!(hsm.serial()), &json!(true))
        );
        (token["pin"].as_str().expect("text").to_owned(), token["obstacle"].as_str().map(str::to_owned))
    };
    let wrong = |tries: usize| (0..tries).for_each(|_| drop(hsm.tool("not the PIN").arg("--list-objects").run()));
    let enroll = || machine.enroll(&token).run();
    let doctor = || {
        let program = machine.program().args(["doctor", "--provider", "pkcs11", "--jwt"]).arg(token.write(machine.folder()));
        program.args(machine.keys.place()).args(machine.keys.pin()).run()
    };
    let fine = |pin: &str| (pin.to_owned(), None);

    assert_eq!(listed(), fine("ok"));
    wrong(7);
    assert_eq!(listed(), fine("count_low"));
    wrong(2);
    assert_eq!(listed(), fine("final_try"));
    hsm.clear_calls();
    Failed::with(enroll(), 22, "pin_final_try").says("no try was used").hints("--allow-final-try").spent("no");
    let said = doctor();
    assert!(said.code == Some(22) && said.stdout.contains("FAILED key: ") && said.stdout.contains("hint: "), "{said}");
    wrong(1);
    assert_eq!(listed(), ("locked".into(), Some("its PIN is locked".into())));
    hsm.clear_calls();
    Failed::with(enroll(), 22, "pin_locked").says("is locked").hints("security officer").spent("no");
    let said = doctor();
    assert!(said.code == Some(22) && said.stdout.contains("FAILED device: ") && said.stdout.contains("hint: "), "{said}");
    assert_eq!((hsm.count("C_Login"), controller.enroll_posts()), (0, 0));

    hsm.unlock();
    let said = report(&enroll());
    assert_eq!(listed(), fine("ok"));
    let list = machine.program().args(["list", "keys", "--format", "json"]).args(machine.keys.place()).args(machine.keys.pin());
    let keys = report(&list.run());
    let [key] = keys["keys"].as_array().expect("a list").as_slice() else { panic!("one key: {keys}") };
    assert_eq!((&key["spki_sha256"], &key["algorithm"]), (&said["key"]["spki_sha256"], &json!("p256")));
    assert_eq!((&key["reference"], &key["obstacle"]), (&said["key"]["reference"], &Value::Null));
}
