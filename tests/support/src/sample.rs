//! A sample of many cases: another one in every run, and the same again for the same seed.

use crate::pki::random;

/// How much of a long list is to be tried.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    seed: u64,
    whole: bool,
}

impl Sample {
    /// The seed of ZITI_ENROLLER_TEST_SEED, else a new one, which is printed; all cases where ZITI_ENROLLER_TEST_WHOLE is set.
    ///
    /// # Panics
    /// When the seed is no number.
    pub fn from_environment() -> Self {
        let said = std::env::var("ZITI_ENROLLER_TEST_SEED").ok();
        let seed = said.map(|seed| seed.parse().unwrap_or_else(|_| panic!("ZITI_ENROLLER_TEST_SEED={seed} is no number")));
        let sample = Self { seed: seed.unwrap_or_else(|| u64::from(u32::from_le_bytes(random()))), whole: is_whole() };
        eprintln!("seed {}", sample.seed);
        sample
    }

    /// A sample with this seed.
    pub fn of_seed(seed: u64) -> Self {
        Self { seed, whole: false }
    }

    /// Whether nothing is to be left out.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// For the figure: empty where nothing is left out.
    pub fn seed(&self) -> String {
        if self.whole { String::new() } else { self.seed.to_string() }
    }

    /// The cases in the order in which they are tried: the groups take turns, so that those of a small group come early.
    pub fn in_turns<T>(&self, groups: Vec<Vec<T>>) -> Vec<T> {
        let mut state = self.seed;
        let mut keyed: Vec<(usize, u64, T)> = Vec::new();
        for mut group in groups {
            // Fisher and Yates.
            for last in (1..group.len()).rev() {
                group.swap(last, below(&mut state, last + 1));
            }
            keyed.extend(group.into_iter().enumerate().map(|(turn, case)| (turn, next(&mut state), case)));
        }
        keyed.sort_by_key(|(turn, place, _)| (*turn, *place));
        keyed.into_iter().map(|(_, _, case)| case).collect()
    }
}

/// Whether all cases are done (ZITI_ENROLLER_TEST_WHOLE).
pub fn is_whole() -> bool {
    std::env::var_os("ZITI_ENROLLER_TEST_WHOLE").is_some_and(|value| !value.is_empty())
}

/// All of `cases`, or `size` of them; and the seed that chose them, empty where all are done.
///
/// # Panics
/// As [`Sample::from_environment`].
pub fn of<T>(cases: Vec<T>, size: usize) -> (Vec<T>, String) {
    let sample = Sample::from_environment();
    if sample.whole || cases.len() <= size {
        return (cases, String::new());
    }
    let mut chosen = sample.in_turns(vec![cases]);
    chosen.truncate(size);
    (chosen, sample.seed())
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The bias is far below what a test could notice.
fn below(state: &mut u64, limit: usize) -> usize {
    usize::try_from(next(state) % limit as u64).expect("it is below a usize")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Vec<Vec<u32>> {
        vec![(0..100).collect(), vec![1000], vec![2000, 2001]]
    }

    #[test]
    fn is_the_same_for_the_same_seed() {
        let of = |seed| Sample::of_seed(seed).in_turns(groups());
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn holds_everything_once_and_small_groups_early() {
        let mut all = Sample::of_seed(1).in_turns(groups());
        assert!(all[..3].contains(&1000), "{all:?}");
        assert!(all[..5].contains(&2000) && all[..5].contains(&2001), "{all:?}");
        all.sort_unstable();
        assert_eq!(all, groups().concat());
    }
}
