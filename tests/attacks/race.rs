//! The folder of the identity is swapped all the time while we work.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use ziti_enroller_support::{Controller, Options, Sample, figures};

use crate::machine::{IdentityFile, InFiles, Machine, text};

/// Races in a run that is not whole, and in one that is.
const RACES: [usize; 2] = [100, 1000];
const PRECIOUS: &str = "precious";

/// One name, behind which two things take turns: a folder, and a link to another with something precious in it.
struct Place {
    name: PathBuf,
    other: PathBuf,
    victim: PathBuf,
}

impl Place {
    fn new(folder: &Path) -> Self {
        let [name, other, victim] = ["identities", "other", "victim"].map(|name| folder.join(name));
        fs::create_dir(&name).expect("the folder is writable");
        fs::create_dir(&victim).expect("the folder is writable");
        symlink(&victim, &other).expect("the folder is writable");
        fs::write(victim.join("precious"), PRECIOUS).expect("the folder is writable");
        Self { name, other, victim }
    }

    /// Does something while the two are exchanged all the time; how often they were.
    fn swapped_while<T>(&self, run: impl FnOnce() -> T) -> (T, usize) {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let swapping = scope.spawn(|| {
                let mut swaps = 0;
                while !stop.load(Ordering::Relaxed) {
                    renameat_with(CWD, &self.name, CWD, &self.other, RenameFlags::EXCHANGE).expect("names can be exchanged");
                    swaps += 1;
                    // Often enough to come between any two steps.
                    thread::sleep(Duration::from_micros(50));
                }
                swaps
            });
            let ran = run();
            stop.store(true, Ordering::Relaxed);
            (ran, swapping.join().expect("names can be exchanged"))
        })
    }

    /// The folder, by the name that it has just now.
    fn folder(&self) -> &Path {
        if self.name.is_symlink() { &self.other } else { &self.name }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it can be listed");
    let names = entries.map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name != "precious").collect();
    names.sort();
    names
}

/// Once a folder is open, all is done in that one: an enrollment is whole in it, and the other has nothing of it.
#[test]
fn swapping_the_folder_splits_nothing() {
    let sample = Sample::from_environment();
    let races = RACES[usize::from(sample.is_whole())];
    let controller = Controller::start(Options::default());
    let machine = Machine::<InFiles>::new();
    let place = Place::new(machine.folder());
    let (mut swaps, mut ended_in) = (0, [0, 0]);
    for race in 0..races {
        let token = controller.issue("gate-7");
        let key = match race % 2 {
            0 => Vec::new(),
            // A key file beside the identity.
            _ => vec!["--key".to_owned(), format!("file:{}", text(&place.name.join("gate.pem"))), "--create".to_owned()],
        };
        let enroll = machine.enroll(&token).args(&key).arg("--out").arg(place.name.join("gate.json"));
        let (ended, times) = place.swapped_while(|| enroll.run());
        swaps += times;
        assert_eq!(ended.code, Some(0), "{ended}");
        let folders = [place.folder(), &place.victim];
        let found = folders.map(names);
        let whole = if key.is_empty() { vec!["gate.json"] } else { vec!["gate.json", "gate.pem"] };
        let is_whole = [found[0] == whole && found[1].is_empty(), found[1] == whole && found[0].is_empty()];
        let at = is_whole.iter().position(|is| *is).unwrap_or_else(|| panic!("split: {found:?}: {ended}"));
        ended_in[at] += 1;
        IdentityFile::read(&folders[at].join("gate.json"));
        whole.iter().for_each(|name| fs::remove_file(folders[at].join(name)).expect("it is there"));
        assert_eq!(fs::read_to_string(place.victim.join("precious")).ok().as_deref(), Some(PRECIOUS));
    }
    eprintln!("{swaps} swaps in {races} races, which ended {ended_in:?} times in the folder and behind the link");
    assert!(swaps > 10 * races && ended_in.iter().all(|times| *times > 0), "{swaps} swaps, {ended_in:?}");
    assert_eq!(controller.authenticators().len(), races);
    figures::record("folders swapped in a race", races, races, "");
}
