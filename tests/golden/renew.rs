//! `renew`, and what `verify` and `status` say of renewals.

use std::fs;

use ziti_enroller_support::Fault;

use super::scenarios;
use super::scene::{Run, Scene};
use crate::machine::Fixture;

/// Ten days.
const SHORT: Fault = Fault::CertLifetime(10 * 24 * 3600);

/// A scene with an identity whose key is in the file.
fn enrolled(scene: Scene) -> Scene {
    scene.enroll().succeeds();
    scene
}

/// The same, and its certificate ends soon.
fn ending_soon(scene: Scene) -> Scene {
    scene.controller.set_faults([SHORT]);
    let scene = enrolled(scene);
    scene.controller.set_faults([]);
    scene
}

/// The same with the key in the token.
fn in_token(scene: Scene) -> Scene {
    scene.enroll_in_token().succeeds();
    scene
}

fn renew(scene: &Scene) -> Run<'_> {
    scene.command("renew gate-7.json")
}

/// `renew --rotate` into the token.
fn into_token(scene: &Scene) -> Run<'_> {
    renew(scene).args(["--rotate", "--provider", "pkcs11"]).args(scene.keys().place()).args(scene.keys().pin())
}

/// A renewal that was killed when nobody could tell what had come of it.
fn killed_in_doubt(scene: Scene) -> Scene {
    let scene = enrolled(scene);
    renew(&scene).arg("--force").crash("after_verify:kill").fails();
    scene
}

scenarios! {
    fn renewal_not_due(scene) {
        renew(&enrolled(scene)).run()
    }

    fn renewed(scene) {
        renew(&ending_soon(scene)).run()
    }

    fn renewed_step_by_step(scene) {
        renew(&ending_soon(scene)).arg("-v").run()
    }

    fn renewed_as_the_controller_asks(scene) {
        let scene = enrolled(scene);
        scene.controller.request_renewal(scene.token.sub(), false);
        renew(&scene).run()
    }

    fn renewed_with_a_new_key_as_the_controller_asks(scene) {
        let scene = in_token(scene);
        scene.controller.request_renewal(scene.token.sub(), true);
        renew(&scene).args(scene.keys().pin()).run()
    }

    fn moved_into_a_token(scene) {
        into_token(&enrolled(scene)).run()
    }

    fn moved_into_a_token_with_the_pin(scene) {
        into_token(&enrolled(scene)).arg("--embed-pin").run()
    }

    fn rotated_and_the_old_key_deleted(scene) {
        let scene = in_token(scene);
        renew(&scene).args(["--rotate", "--force", "--delete-old-key"]).args(scene.keys().pin()).run()
    }

    fn rotated_and_the_old_key_stays(scene) {
        let scene = in_token(scene);
        let run = renew(&scene).args(["--rotate", "--force", "--delete-old-key"]).args(scene.keys().pin());
        // The first object goes, and then the device is gone.
        run.fault("C_DestroyObject:1:0x30").run()
    }

    fn renewal_waits_for_a_rotation(scene) {
        let scene = in_token(scene);
        renew(&scene).arg("--rotate").args(scene.keys().pin()).run()
    }

    fn renewal_goes_on(scene) {
        renew(&killed_in_doubt(scene)).run()
    }

    fn renewal_goes_on_with_another_wish(scene) {
        let scene = killed_in_doubt(scene);
        renew(&scene).args(["--rotate", "--provider", "file"]).run()
    }

    fn renewal_given_up_for_another_wish(scene) {
        let scene = enrolled(scene);
        into_token(&scene).crash("after_generation:kill").fails();
        renew(&scene).args(["--rotate", "--provider", "file", "--force"]).args(scene.keys().pin()).run()
    }

    fn renewal_answer_lost(scene) {
        renew(&ending_soon(scene).facing(Fault::DropExtendOnce)).run()
    }

    fn renewal_answer_lost_always(scene) {
        renew(&ending_soon(scene).facing(Fault::DropExtend)).args(["--retries", "1"]).run()
    }

    fn renewal_confirmed_and_the_answer_lost(scene) {
        renew(&ending_soon(scene).facing(Fault::DropVerifyAfter)).run()
    }

    fn renewal_confirmed_at_the_second_time(scene) {
        renew(&ending_soon(scene).facing(Fault::DropVerifyBeforeOnce)).run()
    }

    fn renewal_overwritten_by_another(scene) {
        renew(&ending_soon(scene).facing(Fault::ForgetPendingOnce)).run()
    }

    fn renewal_in_doubt(scene) {
        renew(&ending_soon(scene).facing(Fault::DropVerifyBefore)).args(["--retries", "1"]).run()
    }

    fn renewal_in_doubt_and_both_refused(scene) {
        renew(&killed_in_doubt(scene).facing(Fault::Login401)).run()
    }

    fn renewal_of_another_ca(scene) {
        let scene = ending_soon(scene);
        scene.controller.disown(scene.token.sub());
        renew(&scene).run()
    }

    fn renewal_refused(scene) {
        renew(&ending_soon(scene).facing(Fault::RefuseExtend("COULD_NOT_PROCESS_CSR".into(), 400))).run()
    }

    fn renewal_refused_unauthorized(scene) {
        renew(&ending_soon(scene).facing(Fault::RefuseExtend("UNAUTHORIZED".into(), 401))).run()
    }

    fn renewal_refused_and_the_new_key_deleted(scene) {
        into_token(&enrolled(scene).facing(Fault::RefuseExtend("COULD_NOT_PROCESS_CSR".into(), 400))).run()
    }

    fn renewal_of_another_key(scene) {
        renew(&ending_soon(scene).facing(Fault::OtherKey)).run()
    }

    fn renewal_of_another_network(scene) {
        renew(&ending_soon(scene).facing(Fault::OtherCa)).run()
    }

    fn renewal_login_refused(scene) {
        renew(&ending_soon(scene).facing(Fault::Login401)).run()
    }

    fn renewal_wants_a_second_factor(scene) {
        renew(&ending_soon(scene).facing(Fault::LoginMfa)).run()
    }

    fn renewal_controller_silent(scene) {
        renew(&ending_soon(scene).facing(Fault::SilentAccept)).args(["--timeout", "1s"]).run()
    }

    fn renewal_stopped(scene) {
        renew(&ending_soon(scene)).crash("before_extend:error").run()
    }

    fn renewal_stopped_after_the_news(scene) {
        renew(&ending_soon(scene)).crash("after_verify:error").run()
    }

    fn renewal_journal_damaged(scene) {
        let scene = killed_in_doubt(scene);
        let journal = scene.path(".gate-7.json.renew").join("journal");
        let mut content = fs::read(&journal).expect("there is a journal");
        content[20] ^= 1;
        fs::write(&journal, content).expect("the journal is ours");
        renew(&scene).run()
    }

    fn renewal_disk_full(scene) {
        let scene = ending_soon(scene);
        let full = renew(&scene).when("the file system is full when the new identity is written");
        full.inject("ftruncate:error=ENOSPC", None).run()
    }

    fn renewal_disk_breaks_after_the_news(scene) {
        let scene = ending_soon(scene);
        let breaks = renew(&scene).when("the disk has a fault when the new identity gets its name");
        breaks.inject("renameat:error=EIO", None).run()
    }

    fn renewal_held_by_another_run(scene) {
        let scene = enrolled(scene);
        let journal = scene.path(".gate-7.json.renew").join("journal");
        let mut first = renew(&scene).arg("--force").crash("before_extend:hang").start();
        crate::machine::until("it holds the folder", || fs::metadata(&journal).is_ok_and(|meta| meta.len() > 0));
        let ran = renew(&scene).when("another run works on the same identity").run();
        first.kill();
        first.wait();
        ran
    }

    fn renewal_hook_failed(scene) {
        renew(&ending_soon(scene)).args(["--hook", "exit 3"]).run()
    }

    fn renewal_of_a_folder(scene) {
        let scene = ending_soon(scene);
        scene.file("broken.json", "{\"id\": 4}");
        scene.file("settings.json", "{\"log\": 4}");
        scene.command("renew --all .").run()
    }

    fn renewal_of_a_folder_in_which_nothing_works(scene) {
        let scene = ending_soon(scene).facing(Fault::Login401);
        scene.command("renew --all .").run()
    }

    fn renewal_of_a_folder_that_is_missing(scene) {
        scene.command("renew --all nowhere").run()
    }

    fn renewal_of_a_missing_identity(scene) {
        renew(&scene).run()
    }

    fn renewal_of_a_link(scene) {
        let scene = enrolled(scene);
        std::os::unix::fs::symlink("gate-7.json", scene.path("link.json")).expect("the machine's folder is writable");
        scene.command("renew link.json").run()
    }

    fn renewal_of_nothing(scene) {
        scene.command("renew").run()
    }

    fn renewal_with_a_key_and_no_rotation(scene) {
        renew(&enrolled(scene)).args(["--provider", "pkcs11"]).run()
    }

    fn renewal_of_a_folder_with_one_key(scene) {
        scene.command("renew --all . --rotate --key gate.pem --create").run()
    }

    fn verify_says_that_a_renewal_is_asked_for(scene) {
        let scene = enrolled(scene);
        scene.controller.request_renewal(scene.token.sub(), false);
        scene.verify().run()
    }

    fn verify_says_that_a_new_key_is_asked_for(scene) {
        let scene = enrolled(scene);
        scene.controller.request_renewal(scene.token.sub(), true);
        scene.verify().run()
    }

    fn verify_says_that_another_ca_has_issued(scene) {
        let scene = enrolled(scene);
        scene.controller.disown(scene.token.sub());
        scene.verify().run()
    }

    fn verify_says_that_the_chain_is_broken(scene) {
        enrolled(scene).facing(Fault::ImproperChain).verify().run()
    }

    fn verify_knows_another_certificate(scene) {
        enrolled(scene).facing(Fault::OtherFingerprint).verify().run()
    }

    fn verify_where_only_oidc_is_served(scene) {
        enrolled(scene).facing(Fault::OidcOnly).verify().run()
    }

    fn verify_certificate_ended(scene) {
        scene.controller.set_faults([Fault::CertLifetime(3)]);
        let scene = enrolled(scene);
        // Until it has ended.
        std::thread::sleep(std::time::Duration::from_millis(4100));
        scene.verify().run()
    }

    fn verify_after_a_renewal_that_was_killed(scene) {
        killed_in_doubt(scene).verify().run()
    }

    fn status_due(scene) {
        ending_soon(scene).command("status gate-7.json").run()
    }

    fn status_due_by_another_measure(scene) {
        enrolled(scene).command("status --within 400d gate-7.json").run()
    }

    fn status_of_a_renewal_that_was_killed(scene) {
        killed_in_doubt(scene).command("status gate-7.json").run()
    }

    fn status_of_several(scene) {
        let scene = ending_soon(scene);
        scene.file("broken.json", "{\"id\": 4}");
        scene.command("status gate-7.json broken.json none.json").run()
    }
}
