//! Room 6: where the identity is to appear. Found out before anything is asked of anybody.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::scenarios;
use super::scene::{Ran, Scene};
use crate::machine::until;

/// Enrolls into a folder of this mode.
fn into_folder(scene: &Scene, mode: u32) -> Ran {
    let folder = scene.path("identities");
    fs::create_dir(&folder).expect("the machine's folder is writable");
    fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("the folder is ours");
    scene.enroll().args(["--out", "identities/gate-7.json"]).run()
}

scenarios! {
    fn folder_missing(scene) {
        scene.enroll().args(["--out", "identities/gate-7.json"]).run()
    }

    fn folder_not_writable(scene) {
        scene.enroll().when("this user may not write to the folder").inject("mkdirat:error=EACCES", None).run()
    }

    fn folder_read_only(scene) {
        scene.enroll().when("the file system is mounted read-only").inject("mkdirat:error=EROFS", None).run()
    }

    fn folder_writable_by_everyone(scene) {
        into_folder(&scene, 0o777)
    }

    /// As /tmp is.
    fn folder_writable_by_everyone_and_sticky(scene) {
        into_folder(&scene, 0o1777)
    }

    /// As the folder of ziti-edge-tunnel is.
    fn folder_writable_by_its_group(scene) {
        into_folder(&scene, 0o770)
    }

    fn work_folder_is_a_link(scene) {
        symlink("/tmp", scene.path(".gate-7.json.enroll")).expect("the machine's folder is writable");
        scene.enroll().run()
    }

    /// Ours, and somebody else may have put something in it.
    fn work_folder_was_open_to_others(scene) {
        let work = scene.path(".gate-7.json.enroll");
        fs::create_dir(&work).expect("the machine's folder is writable");
        fs::set_permissions(&work, fs::Permissions::from_mode(0o770)).expect("the folder is ours");
        scene.enroll().run()
    }

    /// A name for a file of ours, in the place of one that we make.
    fn work_folder_holds_a_second_name(scene) {
        let precious = scene.file("precious", "precious");
        let work = scene.path(".gate-7.json.enroll");
        fs::create_dir(&work).expect("the machine's folder is writable");
        fs::hard_link(precious, work.join("answer")).expect("the folder is ours");
        scene.enroll().run()
    }

    fn output_exists(scene) {
        scene.file("gate-7.json", "precious");
        scene.enroll().run()
    }

    fn output_replaced(scene) {
        scene.file("gate-7.json", "obsolete");
        scene.enroll().arg("--force").run()
    }

    fn output_is_a_link(scene) {
        symlink("elsewhere.json", scene.path("gate-7.json")).expect("the machine's folder is writable");
        scene.enroll().arg("--force").run()
    }

    fn output_is_a_folder(scene) {
        fs::create_dir(scene.path("gate-7.json")).expect("the machine's folder is writable");
        scene.enroll().arg("--force").run()
    }

    fn disk_full(scene) {
        scene.enroll().when("the file system is full").inject("fallocate:error=ENOSPC", None).run()
    }

    fn quota_exceeded(scene) {
        scene.enroll().when("the user's quota is used up").inject("fallocate:error=EDQUOT", None).run()
    }

    fn files_may_not_be_large(scene) {
        let enroll = scene.enroll().when("`ulimit -f 1` was said before");
        enroll.by_shell("ulimit -f 1 && exec \"$@\"").run()
    }

    fn disk_breaks(scene) {
        scene.enroll().when("the disk has a fault").inject("fdatasync:error=EIO", None).run()
    }

    fn another_run_holds_it(scene) {
        let running = scene.enroll().crash("output_reserved:hang").start();
        let reserved = scene.path(".gate-7.json.enroll").join("identity");
        until("the other run holds it", || reserved.exists());
        let ran = scene.enroll().when("another run works on the same identity").run();
        drop(running);
        ran
    }

    fn owner_given(scene) {
        // Whoever runs the tests can give a file to himself.
        let own = fs::metadata(scene.path("")).expect("the machine's folder is there");
        let owner = if own.uid() == 0 { (65534, 65533) } else { (own.uid(), own.gid()) };
        let owner_text = format!("{}:{}", owner.0, owner.1);
        let ran = scene.enroll().args(["--owner", &owner_text]).naming(owner_text, "[USER]:[GROUP]").run();
        let given = fs::metadata(scene.path("gate-7.json")).expect("the identity is there");
        assert_eq!((given.uid(), given.gid(), given.mode() & 0o7777), (owner.0, owner.1, 0o600));
        ran
    }

    fn owner_not_allowed(scene) {
        let enroll = scene.enroll().args(["--owner", "65534"]).when("this user may not give files away");
        enroll.inject("fchownat:error=EPERM", None).run()
    }
}
