//! `resume`, `status`, `doctor`, `list`, `key`: where one stands, what there is, and keys outside an enrollment.

use std::fs;

use ziti_enroller_support::KeyType;

use super::scenarios;
use super::scene::{Run, Scene};
use crate::machine::{Fixture, text, until};

/// A command about keys, in the module and token of the scene.
fn of_keys<'s>(scene: &'s Scene, words: &str) -> Run<'s> {
    scene.command(words).args(scene.keys().place()).args(scene.keys().pin())
}

/// What is in the scene's token, by a reference that says all.
fn reference(scene: &Scene) -> String {
    format!("{}&pin-source={}", scene.keys().reference("gate-7"), text(&scene.keys().hsm.pin_file()))
}

scenarios! {
    fn status_nothing_left(scene) {
        scene.enroll().succeeds();
        scene.command("status gate-7.json").run()
    }

    fn status_unfinished(scene) {
        scene.enroll().crash("before_post:kill").fails();
        scene.command("status gate-7.json").run()
    }

    fn status_answer_lost(scene) {
        scene.enroll().crash("after_post:kill").fails();
        scene.enroll().fails();
        scene.command("status gate-7.json").run()
    }

    fn status_of_nothing(scene) {
        scene.command("status gate-7.json").run()
    }

    fn resumed(scene) {
        scene.enroll().crash("before_post:kill").fails();
        scene.command("resume gate-7.json").run()
    }

    fn resumed_with_the_controllers_copy(scene) {
        scene.enroll_in_token().crash("after_post:kill").fails();
        scene.enroll_in_token().fails();
        scene.file("gate-7.pem", &scene.controller.authenticators()[0].cert_pem);
        scene.command("resume gate-7.json --certificate gate-7.pem").args(scene.keys().pin()).run()
    }

    fn resume_without_anything_to_resume(scene) {
        scene.command("resume gate-7.json").run()
    }

    fn interrupted(scene) {
        let reserved = scene.path(".gate-7.json.enroll").join("identity");
        scene.enroll().crash("output_reserved:hang").when("SIGINT comes, as Ctrl-C sends it").watched(|running| {
            until("it works", || reserved.exists());
            running.interrupt();
            running.wait()
        })
    }

    fn terminated(scene) {
        let reserved = scene.path(".gate-7.json.enroll").join("identity");
        scene.enroll().crash("output_reserved:hang").when("SIGTERM comes, as systemd sends it").watched(|running| {
            until("it works", || reserved.exists());
            running.terminate();
            running.wait()
        })
    }

    fn doctor_all_well(scene) {
        scene.token.write(&scene.path(""));
        of_keys(&scene, "doctor --jwt gate-7.jwt --provider pkcs11").run()
    }

    fn doctor_finds_a_wrong_pin(scene) {
        scene.token.write(&scene.path(""));
        scene.file("pin", "000000");
        scene.command("doctor --jwt gate-7.jwt --provider pkcs11 --pin-file pin").args(scene.keys().place()).run()
    }

    fn doctor_finds_no_controller(scene) {
        let scene = scene.holding(|controller| controller.issue_at("gate-7", "https://nowhere.invalid:1280"));
        scene.token.write(&scene.path(""));
        scene.command("doctor --jwt gate-7.jwt").run()
    }

    fn tokens_listed(scene) {
        let module = text(&scene.keys().hsm.module());
        scene.command("list tokens --module").arg(module).run()
    }

    fn keys_listed(scene) {
        scene.keys().make("gate-7", KeyType::P256);
        of_keys(&scene, "list keys").run()
    }

    fn no_keys_listed(scene) {
        of_keys(&scene, "list keys").run()
    }

    fn key_created(scene) {
        scene.command("key create").arg(reference(&scene)).args(["--key-alg", "p384"]).run()
    }

    fn key_created_where_one_is(scene) {
        scene.keys().make("gate-7", KeyType::P256);
        scene.command("key create").arg(reference(&scene)).run()
    }

    fn key_deleted(scene) {
        scene.keys().make("gate-7", KeyType::P256);
        scene.command("key delete").arg(reference(&scene)).arg("--force").run()
    }

    /// Nobody is there to ask.
    fn key_deleted_without_a_word(scene) {
        scene.keys().make("gate-7", KeyType::P256);
        let ran = scene.command("key delete").arg(reference(&scene)).run();
        assert_eq!(scene.keys().private_keys(), 1);
        ran
    }

    fn key_of_an_identity_deleted(scene) {
        scene.enroll_in_token().succeeds();
        let ran = scene.command("key delete gate-7.json --force").args(scene.keys().pin()).run();
        assert!(fs::exists(scene.path("gate-7.json")).expect("the machine's folder is readable"));
        ran
    }

    /// No PIN is used before somebody has agreed.
    fn key_of_an_identity_deleted_without_a_word(scene) {
        scene.enroll_in_token().succeeds();
        let logins = scene.keys().logins();
        let ran = scene.command("key delete gate-7.json").args(scene.keys().pin()).run();
        assert_eq!((scene.keys().private_keys(), scene.keys().logins() - logins), (1, 0));
        ran
    }

    fn key_of_an_identity_deleted_by_the_pin_in_it(scene) {
        scene.enroll_in_token().arg("--embed-pin").succeeds();
        let ran = scene.command("key delete gate-7.json --force").run();
        assert_eq!(scene.keys().private_keys(), 0);
        ran
    }

    /// Another key has its name now.
    fn key_of_an_identity_is_gone(scene) {
        scene.enroll_in_token().succeeds();
        let id = scene.keys().of_class("Private Key Object")[0].id.clone();
        ["privkey", "pubkey"].iter().for_each(|half| scene.keys().remove(half, &id));
        scene.keys().make_pair("other", &id, KeyType::P256);
        let ran = scene.command("key delete gate-7.json --force").args(scene.keys().pin()).run();
        assert_eq!(scene.keys().private_keys(), 1);
        ran
    }
}
