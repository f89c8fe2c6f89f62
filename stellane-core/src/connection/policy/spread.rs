//! What is to happen to many connections at once happens to each at a place of its own.

/// The place of a connection within `span`, always the same.
pub(crate) fn part_of(span: u64, id: u64) -> u64 {
    // The golden ratio spreads consecutive numbers evenly.
    let parts = u128::from(id.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    ((u128::from(span) * parts) >> 64) as u64
}

/// `time` give or take a tenth, the same for the same connection.
pub(crate) fn around(time: u64, id: u64) -> u64 {
    time - time / 10 + part_of(time / 5, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_in_a_row_are_spread_evenly() {
        for first in [0, 1, 1_000_000, u64::MAX - 999] {
            let mut tenths = [0; 10];
            for id in (0..1000).map(|i| first.wrapping_add(i)) {
                tenths[part_of(10, id) as usize] += 1;
                assert!((900..1100).contains(&around(1000, id)));
            }
            assert!(tenths.iter().all(|n| (95..=105).contains(n)), "{tenths:?}");
        }
        assert_eq!(part_of(0, 7), 0);
    }
}
