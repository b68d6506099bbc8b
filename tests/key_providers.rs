//! Keys wherever they live: the same stories over every provider, and those that only a token can tell.
//!
//! A provider that joins is a [`Fixture`] and one more line in `everywhere!`.

use std::fs;
use std::time::Duration;

use serde_json::json;
use ziti_enroller_support::{Controller, KeyType, Options, Program, Terminal, Tls, figures};

#[cfg(feature = "tpm")]
use crate::machine::tpm::{InTpmFile, InTpmHandle};
use crate::machine::{ALGORITHMS, Failed, Fixture, InFiles, InToken, InTpm2Pkcs11, Machine, report, text};

/// Each story as a test of each provider.
macro_rules! everywhere {
    ([$($story:ident,)*]) => {
        everywhere!(@of file InFiles $($story)*);
        everywhere!(@of pkcs11 InToken $($story)*);
        everywhere!(@of tpm2_pkcs11 InTpm2Pkcs11 refuses_a_type_that_it_cannot_make does_not_log_in_over_tls_1_3_with_rsa $($story)*);
        #[cfg(feature = "tpm")]
        everywhere!(@of tpm_file InTpmFile refuses_a_type_that_it_cannot_make $($story)*);
        #[cfg(feature = "tpm")]
        everywhere!(@of tpm_handle InTpmHandle refuses_a_type_that_it_cannot_make $($story)*);
    };
    (@of $provider:ident $fixture:ident $($story:ident)*) => {
        mod $provider {
            $(
                #[test]
                fn $story() {
                    super::$story::<super::$fixture>();
                }
            )*
        }
    };
}

/// The stories, given to a macro behind what it is told besides.
macro_rules! stories {
    ($tell:ident $($besides:tt)*) => {
        $tell! { $($besides)* [
            makes_a_key_of_every_type,
            uses_the_key_that_a_reference_names,
            uses_a_key_of_every_type_that_is_there,
            makes_the_key_that_a_reference_names,
            refuses_to_overwrite_an_existing_key,
            says_that_no_key_is_there,
            refuses_a_reference_of_another_provider,
            signs_from_many_threads,
            enrolls_and_logs_in_over_both_versions_of_tls,
            is_diagnosed_and_burns_nothing,
        ] }
    };
}

stories!(everywhere);

/// The same stories over places that need not have them all in every run: kryoptic, and makes that p11fault stands for.
mod other_makes {
    use ziti_enroller_support::sample;

    use super::*;
    use crate::machine::InKryoptic;
    use crate::machine::makes::*;

    type Case = (&'static str, &'static str, fn());

    /// Each story over each place.
    macro_rules! cases {
        ($places:tt $stories:tt) => {
            cases!(@each $places $stories [])
        };
        (@each [] $stories:tt [$($done:tt)*]) => {
            [$($done)*]
        };
        (@each [$place:ty, $($places:tt)*] [$($story:ident,)*] [$($done:tt)*]) => {
            cases!(@each [$($places)*] [$($story,)*] [$($done)* $((<$place as Fixture>::NAME, stringify!($story), $story::<$place> as fn()),)*])
        };
    }

    /// Runs `cases` two at a time: each waits for a device most of its time.
    fn run(cases: &[Case]) {
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some((place, story, case)) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                        println!("{place}: {story}");
                        case();
                    }
                });
            }
        });
    }

    #[test]
    fn every_type_of_key_over_kryoptic() {
        run(
            &cases!([InKryoptic,] [makes_a_key_of_every_type, uses_a_key_of_every_type_that_is_there, is_diagnosed_and_burns_nothing,]),
        );
    }

    #[test]
    fn the_same_stories() {
        let all: Vec<Case> = stories!(cases [
            InKryoptic,
            InMannered<CloudHsm>,
            InMannered<LunaCloud>,
            InMannered<NShield>,
            InMannered<Tpm2>,
            InMannered<YubiHsm>,
            InMannered<Keypad>,
            InMannered<PinEachTime>,
            InMannered<Renumbered>,
            InMannered<ManySlots>,
            InMannered<Talks>,
            InMannered<Silent>,
        ])
        .to_vec();
        let (chosen, seed) = sample::of(all, 12);
        run(&chosen);
        figures::record("provider stories over kryoptic and the makes of p11fault", chosen.len(), chosen.len(), &seed);
    }
}

fn makes_a_key_of_every_type<F: Fixture>() {
    for algorithm in F::MAKES {
        // Where RSA has no PSS, TLS 1.2 is offered alone.
        let (controller, machine) = (Controller::start(Options::default()), Machine::<F>::new());
        let token = controller.issue("gate-7");
        // The primes of RSA-4096 are a matter of luck, and of what else the machine does.
        let enroll = machine.enroll(&token).limit(Duration::from_secs(300));
        let said = report(&enroll.args(["--key-alg", algorithm]).run());
        assert_eq!((&said["key"]["algorithm"], &said["key"]["provider"]), (&json!(algorithm), &json!(F::PROVIDER)));
        let verified = report(&machine.verify(&token).run());
        assert_eq!(
            (&verified["key"]["algorithm"], &verified["key"]["spki_sha256"]),
            (&json!(algorithm), &said["key"]["spki_sha256"])
        );
        assert!(controller.violations().is_empty(), "{:?}", controller.violations());
    }
}

fn uses_the_key_that_a_reference_names<F: Fixture>() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<F>::new();
    machine.keys.make("mine", KeyType::P256);
    machine.keys.make("other", KeyType::P256);
    let mine = machine.keys.reference("mine");
    let token = controller.issue("gate-7");
    let said = report(&machine.enroll_with(&token).args(["--key", &mine]).run());
    assert_eq!((&said["key"]["created"], &said["key"]["provider"]), (&json!(false), &json!(F::PROVIDER)));
    assert_eq!(machine.keys.private_keys(), 2);
    let identity = machine.identity(&token);
    assert!(!identity.text.contains("PRIVATE KEY"), "a key that is elsewhere was copied: {}", identity.text);
    assert_eq!(machine.keys.public_key_of(identity.key()), identity.public_key());
    report(&machine.verify(&token).run());
    // The reference that is reported opens the same key.
    let again = controller.issue("gate-8");
    let reference = said["key"]["reference"].as_str().expect("a reference is text");
    report(&machine.enroll_with(&again).args(["--key", reference]).run());
    assert_eq!(machine.identity(&again).public_key(), identity.public_key());
}

fn uses_a_key_of_every_type_that_is_there<F: Fixture>() {
    let machine = Machine::<F>::new();
    for kind in [KeyType::P256, KeyType::P384, KeyType::Rsa2048] {
        let name = kind.to_string();
        let controller = Controller::start(Options::default());
        machine.keys.make(&name, kind);
        let token = controller.issue(&name);
        let said = report(&machine.enroll_with(&token).args(["--key", &machine.keys.reference(&name)]).run());
        assert_eq!(said["key"]["algorithm"], json!(kind.to_string()));
        report(&machine.verify(&token).run());
    }
}

fn makes_the_key_that_a_reference_names<F: Fixture>() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<F>::new();
    let mine = machine.keys.reference("mine");
    let token = controller.issue("gate-7");
    let said = report(&machine.enroll_with(&token).args(["--key", &mine, "--create", "--key-alg", "rsa2048"]).run());
    assert_eq!((&said["key"]["created"], &said["key"]["algorithm"]), (&json!(true), &json!("rsa2048")));
    let identity = machine.identity(&token);
    assert!(!identity.text.contains("PRIVATE KEY"), "{}", identity.text);
    assert_eq!(machine.keys.public_keys(), [identity.public_key()]);
    report(&machine.verify(&token).run());
    let again = controller.issue("gate-8");
    assert_eq!(report(&machine.enroll_with(&again).args(["--key", &mine]).run())["key"]["created"], false);
}

fn refuses_to_overwrite_an_existing_key<F: Fixture>() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<F>::new();
    machine.keys.make("mine", KeyType::P256);
    let before = machine.keys.public_keys();
    let token = controller.issue("gate-7");
    let outcome = machine.enroll_with(&token).args(["--key", &machine.keys.reference("mine"), "--create", "--force"]).run();
    Failed::with(outcome, 24, "key_exists").says("already").hints("leave out --create to use it").spent("no");
    assert_eq!((machine.keys.public_keys(), controller.enroll_posts()), (before, 0));
}

fn says_that_no_key_is_there<F: Fixture>() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<F>::new();
    let token = controller.issue("gate-7");
    let outcome = machine.enroll_with(&token).args(["--key", &machine.keys.reference("mine")]).run();
    Failed::with(outcome, 24, "key_not_found").says(&machine.keys.called("mine")).spent("no");
    assert_eq!((machine.keys.private_keys(), controller.enroll_posts()), (0, 0));
}

fn refuses_a_reference_of_another_provider<F: Fixture>() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<F>::new();
    let other = if F::PROVIDER == "file" { "pkcs11" } else { "file" };
    let token = controller.issue("gate-7");
    let outcome = machine.enroll_with(&token).args(["--provider", other, "--key", &machine.keys.reference("mine")]).run();
    Failed::with(outcome, 2, "usage").says(&format!("--provider {other} does not read")).spent("no");
    assert_eq!(controller.counts().connections, 0);
}

/// Signatures by 8 threads, in a process of their own, for each kind of key; 1,600 but in a TPM.
fn signs_from_many_threads<F: Fixture>() {
    let running = std::env::current_exe().expect("the running test knows its own path");
    let built = running.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps/<test>");
    let program = built.join("examples/sign_many");
    assert!(program.is_file(), "{} is missing: cargo build --example sign_many", program.display());
    let (machine, asked) = (Machine::<F>::new(), 8 * F::SIGNATURES);
    for (name, kind) in [("ec256", KeyType::P256), ("rsa", KeyType::Rsa2048)] {
        machine.keys.make(name, kind);
        let signs = Program::new(&program).envs(machine.keys.surroundings());
        let signs = match &machine.keys.pin()[..] {
            [_, file] => signs.env("ZITI_ENROLLER_PIN_FILE", file),
            _ => signs,
        };
        let outcome = signs.args([&machine.keys.reference(name), "8", &F::SIGNATURES.to_string()]).run();
        let verified = outcome.stdout.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
        figures::record(&format!("signatures of 8 threads that verify, {} {kind}", F::NAME), asked, verified, "");
        // Before it stands what a module may have printed: a program's own standard output is not the library's to guard.
        assert_eq!(outcome.success().stdout.lines().last(), Some(&*format!("{asked} of {asked} signatures verify")));
    }
}

fn enrolls_and_logs_in_over_both_versions_of_tls<F: Fixture>() {
    for (tls, version) in [(Tls::Only12, "TLSv1_2"), (Tls::Only13, "TLSv1_3")] {
        let controller = Controller::start(Options { tls, ..Options::default() });
        let machine = Machine::<F>::new();
        let token = controller.issue("gate-7");
        report(&machine.enroll(&token).args(["--key-alg", "p256"]).run());
        let identity = machine.identity(&token);
        assert_eq!(machine.keys.public_key_of(identity.key()), identity.public_key());
        report(&machine.verify(&token).run());
        let log = controller.log();
        assert!(log.handshakes.iter().all(|handshake| handshake.version == version), "{:?}", log.handshakes);
        assert!(log.handshakes.len() >= 2 && log.violations.is_empty(), "{log:?}");
    }
}

/// A diagnosis says that all is well, and the token, the device and the folder are as they were; `enroll --dry-run` is the
/// same thing.
fn is_diagnosed_and_burns_nothing<F: Fixture>() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<F>::new();
    let token = controller.issue("gate-7");
    let typed = |words: &[&str]| {
        let program = machine.program().args(words).arg("--jwt").arg(token.write(machine.folder()));
        program.args(["--provider", F::PROVIDER]).args(machine.keys.place()).args(machine.keys.pin())
    };
    let said = report(&typed(&["doctor", "--format", "json"]).run());
    let checks = said["checks"].as_array().expect("a diagnosis has checks");
    let tried: Vec<&str> = checks.iter().filter_map(|check| check["tried"].as_str()).collect();
    assert_eq!(tried, ["token", "output", "device", "controller", "key"], "{said}");
    assert!(checks.iter().all(|check| check["error"].is_null() && check["found"].is_string()), "{said}");
    let (text, dry) = (typed(&["doctor"]).run().success(), typed(&["enroll", "--dry-run"]).run().success());
    assert_eq!(text.stdout, dry.stdout);
    for check in checks {
        let line = format!("ok     {}: {}\n", check["tried"].as_str().expect("text"), check["found"].as_str().expect("text"));
        assert!(text.stdout.contains(&line), "{text}");
    }
    assert_eq!((machine.keys.private_keys(), machine.keys.public_keys().len(), controller.enroll_posts()), (0, 0, 0));
    assert!(!machine.out(&token).exists() && !machine.work(&token).exists(), "a diagnosis has left something");
    report(&machine.enroll(&token).run());
    assert_eq!(controller.enroll_posts(), 1);
}

/// TLS 1.3 knows no other signature of RSA than PSS, which libtpm2_pkcs11 has not. Over TLS 1.2 such keys log in.
fn does_not_log_in_over_tls_1_3_with_rsa<F: Fixture>() {
    let controller = Controller::start(Options { tls: Tls::Only13, ..Options::default() });
    let machine = Machine::<F>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll(&token).args(["--key-alg", "rsa2048"]).run());
    Failed::with(machine.verify(&token).run(), 60, "login_refused").spent("yes");
    assert!(!F::HAS_PSS && controller.log().handshakes.iter().all(|handshake| handshake.version == "TLSv1_3"));
}

fn refuses_a_type_that_it_cannot_make<F: Fixture>() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<F>::new();
    let lacking: Vec<_> = ALGORITHMS.into_iter().filter(|algorithm| !F::MAKES.contains(algorithm)).collect();
    assert!(!lacking.is_empty(), "it makes every type");
    for algorithm in lacking {
        let outcome = machine.enroll(&controller.issue(algorithm)).args(["--key-alg", algorithm]).run();
        Failed::with(outcome, 20, "key_type_unsupported").says(algorithm).spent("no");
    }
    assert_eq!((machine.keys.private_keys(), controller.enroll_posts()), (0, 0));
}

#[test]
fn file_key_goes_where_a_bare_path_says_with_mode_0600() {
    use std::os::unix::fs::PermissionsExt;
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let (token, file) = (controller.issue("gate-7"), machine.path("mine.pem"));
    report(&machine.enroll_with(&token).arg("--key").arg(&file).arg("--create").run());
    assert_eq!(file.metadata().expect("the key is there").permissions().mode() & 0o7777, 0o600);
    assert_eq!(machine.identity(&token).key(), format!("file://{}", file.display()));
}

mod token {
    use super::*;

    #[test]
    fn is_named_with_all_others_when_it_is_unknown() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let module = text(&machine.keys.hsm.module());
        let program = machine.enroll_with(&controller.issue("gate-7")).args(["--provider", "pkcs11", "--module", &module]);
        Failed::with(program.args(["--token", "nowhere"]).run(), 24, "token_not_found")
            .says("has no token \"nowhere\" that can be used")
            .hints(&format!("\"ziti-test\" (serial {}", machine.keys.hsm.serial()))
            .spent("no");
        assert_eq!(machine.keys.logins(), 0);
    }

    #[test]
    fn is_taken_unnamed_when_it_is_the_only_one() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let module = text(&machine.keys.hsm.module());
        let program = machine.enroll_with(&controller.issue("gate-7")).args(["--provider", "pkcs11", "--module", &module]);
        report(&program.run());
    }

    #[test]
    fn is_asked_for_when_two_fit() {
        let controller = Controller::start(Options::default());
        let mut machine = Machine::<InToken>::new();
        let second = machine.keys.hsm.add_token("ziti-test", "97531024");
        let first = machine.keys.hsm.serial().to_owned();
        let token = controller.issue("gate-7");
        Failed::with(machine.enroll(&token).run(), 24, "token_ambiguous")
            .says("2 tokens that fit")
            .says(&first)
            .says(&second.serial)
            .hints("--token and its serial")
            .spent("no");
        assert_eq!(machine.keys.logins(), 0);
        let module = text(&machine.keys.hsm.module());
        let program = machine.program().args(["enroll", "--format", "json", "--provider", "pkcs11", "--module", &module]);
        let program = program.arg("--jwt").arg(token.write(machine.folder())).arg("--pin-file").arg(&second.pin_file);
        assert_eq!(report(&program.args(["--token", &second.serial]).run())["token"]["serial"], json!(second.serial));
    }

    #[test]
    fn is_found_by_its_serial_when_its_slot_has_changed() {
        let controller = Controller::start(Options::default());
        let mut machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        report(&machine.enroll(&token).run());
        machine.keys.hsm.add_token("another", "97531024");
        let identity = machine.identity(&token);
        let (before, after) = identity.key().split_once("slot=0x").expect("a slot");
        let rest = after.split_once('&').expect("more behind the slot").1;
        let mut json = identity.json.clone();
        json["id"]["key"] = json!(format!("{before}slot=0x7&{rest}"));
        fs::write(machine.out(&token), json.to_string()).expect("the identity is ours");
        report(&machine.verify(&token).run());
    }

    #[test]
    fn module_that_is_missing_or_no_module_is_named() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        let enroll = |module: &str| machine.enroll_with(&token).args(["--provider", "pkcs11", "--module", module]).run();
        Failed::with(enroll("/no/such.so"), 20, "module_missing").says("/no/such.so").spent("no");
        let text_file = text(&machine.keys.hsm.conf());
        Failed::with(enroll(&text_file), 20, "module_not_pkcs11").says(&text_file).spent("no");
        let libc = "/lib/x86_64-linux-gnu/libm.so.6";
        if fs::exists(libc).expect("a path can be asked for") {
            Failed::with(enroll(libc), 20, "module_not_pkcs11").says(libc).spent("no");
        }
        let outcome = machine.enroll_with(&token).args(["--provider", "pkcs11"]).run();
        Failed::with(outcome, 20, "module_missing").hints("softhsm").spent("no");
        assert_eq!(controller.enroll_posts(), 0);
    }

    #[test]
    fn is_used_once_and_left_in_peace() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        report(&machine.enroll(&token).run());
        for function in ["C_Initialize", "C_Login", "C_GenerateKeyPair"] {
            assert_eq!(machine.keys.hsm.count(function), 1, "{function}: {:?}", machine.keys.hsm.calls());
        }
        machine.keys.hsm.clear_calls();
        report(&machine.verify(&token).run());
        for (function, count) in [("C_Login", 1), ("C_GenerateKeyPair", 0), ("C_DestroyObject", 0), ("C_SetAttributeValue", 0)] {
            assert_eq!(machine.keys.hsm.count(function), count, "{function}: {:?}", machine.keys.hsm.calls());
        }
    }
}

mod key_in_a_token {
    use super::*;

    /// Enrolls with the key that was made with this id, and expects exit 24.
    fn refused(machine: &Machine<InToken>, key: &str, code: &str) -> Failed {
        let controller = Controller::start(Options::default());
        let outcome = machine.enroll_with(&controller.issue("gate-7")).args(["--key", key]).run();
        assert_eq!(controller.enroll_posts(), 0);
        Failed::with(outcome, 24, code).spent("no")
    }

    #[test]
    fn that_is_not_there_is_asked_for_with_those_that_are() {
        let machine = Machine::<InToken>::new();
        machine.keys.make("other", KeyType::P256);
        refused(&machine, &machine.keys.reference("mine"), "key_not_found").says("object=mine").hints("other");
    }

    #[test]
    fn without_its_private_half_is_half_a_pair() {
        let machine = Machine::<InToken>::new();
        machine.keys.make_pair("mine", "01", KeyType::P256);
        machine.keys.remove("privkey", "01");
        refused(&machine, &machine.keys.reference("mine"), "key_half").says("and no private one").hints("cut off");
    }

    #[test]
    fn without_any_public_half_is_half_a_pair() {
        let machine = Machine::<InToken>::new();
        machine.keys.make_pair("mine", "01", KeyType::P256);
        machine.keys.remove("pubkey", "01");
        refused(&machine, &machine.keys.reference("mine"), "key_half")
            .says("shows its public half")
            .hints("write the public key");
    }

    #[test]
    fn shows_its_public_half_itself_if_it_is_rsa() {
        let machine = Machine::<InToken>::new();
        machine.keys.make_pair("mine", "01", KeyType::Rsa2048);
        machine.keys.remove("pubkey", "01");
        let controller = Controller::start(Options::default());
        let token = controller.issue("gate-7");
        report(&machine.enroll_with(&token).args(["--key", &machine.keys.reference("mine")]).run());
        report(&machine.verify(&token).run());
    }

    #[test]
    fn that_shares_its_id_is_ambiguous() {
        let machine = Machine::<InToken>::new();
        machine.keys.make_pair("mine", "01", KeyType::P256);
        machine.keys.make_pair("other", "01", KeyType::P256);
        let hsm = &machine.keys.hsm;
        let key = format!("pkcs11:token={};id=%01?module-path={}", hsm.label(), text(&hsm.module()));
        refused(&machine, &key, "key_ambiguous").says("2 keys").says("mine").says("other").hints("with both id= and object=");
    }

    #[test]
    fn of_another_type_than_asked_is_not_replaced() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        report(&machine.enroll(&token).run());
        let before = machine.keys.objects();
        let again = controller.re_enroll(token.sub());
        let outcome = machine.enroll(&again).args(["--force", "--key-alg", "rsa2048"]).run();
        Failed::with(outcome, 24, "key_type_differs")
            .says("is p256, and rsa2048 was asked for")
            .hints("--key-alg p256")
            .spent("no");
        assert_eq!((machine.keys.objects(), controller.enroll_posts()), (before, 1));
    }

    #[test]
    fn that_can_leave_its_token_is_not_used() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let make = machine.keys.tool().args(["--keypairgen", "--key-type", "EC:prime256v1", "--label", "mine", "--id", "01"]);
        make.arg("--extractable").run().success();
        let token = controller.issue("gate-7");
        let outcome = machine.enroll_with(&token).args(["--key", &machine.keys.reference("mine")]).run();
        Failed::with(outcome, 23, "key_not_as_promised").says("CKA_EXTRACTABLE is true").hints("made in the token").spent("no");
        assert_eq!((machine.keys.private_keys(), controller.enroll_posts()), (1, 0));
    }

    #[test]
    fn that_is_named_with_a_pin_is_refused_and_the_pin_is_not_said() {
        let machine = Machine::<InToken>::new();
        let controller = Controller::start(Options::default());
        let key = format!("{}&pin-value=471108", machine.keys.reference("mine"));
        let outcome = machine.enroll_with(&controller.issue("gate-7")).args(["--key", &key]).run();
        assert!(!format!("{}{}", outcome.stdout, outcome.stderr).contains("471108"), "{outcome}");
        Failed::with(outcome, 2, "usage").says("a PIN is not taken in a key reference").spent("no");
    }
}

mod lying_token {
    use super::*;

    /// A key is made, and what is read back of it is not what was asked for: it dies before the network hears of it.
    fn loses_its_key(lie: &str, exit: i32, code: &str, says: &str) {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        let outcome = machine.enroll(&token).env("P11FAULT", lie).run();
        Failed::with(outcome, exit, code).says(says).spent("no");
        assert_eq!(machine.keys.hsm.count("C_GenerateKeyPair"), 1);
        assert_eq!((machine.keys.objects(), controller.enroll_posts()), (Vec::new(), 0));
        report(&machine.enroll(&token).run());
    }

    #[test]
    fn that_calls_the_new_key_extractable_loses_it() {
        loses_its_key("lie:extractable", 23, "key_not_as_promised", "CKA_EXTRACTABLE is true");
    }

    #[test]
    fn that_calls_the_new_key_readable_loses_it() {
        loses_its_key("lie:sensitive", 23, "key_not_as_promised", "CKA_SENSITIVE is false");
    }

    #[test]
    fn that_shows_another_public_key_loses_it() {
        loses_its_key("lie:ec-point", 23, "signature_wrong", "the signature does not fit its public key");
    }

    #[test]
    fn that_shows_another_public_key_of_an_existing_key_does_not_lose_it() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        machine.keys.make("mine", KeyType::P256);
        let before = machine.keys.objects();
        let program = machine.enroll_with(&controller.issue("gate-7")).args(["--key", &machine.keys.reference("mine")]);
        Failed::with(program.env("P11FAULT", "lie:ec-point").run(), 23, "signature_wrong").says("does not fit").spent("no");
        assert_eq!((machine.keys.objects(), controller.enroll_posts()), (before, 0));
    }
}

mod failing_token {
    use super::*;

    fn fails(fault: &str, exit: i32, code: &str, says: &str) {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        let outcome = machine.enroll(&token).env("P11FAULT", fault).run();
        Failed::with(outcome, exit, code).says(says).spent("no");
        // An accepted PIN may be given again when the session was lost; a refused one never was.
        let refused =
            machine.keys.hsm.call_lines().into_iter().filter(|line| line.contains("C_Login") && !line.ends_with(" 0x0"));
        assert_eq!(refused.collect::<Vec<_>>(), [""; 0]);
        assert_eq!(controller.enroll_posts(), 0);
        // And it works again.
        report(&machine.enroll(&token).run());
        assert_eq!(machine.keys.private_keys(), 1);
    }

    #[test]
    fn at_its_start_is_named() {
        fails("C_Initialize:*:0x5", 20, "module_refused", "CKR_GENERAL_ERROR");
    }

    #[test]
    fn at_a_new_key_is_named() {
        fails("C_GenerateKeyPair:*:0x30", 25, "device_error", "C_GenerateKeyPair failed (CKR_DEVICE_ERROR)");
    }

    #[test]
    fn at_every_signature_is_named() {
        fails("C_Sign:*:0x30-after", 25, "device_error", "C_Sign failed (CKR_DEVICE_ERROR)");
    }

    #[test]
    fn that_makes_no_such_key_is_named() {
        fails("C_GenerateKeyPair:*:0x70", 20, "key_type_unsupported", "CKR_MECHANISM_INVALID");
    }

    #[test]
    fn that_is_gone_is_named() {
        fails("C_Sign:*:0x32", 25, "device_gone", "CKR_DEVICE_REMOVED");
    }

    #[test]
    fn whose_session_is_lost_once_is_opened_again() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        // CKR_SESSION_HANDLE_INVALID at the first signature.
        report(&machine.enroll(&controller.issue("gate-7")).env("P11FAULT", "C_SignInit:1:0xb3").run());
        assert_eq!(machine.keys.private_keys(), 1);
    }
}

#[test]
fn library_enrolls_from_a_program_of_ones_own() {
    let running = std::env::current_exe().expect("the running test knows its own path");
    let built = running.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps/<test>");
    let program = built.join("examples/enroll");
    assert!(program.is_file(), "{} is missing: cargo build --example enroll", program.display());
    let controller = Controller::start(Options::default());
    let machine = Machine::<InToken>::new();
    let (token, hsm) = (controller.issue("gate-7"), &machine.keys.hsm);
    let program = Program::new(program).envs(hsm.env()).arg(token.write(machine.folder())).arg(hsm.module());
    let outcome = program.arg(hsm.label()).arg(hsm.pin_file()).run().success();
    assert!(outcome.stdout.ends_with("ready for mutual TLS: true\n"), "{outcome}");
    assert_eq!(outcome.stderr, "", "the library talks: {outcome}");
    report(&machine.verify(&token).run());
}

#[test]
fn key_of_an_identity_is_deleted_when_somebody_agrees() {
    for (answer, left) in [("no", 1), ("yes", 0)] {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let token = controller.issue("gate-7");
        report(&machine.enroll(&token).run());
        let terminal = Terminal::open();
        let delete = machine.program().args(["key", "delete", "gate-7.json"]).args(machine.keys.pin());
        terminal.types(answer);
        let ended = terminal.seat(delete).run();
        assert_eq!((ended.code, machine.keys.private_keys()), (Some(if left == 0 { 0 } else { 2 }), left), "{ended}");
        for said in ["destroy pkcs11:token=", "gate-7.json: identity ", token.sub(), "(certificate until ", "? [yes/no] "] {
            assert!(ended.stderr.contains(said), "{said}: {ended}");
        }
    }
}
