//! Room 3: the module, and the token in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use ziti_enroller_support::SoftHsm;

use super::scenarios;
use super::scene::{Ran, Run, Scene};
use crate::machine::{InToken, text};

/// Enrolls with a key in whatever this module shows.
fn with_module<'s>(scene: &'s Scene, module: &str) -> Run<'s> {
    scene.enroll().args(["--provider", "pkcs11", "--module", module])
}

/// With a module of our own name and this token.
fn with_token(scene: &Scene, token: &str) -> Ran {
    let module = text(&scene.keys().hsm.module());
    with_module(scene, &module).args(["--token", token]).args(["--pin-file", &text(&scene.keys().hsm.pin_file())]).run()
}

/// A library that is no module.
fn library() -> Vec<u8> {
    let known = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6", "/lib64/libm.so.6"];
    let found = known.iter().map(Path::new).find(|path| path.exists()).expect("every Linux has a libm");
    fs::read(found).expect("a library can be read")
}

/// A store of SoftHSM with nothing in it.
fn empty_store(scene: &Scene) -> String {
    let tokens = scene.path("tokens");
    fs::create_dir(&tokens).expect("the machine's folder is writable");
    text(&scene.file("softhsm2.conf", format!("directories.tokendir = {}\n", tokens.display())))
}

scenarios! {
    fn module_not_named(scene) {
        scene.enroll().args(["--provider", "pkcs11"]).run()
    }

    fn module_missing(scene) {
        with_module(&scene, "/nonexistent/libsofthsm2.so").run()
    }

    fn module_is_a_text_file(scene) {
        let module = text(&scene.file("module.so", "not a library\n"));
        with_module(&scene, &module).run()
    }

    fn module_is_another_library(scene) {
        let module = text(&scene.file("module.so", library()));
        with_module(&scene, &module).run()
    }

    fn module_is_a_folder(scene) {
        let module = scene.path("module.so");
        fs::create_dir(&module).expect("the machine's folder is writable");
        with_module(&scene, &text(&module)).run()
    }

    fn module_not_readable(scene) {
        let module = scene.file("module.so", library());
        // Modes are nothing to root, for whom strace says no.
        fs::set_permissions(&module, fs::Permissions::from_mode(0o000)).expect("the file is ours");
        let enroll = with_module(&scene, &text(&module)).when("this user may not read the module");
        enroll.inject("openat:error=EACCES", Some(&module)).run()
    }

    fn module_in_a_loop_of_links(scene) {
        let module = scene.path("module.so");
        symlink("module.so", &module).expect("the machine's folder is writable");
        with_module(&scene, &text(&module)).run()
    }

    fn module_writable_by_everyone(scene) {
        let module = scene.file("module.so", library());
        fs::set_permissions(&module, fs::Permissions::from_mode(0o666)).expect("the file is ours");
        with_module(&scene, &text(&module)).run()
    }

    fn module_without_its_setting(scene) {
        let module = text(&scene.keys().hsm.real_module());
        with_module(&scene, &module).env("SOFTHSM2_CONF", "/nonexistent/softhsm2.conf").run()
    }

    fn module_does_not_start(scene) {
        scene.enroll_in_token().fault("C_Initialize:1:0x5").run()
    }

    fn module_prints(scene) {
        scene.enroll_in_token().fault("C_Login:1:print").run()
    }

    /// What a build without a provider says of it is held by a unit test: this one has them all.
    fn provider_without_a_list(scene) {
        scene.command("list tokens --provider file").run()
    }

    fn no_token_in_the_reader(scene) {
        scene.enroll_in_token().fault("C_GetTokenInfo:*:0xe0").run()
    }

    fn token_not_initialised(scene) {
        let store = empty_store(&scene);
        let module = text(&scene.keys().hsm.real_module());
        with_module(&scene, &module).env("SOFTHSM2_CONF", store).run()
    }

    fn token_label_unknown(scene) {
        with_token(&scene, "edge")
    }

    fn token_serial_unknown(scene) {
        with_token(&scene, "pkcs11:serial=0000111122223333")
    }

    fn two_tokens_of_one_label(scene) {
        let mut hsm = SoftHsm::on_tmpfs();
        hsm.add_token("ziti-test", "1357913579");
        with_token(&scene.with_keys(InToken { hsm }), "ziti-test")
    }
}
