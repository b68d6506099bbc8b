//! Room 2: whoever answers is not the controller, or nobody does. Nothing but the question for CA certificates was sent.

use std::net::TcpListener;

use ziti_enroller_support::{Controller, Face, Fault, Options};

use super::scenarios;

fn face(face: Face) -> Options {
    Options { face, ..Options::default() }
}

scenarios! {
    fn token_damaged(scene) {
        scene.holding(|controller| controller.issue("gate-7").damaged()).enroll().run()
    }

    fn controller_has_a_new_key(scene) {
        scene.controller.renew_certificate();
        scene.enroll().run()
    }

    /// The right certificate, and not its key.
    fn impostor_without_the_key(scene) {
        let real = Controller::start(Options::default());
        let scene = scene.with(face(Face::WithoutKey(real.server_chain())));
        scene.holding(|impostor| real.issue_at("gate-7", &impostor.url())).enroll().run()
    }

    fn impostor_with_a_forged_certificate(scene) {
        let real = Controller::start(Options::default());
        let scene = scene.with(face(Face::Forged(real.server_leaf())));
        scene.holding(|impostor| real.issue_at("gate-7", &impostor.url())).enroll().run()
    }

    fn controller_of_another_name(scene) {
        scene.with(face(Face::WrongHost)).enroll().run()
    }

    fn controller_certificate_expired(scene) {
        scene.with(face(Face::Expired)).enroll().run()
    }

    fn controller_certificate_not_valid_yet(scene) {
        scene.with(face(Face::NotYetValid)).enroll().run()
    }

    fn controller_certificate_is_a_ca(scene) {
        scene.with(face(Face::CaLeaf)).enroll().run()
    }

    fn cacerts_of_another_ca(scene) {
        scene.facing(Fault::OtherCacerts).enroll().run()
    }

    fn cacerts_lack_an_intermediate(scene) {
        scene.facing(Fault::MissingIntermediate).enroll().run()
    }

    fn cacerts_empty(scene) {
        scene.facing(Fault::CacertsEmpty).enroll().run()
    }

    fn cacerts_are_a_web_page(scene) {
        scene.facing(Fault::CacertsHtml).enroll().run()
    }

    fn cacerts_are_pem(scene) {
        scene.facing(Fault::CacertsPem).enroll().run()
    }

    fn cacerts_of_ten_mebibytes(scene) {
        scene.facing(Fault::CacertsLarge).enroll().run()
    }

    fn cacerts_of_65_certificates(scene) {
        scene.facing(Fault::Cacerts65).enroll().run()
    }

    fn cacerts_compressed(scene) {
        scene.facing(Fault::Gzip).enroll().run()
    }

    fn cacerts_fail(scene) {
        scene.facing(Fault::Cacerts500).enroll().run()
    }

    fn controller_redirects(scene) {
        scene.facing(Fault::Redirect).enroll().run()
    }

    fn connection_refused(scene) {
        let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        scene.holding(|controller| controller.issue_at("gate-7", &format!("https://localhost:{}", nobody.port()))).enroll().run()
    }

    fn name_unknown(scene) {
        scene.holding(|controller| controller.issue_at("gate-7", "https://nowhere.invalid:1280")).enroll().run()
    }

    fn silent_after_the_connection(scene) {
        scene.facing(Fault::SilentAccept).enroll().args(["--timeout", "1s"]).run()
    }

    fn silent_after_the_handshake(scene) {
        scene.facing(Fault::SilentCacerts).enroll().args(["--timeout", "1s"]).run()
    }

    fn answers_forever(scene) {
        scene.facing(Fault::Drip(20)).enroll().args(["--timeout", "1s"]).run()
    }
}
