//! Ways in without a one-time token that buys a certificate: the network alone, a password, the token of an identity provider.

use std::time::Duration;

use serde_json::Value;
use ziti_enroller_support::{Controller, Fault, IdentityProvider, Like, Options};

use super::scenarios;
use super::scene::{Ran, Run, Scene};
use crate::machine::Fixture;

fn network(scene: Scene) -> Scene {
    scene.holding(|controller| controller.network_token("gate-7"))
}

fn password(scene: Scene) -> Scene {
    let scene = scene.holding(|controller| controller.password_token("gate-7"));
    scene.file("password", "hush hush\n");
    scene
}

/// With a provider, and a token of it for `gate-7` in the file `idp.jwt`.
fn provider(scene: Scene, change: impl FnOnce(&mut IdentityProvider)) -> (Scene, IdentityProvider) {
    let scene = network(scene);
    let mut provider = IdentityProvider::new("idp");
    change(&mut provider);
    scene.controller.trust_provider(&provider);
    scene.file("idp.jwt", provider.token("gate-7"));
    (scene, provider)
}

fn enroll(scene: &Scene) -> Run<'_> {
    scene.enroll().args(["--idp-token", "idp.jwt"])
}

/// Refused, because of what `change` does to the provider.
fn refused(scene: Scene, change: impl FnOnce(&mut IdentityProvider)) -> Ran {
    let (scene, _) = provider(scene, change);
    enroll(&scene).run()
}

fn old(scene: Scene) -> Scene {
    scene.with(Options { like: Like::V1_4, ..Options::default() })
}

scenarios! {
    fn enrolled_with_a_network_token(scene) {
        network(scene).enroll().run()
    }

    fn network_token_with_a_key(scene) {
        network(scene).enroll().args(["--key", "gate-7.pem", "--create"]).run()
    }

    fn network_token_of_another_controller(scene) {
        let scene = network(scene);
        scene.controller.renew_certificate();
        scene.enroll().run()
    }

    fn network_token_examined(scene) {
        network(scene).enroll().arg("--dry-run").run()
    }

    fn network_token_inspected(scene) {
        let scene = network(scene);
        scene.enroll().succeeds();
        scene.command("inspect gate-7.jwt").run()
    }

    fn network_inspected(scene) {
        let scene = network(scene);
        scene.enroll().succeeds();
        scene.command("inspect gate-7.json").run()
    }

    fn network_status(scene) {
        let scene = network(scene);
        scene.enroll().succeeds();
        scene.command("status gate-7.json").run()
    }

    fn network_does_not_log_in(scene) {
        let scene = network(scene);
        scene.enroll().succeeds();
        scene.verify().run()
    }

    fn enrolled_with_a_password(scene) {
        password(scene).enroll().args(["--password-file", "password"]).run()
    }

    fn enrolled_with_a_password_at_an_older_controller(scene) {
        password(old(scene)).enroll().args(["--password-file", "password"]).run()
    }

    fn password_at_the_terminal(scene) {
        let scene = password(scene);
        let ran = scene.enroll().at_terminal_asked(&[("New password: ", "hush hush"), ("once more: ", "hush hush")]);
        assert_eq!(scene.controller.passwords()[0].password, "hush hush");
        ran
    }

    fn passwords_at_the_terminal_differ(scene) {
        password(scene).enroll().at_terminal_asked(&[("New password: ", "hush hush"), ("once more: ", "hush")])
    }

    fn password_missing(scene) {
        password(scene).enroll().run()
    }

    fn password_too_short(scene) {
        let scene = password(scene);
        scene.file("password", "hush");
        scene.enroll().args(["--password-file", "password"]).run()
    }

    fn password_file_missing(scene) {
        password(scene).enroll().args(["--password-file", "elsewhere"]).run()
    }

    fn password_for_another_method(scene) {
        scene.file("password", "hush hush");
        scene.enroll().args(["--password-file", "password"]).run()
    }

    /// Nothing that could be lost came with the answer.
    fn password_set_and_the_answer_lost(scene) {
        password(scene).facing(Fault::DropPostAfter).enroll().args(["--password-file", "password"]).run()
    }

    fn password_token_not_valid_there(scene) {
        password(scene).facing(Fault::Gone).enroll().args(["--password-file", "password"]).run()
    }

    fn password_enrollment_unfinished(scene) {
        let scene = password(scene).facing(Fault::DropPostBefore);
        scene.enroll().args(["--password-file", "password", "--retries", "0"]).fails();
        scene.command("status gate-7.json").run()
    }

    fn enrolled_with_an_idp_token(scene) {
        let (scene, _) = provider(scene, |_| {});
        enroll(&scene).run()
    }

    fn enrolled_with_an_idp_token_and_a_new_token_key(scene) {
        let (scene, _) = provider(scene, |_| {});
        let reference = scene.keys().reference("gate-7");
        let run = enroll(&scene).args(["--key", &reference, "--create"]).args(scene.keys().pin());
        run.run()
    }

    fn enrolled_with_an_idp_token_and_given_ca_certificates(scene) {
        let (scene, _) = provider(scene, |_| {});
        scene.file("ca.pem", scene.controller.ca_pem());
        let url = scene.controller.url();
        let run = scene.command("enroll --out gate-7.json --idp-token - --ca ca.pem --controller").arg(url);
        let idp = std::fs::read(scene.path("idp.jwt")).expect("the token was written");
        run.stdin(idp).run()
    }

    fn controller_named_and_not_trusted(scene) {
        let (scene, _) = provider(scene, |_| {});
        let url = scene.controller.url();
        scene.command("enroll --out gate-7.json --idp-token idp.jwt --controller").arg(url).run()
    }

    fn idp_token_without_a_name_for_its_key(scene) {
        let (scene, _) = provider(scene, |_| {});
        let place = scene.keys().place();
        enroll(&scene).args(["--provider", "pkcs11"]).args(place).args(scene.keys().pin()).run()
    }

    fn idp_token_expired(scene) {
        let (scene, provider) = provider(scene, |_| {});
        let mut claims = provider.claims("gate-7");
        let now = claims["iat"].as_u64().expect("a time");
        claims.insert("exp".into(), Value::from(now - 2 * 60 * 60 - 60));
        scene.file("idp.jwt", provider.sign(&claims));
        enroll(&scene).run()
    }

    fn idp_token_is_no_jwt(scene) {
        let (scene, _) = provider(scene, |_| {});
        scene.file("idp.jwt", "opaque");
        enroll(&scene).run()
    }

    fn idp_token_with_a_token_that_enrolls(scene) {
        let (scene, _) = provider(scene, |_| {});
        let scene = scene.holding(|controller| controller.issue("gate-7"));
        enroll(&scene).run()
    }

    fn idp_token_for_another_audience(scene) {
        let (scene, provider) = provider(scene, |_| {});
        let mut claims = provider.claims("gate-7");
        claims.insert("aud".into(), Value::from("others"));
        scene.file("idp.jwt", provider.sign(&claims));
        enroll(&scene).run()
    }

    fn idp_token_of_a_disabled_provider(scene) {
        refused(scene, |provider| provider.enabled = false)
    }

    fn idp_token_that_buys_no_certificate(scene) {
        refused(scene, |provider| provider.enroll_to_cert = false)
    }

    fn idp_token_enrolled_already(scene) {
        let (scene, _) = provider(scene, |_| {});
        enroll(&scene).succeeds();
        enroll(&scene).args(["--out", "again.json"]).run()
    }

    fn idp_token_enrolled_and_the_answer_lost(scene) {
        let (scene, _) = provider(scene, |_| {});
        let scene = scene.facing(Fault::DropPostAfter);
        enroll(&scene).run()
    }

    fn idp_token_at_an_older_controller(scene) {
        let (scene, _) = provider(old(scene), |_| {});
        enroll(&scene).run()
    }

    fn idp_token_at_a_controller_without_such_tokens(scene) {
        let (scene, _) = provider(scene, |_| {});
        let scene = scene.facing(Fault::NoProviders);
        enroll(&scene).run()
    }

    fn idp_token_of_an_unknown_provider_by_id(scene) {
        let (scene, _) = provider(scene, |_| {});
        enroll(&scene).args(["--issuer-id", "nobody"]).run()
    }

    fn issuer_id_without_an_idp_token(scene) {
        scene.enroll().args(["--issuer-id", "nobody"]).run()
    }

    fn idp_token_enrollment_unfinished(scene) {
        let (scene, _) = provider(scene, |_| {});
        let scene = scene.facing(Fault::DropPostBefore);
        enroll(&scene).args(["--retries", "0"]).fails();
        scene.command("status gate-7.json").run()
    }

    fn idp_token_enrollment_resumed_without_it(scene) {
        let (scene, _) = provider(scene, |_| {});
        let scene = scene.facing(Fault::DropPostBefore);
        enroll(&scene).args(["--retries", "0"]).fails();
        scene.controller.set_faults([]);
        scene.command("resume gate-7.json").run()
    }

    fn idp_token_examined(scene) {
        let (scene, _) = provider(scene, |_| {});
        enroll(&scene).arg("--dry-run").run()
    }

    fn signers_listed(scene) {
        let (scene, first) = provider(scene, |_| {});
        let mut second = IdentityProvider::new("other");
        (second.enroll_to_cert, second.enroll_to_token) = (false, true);
        second.external_auth_url = Some("https://other.example/auth".into());
        second.scopes = Some(vec!["openid".into(), "email".into()]);
        scene.controller.trust_provider(&second);
        scene.token.write(&scene.path(""));
        scene.command("list signers --jwt gate-7.jwt").naming(first.id, "[SIGNER]").naming(second.id, "[OTHER SIGNER]").run()
    }

    fn signers_listed_for_an_identity(scene) {
        let (scene, first) = provider(scene, |_| {});
        scene.enroll().succeeds();
        scene.command("list signers gate-7.json").naming(first.id, "[SIGNER]").run()
    }

    fn signers_listed_for_given_ca_certificates(scene) {
        let (scene, first) = provider(scene, |_| {});
        scene.file("ca.pem", scene.controller.ca_pem());
        let url = scene.controller.url();
        scene.command("list signers --ca ca.pem --controller").arg(url).naming(first.id, "[SIGNER]").run()
    }

    fn no_signers_listed(scene) {
        let scene = network(scene);
        scene.token.write(&scene.path(""));
        scene.command("list signers --jwt gate-7.jwt").run()
    }

    fn signers_of_nobody(scene) {
        scene.command("list signers").run()
    }

    fn signers_of_another_network(scene) {
        let scene = network(scene);
        scene.enroll().succeeds();
        let other = Controller::start(Options::default());
        let text = std::fs::read_to_string(scene.path("gate-7.json")).expect("there is an identity");
        scene.file("gate-7.json", text.replace(&scene.controller.port().to_string(), &other.port().to_string()));
        scene.command("list signers gate-7.json").run()
    }

    fn signers_of_a_silent_controller(scene) {
        let scene = network(scene);
        scene.enroll().succeeds();
        let scene = scene.facing(Fault::SilentAccept);
        scene.command("list signers gate-7.json --timeout").arg(format!("{}ms", Duration::from_secs(1).as_millis())).run()
    }
}
