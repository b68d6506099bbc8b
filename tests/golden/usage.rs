//! What is typed and makes no sense: nothing is begun.

use std::fs;

use super::scenarios;
use crate::machine::text;

scenarios! {
    fn flag_unknown(scene) {
        scene.enroll().arg("--pin=4711").run()
    }

    fn command_unknown(scene) {
        scene.command("enrol --jwt gate-7.jwt").run()
    }

    fn duration_unreadable(scene) {
        scene.enroll().args(["--timeout", "soon"]).run()
    }

    fn provider_unknown(scene) {
        scene.enroll().args(["--provider", "cloud"]).run()
    }

    fn provider_and_reference_disagree(scene) {
        scene.enroll().args(["--provider", "pkcs11", "--key", "file:gate-7.pem"]).run()
    }

    fn option_of_another_provider(scene) {
        scene.enroll().args(["--provider", "file", "--module", "/usr/lib/softhsm/libsofthsm2.so"]).run()
    }

    fn option_and_reference_disagree(scene) {
        scene.enroll().args(["--key", "pkcs11:object=gate-7?module-path=/a.so", "--module", "/b.so"]).run()
    }

    fn create_without_a_name(scene) {
        scene.enroll().arg("--create").run()
    }

    fn type_for_a_key_that_is_there(scene) {
        scene.enroll().args(["--key", "file:gate-7.pem", "--key-alg", "p384"]).run()
    }

    fn type_unknown(scene) {
        scene.enroll().args(["--key-alg", "p521"]).run()
    }

    fn pin_in_the_reference(scene) {
        scene.enroll().args(["--key", "pkcs11:token=edge;object=gate-7?pin-value=4711"]).run()
    }

    fn scheme_unknown(scene) {
        scene.enroll().args(["--key", "yubikey:slot=9a"]).run()
    }

    fn attribute_unknown(scene) {
        let module = text(&scene.keys().hsm.module());
        scene.enroll().args(["--key", &format!("pkcs11:tokn=edge;object=gate-7?module-path={module}")]).run()
    }

    fn reference_names_no_key(scene) {
        scene.keys().make_pair("gate-7", "07", ziti_enroller_support::KeyType::P256);
        let module = text(&scene.keys().hsm.module());
        scene.enroll().args(["--key", &format!("pkcs11:token=ziti-test?module-path={module}")]).run()
    }

    fn token_on_stdin_without_out(scene) {
        scene.command("enroll --jwt -").stdin(scene.token.compact()).run()
    }

    fn token_in_the_environment_without_out(scene) {
        scene.command("enroll").env("ZITI_ENROLL_TOKEN", scene.token.compact()).run()
    }

    fn token_file_ends_in_json(scene) {
        scene.file("gate-7.json", scene.token.compact());
        scene.command("enroll --jwt gate-7.json").run()
    }

    fn out_is_the_token_file(scene) {
        scene.enroll().args(["--out", "gate-7.jwt", "--force"]).run()
    }

    fn owner_unknown(scene) {
        scene.enroll().args(["--owner", "nobody-of-that-name"]).run()
    }

    /// Its program crashes on such an identity, and takes the others with it.
    fn token_key_in_the_folder_of_the_tunneler(scene) {
        let folder = scene.path("identities");
        fs::create_dir(&folder).expect("the machine's folder is writable");
        let enroll = scene.enroll_in_token().args(["--out", "identities/gate-7.json"]);
        enroll.env("ZITI_IDENTITY_DIR", text(&folder)).run()
    }
}
