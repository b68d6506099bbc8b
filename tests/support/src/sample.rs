//! Sampled runs: of many cases CI does some, chosen by a seed that is printed; `tests/run --whole` does all of them.

use crate::pki::random;

/// Whether all cases are done (ZITI_ENROLLER_TEST_WHOLE).
pub fn whole() -> bool {
    std::env::var_os("ZITI_ENROLLER_TEST_WHOLE").is_some_and(|value| !value.is_empty())
}

/// All of `cases`, or `size` of them; and the seed that chose them, empty where all are done. `tests/run --seed N`
/// (ZITI_ENROLLER_TEST_SEED) chooses the same again.
pub fn of<T>(what: &str, mut cases: Vec<T>, size: usize) -> (Vec<T>, String) {
    if whole() || cases.len() <= size {
        return (cases, String::new());
    }
    let given = std::env::var("ZITI_ENROLLER_TEST_SEED").ok();
    let seed = given.map(|seed| seed.parse().unwrap_or_else(|_| panic!("ZITI_ENROLLER_TEST_SEED is a number, not {seed:?}")));
    let seed = seed.unwrap_or_else(|| u64::from(u32::from_le_bytes(random())));
    println!("{what}: {size} of {} cases, by seed {seed}", cases.len());
    let mut state = seed;
    for place in 0..size {
        let left = u64::try_from(cases.len() - place).expect("a list is no longer than that");
        let other = place + usize::try_from(next(&mut state) % left).expect("less than the length of a list");
        cases.swap(place, other);
    }
    cases.truncate(size);
    (cases, seed.to_string())
}

/// splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_no_case_twice() {
        let (mut sample, _) = of("numbers", (0..1000).collect(), 100);
        sample.sort_unstable();
        sample.dedup();
        assert!(sample.len() == if whole() { 1000 } else { 100 });
    }

    /// The first numbers of splitmix64 from state 0, as its author gives them.
    #[test]
    fn a_seed_gives_the_same_everywhere() {
        let mut state = 0;
        assert_eq!([next(&mut state), next(&mut state)], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }
}
