//! The life of a key: half of one that is ours is mended, one that we made is deleted on a definite refusal alone, and
//! nothing of anyone else's is ever touched.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use ziti_enroller_support::{Controller, Fault, KeyType, Options, Outcome, Program, Token, require};

use super::ending::{all_is_well, cut_off, ends, finish};
#[cfg(feature = "tpm")]
use crate::machine::tpm::{InTpmFile, InTpmHandle};
use crate::machine::{Failed, Fixture, InFiles, InToken, Machine, report};

const PRIVATE: &str = "Private Key Object";
const PUBLIC: &str = "Public Key Object";

fn scene<F: Fixture>() -> (Controller, Machine<F>, Token) {
    let controller = Controller::start(Options::default());
    let token = controller.issue("gate-7");
    (controller, Machine::on_tmpfs(F::new), token)
}

/// The id of the one key, or half of one, that is there.
fn id_of_the_one(machine: &Machine<InToken>) -> String {
    let objects = machine.keys.objects();
    let mut ids: Vec<&String> = objects.iter().map(|object| &object.id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1, "{objects:?}");
    ids[0].clone()
}

mod half {
    use super::*;

    #[test]
    fn that_the_journal_says_is_ours_is_mended() {
        for half in ["privkey", "pubkey"] {
            let (controller, machine, token) = scene::<InToken>();
            // Stopped while the token made the pair: it was planned, and that it is there is not written down.
            ends(&machine, &token, "after_generation", "kill");
            machine.keys.remove(half, &id_of_the_one(&machine));
            report(&machine.enroll(&token).run());
            all_is_well(&controller, &machine, &token, 0);
        }
    }

    /// SoftHSM gives both halves their names before the private one has its value.
    #[test]
    fn that_is_named_and_cannot_sign_is_made_again() {
        let (controller, machine, token) = scene::<InToken>();
        ends(&machine, &token, "after_generation", "kill");
        let first = machine.keys.public_keys();
        report(&machine.enroll(&token).env("P11FAULT", "C_Sign:1:0x5").run());
        assert_ne!(machine.keys.public_keys(), first, "the key that cannot sign is kept");
        all_is_well(&controller, &machine, &token, 0);
    }

    #[test]
    fn that_no_journal_speaks_of_is_left_as_it_is() {
        for (half, there) in [("privkey", [0, 1]), ("pubkey", [1, 0])] {
            let (controller, machine, token) = scene::<InToken>();
            ends(&machine, &token, "after_generation", "kill");
            machine.keys.remove(half, &id_of_the_one(&machine));
            fs::remove_dir_all(machine.work(&token)).expect("the work folder is there");
            let before = objects(&machine.keys.hsm.files());
            Failed::with(machine.enroll(&token).run(), 24, "key_half").spent("no");
            assert_eq!((objects(&machine.keys.hsm.files()), controller.enroll_posts()), (before, 0));
            assert_eq!(machine.keys.halves(), there);
        }
    }
}

/// The files of a SoftHSM store that hold objects; that of the token itself is written anew at each login.
fn objects(files: &BTreeMap<PathBuf, Vec<u8>>) -> BTreeMap<PathBuf, Vec<u8>> {
    let is_object = |path: &PathBuf| path.extension().is_some_and(|e| e == "object") && !path.ends_with("token.object");
    files.iter().filter(|(path, _)| is_object(path)).map(|(path, bytes)| (path.clone(), bytes.clone())).collect()
}

mod refusal {
    use super::*;

    #[test]
    fn that_is_definite_deletes_the_key_that_was_made_for_it() {
        for (fault, exit) in [
            (Fault::Refuse("ENROLLMENT_EXPIRED".into(), 400), 31),
            (Fault::Refuse("COULD_NOT_PROCESS_CSR".into(), 400), 31),
            (Fault::EntityTooLarge, 31),
            (Fault::Gone, 32),
        ] {
            deletes(&fault, exit, scene::<InToken>());
            #[cfg(feature = "tpm")]
            deletes(&fault, exit, scene::<InTpmFile>());
            #[cfg(feature = "tpm")]
            deletes(&fault, exit, scene::<InTpmHandle>());
        }
    }

    fn deletes<F: Fixture>(fault: &Fault, exit: i32, (controller, machine, token): (Controller, Machine<F>, Token)) {
        controller.set_faults([fault.clone()]);
        let refused = machine.enroll(&token).run();
        assert_eq!(refused.code, Some(exit), "{fault}: {refused}");
        assert!(refused.stderr.contains("was made for an enrollment that did not happen: deleted"), "{fault}: {refused}");
        assert_eq!(machine.keys.halves(), [0, 0], "{fault}");
        assert!(!machine.work(&token).exists(), "{fault}: the work folder is left");
    }

    #[test]
    fn that_is_definite_keeps_a_key_that_was_there() {
        for fault in [Fault::Refuse("ENROLLMENT_EXPIRED".into(), 400), Fault::Gone] {
            let (controller, machine, token) = scene::<InToken>();
            controller.set_faults([fault]);
            machine.keys.make("there", KeyType::P256);
            let before = objects(&machine.keys.hsm.files());
            let refused = machine.enroll_with(&token).args(["--key", &machine.keys.reference("there")]).run();
            assert!(matches!(refused.code, Some(31 | 32)), "{refused}");
            assert_eq!(objects(&machine.keys.hsm.files()), before);
        }
    }

    #[test]
    fn that_is_none_keeps_the_key() {
        for fault in [
            Fault::DropPostAfter,
            Fault::DropPostBefore,
            Fault::ConsumeThen500,
            Fault::ConsumeThen503,
            Fault::Panic,
            Fault::UnavailableOnce,
            Fault::NoCert,
            Fault::OtherKey,
        ] {
            let (controller, machine, token) = scene::<InToken>();
            controller.set_faults([fault.clone()]);
            let ended = machine.enroll(&token).args(["--retry-delay", "10ms"]).run();
            assert!(matches!(ended.code, Some(30 | 33 | 40)), "{fault}: {ended}");
            assert_eq!(machine.keys.halves(), [1, 1], "{fault}");
        }
    }

    #[test]
    fn after_a_request_whose_outcome_is_unknown_is_none() {
        let (controller, machine, token) = scene::<InToken>();
        controller.set_faults([Fault::DropPostAfter]);
        Failed::with(machine.enroll(&token).args(["--retries", "0"]).run(), 33, "outcome_unknown");
        // "No such token", for the first time: it was our own request that has spent it.
        controller.set_faults([]);
        finish(&controller, &machine, &token, || machine.enroll(&token));
        all_is_well(&controller, &machine, &token, 0);
    }
}

mod vanished {
    use super::*;

    /// Kills an enrollment as it enters `stage`, and takes the key away.
    fn after<F: Fixture>(stage: &str, take_away: impl Fn(&Machine<F>, &Token)) -> (Controller, Machine<F>, Token) {
        let (controller, machine, token) = scene::<F>();
        ends(&machine, &token, &format!("entering-{stage}"), "kill");
        take_away(&machine, &token);
        (controller, machine, token)
    }

    /// Nothing was sent, so another key does as well.
    fn is_made_again<F: Fixture>(take_away: impl Fn(&Machine<F>, &Token)) {
        for stage in ["keyed", "ready"] {
            let (controller, machine, token) = after::<F>(stage, &take_away);
            let again = machine.enroll(&token).run();
            assert!(again.stderr.contains("is not there any more: the enrollment begins anew"), "{stage}: {again}");
            report(&again);
            all_is_well(&controller, &machine, &token, 0);
        }
    }

    /// A certificate for it would be of no use.
    fn is_said<F: Fixture>(take_away: impl Fn(&Machine<F>, &Token)) {
        let (controller, machine, token) = after::<F>("posting", take_away);
        let again = machine.enroll(&token).run();
        Failed::with(again, 24, "key_not_found").hints("put its token or file back").hints("--force").spent("unknown");
        assert_eq!((controller.enroll_posts(), machine.keys.halves()), (0, [0, 0]));
        // What the hint says, once the key is known to be lost.
        let another = controller.token("gate-7").id(token.sub()).issue();
        report_with_note(&machine.enroll(&another).arg("--force").run(), "the unfinished enrollment is kept in");
        assert_eq!(machine.identity(&another).public_key(), controller.authenticators()[0].spki_der);
    }

    fn report_with_note(outcome: &Outcome, note: &str) {
        assert!(outcome.stderr.contains(note), "{outcome}");
        report(outcome);
    }

    fn objects_of(machine: &Machine<InToken>, _: &Token) {
        let id = id_of_the_one(machine);
        ["privkey", "pubkey"].iter().for_each(|half| machine.keys.remove(half, &id));
    }

    fn file_in_the_work_folder(machine: &Machine<InFiles>, token: &Token) {
        fs::remove_file(machine.work(token).join("key.pem")).expect("the key waits there");
    }

    #[test]
    fn from_the_token_is_made_again_before_the_request() {
        is_made_again(objects_of);
    }

    #[test]
    fn from_the_token_is_said_after_the_request() {
        is_said(objects_of);
    }

    #[test]
    fn from_the_work_folder_is_made_again_before_the_request() {
        is_made_again(file_in_the_work_folder);
    }

    #[test]
    fn from_the_work_folder_is_said_after_the_request() {
        is_said(file_in_the_work_folder);
    }

    #[cfg(feature = "tpm")]
    #[test]
    fn from_the_folder_of_the_identity_is_said_after_the_request() {
        let file = |machine: &Machine<InTpmFile>, _: &Token| {
            fs::remove_file(machine.path("gate-7.tss2.pem")).expect("the key is beside the identity");
        };
        is_made_again(file);
        is_said(file);
    }

    #[test]
    fn that_was_there_before_is_not_made() {
        let (controller, machine, token) = scene::<InToken>();
        machine.keys.make("there", KeyType::P256);
        let enroll = || machine.enroll_with(&token).args(["--key", &machine.keys.reference("there")]);
        cut_off(enroll(), "entering-ready");
        objects_of(&machine, &token);
        let gone = Failed::with(enroll().run(), 24, "key_not_found").hints("put its token or file back");
        gone.hints("run the same command again").spent("no");
        assert_eq!((controller.enroll_posts(), machine.keys.halves()), (0, [0, 0]));
    }
}

mod of_others {
    use super::*;

    /// A pair, half a pair of each kind, a certificate, and one that has our own key's label.
    fn moved_in(machine: &Machine<InToken>, ours: &Token) {
        let keys = &machine.keys;
        keys.make_pair("theirs", "a0", KeyType::P256);
        keys.make_pair("half", "a1", KeyType::P256);
        keys.remove("privkey", "a1");
        keys.make_pair("other half", "a2", KeyType::P384);
        keys.remove("pubkey", "a2");
        keys.make_pair(&format!("ziti:{}", ours.sub()), "a3", KeyType::P256);
        let openssl = Program::new(require("openssl", "openssl")).current_dir(machine.folder());
        let certificate = openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=them", "-keyout"]);
        certificate.args(["/dev/null", "-outform", "DER", "-out", "them.der"]).run().success();
        let file = machine.path("them.der");
        keys.tool().arg("--write-object").arg(&file).args(["--type", "cert", "--id", "a4", "--label", "them"]).run().success();
        fs::remove_file(file).expect("it was written a line ago");
    }

    #[test]
    fn nothing_is_touched_by_all_of_it() {
        let (controller, machine, token) = scene::<InToken>();
        moved_in(&machine, &token);
        let theirs = objects(&machine.keys.hsm.files());
        assert_eq!(machine.keys.halves(), [3, 3]);
        assert_eq!(theirs.len(), 7);
        let untouched = |what: &str| {
            let now = objects(&machine.keys.hsm.files());
            assert!(theirs.iter().all(|(path, bytes)| now.get(path) == Some(bytes)), "touched: {what}");
            now.len() - theirs.len()
        };
        // Refused: ours is deleted.
        controller.set_faults([Fault::RefuseOnce("ENROLLMENT_EXPIRED".into(), 400)]);
        Failed::with(machine.enroll(&token).run(), 31, "refused_enrollment_expired");
        assert_eq!(untouched("by a refusal"), 0);
        // Killed with half a pair, and another identity's token comes: ours is deleted, and another made.
        ends(&machine, &token, "after_generation", "kill");
        let ours = format!("ziti:{}", token.sub());
        let mut made = machine.keys.of_class(PRIVATE);
        made.retain(|object| object.label == ours && object.id != "a3");
        machine.keys.remove("privkey", &made[0].id);
        assert_eq!(untouched("by a kill"), 1);
        let other = controller.issue("gate-7");
        report(&machine.enroll(&other).run());
        assert_eq!(untouched("by another token"), 2);
        fs::remove_file(machine.out(&other)).expect("the identity is in place");
        // Killed, and half of it gone: made again.
        ends(&machine, &token, "after_generation", "kill");
        machine.keys.remove("pubkey", &made[0].id);
        report(&machine.enroll(&token).run());
        assert_eq!(untouched("by a repair"), 4);
        all_is_well(&controller, &machine, &token, 4);
        // Deleted by hand: ours alone.
        machine.program().args(["key", "delete", "--force"]).arg(machine.out(&token)).args(machine.keys.pin()).run().success();
        assert_eq!(untouched("by a deletion"), 2);
        let left = machine.keys.of_class(PUBLIC);
        assert!(left.iter().all(|object| object.id != made[0].id), "{left:?}");
    }
}
