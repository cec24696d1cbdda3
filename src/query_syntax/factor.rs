//! By how much a clause counts more, or less, than others.

use std::fmt;

use crate::error::{Error, Result};

/// What a score is multiplied by: finite and not negative.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Factor(f32);

impl Factor {
    /// The factor that changes nothing.
    pub const ONE: Self = Self(1.0);

    /// The factor `value`.
    ///
    /// # Errors
    /// `Invalid` if it is negative, infinite or no number.
    pub fn new(value: f32) -> Result<Self> {
        if !value.is_finite() || value < 0.0 {
            return Err(Error::invalid("a boost is a finite number that is not negative").with_context("boost", value));
        }
        // Zero has one spelling.
        Ok(Self(if value == 0.0 { 0.0 } else { value }))
    }

    /// The factor as a number.
    pub fn get(self) -> f32 {
        self.0
    }

    /// Both factors as one, at most the largest number.
    #[must_use]
    pub fn times(self, other: Self) -> Self {
        Self((self.0 * other.0).min(f32::MAX))
    }
}

impl fmt::Display for Factor {
    /// Digits and at most one dot: never an exponent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_finite_and_not_negative() {
        for bad in [-1.0, -f32::MIN_POSITIVE, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(Factor::new(bad).is_err(), "{bad}");
        }
        let largest = Factor::new(f32::MAX).unwrap();
        assert_eq!(largest.times(largest), largest);
        assert_eq!(Factor::new(-0.0).unwrap().to_string(), "0");
    }

    #[test]
    fn a_printed_factor_reads_back() {
        for value in [0.0, 1.0, 2.5, 0.1, 1e-7, f32::MIN_POSITIVE, 1e30, f32::MAX] {
            let printed = Factor::new(value).unwrap().to_string();
            assert!(printed.chars().all(|c| c.is_ascii_digit() || c == '.'), "{printed}");
            assert_eq!(printed.parse::<f32>().unwrap(), value);
        }
    }
}
