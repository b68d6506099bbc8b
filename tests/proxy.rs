//! Through a proxy, past it, and to controllers that have an address for a name: one TLS connection, from end to end.

use std::fs;

use ziti_enroller_support::{Asked, Controller, Face, Fault, HttpProxy, Options};

use crate::machine::{Failed, InFiles, InToken, Machine, report, text};

fn opened(target: &str, credentials: Option<&str>) -> Asked {
    Asked { target: target.into(), credentials: credentials.map(str::to_owned), status: Some(200) }
}

/// One connection, one handshake, two requests at the controller, whatever lies before it.
fn held_to_the_budget(controller: &Controller) {
    let counts = controller.counts();
    assert_eq!((counts.connections, counts.handshakes, counts.requests, counts.enroll_posts), (1, 1, 2, 1));
    assert!(controller.violations().is_empty(), "{:?}", controller.violations());
}

#[test]
fn one_tunnel_carries_one_tls_connection_and_its_password_is_nowhere_else() {
    let controller = Controller::start(Options::default());
    let proxy = HttpProxy::for_user("me", "hush-hush");
    let address = proxy.url_with("me:hush-hush");
    let machine = Machine::<InToken>::new();
    let token = controller.issue("gate-7");
    let enrolled = machine.enroll(&token).env("HTTPS_PROXY", &address).args(["-vv"]).run().success();
    held_to_the_budget(&controller);
    let target = format!("localhost:{}", controller.port());
    assert_eq!(proxy.asked(), [opened(&target, Some("me:hush-hush"))]);

    let verified = machine.verify(&token).env("ZITI_ENROLLER_PROXY", &address).args(["-vv"]).run().success();
    let examined = machine.enroll(&controller.issue("gate-8")).arg("--dry-run").env("ALL_PROXY", &address).run().success();
    assert_eq!(proxy.asked().len(), 3, "{:?}", proxy.asked());
    assert!(proxy.violations().is_empty(), "{:?}", proxy.violations());
    let identity = fs::read_to_string(machine.out(&token)).expect("there is an identity");
    for said in [&enrolled, &verified, &examined].iter().flat_map(|o| [&o.stdout, &o.stderr]).chain([&identity]) {
        assert!(!said.contains("hush-hush") && !said.contains("bWU6aHVzaC1odXNo"), "{said}");
    }
}

#[test]
fn a_name_that_only_the_proxy_knows_is_left_to_it() {
    let controller = Controller::start(Options { face: Face::WrongHost, ..Options::default() });
    let proxy = HttpProxy::leading_to(controller.address());
    let machine = Machine::<InFiles>::new();
    let token = controller.issue_at("gate-7", "https://elsewhere.example:1280");
    report(&machine.enroll(&token).args(["--proxy", &proxy.url()]).run());
    held_to_the_budget(&controller);
    assert_eq!(proxy.asked(), [opened("elsewhere.example:1280", None)]);
    assert_eq!(controller.log().handshakes[0].sni.as_deref(), Some("elsewhere.example"));
}

#[test]
fn every_connection_goes_through_the_proxy() {
    let controller = Controller::start(Options { faults: vec![Fault::CloseAfterCacerts], ..Options::default() });
    let proxy = HttpProxy::open();
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    report(&machine.enroll(&token).args(["--proxy", &proxy.url()]).run());
    assert_eq!((controller.counts().connections, proxy.asked().len()), (2, 2));
}

/// Interrupted in one network, gone on with in another.
#[test]
fn resume_takes_a_proxy_of_its_own() {
    let controller = Controller::start(Options { faults: vec![Fault::DropPostAfter], ..Options::default() });
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7");
    let lost = machine.enroll(&token).args(["--retries", "0"]).run();
    Failed::with(lost, 33, "outcome_unknown").spent("unknown");
    let proxy = HttpProxy::open();
    let resume = machine.program().args(["resume", "--format", "json", "--proxy", &proxy.url()]).arg(machine.out(&token));
    Failed::with(resume.run(), 33, "answer_lost").spent("yes");
    assert_eq!(proxy.asked().len(), 1);
}

/// The command line goes first, then our own variables, then those of curl in its order; `''` is none.
#[test]
fn the_proxy_that_is_said_last_counts_least() {
    let controller = Controller::start(Options::default());
    let (right, wrong) = (HttpProxy::open(), HttpProxy::open());
    let name = "localhost";
    let mut uses = 0;
    for (variables, arguments, proxied) in [
        (&["https_proxy=right", "HTTPS_PROXY=wrong", "all_proxy=wrong", "HTTP_PROXY=wrong"][..], &[][..], true),
        (&["HTTPS_PROXY=right", "all_proxy=wrong"], &[], true),
        (&["all_proxy=right", "ALL_PROXY=wrong"], &[], true),
        (&["ZITI_ENROLLER_PROXY=right", "https_proxy=wrong"], &[], true),
        (&["ZITI_ENROLLER_PROXY=wrong"], &["--proxy", "right"], true),
        (&["https_proxy=wrong"], &["--proxy", ""], false),
        (&["https_proxy=", "HTTPS_PROXY=wrong"], &[], false),
        (&["http_proxy=wrong", "HTTP_PROXY=wrong"], &[], false),
        (&["HTTPS_PROXY=wrong", "NO_PROXY=localhost"], &[], false),
        (&["HTTPS_PROXY=wrong", "no_proxy=*", "NO_PROXY=elsewhere"], &[], false),
        (&["HTTPS_PROXY=right", "no_proxy=*"], &["--no-proxy", "elsewhere"], true),
        (&["HTTPS_PROXY=wrong", "ZITI_ENROLLER_NO_PROXY=localhost", "no_proxy=elsewhere"], &[], false),
        (&["NO_PROXY=localhost"], &["--proxy", "wrong"], false),
    ] {
        let named = |text: &str| text.replace("right", &right.url()).replace("wrong", &wrong.url());
        let machine = Machine::<InFiles>::new();
        let token = controller.issue("gate-7");
        let variables: Vec<(String, String)> =
            variables.iter().filter_map(|v| v.split_once('=')).map(|(n, v)| (n.to_owned(), named(v))).collect();
        let arguments: Vec<String> = arguments.iter().map(|a| named(a)).collect();
        report(&machine.enroll(&token).envs(variables.clone()).args(&arguments).run());
        uses += usize::from(proxied);
        assert_eq!((right.asked().len(), wrong.asked().len()), (uses, 0), "{name}: {variables:?} {arguments:?}");
    }
}

/// What is offline looks at no proxy, however wrong it is.
#[test]
fn commands_that_connect_to_nobody_do_not_read_the_proxy() {
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let token = controller.issue("gate-7").write(machine.folder());
    machine.program().arg("inspect").arg(token).env("HTTPS_PROXY", "socks5://nowhere").run().success();
}

/// An address is judged by the addresses of the certificate, and no name is sent.
#[test]
fn issuers_that_are_addresses_enroll_and_log_in() {
    for (listen, host) in [("[::1]:0", "[::1]"), ("127.0.0.1:0", "127.0.0.1")] {
        for through_proxy in [false, true] {
            let controller = Controller::start(Options { listen: listen.into(), ..Options::default() });
            let url = format!("https://{host}:{}", controller.port());
            let proxy = HttpProxy::open();
            let way = if through_proxy { vec!["--proxy".to_owned(), proxy.url()] } else { Vec::new() };
            let machine = Machine::<InFiles>::new();
            let token = controller.issue_at("gate-7", &url);
            let said = report(&machine.enroll(&token).args(&way).run());
            assert_eq!(said["identity"]["controller"], url);
            held_to_the_budget(&controller);
            assert_eq!(controller.log().handshakes[0].sni, None, "{host}");
            assert_eq!(machine.identity(&token).api(), format!("{url}/edge/client/v1"));
            report(&machine.verify(&token).args(&way).run());
            let target = format!("{host}:{}", controller.port());
            let asked = if through_proxy { vec![opened(&target, None); 2] } else { Vec::new() };
            assert_eq!(proxy.asked(), asked, "{host}");
            assert!(proxy.violations().is_empty(), "{:?}", proxy.violations());
        }
    }
}

/// The certificate is for names alone.
#[test]
fn an_address_that_the_certificate_does_not_name_is_refused() {
    for (listen, host) in [("[::1]:0", "[::1]"), ("127.0.0.1:0", "127.0.0.1")] {
        let options = Options { listen: listen.into(), face: Face::WrongHost, ..Options::default() };
        let controller = Controller::start(options);
        let machine = Machine::<InFiles>::new();
        let token = controller.issue_at("gate-7", &format!("https://{host}:{}", controller.port()));
        let refused = Failed::with(machine.enroll(&token).run(), 12, "controller_name").spent("no");
        refused.hints(&format!("must name https://{host}:{}", controller.port()));
        assert_eq!(controller.enroll_posts(), 0);
        assert!(!machine.out(&token).exists(), "{}", text(&machine.out(&token)));
    }
}
