//! The share of its weight that a new endpoint gets (Envoy's slow start).

use std::time::Duration;

use crate::model::Warmup;

/// A whole share.
pub(super) const WHOLE: u32 = 1000;

/// In thousandths, for an endpoint that is there since `age`: `max(minimum, (age / duration) ^ (1 / aggression))`, with
/// an age of at least a second, as in Envoy.
pub fn share(warmup: &Warmup, age: Duration) -> u32 {
    let Warmup { duration, minimum_percent, aggression_milli } = warmup;
    if age >= *duration {
        return WHOLE;
    }
    let passed = age.max(Duration::from_secs(1)).div_duration_f64(*duration).min(1.0);
    let aggression = f64::from((*aggression_milli).max(1)) / 1000.0;
    let grown = passed.powf(aggression.recip()) * f64::from(WHOLE);
    let least = minimum_percent.saturating_mul(WHOLE / 100);
    #[expect(clippy::cast_sign_loss, reason = "what has grown from nothing is not negative")]
    let grown = grown as u32;
    grown.max(least).clamp(1, WHOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_grow_as_said() {
        let cases: [(u64, u32, u32, u64, u32); 10] = [
            // duration s, minimum %, aggression, age s, thousandths
            (100, 10, 1000, 0, 100),
            (100, 0, 1000, 0, 10),
            (100, 10, 1000, 25, 250),
            (100, 10, 1000, 99, 990),
            (100, 10, 1000, 100, 1000),
            (100, 10, 1000, 500, 1000),
            (100, 10, 2000, 25, 500),
            (100, 0, 500, 50, 250),
            (100, 100, 1000, 1, 1000),
            (0, 10, 1000, 0, 1000),
        ];
        for (duration, minimum_percent, aggression_milli, age, wanted) in cases {
            let warmup = Warmup { duration: Duration::from_secs(duration), minimum_percent, aggression_milli };
            assert_eq!(share(&warmup, Duration::from_secs(age)), wanted, "{warmup:?} at {age}");
        }
    }
}
