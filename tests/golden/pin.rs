//! Room 3: the PIN. Whatever is wrong with it, no more than one try is ever used.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::scenarios;
use super::scene::{Run, Scene};
use crate::machine::text;

/// Enrolls with this in the PIN file.
fn with_pin(scene: &Scene, content: impl AsRef<[u8]>) -> Run<'_> {
    scene.file("pin", content);
    fs::set_permissions(scene.path("pin"), fs::Permissions::from_mode(0o600)).expect("the file is ours");
    scene.enroll_without_pin().args(["--pin-file", "pin"])
}

/// Enrolls with the right PIN in a file of this mode.
fn with_mode(scene: &Scene, mode: u32) -> Run<'_> {
    let enroll = with_pin(scene, scene.keys().hsm.pin());
    fs::set_permissions(scene.path("pin"), fs::Permissions::from_mode(mode)).expect("the file is ours");
    enroll
}

scenarios! {
    fn wrong_pin(scene) {
        with_pin(&scene, "000000\n").run()
    }

    /// It is remembered in a folder that systemd names.
    fn wrong_pin_again(scene) {
        let state = text(&scene.path("state"));
        fs::create_dir(&state).expect("the machine's folder is writable");
        with_pin(&scene, "000000\n").env("STATE_DIRECTORY", &state).fails();
        scene.enroll_without_pin().args(["--pin-file", "pin"]).env("STATE_DIRECTORY", &state).run()
    }

    fn wrong_pin_once_more(scene) {
        let state = text(&scene.path("state"));
        fs::create_dir(&state).expect("the machine's folder is writable");
        with_pin(&scene, "000000\n").env("STATE_DIRECTORY", &state).fails();
        scene.enroll_without_pin().args(["--pin-file", "pin", "--retry-pin"]).env("STATE_DIRECTORY", &state).run()
    }

    fn wrong_pin_at_the_terminal(scene) {
        scene.enroll_without_pin().at_terminal("PIN of token", "000000")
    }

    fn pin_missing(scene) {
        scene.enroll_without_pin().run()
    }

    fn pin_empty(scene) {
        with_pin(&scene, "\n").run()
    }

    fn pin_with_a_nul(scene) {
        with_pin(&scene, "12\x0034").run()
    }

    fn pin_file_missing(scene) {
        scene.enroll_without_pin().args(["--pin-file", "pin"]).run()
    }

    fn pin_file_is_a_folder(scene) {
        scene.enroll_without_pin().args(["--pin-file", "."]).run()
    }

    fn pin_file_too_long(scene) {
        with_pin(&scene, "1".repeat(5000)).run()
    }

    fn pin_file_writable_by_everyone(scene) {
        with_mode(&scene, 0o666).run()
    }

    fn pin_file_readable_by_others(scene) {
        with_mode(&scene, 0o644).run()
    }

    fn pin_descriptor_not_open(scene) {
        scene.enroll_without_pin().args(["--pin-fd", "99"]).run()
    }

    fn pin_source_is_a_command(scene) {
        let module = text(&scene.keys().hsm.module());
        let reference = format!("pkcs11:token=ziti-test;object=gate-7?module-path={module}&pin-source=|cat%20pin");
        scene.enroll().args(["--key", &reference]).run()
    }

    fn pin_not_set_yet(scene) {
        scene.enroll_in_token().fault("C_Login:*:0x102").run()
    }

    /// As the token's flags say, before any try.
    fn pin_locked(scene) {
        scene.enroll_in_token().fault("token-flags:+0x40000").run()
    }

    /// As the answer to our try says.
    fn pin_locked_at_login(scene) {
        scene.enroll_in_token().fault("C_Login:*:0xa4").run()
    }

    fn pin_final_try(scene) {
        scene.enroll_in_token().fault("token-flags:+0x20000").run()
    }

    fn pin_final_try_allowed(scene) {
        scene.enroll_in_token().arg("--allow-final-try").fault("token-flags:+0x20000").run()
    }

    fn pin_expired(scene) {
        scene.enroll_in_token().fault("C_Login:*:0xa3").run()
    }

    fn pin_at_the_terminal(scene) {
        let pin = scene.keys().hsm.pin().to_owned();
        scene.enroll_without_pin().at_terminal("PIN of token", &pin)
    }

    fn pin_in_a_descriptor(scene) {
        let pin_file = text(&scene.keys().hsm.pin_file());
        let enroll = scene.enroll_without_pin().args(["--pin-fd", "7"]).when("descriptor 7 is the PIN file");
        enroll.by_shell(&format!("exec \"$@\" 7<{pin_file}")).run()
    }

    fn pin_in_a_credential_of_systemd(scene) {
        let folder = scene.path("credentials");
        fs::create_dir(&folder).expect("the machine's folder is writable");
        fs::write(folder.join("ziti-enroller.pin"), scene.keys().hsm.pin()).expect("the folder is ours");
        scene.enroll_without_pin().env("CREDENTIALS_DIRECTORY", text(&folder)).run()
    }

    fn pin_in_the_environment(scene) {
        let pin = scene.keys().hsm.pin().to_owned();
        scene.enroll_without_pin().env("ZITI_ENROLLER_PIN", pin).run()
    }
}
