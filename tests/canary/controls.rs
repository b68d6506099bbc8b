//! The search finds what is there: the canary is planted in each kind of sink, and the same code finds it there.

use std::fs;
use std::path::Path;

use ziti_enroller_support::canary::Found;
use ziti_enroller_support::{Canary, Program, Proxy, Search, Sink, Swtpm, Terminal, figures, require};

use super::stage::PIN;

fn canary() -> Canary {
    Canary::new("PIN", PIN).and_hashes()
}

/// The PIN in one form, as text.
fn form(name: &str) -> String {
    let canary = canary();
    let (_, bytes) = canary.forms().iter().find(|(form, _)| *form == name).unwrap_or_else(|| panic!("there is no form {name}"));
    String::from_utf8(bytes.clone()).expect("it is text")
}

/// Runs a script of a shell, in which `$DIR` is the folder that is searched, and `$1` the PIN in this form.
fn leaking(script: &str, form_name: &str, with: impl FnOnce(Program, &Search<'_>) -> Found) -> Found {
    let [aside, folder] = [(), ()].map(|()| tempfile::tempdir().expect("a temporary folder can be made"));
    let file = aside.path().join("script");
    fs::write(&file, script.replace("$1", &format!("'{}'", form(form_name)))).expect("the folder is ours");
    let program = Program::new("/bin/sh").arg(&file).env("DIR", folder.path());
    with(program, &Search::new(folder.path(), [canary()]))
}

/// The sinks that must have it, and those that must have it with them.
fn is_found(script: &str, form_name: &'static str, sinks: &[Sink]) {
    holds(&leaking(script, form_name, |program, search| search.run(program)), form_name, sinks);
}

fn holds(found: &Found, form_name: &str, sinks: &[Sink]) {
    found.outcome.clone().success();
    // A process that lives for a moment may be seen in /proc or not.
    let by_chance = |sink: &Sink| matches!(sink, Sink::CommandLine | Sink::Environment) && !sinks.contains(sink);
    let seen: Vec<Sink> = found.sinks().into_iter().filter(|sink| !by_chance(sink)).collect();
    assert_eq!(seen, sinks, "{form_name}: {:?}", found.hits);
    assert!(found.hits.iter().any(|hit| hit.form == form_name && hit.sink == sinks[0]), "{form_name}: {:?}", found.hits);
}

/// What a control is called, and what it does.
type Control = (&'static str, fn());

const CONTROLS: [Control; 20] = [
    ("command line of a child", || is_found("/bin/true $1", "hex", &[Sink::StartedWith])),
    ("command line in /proc", || {
        is_found("/bin/sh -c 'sleep 0.3' $1", "base64 +1", &[Sink::StartedWith, Sink::CommandLine]);
    }),
    ("environment of a child", || is_found("X=y$1 /bin/true", "raw", &[Sink::StartedIn])),
    ("environment in /proc", || {
        is_found("X=$1 sleep 0.3", "PERCENT-ENCODED", &[Sink::StartedIn, Sink::Environment]);
    }),
    ("stdout", || is_found("echo and $1 too", "raw", &[Sink::Stdout, Sink::Call])),
    ("JSON", || is_found("echo '{\"error\":{\"message\":\"'$1'\"}}'", "base64url +2", &[Sink::Stdout, Sink::Call])),
    ("stderr", || is_found("echo xx$1 >&2", "base64", &[Sink::Stderr, Sink::Call])),
    ("stderr, as bytes are printed", || is_found("echo [0, $1] >&2", "list of numbers", &[Sink::Stderr, Sink::Call])),
    ("terminal", || {
        let found = leaking("echo $1 >/dev/tty", "HEX", |program, search| {
            let terminal = Terminal::open();
            let mut found = search.run(terminal.seat(program));
            search.at_terminal(&terminal.shown(), &mut found);
            found
        });
        holds(&found, "HEX", &[Sink::Terminal, Sink::Call]);
    }),
    ("journal", || {
        let script = "mkdir $DIR/.gate-7.json.enroll; echo 1 00112233 $1 >$DIR/.gate-7.json.enroll/journal";
        is_found(script, "hex with colons", &[Sink::Content, Sink::Call]);
    }),
    ("output", || {
        is_found("echo '{\"id\":{\"key\":\"'$1'\"}}' >$DIR/gate-7.json", "percent-encoded", &[Sink::Content, Sink::Call])
    }),
    ("state", || is_found("mkdir $DIR/state; echo $1 >$DIR/state/pin-00", "SHA-256", &[Sink::Content, Sink::Call])),
    ("HOME", || is_found("echo $1 >$HOME/.rc", "raw", &[Sink::Content, Sink::Call])),
    ("temporary file", || is_found("echo $1 >$TMPDIR/x", "base64url", &[Sink::Content, Sink::Call])),
    ("name of a file", || is_found(": >$DIR/x$1", "hex", &[Sink::Name, Sink::Call])),
    ("link", || is_found("cd $DIR; /bin/ln -s to-$1 link", "hex", &[Sink::StartedWith, Sink::Name, Sink::Call])),
    ("file that is gone", || is_found("echo $1 >$DIR/x; rm $DIR/x", "raw", &[Sink::Call])),
    ("written in pieces", || {
        let (start, end) = PIN.split_at(5);
        let found = leaking(&format!("printf %s '{start}' >&3; printf %s '{end}'"), "raw", |program, search| {
            search.run(program.within(["/bin/sh", "-c", "exec \"$@\" 3>/dev/null >&3", "sh"]))
        });
        holds(&found, "raw", &[Sink::Call]);
        assert!(found.hits[0].at.starts_with("one after the other"), "{:?}", found.hits);
    }),
    ("sent", || {
        require("logger", "bsdutils");
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        fs::write(file.path(), PIN).expect("it is ours");
        let script = format!("logger --server 127.0.0.1 --port 9 --udp --file {}", file.path().display());
        let found = leaking(&script, "raw", |program, search| search.run(program));
        holds(&found, "raw", &[Sink::Call]);
        assert!(found.hits[0].at.starts_with("send"), "{:?}", found.hits);
    }),
    ("TPM bus", || {
        let tpm = Swtpm::new();
        let bus = Proxy::before(&tpm);
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let search = Search::new(folder.path(), [canary()]).and_on(&bus);
        // A new auth value is a parameter, and tpm2-tools does not encrypt it.
        let change = tpm.tool("tpm2_changeauth").env("TPM2TOOLS_TCTI", bus.tcti()).args(["-c", "lockout", PIN]);
        let found = search.run(change);
        assert!(found.hits.iter().any(|hit| hit.sink == Sink::Bus && hit.form == "raw"), "{:?}", found.hits);
    }),
];

#[test]
fn what_is_planted_in_a_sink_is_found_there() {
    let mut wrong = Vec::new();
    for (name, control) in CONTROLS {
        if let Err(why) = std::panic::catch_unwind(control) {
            let why = why.downcast_ref::<String>().map_or("it panicked", String::as_str);
            wrong.push(format!("{name}: {why}"));
        }
    }
    figures::record("sinks of a secret with a control that finds it", CONTROLS.len(), CONTROLS.len() - wrong.len(), "");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_a_test_gives_is_no_find_and_everything_else_is() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let search = Search::new(folder.path(), [canary()]);
    let sleep = || Program::new("/bin/sleep").arg("0.1");
    assert_eq!(search.run(sleep().env("GIVEN", PIN)).sinks(), []);
    // One variable more, and it is another environment.
    let shell = Program::new("/bin/sh").args(["-c", "MORE=1 sleep 0.3"]).env("GIVEN", PIN);
    assert_eq!(search.run(shell).sinks(), [Sink::StartedIn, Sink::Environment]);
    let shell = Program::new("/bin/sh").args(["-c", "true", PIN]);
    assert_eq!(search.run(shell).sinks(), []);
    let file = folder.path().join("pin");
    fs::write(&file, PIN).expect("the folder is ours");
    assert_eq!(search.run(sleep()).sinks(), [Sink::Content]);
    assert_eq!(search.but_not_in(&file).run(sleep()).sinks(), []);
    assert!(Path::new(&file).exists());
}
