//! A part of many cases in a run of CI, all of them with `tests/run --whole`.

use std::time::{SystemTime, UNIX_EPOCH};

/// What ZITI_ENROLLER_TEST_SEED says, else another one in every run; `None` with ZITI_ENROLLER_TEST_WHOLE, where nothing
/// is left to chance.
pub fn seed() -> Option<u64> {
    if std::env::var_os("ZITI_ENROLLER_TEST_WHOLE").is_some_and(|whole| whole == "1") {
        return None;
    }
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::from(now.subsec_nanos()));
    let seed =
        std::env::var("ZITI_ENROLLER_TEST_SEED").ok().map(|said| said.parse().expect("ZITI_ENROLLER_TEST_SEED is a number"));
    let seed = seed.unwrap_or_else(now);
    println!("ZITI_ENROLLER_TEST_SEED={seed}");
    Some(seed)
}

/// As a figure shows it.
pub fn shown(seed: Option<u64>) -> String {
    seed.map(|seed| seed.to_string()).unwrap_or_default()
}

/// `count` of `all` by `seed`, in their order; all without one.
pub fn of<T>(all: Vec<T>, count: usize, seed: Option<u64>) -> Vec<T> {
    let Some(mut state) = seed else { return all };
    let mut order: Vec<usize> = (0..all.len()).collect();
    for i in 0..order.len() {
        let left = order.len() - i;
        order.swap(i, i + next(&mut state, left));
    }
    let mut chosen = order[..count.min(order.len())].to_vec();
    chosen.sort_unstable();
    let mut all: Vec<Option<T>> = all.into_iter().map(Some).collect();
    chosen.into_iter().filter_map(|at| all[at].take()).collect()
}

/// SplitMix64, below `bound`.
fn next(state: &mut u64, bound: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) % bound as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_chooses_the_same() {
        let all = || (0..100).collect::<Vec<_>>();
        let chosen = of(all(), 10, Some(7));
        assert_eq!((chosen.len(), &chosen), (10, &of(all(), 10, Some(7))));
        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen != of(all(), 10, Some(8)));
        assert_eq!((of(all(), 10, None), of(all(), 200, Some(1)).len()), (all(), 100));
    }
}
