//! `exec`, as far as it says something itself; what the program does is in `tests/exec.rs`.

use ziti_enroller_support::Swtpm;

use super::scenarios;
use crate::machine::Fixture;

scenarios! {
    fn exec_without_a_place_for_the_copy(scene) {
        scene.enroll().succeeds();
        scene.command("exec gate-7.json -- /bin/true -i gate-7.json").run()
    }

    fn exec_of_no_program(scene) {
        scene.enroll().succeeds();
        scene.command("exec gate-7.json -- /no/such/program {}").run()
    }

    /// Nothing says that it is on a RAM file system.
    fn exec_without_memory(scene) {
        scene.enroll_in_token().succeeds();
        scene.command("exec gate-7.json").args(scene.keys().pin()).args(["--", "/bin/true", "{}"]).inject("fstatfs:error=ENOSYS", None).run()
    }

    fn exec_without_a_pin(scene) {
        scene.enroll_in_token().succeeds();
        scene.command("exec gate-7.json -- /bin/true {}").run()
    }

    fn exec_of_a_link(scene) {
        scene.enroll().succeeds();
        std::os::unix::fs::symlink("gate-7.json", scene.path("link.json")).expect("the machine's folder is writable");
        scene.command("exec link.json -- /bin/true {}").run()
    }

    /// No SDK reads it, and no PIN is asked for.
    fn exec_of_a_key_that_no_sdk_reads(scene) {
        let tpm = Swtpm::new();
        scene.enroll().args(["--provider", "tpm", "--tcti", &tpm.tcti()]).succeeds();
        scene.command("exec gate-7.json -- /bin/true {}").run()
    }

    /// C readers know no PIN before every signature, nor do Go readers.
    fn exec_of_a_key_that_no_sdk_can_use(scene) {
        scene.enroll_in_token().succeeds();
        let exec = scene.command("exec gate-7.json").args(scene.keys().pin()).args(["--", "/bin/true", "{}"]);
        exec.fault("login:context;sign:in-parts").run()
    }
}
