//! What a person is told when all goes well.

use std::fs;

use ziti_enroller_support::{Fault, KeyType, Like, Options};

use super::scenarios;
use crate::machine::{Fixture, text};

scenarios! {
    fn enrolled_with_a_key_in_the_identity(scene) {
        scene.token.write(&scene.path(""));
        scene.command("--jwt gate-7.jwt").run()
    }

    fn enrolled_with_a_key_file(scene) {
        scene.enroll().args(["--key", "file:gate-7.pem", "--create", "--key-alg", "p384"]).run()
    }

    fn enrolled_with_a_new_token_key(scene) {
        scene.enroll_in_token().run()
    }

    fn enrolled_with_a_new_token_key_of_this_name(scene) {
        scene.enroll_with_key("gate-7").args(["--create", "--key-alg", "rsa2048"]).run()
    }

    fn enrolled_with_a_token_key_that_was_there(scene) {
        scene.keys().make("gate-7", KeyType::P256);
        scene.enroll_with_key("gate-7").run()
    }

    fn enrolled_anew_with_the_same_token_key(scene) {
        scene.enroll_in_token().succeeds();
        let scene = scene.holding_again();
        scene.enroll_in_token().arg("--force").run()
    }

    /// Both SDKs want it to find the key without a login.
    fn enrolled_with_a_key_without_public_object(scene) {
        scene.keys().make_pair("gate-7", "07", KeyType::Rsa2048);
        scene.keys().remove("pubkey", "07");
        scene.enroll_with_key("gate-7").run()
    }

    /// SoftHSM's own module says what its reader needs.
    fn enrolled_with_what_a_reader_needs(scene) {
        let module = text(&scene.keys().hsm.real_module());
        let enroll = scene.enroll().args(["--provider", "pkcs11", "--module", &module, "--token", "ziti-test"]);
        enroll.args(scene.keys().pin()).run()
    }

    fn enrolled_with_the_pin_in_the_identity(scene) {
        scene.enroll_in_token().arg("--embed-pin").run()
    }

    fn enrolled_with_the_pin_for_the_tunneler(scene) {
        let folder = text(&fs::canonicalize(scene.path("")).expect("it is there"));
        scene.enroll_in_token().args(["--embed-pin", "--rm"]).env("ZITI_IDENTITY_DIR", folder).run()
    }

    fn enrolled_step_by_step(scene) {
        scene.enroll().arg("-v").run()
    }

    fn enrolled_at_an_older_controller(scene) {
        scene.with(Options { like: Like::V1_4, ..Options::default() }).enroll().run()
    }

    fn enrolled_over_two_connections(scene) {
        scene.facing(Fault::CloseAfterCacerts).enroll().run()
    }

    fn enrolled_from_stdin(scene) {
        scene.command("--jwt - --out gate-7.json").stdin(format!("{}\n", scene.token.compact())).run()
    }

    fn enrolled_from_the_environment(scene) {
        scene.command("enroll --out gate-7.json").env("ZITI_ENROLL_TOKEN", scene.token.compact()).run()
    }

    fn enrolled_with_a_token_that_everyone_sees(scene) {
        scene.command("enroll --out gate-7.json --jwt").arg(scene.token.compact()).run()
    }

    fn enrolled_and_the_token_removed(scene) {
        let ran = scene.enroll().arg("--rm").run();
        assert!(!scene.path("gate-7.jwt").exists());
        ran
    }

    /// Its service enrolls every token there with a software key.
    fn token_lies_in_the_folder_of_the_tunneler(scene) {
        scene.enroll().env("ZITI_IDENTITY_DIR", text(&fs::canonicalize(scene.path("")).expect("it is there"))).run()
    }
}
