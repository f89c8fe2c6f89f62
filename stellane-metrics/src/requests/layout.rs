//! How the histograms of a series lie in its cells, and the buckets of sizes.

pub(crate) const SIZE_BOUNDS: [f64; 10] = [
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// Where the four histograms of a series lie in its cells: buckets, then the sum. Those of sizes come first, where they
/// are in the same place whatever the buckets of durations.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) durations: usize,
}

impl Layout {
    pub(crate) const SIZES: usize = SIZE_BOUNDS.len();

    pub(crate) const fn request(self) -> usize {
        0
    }

    pub(crate) const fn response(self) -> usize {
        Self::SIZES + 2
    }

    pub(crate) const fn full(self) -> usize {
        2 * (Self::SIZES + 2)
    }

    pub(crate) const fn head(self) -> usize {
        self.full() + self.durations + 2
    }

    pub(crate) const fn cells(self) -> usize {
        self.head() + self.durations + 2
    }
}

/// The bucket of [`SIZE_BOUNDS`], whose bounds are 4^4, 4^5, ...: the bound itself belongs to the bucket.
#[inline]
pub(crate) fn size_bucket(bytes: u64) -> usize {
    if bytes <= 256 {
        return 0;
    }
    let log4 = (63 - (bytes - 1).leading_zeros()) as usize / 2;
    (log4 - 3).min(SIZE_BOUNDS.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_falls_into_the_first_bucket_whose_bound_is_not_smaller() {
        for bound in SIZE_BOUNDS {
            for size in [bound as u64 - 1, bound as u64, bound as u64 + 1] {
                let expected = SIZE_BOUNDS.partition_point(|bound| *bound < size as f64);
                assert_eq!(size_bucket(size), expected, "{size} bytes");
            }
        }
        assert_eq!(size_bucket(0), 0);
        assert_eq!(size_bucket(u64::MAX), SIZE_BOUNDS.len());
    }
}
