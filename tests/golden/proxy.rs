//! Between us and room 2: a proxy. Where there is no way through it, nothing has reached the controller.

use std::net::TcpListener;

use ziti_enroller_support::{Controller, HttpProxy, Options, ProxyFault};

use super::scenarios;
use super::scene::{Ran, Scene};

fn through(scene: &Scene, proxy: &HttpProxy) -> Ran {
    let ran = scene.enroll().args(["--proxy", &proxy.url(), "--timeout", "1s"]).run();
    assert_eq!(proxy.violations(), Vec::<String>::new());
    ran
}

fn that(scene: &Scene, fault: ProxyFault) -> Ran {
    through(scene, &HttpProxy::that(fault))
}

scenarios! {
    fn enrolled_through_a_proxy(scene) {
        through(&scene, &HttpProxy::open())
    }

    fn enrolled_through_the_proxy_of_the_environment(scene) {
        let proxy = HttpProxy::for_user("me", "hush@home");
        let ran = scene.enroll().env("HTTPS_PROXY", proxy.url_with("me:hush%40home")).naming("me:hush%40home@", "[USER]:[PASSWORD]@").run();
        assert_eq!(proxy.asked()[0].credentials.as_deref(), Some("me:hush@home"));
        ran
    }

    fn enrolled_past_the_proxy_of_the_environment(scene) {
        let proxy = HttpProxy::that(ProxyFault::Status(403));
        let ran = scene.enroll().env("HTTPS_PROXY", proxy.url()).env("NO_PROXY", "127.0.0.1,localhost").run();
        assert_eq!(proxy.asked(), []);
        ran
    }

    fn proxy_password_that_everyone_sees(scene) {
        let proxy = HttpProxy::for_user("me", "hush");
        scene.enroll().args(["--proxy", &proxy.url_with("me:hush")]).naming("me:hush@", "[USER]:[PASSWORD]@").run()
    }

    fn proxy_wants_a_password(scene) {
        through(&scene, &HttpProxy::for_user("me", "hush"))
    }

    fn proxy_refuses(scene) {
        that(&scene, ProxyFault::Status(403))
    }

    /// A refusal does not heal.
    fn proxy_refuses_and_nobody_waits(scene) {
        let proxy = HttpProxy::that(ProxyFault::Status(403));
        let ran = scene.enroll().args(["--proxy", &proxy.url(), "--wait", "20s"]).run();
        assert_eq!(proxy.asked().len(), 1);
        ran
    }

    fn proxy_does_not_reach_the_controller(scene) {
        that(&scene, ProxyFault::Status(504))
    }

    fn proxy_hangs(scene) {
        that(&scene, ProxyFault::Hangs)
    }

    fn proxy_is_slow(scene) {
        that(&scene, ProxyFault::Slow)
    }

    fn proxy_ends_the_connection(scene) {
        that(&scene, ProxyFault::Closes)
    }

    fn proxy_is_a_mail_server(scene) {
        that(&scene, ProxyFault::Garbage)
    }

    fn proxy_says_too_much(scene) {
        that(&scene, ProxyFault::Endless)
    }

    /// The way was open: what ends there is the controller's end.
    fn proxy_drops_the_tunnel(scene) {
        that(&scene, ProxyFault::Drops)
    }

    fn proxy_not_there(scene) {
        let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        scene.enroll().args(["--proxy", &format!("localhost:{}", nobody.port())]).run()
    }

    fn proxy_name_unknown(scene) {
        scene.enroll().args(["--proxy", "http://nowhere.invalid:3128"]).run()
    }

    /// It shows a certificate of its own, as a company's proxy does.
    fn proxy_looks_into_tls(scene) {
        let impostor = Controller::start(Options::default());
        through(&scene, &HttpProxy::leading_to(impostor.address()))
    }

    fn proxy_of_another_kind(scene) {
        scene.enroll().args(["--proxy", "socks5://me:hush@localhost:1080"]).naming("me:hush@", "[USER]:[PASSWORD]@").run()
    }

    fn proxy_of_the_environment_of_another_kind(scene) {
        scene.enroll().env("https_proxy", "https://localhost:8443").run()
    }

    fn proxy_without_a_host(scene) {
        scene.enroll().args(["--proxy", "http://:3128"]).run()
    }
}
