//! Runs that come after one that was cut off, and files that fail when the token is spent.

use std::fs;
use std::os::unix::fs::symlink;

use super::scenarios;
use super::scene::Scene;

/// A scene in which a run has ended at this event.
fn killed_at(scene: Scene, event: &str) -> Scene {
    scene.enroll().crash(&format!("{event}:kill")).fails();
    scene
}

/// Another identity's token, in the same file.
fn with_another_token(scene: Scene) -> Scene {
    scene.holding(|controller| controller.issue("gate-7"))
}

scenarios! {
    fn stopped_from_outside(scene) {
        scene.enroll().crash("recorded-trusted:error").run()
    }

    fn stopped_from_outside_after_the_request(scene) {
        scene.enroll().crash("answer_synced:error").run()
    }

    fn killed_before_the_request(scene) {
        killed_at(scene, "entering-ready").enroll().run()
    }

    fn killed_at_the_request(scene) {
        killed_at(scene, "before_post").enroll().run()
    }

    /// The first request was answered, and nobody has heard it.
    fn killed_after_the_request(scene) {
        killed_at(scene, "after_post").enroll().run()
    }

    fn killed_with_the_answer(scene) {
        killed_at(scene, "answer_synced").enroll().run()
    }

    fn killed_with_the_identity_in_place(scene) {
        killed_at(scene, "recorded-answered").enroll().run()
    }

    fn answer_lost_before(scene) {
        let scene = killed_at(scene, "after_post");
        scene.enroll().fails();
        scene.enroll().run()
    }

    /// The administrator has re-enrolled the identity: the same key is found.
    fn answer_lost_and_enrolled_anew(scene) {
        scene.enroll_in_token().crash("after_post:kill").fails();
        scene.enroll_in_token().fails();
        let scene = scene.holding_again();
        scene.enroll_in_token().run()
    }

    fn controller_gone_after_the_request(scene) {
        let scene = killed_at(scene, "after_post");
        scene.controller.set_faults([ziti_enroller_support::Fault::SilentAccept]);
        scene.enroll().args(["--timeout", "1s"]).run()
    }

    fn another_token_has_not_ended(scene) {
        with_another_token(killed_at(scene, "before_post")).enroll().run()
    }

    fn another_token_set_aside(scene) {
        with_another_token(killed_at(scene, "before_post")).enroll().arg("--force").run()
    }

    fn another_token_had_not_begun(scene) {
        scene.enroll_in_token().crash("entering-ready:kill").fails();
        let scene = with_another_token(scene);
        scene.enroll_in_token().run()
    }

    fn journal_damaged(scene) {
        let scene = killed_at(scene, "after_post");
        let journal = scene.path(".gate-7.json.enroll").join("journal");
        let mut content = fs::read(&journal).expect("there is a journal");
        content[20] ^= 1;
        fs::write(&journal, content).expect("the journal is ours");
        scene.enroll().run()
    }

    fn output_appeared_meanwhile(scene) {
        let scene = killed_at(scene, "answer_synced");
        scene.file("gate-7.json", "precious");
        scene.enroll().run()
    }

    fn output_became_a_link(scene) {
        let scene = killed_at(scene, "after_post");
        symlink("elsewhere.json", scene.path("gate-7.json")).expect("the machine's folder is writable");
        scene.enroll().run()
    }

    fn output_became_a_folder(scene) {
        let scene = killed_at(scene, "after_post");
        fs::create_dir(scene.path("gate-7.json")).expect("the machine's folder is writable");
        scene.enroll().run()
    }

    /// The answer is kept already; a rerun goes on from it.
    fn disk_full_after_the_request(scene) {
        let full = scene.enroll().when("the file system is full when the identity is written");
        full.inject("ftruncate:error=ENOSPC:when=3", None).run()
    }

    /// The last way to save what was issued.
    fn disk_full_when_the_answer_is_kept(scene) {
        let answer = scene.path(".gate-7.json.enroll").join("answer");
        let full = scene.enroll().when("the file system is full when the answer is to be kept");
        full.inject("ftruncate:error=ENOSPC", Some(&answer)).run()
    }

    fn disk_read_only_when_the_answer_is_kept(scene) {
        let answer = scene.path(".gate-7.json.enroll").join("answer");
        let read_only = scene.enroll().when("the file system has become read-only when the answer is to be kept");
        read_only.inject("fsync:error=EROFS", Some(&answer)).run()
    }

    fn disk_breaks_after_the_request(scene) {
        let breaks = scene.enroll().when("the disk has a fault when the identity gets its name");
        breaks.inject("renameat2:error=EIO", None).run()
    }
}
