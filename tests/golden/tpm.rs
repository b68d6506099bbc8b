//! Room 3 over a TPM: swtpm, and what stands before it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ziti_enroller_support::{BusFault, Program, Proxy, Swtpm, require};

use super::scenarios;
use super::scene::{Run, Scene};
use crate::machine::text;

const HANDLE: &str = "tpm2:handle=0x81020000";
const FILE: &str = "tpm2:file=key.tss2.pem";
/// TPM_CC of a command that every new key needs.
const CREATE: u32 = 0x153;
/// Another, that needs a key.
const SIGN: u32 = 0x15d;

/// Enrolls with the key that `key` names, or a new one, in the TPM that is reached in this way.
fn enroll<'s>(scene: &'s Scene, tcti: &str, key: Option<&str>) -> Run<'s> {
    let enroll = scene.enroll().args(["--provider", "tpm", "--tcti", tcti]);
    key.into_iter().fold(enroll, |enroll, key| enroll.args(["--key", key]))
}

/// Has the program make a key, with this PIN.
fn make(scene: &Scene, tpm: &Swtpm, key: &str, pin: Option<&str>) {
    let create = scene.command("key create --provider tpm --tcti").arg(tpm.tcti()).arg(key);
    match pin {
        Some(pin) => with_pin(scene, create, pin).succeeds(),
        None => create.succeeds(),
    }
}

/// With this in the PIN file.
fn with_pin<'s>(scene: &Scene, run: Run<'s>, pin: &str) -> Run<'s> {
    let file = scene.file("pin", format!("{pin}\n"));
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    run.args(["--pin-file", "pin"]).naming(pin, "[PIN]")
}

/// Enrolls with another PIN than the one of the key.
fn wrong_pin<'s>(scene: &'s Scene, tpm: &Swtpm, key: &str) -> Run<'s> {
    with_pin(scene, enroll(scene, &tpm.tcti(), Some(key)), "n0t-it")
}

/// With nobody's right to pass over the mode of a file, also where root runs this.
fn without_privilege(run: Run<'_>) -> Run<'_> {
    let setpriv = text(&require("setpriv", "util-linux"));
    let dropped = "--bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search";
    let line = format!("[ \"$(id -u)\" != 0 ] || exec {setpriv} {dropped} \"$@\"; exec \"$@\"");
    run.by_shell(&line)
}

/// What id says about the group of our files.
fn group(of: &str) -> String {
    Program::new(require("id", "coreutils")).arg(of).run().success().stdout.trim().to_owned()
}

scenarios! {
    fn tpm_missing(scene) {
        enroll(&scene, "device:/nonexistent", None).run()
    }

    fn tpm_missing_at_a_simulator(scene) {
        let mut tpm = Swtpm::new();
        tpm.kill();
        enroll(&scene, &tpm.tcti(), None).naming(format!("port {}", tpm.port() + 1), "port [CONTROL PORT]").run()
    }

    fn tpm_not_allowed(scene) {
        let device = scene.file("tpm0", "");
        fs::set_permissions(&device, fs::Permissions::from_mode(0o0)).expect("the file is ours");
        let (gid, name) = (group("-g"), group("-gn"));
        let enroll = enroll(&scene, &format!("device:{}", text(&device)), None).when("tpm0 is a file of mode 0");
        let enroll = enroll.naming(format!("group {gid} ({name})"), "group [GID] ([GROUP])");
        let enroll = enroll.naming(format!("--group-add={gid}"), "--group-add=[GID]");
        without_privilege(enroll.naming(format!("usermod -aG {name}"), "usermod -aG [GROUP]")).run()
    }

    fn tpm_device_is_no_tpm(scene) {
        let device = text(&scene.file("tpm0", ""));
        enroll(&scene, &format!("device:{device}"), None).when("tpm0 is an empty file").run()
    }

    fn tcti_unknown(scene) {
        enroll(&scene, "libtpms", None).run()
    }

    fn tcti_with_a_path(scene) {
        enroll(&scene, "swtpm:path=/run/swtpm.sock", None).run()
    }

    fn tpm_gone(scene) {
        let tpm = Swtpm::new();
        let proxy = Proxy::before(&tpm);
        proxy.fail(CREATE, 0, BusFault::Drop);
        enroll(&scene, &proxy.tcti(), None).when("the connection is closed at TPM2_Create").run()
    }

    fn tpm_hangs(scene) {
        let tpm = Swtpm::new();
        let proxy = Proxy::before(&tpm);
        proxy.fail(CREATE, 0, BusFault::Hang);
        enroll(&scene, &proxy.tcti(), None).args(["--device-timeout", "1s"]).when("no answer comes to TPM2_Create").run()
    }

    fn tpm_out_of_memory(scene) {
        let tpm = Swtpm::new();
        let proxy = Proxy::before(&tpm);
        proxy.fail(CREATE, 0, BusFault::Answer(0x902));
        enroll(&scene, &proxy.tcti(), None).when("TPM2_Create is answered with 0x902").run()
    }

    fn tpm_wrong_pin_of_a_key_at_a_handle(scene) {
        let tpm = Swtpm::new();
        make(&scene, &tpm, HANDLE, Some("s3cret"));
        wrong_pin(&scene, &tpm, HANDLE).run()
    }

    fn tpm_wrong_pin_of_a_key_in_a_file(scene) {
        let tpm = Swtpm::new();
        make(&scene, &tpm, FILE, Some("s3cret"));
        wrong_pin(&scene, &tpm, FILE).run()
    }

    /// The third wrong one would lock the TPM.
    fn tpm_final_try(scene) {
        let tpm = Swtpm::new();
        make(&scene, &tpm, HANDLE, Some("s3cret"));
        (0..2).for_each(|_| wrong_pin(&scene, &tpm, HANDLE).arg("--retry-pin").fails());
        wrong_pin(&scene, &tpm, HANDLE).when("two wrong ones count").run()
    }

    fn tpm_locked(scene) {
        let tpm = Swtpm::new();
        make(&scene, &tpm, HANDLE, Some("s3cret"));
        (0..3).for_each(|_| wrong_pin(&scene, &tpm, HANDLE).args(["--retry-pin", "--allow-final-try"]).fails());
        with_pin(&scene, enroll(&scene, &tpm.tcti(), Some(HANDLE)), "s3cret").when("three wrong PINs were tried").run()
    }

    fn tpm_key_wants_a_pin(scene) {
        let tpm = Swtpm::new();
        make(&scene, &tpm, HANDLE, Some("s3cret"));
        enroll(&scene, &tpm.tcti(), Some(HANDLE)).run()
    }

    fn tpm_key_of_another_tpm(scene) {
        make(&scene, &Swtpm::new(), FILE, None);
        let tpm = Swtpm::new();
        enroll(&scene, &tpm.tcti(), Some(FILE)).when("another TPM has made key.tss2.pem").run()
    }

    fn tpm_cleared_since(scene) {
        let tpm = Swtpm::new();
        make(&scene, &tpm, FILE, None);
        tpm.clear();
        enroll(&scene, &tpm.tcti(), Some(FILE)).when("tpm2_clear came after key.tss2.pem was made").run()
    }

    fn tpm_cleared_since_a_handle_was_filled(scene) {
        let tpm = Swtpm::new();
        make(&scene, &tpm, HANDLE, None);
        tpm.clear();
        enroll(&scene, &tpm.tcti(), Some(HANDLE)).when("tpm2_clear came after the key was made").run()
    }

    fn tpm_cleared_since_the_enrollment(scene) {
        let tpm = Swtpm::new();
        enroll(&scene, &tpm.tcti(), None).succeeds();
        tpm.clear();
        scene.verify().when("tpm2_clear came after the enrollment").run()
    }

    fn tpm_key_file_missing(scene) {
        let tpm = Swtpm::new();
        enroll(&scene, &tpm.tcti(), Some(FILE)).run()
    }

    fn tpm_key_file_cut_short(scene) {
        let tpm = Swtpm::new();
        make(&scene, &tpm, FILE, None);
        let whole = fs::read_to_string(scene.path("key.tss2.pem")).expect("a key was made");
        scene.file("key.tss2.pem", &whole[..whole.len() / 2]);
        enroll(&scene, &tpm.tcti(), Some(FILE)).when("half of key.tss2.pem is there").run()
    }

    /// Its frame is whole, and lines within it are missing.
    fn tpm_key_file_damaged(scene) {
        let tpm = Swtpm::new();
        make(&scene, &tpm, FILE, None);
        let whole = fs::read_to_string(scene.path("key.tss2.pem")).expect("a key was made");
        let lines: Vec<&str> = whole.lines().collect();
        scene.file("key.tss2.pem", [&lines[..2], &lines[lines.len() - 1..]].concat().join("\n") + "\n");
        enroll(&scene, &tpm.tcti(), Some(FILE)).when("lines of key.tss2.pem are missing").run()
    }

    fn tpm_key_file_of_another_kind(scene) {
        let tpm = Swtpm::new();
        let openssl = Program::new(require("openssl", "openssl")).current_dir(scene.path(""));
        openssl.args(["ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", "key.pem"]).run().success();
        enroll(&scene, &tpm.tcti(), Some("tpm2:file=key.pem")).when("key.pem is an EC PRIVATE KEY").run()
    }

    fn tpm_handle_empty(scene) {
        let tpm = Swtpm::new();
        enroll(&scene, &tpm.tcti(), Some(HANDLE)).run()
    }

    fn tpm_handle_taken(scene) {
        let tpm = Swtpm::new();
        make(&scene, &tpm, HANDLE, None);
        enroll(&scene, &tpm.tcti(), Some(HANDLE)).arg("--create").run()
    }

    fn tpm_handle_of_a_storage_key(scene) {
        let tpm = Swtpm::new();
        tpm.provision();
        enroll(&scene, &tpm.tcti(), Some("tpm2:handle=0x81000001")).run()
    }

    fn tpm_handle_out_of_range(scene) {
        let tpm = Swtpm::new();
        enroll(&scene, &tpm.tcti(), Some("tpm2:handle=0x80000001")).arg("--create").run()
    }

    fn tpm_handle_of_the_platform(scene) {
        let tpm = Swtpm::new();
        enroll(&scene, &tpm.tcti(), Some("tpm2:handle=0x81800000")).arg("--create").run()
    }

    fn tpm_key_type_not_made_here(scene) {
        let tpm = Swtpm::new();
        enroll(&scene, &tpm.tcti(), None).args(["--key-alg", "rsa4096"]).run()
    }

    fn tpm_owner_has_an_auth_value(scene) {
        let tpm = Swtpm::new();
        tpm.set_auth("owner", "boss");
        enroll(&scene, &tpm.tcti(), Some("tpm2:handle=auto")).run()
    }

    fn tpm_signature_wrong(scene) {
        let tpm = Swtpm::new();
        make(&scene, &tpm, FILE, None);
        let proxy = Proxy::before(&tpm);
        proxy.fail(SIGN, 0, BusFault::Spoil);
        enroll(&scene, &proxy.tcti(), Some(FILE)).when("the answer to TPM2_Sign is changed on its way").run()
    }

    fn success_with_a_tpm(scene) {
        let tpm = Swtpm::new();
        enroll(&scene, &tpm.tcti(), None).run()
    }

    fn success_with_a_tpm_at_a_handle(scene) {
        let tpm = Swtpm::new();
        with_pin(&scene, enroll(&scene, &tpm.tcti(), Some("tpm2:handle=auto")), "s3cret").run()
    }
}
