//! Where lines end, found many bytes at a time.

/// Whether every line of a head ends with CR and LF.
#[inline]
pub(crate) fn ends_its_lines(head: &[u8]) -> bool {
    let mut at = 0;
    // What the block before ended with, as the lowest bit.
    let mut returned = 0;
    while at < head.len() {
        let (feeds, returns) = in_block(head, at, |block| {
            (places(block, b'\n'), places(block, b'\r'))
        });
        if feeds & !(returns << 1 | returned) != 0 {
            return false;
        }
        returned = returns >> (BLOCK - 1);
        at += BLOCK;
    }
    true
}

/// Where a byte that is not zero comes first.
#[inline]
pub(crate) fn first(bytes: &[u8], byte: u8) -> Option<usize> {
    (0..bytes.len()).step_by(BLOCK).find_map(|at| {
        let found = in_block(bytes, at, |block| places(block, byte));
        (found != 0).then(|| at + found.trailing_zeros() as usize)
    })
}

/// How many bytes are looked at together.
pub(crate) const BLOCK: usize = 64;

/// Looks at the block of `bytes` that begins at `at`, padded if fewer are left: so the end of a read costs no more
/// than the rest of it.
#[inline]
pub(crate) fn in_block<T>(bytes: &[u8], at: usize, look: impl Fn(&[u8; BLOCK]) -> T) -> T {
    match bytes[at..].first_chunk() {
        Some(block) => look(block),
        None => {
            let mut block = [0; BLOCK];
            block[..bytes.len() - at].copy_from_slice(&bytes[at..]);
            look(&block)
        }
    }
}

/// Where a byte is: one bit for each byte of a block.
#[inline]
pub(crate) fn places(block: &[u8; BLOCK], byte: u8) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8,
        };
        let start = block.as_ptr();
        // SAFETY: all quarters lie within the block; SSE2 belongs to every x86-64.
        let quarters = unsafe {
            let wanted = _mm_set1_epi8(byte as i8);
            [0, 16, 32, 48].map(|quarter| {
                let bytes = _mm_loadu_si128(start.add(quarter).cast());
                u64::from(_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, wanted)) as u16) << quarter
            })
        };
        quarters[0] | quarters[1] | quarters[2] | quarters[3]
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let bits = block.iter().enumerate();
        bits.fold(0, |found, (i, b)| found | u64::from(*b == byte) << i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Under Miri: `cargo +nightly miri test -p stellane-core --no-default-features --features connection
    /// line_feeds`.
    #[test]
    fn line_feeds_are_found_wherever_they_stand() {
        for first in 0..BLOCK {
            for second in 0..BLOCK {
                let mut block = [b'\r'; BLOCK];
                block[first] = b'\n';
                block[second] = b'\n';
                let expected = 1 << first | 1 << second;
                assert_eq!(places(&block, b'\n'), expected, "{first} and {second}");
            }
        }
        for at in 0..3 * BLOCK {
            let mut bytes = vec![b' '; at];
            assert_eq!(first(&bytes, b'\n'), None);
            bytes.extend_from_slice(b"\n and \n");
            assert_eq!(first(&bytes, b'\n'), Some(at));
        }
        assert_eq!(places(&[b'\n'; BLOCK], b'\n'), u64::MAX);
        assert_eq!(places(&[0; BLOCK], b'\n'), 0);
    }
}
