//! Numbers of a history in two bytes each.

/// Steps for each factor of two: what comes back is within 0.04 %.
const STEPS: f64 = 1024.0;
/// The smallest is 2^-21, half of a microsecond in seconds; the largest 2^43, 8 TiB in bytes.
const OFFSET: f64 = 21.0;

/// A number that is not negative. What is smaller or larger than it can tell is the smallest or largest that it can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Packed(u16);

impl Packed {
    pub(crate) fn new(number: f64) -> Self {
        if number > 0.0 {
            let steps = ((number.log2() + OFFSET) * STEPS).round();
            Self(steps.clamp(1.0, f64::from(u16::MAX)) as u16)
        } else {
            Self(0)
        }
    }

    /// To three digits.
    pub(crate) fn get(self) -> f64 {
        if self.0 == 0 {
            return 0.0;
        }
        let number = (f64::from(self.0) / STEPS - OFFSET).exp2();
        let digits = 10_f64.powi(2 - number.log10().floor() as i32);
        (number * digits).round() / digits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_back_within_half_a_percent_and_a_small_whole_one_as_it_was() {
        for number in (0..300).map(f64::from) {
            assert_eq!(Packed::new(number).get(), number);
        }
        let mut number = 1e-6;
        while number < 8e12 {
            let back = Packed::new(number).get();
            assert!((back / number - 1.0).abs() < 0.0056, "{number}: {back}");
            number *= 1.37;
        }
    }

    #[test]
    fn what_can_not_be_told_is_the_nearest_that_can() {
        for nothing in [0.0, -1.0, f64::NAN] {
            assert_eq!(Packed::new(nothing).get(), 0.0);
        }
        assert!(Packed::new(1e-30).get() > 0.0);
        assert!(Packed::new(f64::INFINITY).get() > 8e12);
    }
}
