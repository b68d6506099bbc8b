//! Room 3: the key, and the device that does not do what it should.

use ziti_enroller_support::{KeyType, Program, require};

use super::scenarios;
use super::scene::Scene;
use crate::machine::{Fixture, text};

/// A key file by openssl.
fn key_file(scene: &Scene, options: &[&str]) {
    let openssl = Program::new(require("openssl", "openssl")).current_dir(scene.path(""));
    openssl.arg("genpkey").args(options).args(["-out", "gate-7.pem"]).run().success();
}

const P256: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

scenarios! {
    fn key_not_found(scene) {
        scene.keys().make("gate-8", KeyType::P256);
        scene.enroll_with_key("gate-7").run()
    }

    fn key_not_found_in_an_empty_token(scene) {
        scene.enroll_with_key("gate-7").run()
    }

    fn key_exists(scene) {
        scene.keys().make("gate-7", KeyType::P256);
        scene.enroll_with_key("gate-7").arg("--create").run()
    }

    fn two_keys_with_one_id(scene) {
        for label in ["gate-7", "gate-8"] {
            scene.keys().make_pair(label, "07", KeyType::P256);
        }
        let module = text(&scene.keys().hsm.module());
        let reference = format!("pkcs11:token=ziti-test;id=%07?module-path={module}");
        scene.enroll().args(["--key", &reference]).args(scene.keys().pin()).run()
    }

    fn private_half_missing(scene) {
        scene.keys().make_pair("gate-7", "07", KeyType::P256);
        scene.keys().remove("privkey", "07");
        scene.enroll_with_key("gate-7").run()
    }

    fn public_half_missing(scene) {
        scene.keys().make_pair("gate-7", "07", KeyType::P256);
        scene.keys().remove("pubkey", "07");
        scene.enroll_with_key("gate-7").run()
    }

    /// The public half that lies there is that of another key.
    fn halves_of_two_keys(scene) {
        scene.keys().make_pair("gate-7", "07", KeyType::P256);
        scene.keys().make_pair("other", "08", KeyType::P256);
        let public = scene.file("other.der", scene.keys().read_public("08"));
        scene.keys().remove("pubkey", "07");
        let tool = scene.keys().tool().args(["--type", "pubkey", "--id", "07", "--label", "gate-7", "--write-object"]);
        tool.arg(public).run().success();
        scene.enroll_with_key("gate-7").run()
    }

    fn key_of_another_type(scene) {
        scene.enroll_in_token().succeeds();
        let scene = scene.holding_again();
        scene.enroll_in_token().args(["--key-alg", "p384", "--force"]).run()
    }

    fn key_of_a_type_that_is_not_used(scene) {
        scene.keys().make("gate-7", KeyType::P521);
        scene.enroll_with_key("gate-7").run()
    }

    fn key_that_can_leave(scene) {
        let tool = scene.keys().tool().args(["--keypairgen", "--key-type", "EC:prime256v1", "--extractable"]);
        tool.args(["--label", "gate-7", "--id", "07"]).run().success();
        scene.enroll_with_key("gate-7").run()
    }

    fn key_that_can_leave_allowed(scene) {
        let tool = scene.keys().tool().args(["--keypairgen", "--key-type", "EC:prime256v1", "--extractable"]);
        tool.args(["--label", "gate-7", "--id", "07"]).run().success();
        scene.enroll_with_key("gate-7").arg("--allow-extractable").run()
    }

    /// The token says that the key it has just made can leave it.
    fn new_key_not_as_promised(scene) {
        scene.enroll_in_token().fault("lie:extractable").run()
    }

    fn key_type_not_made_here(scene) {
        scene.enroll_in_token().fault("C_GenerateKeyPair:*:0x70").run()
    }

    fn template_refused(scene) {
        scene.enroll_in_token().fault("C_GenerateKeyPair:*:0x13").run()
    }

    fn device_full(scene) {
        scene.enroll_in_token().fault("C_GenerateKeyPair:*:0x31").run()
    }

    fn device_fails(scene) {
        scene.enroll_in_token().fault("C_Sign:*:0x30-after").run()
    }

    fn device_gone(scene) {
        scene.enroll_in_token().fault("C_Sign:*:0x32").run()
    }

    fn device_gone_before_the_login(scene) {
        scene.enroll_in_token().fault("C_OpenSession:*:0xe0").run()
    }

    fn key_file_missing(scene) {
        scene.enroll().args(["--key", "gate-7.pem"]).run()
    }

    fn key_file_exists(scene) {
        key_file(&scene, &P256);
        scene.enroll().args(["--key", "gate-7.pem", "--create"]).run()
    }

    fn key_file_is_no_key(scene) {
        scene.file("gate-7.pem", "hello\n");
        scene.enroll().args(["--key", "gate-7.pem"]).run()
    }

    fn key_file_encrypted(scene) {
        key_file(&scene, &[&P256[..], &["-aes256", "-pass", "pass:secret"]].concat());
        scene.enroll().args(["--key", "gate-7.pem"]).run()
    }

    fn key_file_of_a_type_that_is_not_used(scene) {
        key_file(&scene, &["-algorithm", "ED25519"]);
        scene.enroll().args(["--key", "gate-7.pem"]).run()
    }

    fn key_file_is_a_folder(scene) {
        scene.enroll().args(["--key", "file:."]).run()
    }

    fn key_file_name_that_readers_differ_on(scene) {
        scene.enroll().args(["--key", "file:50%25.pem", "--create"]).run()
    }
}
