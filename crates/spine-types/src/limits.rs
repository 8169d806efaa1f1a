//! Ranges of settings in the configuration.

use std::ops::{Bound, RangeBounds};
use std::time::Duration;

use bytesize::ByteSize;

/// Limit: maximum of any setting that counts connections, requests or exchanges.
pub const COUNT_MAX: usize = 1_000_000;

/// Value of a setting that has a range.
pub trait LimitValue: PartialOrd {
    /// Returns the value as the configuration writes it.
    fn text(&self) -> String;
}

impl LimitValue for usize {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl LimitValue for ByteSize {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl LimitValue for Duration {
    fn text(&self) -> String {
        format!("{self:?}")
    }
}

/// Checks that the value of a setting lies in a range with a least value.
///
/// # Errors
/// Returns a text that names the key, the value and the range.
pub fn check_range<T: LimitValue>(
    key: &str,
    value: &T,
    allowed: impl RangeBounds<T>,
) -> Result<(), String> {
    if allowed.contains(value) {
        return Ok(());
    }
    let text = |bound: Bound<&T>| match bound {
        Bound::Included(value) | Bound::Excluded(value) => Some(value.text()),
        Bound::Unbounded => None,
    };
    let least = text(allowed.start_bound()).unwrap_or_default();
    let range = match text(allowed.end_bound()) {
        Some(most) => format!("{least} to {most}"),
        None => format!("{least} or more"),
    };
    Err(format!("{key} is {}; it must be {range}", value.text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_its_range_is_refused_with_the_range() {
        assert_eq!(check_range("a.b", &1, 1..=3), Ok(()));
        assert_eq!(check_range("a.b", &3, 1..=3), Ok(()));
        let refused = check_range("a.b", &4, 1..=3).unwrap_err();
        assert_eq!(refused, "a.b is 4; it must be 1 to 3");
        let refused = check_range("a.wait", &Duration::from_millis(9), Duration::from_secs(1)..);
        assert_eq!(refused.unwrap_err(), "a.wait is 9ms; it must be 1s or more");
        let refused = check_range("a.size", &ByteSize::b(5), ByteSize::kib(4)..).unwrap_err();
        assert_eq!(refused, "a.size is 5 B; it must be 4.0 KiB or more");
    }
}
