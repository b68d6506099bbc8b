//! After the request: the answer arrived whole, is kept, and cannot be used.

use ziti_enroller_support::Fault;

use super::scenarios;
use super::scene::{Ran, Scene};

fn issued(scene: Scene, fault: Fault) -> Ran {
    scene.facing(fault).enroll().run()
}

scenarios! {
    fn answer_without_a_certificate(scene) {
        issued(scene, Fault::NoCert)
    }

    fn answer_with_half_a_certificate(scene) {
        issued(scene, Fault::TruncatedPem)
    }

    fn answer_is_a_web_page(scene) {
        issued(scene, Fault::Html200)
    }

    fn answer_is_empty(scene) {
        issued(scene, Fault::Empty200)
    }

    fn certificate_of_another_key(scene) {
        issued(scene, Fault::OtherKey)
    }

    fn certificate_of_another_ca(scene) {
        issued(scene, Fault::OtherCa)
    }

    fn certificate_expired(scene) {
        issued(scene, Fault::ExpiredCert)
    }

    fn certificate_not_for_clients(scene) {
        issued(scene, Fault::NoClientAuth)
    }

    fn certificate_is_a_ca(scene) {
        issued(scene, Fault::CaCert)
    }

    fn certificate_of_another_identity(scene) {
        issued(scene, Fault::OtherSub)
    }

    /// A rerun asks nobody and says the same.
    fn certificate_still_of_another_key(scene) {
        let scene = scene.facing(Fault::OtherKey);
        scene.enroll().fails();
        scene.enroll().run()
    }
}
